/* SPDX-License-Identifier: Apache-2.0
 *
 * permute_add.c - the routed rows of permute.c with the sums around them, in one pass over memory
 * (slots, rows, p as there):
 *
 *   unpermute_add   x[t] = a[t] + b[t] + sum over k of y[slots[t K + k]] p[t, k]
 *   permute.bwd     dx[t] = a[t] + sum over k of dy[slots[t K + k]] p[t, k],
 *                   dp[t, k] = <dy[slots[t K + k]], x[t]>
 *
 * The first is a mixture's output with the residual stream and the shared expert added; the second
 * both gradients of permute, which read the same rows, and the gradient that x has from elsewhere.
 */
#include "core/ops/common.h"
#include <stdlib.h>

static int64_t rows_of(const mr_type *t) /* before mri_infer() has checked it */
{
    return t && t->rank == 2 && t->dim[0] > 0 ? t->dim[0] : 0;
}

static mr_status uneven(const char *op, int64_t R, const char *what, int64_t n, mr_err *err)
{
    return mri_op_fail(err, op, "%lld rows are not a multiple of %s, %lld", (long long)R, what,
                       (long long)n);
}

static mr_status slot_at(mri_view v, int64_t i, int64_t n, const char *op, int64_t *out,
                         mr_err *err)
{
    *out = mri_get_i(v, i);
    if (*out >= 0 && *out < n)
        return MR_OK;
    return mri_op_fail(err, op, "slots[%lld] is %lld, must be in [0,%lld)", (long long)i,
                       (long long)*out, (long long)n);
}

/* ---- unpermute_add ------------------------------------------------------------------------ */
static mr_status unpermute_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t K = mr_attr_i(c, "k", 1), R = rows_of(mri_in(c, 2));
    if (K < 1)
        return mri_op_fail(err, "unpermute_add", "k is %lld, must be 1 or more", (long long)K);
    if (R % K)
        return uneven("unpermute_add", R, "k", K, err);
    return mri_infer(c, out, err, "unpermute_add",
                     "a:F[T,D] b:F[T,D] y:F[R,D] rows:i32[R] slots:i32[R] probs:S[T,K] -> x:F[T,D]",
                     MRI_GIVEN({ "K", K }, { "T", R / K }));
}

static mr_status unpermute_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = MR_OK;
    mri_view a = mri_in_view(c, in, 0), b = mri_in_view(c, in, 1), y = mri_in_view(c, in, 2);
    mri_view slots = mri_in_view(c, in, 4), probs = mri_in_view(c, in, 5);
    mri_view x = mri_out_view(c, out, 0);
    int64_t R = c->in[2]->dim[0], D = c->in[2]->dim[1], K = mr_attr_i(c, "k", 1), r;
    double *sum = mri_alloc((size_t)D * sizeof *sum);

    for (int64_t t = 0; t < R / K; t++) {
        memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t i = t * K; i < (t + 1) * K; i++) {
            MR_TRY(slot_at(slots, i, R, "unpermute_add", &r, err));
            double p = probs.p ? mri_get(probs, i) : 1;
            for (int64_t d = 0; d < D; d++)
                sum[d] += mri_get(y, r * D + d) * p;
        }
        for (int64_t d = t * D; d < (t + 1) * D; d++) /* an absent b reads as 0 */
            mri_put(x, d, mri_get(a, d) + mri_get(b, d) + sum[d - t * D]);
    }
out:
    free(sum);
    return st;
}

static mr_status unpermute_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    mr_val dx = v->dout[0], rows = v->in[3], slots = v->in[4];
    if (!dx)
        return MR_OK;
    for (uint32_t i = 0; i < 2; i++)
        if (mri_need(v, i))
            v->din[i] = dx;
    if (mri_need(v, 2))
        v->din[2] = mri_emit(v, "permute", MR_IN(dx, rows, slots, mri_val_in(v, 5)), MR_NOAT);
    if (mri_need(v, 5))
        v->din[5] = mri_emit(v, "permute.dprobs", MR_IN(v->in[2], dx, rows), MR_NOAT);
    return MR_OK;
}

