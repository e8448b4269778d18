/* SPDX-License-Identifier: Apache-2.0
 *
 * experts_parallel.h - the arithmetic of an exchange of routed rows, which the ops' reference
 * loops, the launcher and tests share. `all` is what ep_counts gives: for each of N ranks its
 * offsets [E+1] by expert; rank n has the experts [n E/N, (n+1) E/N).
 */
#ifndef MRI_EXPERTS_PARALLEL_H
#define MRI_EXPERTS_PARALLEL_H
#include "mrun/op.h"
#include <stdbool.h>

/* Does this use of an op talk to other ranks? Then a world runs it (core/run/exchange.c); over one
 * rank these ops are copies, by their reference loops. */
bool mri_exchange_is(const mr_op_def *def, const mr_call *c);

typedef struct mri_exchange {
    const int32_t *all;
    int64_t ranks, index, experts, bound; /* bound: of the rows that a rank receives */
} mri_exchange;

/* rows that rank `from` sends to rank `to` */
static inline int64_t mri_exchange_rows(const mri_exchange *x, int64_t from, int64_t to)
{
    const int32_t *own = x->all + from * (x->experts + 1);
    int64_t each = x->experts / x->ranks;
    return own[(to + 1) * each] - own[to * each];
}

/* Offsets ascend from 0, and no rank receives more than the bound: every rank of the group sees
 * the same numbers, so all of them fail or none. */
mr_status mri_exchange_check(const mri_exchange *x, mr_err *err);

#endif
