/* SPDX-License-Identifier: Apache-2.0
 *
 * layernorm.c - y = (x - mean) rstd w + bias, rstd = 1 / sqrt(var + eps) with the biased
 * variance; Ba, Kiros & Hinton 2016.
 *
 * With n = (x - mean) rstd and g = dy w:
 *     dx = rstd (g - mean(g) - n mean(g n)),  dw += Σ dy n,  dbias += Σ dy.
 */
#include "core/ops/common.h"

static mr_status layernorm_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "layernorm",
                     "x:F[..,D] w:G[D] bias:H[D] -> y:F[..,D] mean:S[..] rstd:S[..]", NULL);
}

static mr_status layernorm_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1) && !mri_need(v, 2)))
        return 0;
    mr_val dx = mri_emit(v, "layernorm.bwd",
                         MR_IN(v->dout[0], v->in[0], v->in[1], v->out[1], v->out[2],
                               mri_main_grad(v, 1), mri_main_grad(v, 2)),
                         MR_NOAT);
    if (mri_need(v, 0))
        v->din[0] = dx;
    return 0;
}

static mr_status layernorm_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1), b = mri_in_view(c, in, 2);
    mri_view y = mri_out_view(c, out, 0), mean = mri_out_view(c, out, 1);
    mri_view rstd = mri_out_view(c, out, 2);
    int64_t T = mr_rows(c->in[0]), D = mr_last(c->in[0]);
    double eps = mr_attr_f(c, "eps", 1e-5);
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double m = 0, var = 0;
        for (int64_t d = 0; d < D; d++)
            m += mri_get(x, t * D + d);
        m /= (double)D;
        for (int64_t d = 0; d < D; d++)
            var += (mri_get(x, t * D + d) - m) * (mri_get(x, t * D + d) - m);
        double r = 1 / sqrt(var / (double)D + eps);
        mri_put(mean, t, m);
        mri_put(rstd, t, r);
        for (int64_t d = 0; d < D; d++)
            mri_put(y, t * D + d,
                    (mri_get(x, t * D + d) - m) * r * mri_get(w, d) + mri_get(b, d));
    }
    return 0;
}

static void layernorm_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 7.0 * (double)mr_numel(c->in[0]), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "layernorm.bwd",
                     "dy:F[..,D] x:F[..,D] w:G[D] mean:S[..] rstd:S[..] dw:S[D] dbias:S[D] -> "
                     "dx:F[..,D]", NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), x = mri_in_view(c, in, 1), w = mri_in_view(c, in, 2);
    mri_view mean = mri_in_view(c, in, 3), rstd = mri_in_view(c, in, 4);
    mri_view dw = mri_in_view(c, in, 5), db = mri_in_view(c, in, 6), dx = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[1]), D = mr_last(c->in[1]);
    double *dw_sum = mri_alloc(2 * (size_t)D * sizeof *dw_sum), *db_sum = dw_sum + D;
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double m = mri_get(mean, t), r = mri_get(rstd, t), mg = 0, mgn = 0;
        for (int64_t d = 0; d < D; d++) {
            double o = mri_get(dy, t * D + d), n = (mri_get(x, t * D + d) - m) * r;
            dw_sum[d] += o * n;
            db_sum[d] += o;
            mg += o * mri_get(w, d);
            mgn += o * mri_get(w, d) * n;
        }
        mg /= (double)D;
        mgn /= (double)D;
        for (int64_t d = 0; d < D; d++) {
            double g = mri_get(dy, t * D + d) * mri_get(w, d);
            mri_put(dx, t * D + d, r * (g - mg - (mri_get(x, t * D + d) - m) * r * mgn));
        }
    }
    for (int64_t d = 0; dw.kind && d < D; d++)
        mri_acc(dw, d, dw_sum[d]);
    for (int64_t d = 0; db.kind && d < D; d++)
        mri_acc(db, d, db_sum[d]);
    free(dw_sum);
    return 0;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 13.0 * (double)mr_numel(c->in[1]), 3 << 5);
}

const mr_op_def mri_ops_layernorm[] = {
    { MRI_OP, .id = "layernorm",
      .doc = "y = (x - mean) / sqrt(var + eps) w + bias; Ba, Kiros & Hinton 2016",
      .sig = "x w bias? -> y mean rstd", .attrs = "eps:f=1e-5", .shape = layernorm_shape,
      .vjp = layernorm_vjp, .ref = layernorm_ref, .cost = layernorm_cost,
      .shard = "T ., ., . -> T ., T, T | T:map",
      .cases = MRI_CASES("x=F[8,16] w=F[16] bias=F[16]", "x=F[1,5] w=F[5]",
                         "x=F[67,33] w=F[33] bias=F[33] @eps=1e-3", "x=F[2,3,7] w=F[7]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "layernorm.bwd",
      .doc = "dx = rstd (g - mean(g) - n mean(g n)); n = (x - mean) rstd, g = dy w",
      .sig = "dy x w mean rstd dw!? dbias!? -> dx", .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost, .shard = "T ., T ., ., T, T, ., . -> T . | T:sum",
      .cases = MRI_CASES("dy=F[128,20] x=F[128,20] w=F[20] mean=S[128] rstd=S[128]pos dw=S[20] "
                         "dbias=S[20]",
                         "dy=F[1,3] x=F[1,3] w=F[3] mean=S[1] rstd=S[1]pos dw=S[3]") },
    MRI_OPS_END
};
