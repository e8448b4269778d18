/* SPDX-License-Identifier: Apache-2.0
 *
 * merge_rows.c - rows of one value take the place of rows of another (LLaVA, Liu et al. 2023: a
 * picture's features among a text's embeddings):
 *
 *   y[t] = rows[t] < 0 ? x[t] : features[rows[t]]
 *   dx[t] = rows[t] < 0 ? dy[t] : 0,   dfeatures[m] = sum of dy[t] with rows[t] = m, t ascending
 */
#include "core/ops/common.h"

static mr_status row_of(mri_view rows, const char *op, int64_t t, int64_t M, int64_t *out,
                        mr_err *err)
{
    *out = mri_get_i(rows, t);
    if (*out < M)
        return 0;
    return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s: rows[%lld] is %lld, there are %lld features",
                   op, (long long)t, (long long)*out, (long long)M);
}

static mr_status merge_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "merge_rows", "x:F[T,D] features:F[M,D] rows:i32[T] -> y:F[T,D]",
                     NULL);
}

static mr_status merge_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val d[2] = { 0 };
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1)))
        return 0;
    mri_emit_n(v, d, 2, "merge_rows.bwd", MR_IN(v->dout[0], v->in[2]),
               MR_AT(mr_ai("features", v->call->in[1]->dim[0])));
    for (uint32_t i = 0; i < 2; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return 0;
}

static mr_status merge_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), f = mri_in_view(c, in, 1), rows = mri_in_view(c, in, 2);
    mri_view y = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], m;
    mr_status st = 0;
    for (int64_t t = 0; t < T; t++) {
        MR_TRY(row_of(rows, "merge_rows", t, c->in[1]->dim[0], &m, err));
        for (int64_t d = 0; d < D; d++)
            mri_put(y, t * D + d, m < 0 ? mri_get(x, t * D + d) : mri_get(f, m * D + d));
    }
out:
    return st;
}

/* rows are data: as if all came from x */
static void merge_cost(const mr_call *c, mr_cost *cost)
{
    cost->flops = 0;
    cost->bytes = 2 * (double)mr_bytes(c->out[0]) + (double)mr_bytes(c->in[2]);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t M = mr_attr_i(c, "features", 0);
    if (M < 0)
        return mri_op_fail(err, "merge_rows.bwd", "features is %lld, must be a number of rows",
                           (long long)M);
    return mri_infer(c, out, err, "merge_rows.bwd",
                     "dy:F[T,D] rows:i32[T] -> dx:F[T,D] dfeatures:F[M,D]",
                     MRI_GIVEN({ "M", M }));
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), rows = mri_in_view(c, in, 1);
    mri_view dx = mri_out_view(c, out, 0), df = mri_out_view(c, out, 1);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], M = mr_attr_i(c, "features", 0), m;
    double *sum = mri_alloc((size_t)(M * D + 1) * sizeof *sum);
    mr_status st = 0;
    for (int64_t t = 0; t < T; t++) {
        MR_TRY(row_of(rows, "merge_rows.bwd", t, M, &m, err));
        for (int64_t d = 0; d < D; d++) {
            double v = mri_get(dy, t * D + d);
            mri_put(dx, t * D + d, m < 0 ? v : 0);
            if (m >= 0)
                sum[m * D + d] += v;
        }
    }
    for (int64_t i = 0; i < M * D; i++)
        mri_put(df, i, sum[i]);
out:
    free(sum);
    return st;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

const mr_op_def mri_ops_merge_rows[] = {
    { MRI_OP, .id = "merge_rows", .doc = "y[t] = rows[t] < 0 ? x[t] : features[rows[t]]",
      .sig = "x features rows -> y", .shape = merge_shape, .vjp = merge_vjp, .ref = merge_ref,
      .cost = merge_cost, .shard = "T D, M D, T -> T D | T:map D:map",
      .cases = MRI_CASES("x=F[6,5] features=F[3,5] rows=i32[6]{-1,0,1,-1,2,-1}",
                         "x=F[4,33] features=F[4,33] rows=i32[4]{3,1,1,-1}",
                         "x=F[67,7] features=F[9,7] rows=i32[67]<9",
                         "x=F[1,1] features=F[1,1] rows=i32[1]{-1}") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "merge_rows.bwd",
      .doc = "dx = dy where x stayed, else 0; dfeatures = the sums of dy over their rows",
      .sig = "dy rows -> dx dfeatures", .attrs = "features:i", .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost, .shard = "T D, T -> T D, M D | D:map",
      .cases = MRI_CASES("dy=F[6,5] rows=i32[6]{-1,0,1,-1,2,-1} @features=4",
                         "dy=F[67,33] rows=i32[67]<9 @features=9",
                         "dy=F[2,3] rows=i32[2]{-1,-1} @features=2") },
    MRI_OPS_END
};
