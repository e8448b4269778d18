/* SPDX-License-Identifier: Apache-2.0
 *
 * comm_order.h - do all ranks submit the collectives of their blocks in the same order? Asked
 * before a schedule runs in which blocks of two micro-batches take turns: a rank whose plans or
 * schedule differ from those of its groups would wait for ever, or read what was meant for another.
 */
#ifndef MRI_COMM_ORDER_H
#define MRI_COMM_ORDER_H
#include "core/mesh/world.h"
#include "core/schedule/schedule.h"
#include "exec.h"

/* All ranks of the world call it; an error, the same on all, names a rank and a group. */
mr_status mri_comm_order_agree(mri_world *w, const mri_exec *e, const mri_schedule *s, mr_err *err);

#endif
