/* SPDX-License-Identifier: Apache-2.0
 *
 * permute.c - tokens to rows grouped by expert, and back. Routed pair i = t K + k lies in row
 * slots[i], and rows[slots[i]] = i (route_plan makes both). Each way is the other's gradient,
 * so a gather is never differentiated into a scatter of additions:
 *
 *   permute          y[r] = x[rows[r] / K] p[rows[r]]              (p: absent, 1)
 *   unpermute        x[t] = sum over k of y[slots[t K + k]] p[t, k]
 *   permute.dprobs   d[rows[r]] = <a[r], b[rows[r] / K]>
 *
 * With p on permute the expert's input is scaled (Llama 4), on unpermute its output (Mixtral).
 */
#include "core/ops/common.h"
#include <stdlib.h>

/* rank-2 dims before mri_infer() has checked them: 0 where there is none */
static int64_t dim_of(const mr_type *t, uint32_t rank, uint32_t i)
{
    return t && t->rank == rank && t->dim[i] > 0 ? t->dim[i] : 0;
}

static mr_status uneven(const char *op, int64_t R, const char *what, int64_t n, mr_err *err)
{
    return mri_op_fail(err, op, "%lld rows are not a multiple of %s, %lld", (long long)R, what,
                       (long long)n);
}

/* element i of an index operand, which must lie in [0, n) */
static mr_status index_at(mri_view v, int64_t i, int64_t n, const char *op, const char *name,
                          int64_t *out, mr_err *err)
{
    *out = mri_get_i(v, i);
    if (*out >= 0 && *out < n)
        return MR_OK;
    return mri_op_fail(err, op, "%s[%lld] is %lld, must be in [0,%lld)", name, (long long)i,
                       (long long)*out, (long long)n);
}

/* ---- permute ------------------------------------------------------------------------------ */
static mr_status permute_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t T = dim_of(mri_in(c, 0), 2, 0), R = dim_of(mri_in(c, 1), 1, 0);
    if (T && R % T)
        return uneven("permute", R, "the tokens", T, err);
    return mri_infer(c, out, err, "permute",
                     "x:F[T,D] rows:i32[R] slots:i32[R] probs:S[T,K] -> y:F[R,D]",
                     MRI_GIVEN({ "K", T ? R / T : 0 }));
}

static mr_status permute_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = MR_OK;
    mri_view x = mri_in_view(c, in, 0), rows = mri_in_view(c, in, 1);
    mri_view probs = mri_in_view(c, in, 3), y = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], R = c->in[1]->dim[0], K = R / T, i;

    for (int64_t r = 0; r < R; r++) {
        MR_TRY(index_at(rows, r, R, "permute", "rows", &i, err));
        double p = probs.p ? mri_get(probs, i) : 1;
        for (int64_t d = 0; d < D; d++)
            mri_put(y, r * D + d, mri_get(x, i / K * D + d) * p);
    }
out:
    return st;
}

static mr_status permute_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    mr_val dy = v->dout[0], rows = v->in[1], slots = v->in[2];
    int64_t K = v->call->in[1]->dim[0] / v->call->in[0]->dim[0];
    if (!dy)
        return MR_OK;
    if (mri_need(v, 0))
        v->din[0] = mri_emit(v, "unpermute", MR_IN(dy, rows, slots, mri_val_in(v, 3)),
                             MR_AT(mr_ai("k", K)));
    if (mri_need(v, 3))
        v->din[3] = mri_emit(v, "permute.dprobs", MR_IN(dy, v->in[0], rows), MR_NOAT);
    return MR_OK;
}

static void permute_cost(const mr_call *c, mr_cost *cost)
{
    double pairs = (double)mr_numel(mri_in(c, 1)) * (double)mr_last(c->in[0]);
    mri_cost(c, cost, mri_in(c, 3) ? pairs : 0, 0);
}

/* ---- unpermute ---------------------------------------------------------------------------- */
static mr_status unpermute_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t K = mr_attr_i(c, "k", 1), R = dim_of(mri_in(c, 0), 2, 0);
    if (K < 1)
        return mri_op_fail(err, "unpermute", "k is %lld, must be 1 or more", (long long)K);
    if (R % K)
        return uneven("unpermute", R, "k", K, err);
    return mri_infer(c, out, err, "unpermute",
                     "y:F[R,D] rows:i32[R] slots:i32[R] probs:S[T,K] -> x:F[T,D]",
                     MRI_GIVEN({ "K", K }, { "T", R / K }));
}

