/* SPDX-License-Identifier: Apache-2.0
 *
 * attend.h - the reference loops of attention, shared by the ops that differ only in where heads
 * lie and in which keys a query sees. A query may see none: its o is 0 and its lse -inf.
 *
 * Invariant: the keys that a query sees stand together, and sums run over them in their order.
 */
#ifndef MRI_ATTEND_H
#define MRI_ATTEND_H
#include "core/ops/heads.h"

/* Where the heads of a token lie in an operand: rows `row` values apart, the first at `at`. */
typedef struct mri_heads_in {
    mri_view x;
    int64_t at, row;
} mri_heads_in;

typedef struct mri_qkv {
    mri_heads_in q, k, v;
} mri_qkv;

typedef struct mri_attend { /* one use */
    const char *op;
    mri_heads n;
    int64_t queries, keys;
    mri_qkv x;
    mri_view start;
    int64_t ranks, index, from; /* of sequences that ranks share (attention_cp.c) */
    /* the keys [*first, *last] that query t sees; *last < *first: none */
    mr_status (*seen)(const struct mri_attend *, int64_t t, int64_t *first, int64_t *last,
                      mr_err *);
} mri_attend;

static inline mri_qkv mri_qkv_apart(const mri_heads *n, mri_view q, mri_view k, mri_view v)
{
    return (mri_qkv){ { q, 0, n->H * n->C }, { k, 0, n->G * n->C }, { v, 0, n->G * n->Cv } };
}

static inline mri_qkv mri_qkv_beside(const mri_heads *n, mri_view x)
{
    int64_t k = n->H * n->C, v = k + n->G * n->C, row = v + n->G * n->Cv;
    return (mri_qkv){ { x, 0, row }, { x, k, row }, { x, v, row } };
}

mr_status mri_attend_forward(const mri_attend *a, mri_view o, mri_view lse, mr_err *err);
mr_status mri_attend_backward(const mri_attend *a, mri_view dy, mri_view o, mri_view lse,
                              const mri_qkv *d, mr_err *err);

/* The vjp of an op "q k v seq_start -> o lse" whose backward `id` reads do q k v o lse seq_start
 * and gives dq dk dv; seq_start may be absent. */
mr_status mri_attend_vjp(const mr_vjp *v, const char *id);
/* the reference loops of attention.part */
mr_status mri_attend_part(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err);

#endif
