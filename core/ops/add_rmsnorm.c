/* SPDX-License-Identifier: Apache-2.0
 *
 * add_rmsnorm.c - the residual sum and the norm that reads it, in one pass over memory:
 *     h = a + b,  y = cast(h rstd) w,  rstd = 1 / sqrt(mean(h²) + eps)
 * h is rounded to its dtype before it is normalised, as the two ops one after the other do, so
 * the bits of y are theirs. The gradient of h has two parts, the stream's own and the norm's:
 *     dx = dh + rstd (g - n mean(g n)),  dw += Σ dy n;  n = h rstd, g = dy w.
 * The fusion pass makes both ops where a backend has them; a model may also ask for the first.
 */
#include "core/ops/common.h"

static mr_status add_rmsnorm_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "add_rmsnorm",
                     "a:F[..,D] b:F[..,D] w:G[D] -> y:F[..,D] h:F[..,D] rstd:S[..,1]", NULL);
}

static mr_status add_rmsnorm_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val dy = v->dout[0], d = v->dout[1], h = v->out[1], rstd = v->out[2];
    (void)err;
    if (dy && d)
        d = mri_emit(v, "add_rmsnorm.bwd",
                     MR_IN(d, dy, h, mri_val_in(v, 2), rstd, mri_main_grad(v, 2)), MR_NOAT);
    else if (dy)
        d = mri_emit(v, "rmsnorm.bwd", MR_IN(dy, h, mri_val_in(v, 2), rstd, mri_main_grad(v, 2)),
                     MR_NOAT);
    for (uint32_t i = 0; i < 2; i++)
        if (d && mri_need(v, i))
            v->din[i] = d;
    return 0;
}

static mr_status add_rmsnorm_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view a = mri_in_view(c, in, 0), b = mri_in_view(c, in, 1), w = mri_in_view(c, in, 2);
    mri_view y = mri_out_view(c, out, 0), h = mri_out_view(c, out, 1);
    mri_view rstd = mri_out_view(c, out, 2);
    int64_t T = mr_rows(c->in[0]), D = mr_last(c->in[0]);
    double eps = mr_attr_f(c, "eps", 1e-5);
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double sum = 0;
        for (int64_t i = t * D; i < (t + 1) * D; i++) {
            double x = mri_round(h, mri_get(a, i) + mri_get(b, i));
            mri_put(h, i, x);
            sum += x * x;
        }
        double r = 1 / sqrt(sum / (double)D + eps);
        mri_put(rstd, t, r);
        for (int64_t i = 0; i < D; i++) {
            double n = mri_round(y, mri_get(h, t * D + i) * r);
            mri_put(y, t * D + i, w.kind ? n * mri_get(w, i) : n);
        }
    }
    return 0;
}

static void add_rmsnorm_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 5.0 * (double)mr_numel(c->in[0]), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "add_rmsnorm.bwd",
                     "dh:F[..,D] dy:F[..,D] x:F[..,D] w:G[D] rstd:S[..,1] dw:S[D] -> dx:F[..,D]",
                     NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dh = mri_in_view(c, in, 0), dy = mri_in_view(c, in, 1), x = mri_in_view(c, in, 2);
    mri_view w = mri_in_view(c, in, 3), rstd = mri_in_view(c, in, 4), dw = mri_in_view(c, in, 5);
    mri_view dx = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[2]), D = mr_last(c->in[2]);
    double *dw_sum = mri_alloc((size_t)D * sizeof *dw_sum);
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double r = mri_get(rstd, t), mean = 0;
        for (int64_t i = 0; i < D; i++) {
            double d = mri_get(dy, t * D + i), n = mri_get(x, t * D + i) * r;
            dw_sum[i] += d * n;
            mean += d * (w.kind ? mri_get(w, i) : 1) * n;
        }
        mean /= (double)D;
        for (int64_t i = 0; i < D; i++) {
            double g = mri_get(dy, t * D + i) * (w.kind ? mri_get(w, i) : 1);
            mri_put(dx, t * D + i,
                    mri_get(dh, t * D + i) + r * (g - mri_get(x, t * D + i) * r * mean));
        }
    }
    for (int64_t i = 0; dw.kind && i < D; i++)
        mri_acc(dw, i, dw_sum[i]);
    free(dw_sum);
    return 0;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 11.0 * (double)mr_numel(c->in[2]), 1 << 5);
}

const mr_op_def mri_ops_add_rmsnorm[] = {
    { MRI_OP, .id = "add_rmsnorm",
      .doc = "h = a + b, y = cast(h / sqrt(mean(h²) + eps)) w; Zhang & Sennrich 2019",
      .sig = "a b w? -> y h rstd", .attrs = "eps:f=1e-5", .shape = add_rmsnorm_shape,
      .vjp = add_rmsnorm_vjp, .ref = add_rmsnorm_ref, .cost = add_rmsnorm_cost,
      .shard = "T ., T ., . -> T ., T ., T . | T:map",
      .cases = MRI_CASES("a=F[8,16] b=F[8,16] w=F[16]", "a=F[1,5] b=F[1,5]",
                         "a=F[67,33] b=F[67,33] w=F[33] @eps=1e-3",
                         "a=F[2,3,8] b=F[2,3,8] w=F[8]") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "add_rmsnorm.bwd",
      .doc = "dx = dh + rstd (g - n mean(g n)), dw += Σ dy n; n = x rstd, g = dy w",
      .sig = "dh dy x w? rstd dw!? -> dx", .shape = bwd_shape, .ref = bwd_ref, .cost = bwd_cost,
      .shard = "T ., T ., T ., ., T ., . -> T . | T:sum",
      .cases = MRI_CASES("dh=F[129,20] dy=F[129,20] x=F[129,20] w=F[20] rstd=S[129,1]pos dw=S[20]",
                         "dh=F[6,8] dy=F[6,8] x=F[6,8] rstd=S[6,1]pos") },
    MRI_OPS_END
};
