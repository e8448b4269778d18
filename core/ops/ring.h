/* SPDX-License-Identifier: Apache-2.0
 *
 * ring.h - the backward of attention whose keys pass round the ranks of a sequence, as it is
 * emitted: what the ops that end such a ring have in common (attention_ring.c, mla_ring.c).
 *
 * Invariant: every rank emits the same ops in the same order, a transfer before the step beside
 * which it may run.
 */
#ifndef MRI_RING_H
#define MRI_RING_H
#include "core/ops/attend.h"

typedef struct mri_ring {
    const mr_vjp *v;
    int64_t ranks, index;
    const char *dtype, *acc; /* of the operands; of sums */
    mr_attr at[16];          /* of attention.part, without `from` */
    uint32_t n_at;
    mr_attr send[4];
} mri_ring;

mri_ring mri_ring_of(const mr_vjp *v);
/* x of the rank before this one; of one rank its own */
mr_val mri_ring_pass(const mri_ring *r, mr_val x);
mr_val mri_ring_sum(const mri_ring *r, mr_val a, mr_val b); /* a 0: b */
mr_val mri_ring_cast(const mri_ring *r, mr_val x, const char *dtype);
/* attention.part.bwd of the keys and values that step s has: d is dq, dk, dv */
void mri_ring_part(const mri_ring *r, int64_t s, const mr_val kv[2], mr_val start, mr_val lse,
                   mr_val d[3]);
/* lse of a ring of one that kept none */
mr_val mri_ring_lse(const mri_ring *r, const mr_val kv[2], mr_val start);

#endif
