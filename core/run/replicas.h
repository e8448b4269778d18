/* SPDX-License-Identifier: Apache-2.0
 *
 * replicas.h - do ranks that hold copies of the same parameters hold the same bits? They are
 * updated by equal sums with equal rules, so a difference is a fault: of memory, a link, or a
 * program.
 */
#ifndef MRI_REPLICAS_H
#define MRI_REPLICAS_H
#include "session.h"

/* All ranks of the session's world call it, between steps. MR_E_DIVERGED, the same on all, names
 * the first parameter that differs and the rank that stands alone with its copy. */
mr_status mri_replicas_check(mri_session *s, mr_err *err);

#endif
