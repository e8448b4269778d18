/* SPDX-License-Identifier: Apache-2.0
 *
 * add_layernorm.c - the residual sum and the layer norm that reads it, in one pass over memory:
 *     h = a + b, rounded,  y = (h - mean) rstd w + bias
 * and the gradient of h, the stream's own part and the norm's together:
 *     dx = dh + rstd (g - mean(g) - n mean(g n)),  dw += Σ dy n,  dbias += Σ dy
 * with n = (x - mean) rstd, g = dy w. add_rmsnorm.c says when they are used.
 */
#include "core/ops/common.h"

static mr_status add_layernorm_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "add_layernorm",
                     "a:F[..,D] b:F[..,D] w:G[D] bias:H[D] -> "
                     "y:F[..,D] h:F[..,D] mean:S[..] rstd:S[..]", NULL);
}

static mr_status add_layernorm_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val dy = v->dout[0], d = v->dout[1], h = v->out[1], mean = v->out[2], rstd = v->out[3];
    (void)err;
    if (dy && d)
        d = mri_emit(v, "add_layernorm.bwd",
                     MR_IN(d, dy, h, v->in[2], mean, rstd, mri_main_grad(v, 2),
                           mri_main_grad(v, 3)), MR_NOAT);
    else if (dy)
        d = mri_emit(v, "layernorm.bwd",
                     MR_IN(dy, h, v->in[2], mean, rstd, mri_main_grad(v, 2), mri_main_grad(v, 3)),
                     MR_NOAT);
    for (uint32_t i = 0; i < 2; i++)
        if (d && mri_need(v, i))
            v->din[i] = d;
    return 0;
}

static mr_status add_layernorm_ref(const mr_call *c, const mr_buf *in, const mr_buf *out,
                                   mr_err *err)
{
    mri_view a = mri_in_view(c, in, 0), b = mri_in_view(c, in, 1), w = mri_in_view(c, in, 2);
    mri_view bias = mri_in_view(c, in, 3), y = mri_out_view(c, out, 0), h = mri_out_view(c, out, 1);
    mri_view mean = mri_out_view(c, out, 2), rstd = mri_out_view(c, out, 3);
    int64_t T = mr_rows(c->in[0]), D = mr_last(c->in[0]);
    double eps = mr_attr_f(c, "eps", 1e-5);
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double m = 0, var = 0;
        for (int64_t i = t * D; i < (t + 1) * D; i++) {
            mri_put(h, i, mri_get(a, i) + mri_get(b, i));
            m += mri_get(h, i);
        }
        m /= (double)D;
        for (int64_t i = t * D; i < (t + 1) * D; i++)
            var += (mri_get(h, i) - m) * (mri_get(h, i) - m);
        double r = 1 / sqrt(var / (double)D + eps);
        mri_put(mean, t, m);
        mri_put(rstd, t, r);
        for (int64_t i = 0; i < D; i++)
            mri_put(y, t * D + i,
                    (mri_get(h, t * D + i) - m) * r * mri_get(w, i) + mri_get(bias, i));
    }
    return 0;
}

static void add_layernorm_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 8.0 * (double)mr_numel(c->in[0]), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "add_layernorm.bwd",
                     "dh:F[..,D] dy:F[..,D] x:F[..,D] w:G[D] mean:S[..] rstd:S[..] dw:S[D] "
                     "dbias:S[D] -> dx:F[..,D]", NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dh = mri_in_view(c, in, 0), dy = mri_in_view(c, in, 1), x = mri_in_view(c, in, 2);
    mri_view w = mri_in_view(c, in, 3), mean = mri_in_view(c, in, 4), rstd = mri_in_view(c, in, 5);
    mri_view dw = mri_in_view(c, in, 6), db = mri_in_view(c, in, 7), dx = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[2]), D = mr_last(c->in[2]);
    double *dw_sum = mri_alloc(2 * (size_t)D * sizeof *dw_sum), *db_sum = dw_sum + D;
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double m = mri_get(mean, t), r = mri_get(rstd, t), mg = 0, mgn = 0;
        for (int64_t i = 0; i < D; i++) {
            double o = mri_get(dy, t * D + i), n = (mri_get(x, t * D + i) - m) * r;
            dw_sum[i] += o * n;
            db_sum[i] += o;
            mg += o * mri_get(w, i);
            mgn += o * mri_get(w, i) * n;
        }
        mg /= (double)D;
        mgn /= (double)D;
        for (int64_t i = 0; i < D; i++) {
            double g = mri_get(dy, t * D + i) * mri_get(w, i);
            mri_put(dx, t * D + i, mri_get(dh, t * D + i) +
                    r * (g - mg - (mri_get(x, t * D + i) - m) * r * mgn));
        }
    }
    for (int64_t i = 0; dw.kind && i < D; i++)
        mri_acc(dw, i, dw_sum[i]);
    for (int64_t i = 0; db.kind && i < D; i++)
        mri_acc(db, i, db_sum[i]);
    free(dw_sum);
    return 0;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 14.0 * (double)mr_numel(c->in[2]), 3 << 6);
}

const mr_op_def mri_ops_add_layernorm[] = {
    { MRI_OP, .id = "add_layernorm",
      .doc = "h = a + b, y = (h - mean) / sqrt(var + eps) w + bias; Ba, Kiros & Hinton 2016",
      .sig = "a b w bias? -> y h mean rstd", .attrs = "eps:f=1e-5", .shape = add_layernorm_shape,
      .vjp = add_layernorm_vjp, .ref = add_layernorm_ref, .cost = add_layernorm_cost,
      .shard = "T ., T ., ., . -> T ., T ., T, T | T:map",
      .cases = MRI_CASES("a=F[8,16] b=F[8,16] w=F[16] bias=F[16]", "a=F[1,5] b=F[1,5] w=F[5]",
                         "a=F[67,33] b=F[67,33] w=F[33] bias=F[33] @eps=1e-3",
                         "a=F[2,3,8] b=F[2,3,8] w=F[8]") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "add_layernorm.bwd",
      .doc = "dx = dh + rstd (g - mean(g) - n mean(g n)); n = (x - mean) rstd, g = dy w",
      .sig = "dh dy x w mean rstd dw!? dbias!? -> dx", .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost, .shard = "T ., T ., T ., ., T, T, ., . -> T . | T:sum",
      .cases = MRI_CASES("dh=F[128,20] dy=F[128,20] x=F[128,20] w=F[20] mean=S[128] "
                         "rstd=S[128]pos dw=S[20] dbias=S[20]",
                         "dh=F[1,8] dy=F[1,8] x=F[1,8] w=F[8] mean=S[1] rstd=S[1]pos dw=S[8]") },
    MRI_OPS_END
};
