/* SPDX-License-Identifier: Apache-2.0
 *
 * exchange.h - ops whose collective is as long as the data say: rows of experts on other ranks
 * (core/ops/experts_parallel.c). Their counts are read on the host before the first rows go, so
 * such a step is never captured; rows that come back, and those of the backward, find them known.
 * Rows travel beside the steps that follow, as all collectives do.
 */
#ifndef MRI_EXCHANGE_H
#define MRI_EXCHANGE_H
#include "device.h"

/* of a use that mri_exchange_is() (core/ops/experts_parallel.h) */
/* Submits; *ticket as of mri_comm_submit(). */
mr_status mri_exchange_submit(mri_device *d, const mr_op_def *def, const mr_call *c,
                              const mr_buf *in, const mr_buf *out, uint64_t *ticket,
                              mr_err *err);

void mri_exchange_forget(mri_device *d); /* the device is about to close */

#endif