static void unpermute_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[2]) * (mri_in(c, 5) ? 2 : 1) +
             (double)mr_numel(c->in[0]) * (mri_in(c, 1) ? 2 : 1), 0);
}

/* ---- permute.bwd -------------------------------------------------------------------------- */
static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t R = rows_of(mri_in(c, 1)), T = rows_of(mri_in(c, 2));
    if (T && R % T)
        return uneven("permute.bwd", R, "the tokens", T, err);
    return mri_infer(c, out, err, "permute.bwd",
                     "a:F[T,D] dy:F[R,D] x:F[T,D] rows:i32[R] slots:i32[R] probs:S[T,K] -> "
                     "dx:F[T,D] dprobs:S[T,K]", MRI_GIVEN({ "K", T ? R / T : 0 }));
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = MR_OK;
    mri_view a = mri_in_view(c, in, 0), dy = mri_in_view(c, in, 1), x = mri_in_view(c, in, 2);
    mri_view slots = mri_in_view(c, in, 4), probs = mri_in_view(c, in, 5);
    mri_view dx = mri_out_view(c, out, 0), dprobs = mri_out_view(c, out, 1);
    int64_t R = c->in[1]->dim[0], T = c->in[2]->dim[0], D = c->in[2]->dim[1], K = R / T, r;
    double *sum = mri_alloc((size_t)D * sizeof *sum);

    for (int64_t t = 0; t < T; t++) {
        memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t i = t * K; i < (t + 1) * K; i++) {
            MR_TRY(slot_at(slots, i, R, "permute.bwd", &r, err));
            double p = mri_get(probs, i), dot = 0;
            for (int64_t d = 0; d < D; d++) {
                sum[d] += mri_get(dy, r * D + d) * p;
                dot += mri_get(dy, r * D + d) * mri_get(x, t * D + d);
            }
            mri_put(dprobs, i, dot);
        }
        for (int64_t d = t * D; d < (t + 1) * D; d++) /* an absent a reads as 0 */
            mri_put(dx, d, mri_get(a, d) + sum[d - t * D]);
    }
out:
    free(sum);
    return st;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4 * (double)mr_numel(c->in[1]) +
             (mri_in(c, 0) ? (double)mr_numel(c->in[0]) : 0), 0);
}

const mr_op_def mri_ops_permute_add[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "unpermute_add",
      .doc = "x[t] = a[t] + b[t] + sum over k of y[slots[t K + k]] probs[t, k]",
      .sig = "a b? y rows slots probs? -> x", .attrs = "k:i", .shape = unpermute_shape,
      .vjp = unpermute_vjp, .ref = unpermute_ref, .cost = unpermute_cost,
      .shard = "T D, T D, R D, R, R, T K -> T D | D:map",
      .cases = MRI_CASES("a=F[7,6] b=- y=F[7,6] rows=i32[7]perm slots=i32[7]inv:rows probs=- @k=1",
                         "a=F[7,8] b=F[7,8] y=F[14,8] rows=i32[14]perm slots=i32[14]inv:rows "
                         "probs=S[7,2] @k=2",
                         "a=F[5,16] b=F[5,16] y=F[5,16] rows=i32[5]perm slots=i32[5]inv:rows "
                         "probs=- @k=1") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "permute.bwd",
      .doc = "dx[t] = a[t] + sum over k of dy[slots[t K + k]] probs[t, k], "
             "dprobs[t, k] = <dy[slots[t K + k]], x[t]>",
      .sig = "a? dy x rows slots probs -> dx dprobs", .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost, .shard = "T D, R D, T D, R, R, T K -> T D, T K | D:sum",
      .cases = MRI_CASES("a=F[7,6] dy=F[14,6] x=F[7,6] rows=i32[14]perm slots=i32[14]inv:rows "
                         "probs=S[7,2]",
                         "a=- dy=F[5,8] x=F[5,8] rows=i32[5]perm slots=i32[5]inv:rows "
                         "probs=S[5,1]") },
    MRI_OPS_END
};