static mr_status unpermute_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = MR_OK;
    mri_view y = mri_in_view(c, in, 0), slots = mri_in_view(c, in, 2);
    mri_view probs = mri_in_view(c, in, 3), x = mri_out_view(c, out, 0);
    int64_t R = c->in[0]->dim[0], D = c->in[0]->dim[1], K = mr_attr_i(c, "k", 1), r;
    double *sum = mri_alloc((size_t)D * sizeof *sum);

    for (int64_t t = 0; t < R / K; t++) {
        memset(sum, 0, (size_t)D * sizeof *sum);
        for (int64_t i = t * K; i < (t + 1) * K; i++) {
            MR_TRY(index_at(slots, i, R, "unpermute", "slots", &r, err));
            double p = probs.p ? mri_get(probs, i) : 1;
            for (int64_t d = 0; d < D; d++)
                sum[d] += mri_get(y, r * D + d) * p;
        }
        for (int64_t d = 0; d < D; d++)
            mri_put(x, t * D + d, sum[d]);
    }
out:
    free(sum);
    return st;
}

static mr_status unpermute_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    mr_val dx = v->dout[0], rows = v->in[1], slots = v->in[2];
    if (!dx)
        return MR_OK;
    if (mri_need(v, 0))
        v->din[0] = mri_emit(v, "permute", MR_IN(dx, rows, slots, mri_val_in(v, 3)), MR_NOAT);
    if (mri_need(v, 3))
        v->din[3] = mri_emit(v, "permute.dprobs", MR_IN(v->in[0], dx, rows), MR_NOAT);
    return MR_OK;
}

static void unpermute_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]) * (mri_in(c, 3) ? 2 : 1), 0);
}

/* ---- permute.dprobs ----------------------------------------------------------------------- */
static mr_status dprobs_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t R = dim_of(mri_in(c, 0), 2, 0), T = dim_of(mri_in(c, 1), 2, 0);
    if (T && R % T)
        return uneven("permute.dprobs", R, "the tokens", T, err);
    return mri_infer(c, out, err, "permute.dprobs",
                     "a:F[R,D] b:F[T,D] rows:i32[R] -> d:S[T,K]",
                     MRI_GIVEN({ "K", T ? R / T : 0 }));
}

static mr_status dprobs_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = MR_OK;
    mri_view a = mri_in_view(c, in, 0), b = mri_in_view(c, in, 1), rows = mri_in_view(c, in, 2);
    mri_view d = mri_out_view(c, out, 0);
    int64_t R = c->in[0]->dim[0], D = c->in[0]->dim[1], K = R / c->in[1]->dim[0], i;

    for (int64_t r = 0; r < R; r++) {
        double sum = 0;
        MR_TRY(index_at(rows, r, R, "permute.dprobs", "rows", &i, err));
        for (int64_t j = 0; j < D; j++)
            sum += mri_get(a, r * D + j) * mri_get(b, i / K * D + j);
        mri_put(d, i, sum);
    }
out:
    return st;
}

static void dprobs_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_permute[] = {
    { MRI_OP, .id = "permute",
      .doc = "y[r] = x[rows[r] / K] probs[rows[r]]: tokens copied to rows grouped by expert",
      .sig = "x rows slots probs? -> y", .shape = permute_shape, .vjp = permute_vjp,
      .ref = permute_ref, .cost = permute_cost, .shard = "T D, R, R, T K -> R D | D:map",
      .cases = MRI_CASES("x=F[7,6] rows=i32[7]perm slots=i32[7]inv:rows probs=-",
                         "x=F[7,6] rows=i32[14]perm slots=i32[14]inv:rows probs=S[7,2]") },
    { MRI_OP, .id = "unpermute",
      .doc = "x[t] = sum over k of y[slots[t K + k]] probs[t, k]: the rows of a token added up",
      .sig = "y rows slots probs? -> x", .attrs = "k:i", .shape = unpermute_shape,
      .vjp = unpermute_vjp, .ref = unpermute_ref, .cost = unpermute_cost,
      .shard = "R D, R, R, T K -> T D | D:map",
      .cases = MRI_CASES("y=F[7,6] rows=i32[7]perm slots=i32[7]inv:rows probs=- @k=1",
                         "y=F[14,6] rows=i32[14]perm slots=i32[14]inv:rows probs=S[7,2] @k=2") },
    { MRI_OP, .id = "permute.dprobs", .flags = MR_OP_NO_VJP,
      .doc = "d[rows[r]] = <a[r], b[rows[r] / K]>: gradient of permute and unpermute by probs",
      .sig = "a b rows -> d", .shape = dprobs_shape, .ref = dprobs_ref, .cost = dprobs_cost,
      .shard = "R D, T D, R -> T K | D:sum",
      .cases = MRI_CASES("a=F[14,6] b=F[7,6] rows=i32[14]perm",
                         "a=F[5,4] b=F[5,4] rows=i32[5]perm") },
    MRI_OPS_END
};
