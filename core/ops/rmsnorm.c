/* SPDX-License-Identifier: Apache-2.0
 *
 * rmsnorm.c - y = cast(x rstd) w with rstd = 1 / sqrt(mean(x²) + eps); Zhang & Sennrich 2019,
 * rounded before the weight as Llama does. Every group of N = group (or D) values is
 * normalised on its own with the same w [N]: with group = C it is the norm of each head.
 *
 * With n = x rstd and g = dy w:  dx = rstd (g - n mean(g n)),  dw += Σ dy n.
 */
#include "core/ops/common.h"

/* binds N, the values of a group, and M, the groups of a row */
static mr_status groups(const mr_call *c, uint32_t x, const char *op, mri_given given[3],
                        mr_err *err)
{
    int64_t D = mri_in(c, x) ? mr_last(c->in[x]) : 0, N = mr_attr_i(c, "group", 0);
    if (N < 0 || (N && D % N))
        return mri_op_fail(err, op, "group is %lld, must divide the width of x, %lld",
                           (long long)N, (long long)D);
    if (!N)
        N = D;
    given[0] = (mri_given){ "N", N };
    given[1] = (mri_given){ "M", N ? D / N : 0 };
    given[2] = (mri_given){ NULL, 0 };
    return 0;
}

static mr_status rmsnorm_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_given given[3];
    mr_status st;
    MR_TRY(groups(c, 0, "rmsnorm", given, err));
    MR_TRY(mri_infer(c, out, err, "rmsnorm", "x:F[..,D] w:G[N] -> y:F[..,D] rstd:S[..,M]", given));
out:
    return st;
}

static mr_status rmsnorm_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1)))
        return 0;
    mr_val dx = mri_emit(v, "rmsnorm.bwd",
                         MR_IN(v->dout[0], v->in[0], mri_val_in(v, 1), v->out[1],
                               mri_main_grad(v, 1)),
                         MR_AT(mr_ai("group", mr_attr_i(v->call, "group", 0))));
    if (mri_need(v, 0))
        v->din[0] = dx;
    return 0;
}

static mr_status rmsnorm_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1);
    mri_view y = mri_out_view(c, out, 0), rstd = mri_out_view(c, out, 1);
    int64_t groups_n = mr_numel(c->out[1]), N = mr_numel(c->in[0]) / groups_n;
    double eps = mr_attr_f(c, "eps", 1e-5);
    (void)err;
    for (int64_t g = 0; g < groups_n; g++) {
        double sum = 0;
        for (int64_t i = g * N; i < (g + 1) * N; i++)
            sum += mri_get(x, i) * mri_get(x, i);
        double r = 1 / sqrt(sum / (double)N + eps);
        mri_put(rstd, g, r);
        for (int64_t i = 0; i < N; i++) {
            double n = mri_round(y, mri_get(x, g * N + i) * r);
            mri_put(y, g * N + i, w.kind ? n * mri_get(w, i) : n);
        }
    }
    return 0;
}

static void rmsnorm_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4.0 * (double)mr_numel(c->in[0]), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_given given[3];
    mr_status st;
    MR_TRY(groups(c, 1, "rmsnorm.bwd", given, err));
    MR_TRY(mri_infer(c, out, err, "rmsnorm.bwd",
                     "dy:F[..,D] x:F[..,D] w:G[N] rstd:S[..,M] dw:S[N] -> dx:F[..,D]", given));
out:
    return st;
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), x = mri_in_view(c, in, 1), w = mri_in_view(c, in, 2);
    mri_view rstd = mri_in_view(c, in, 3), dw = mri_in_view(c, in, 4);
    mri_view dx = mri_out_view(c, out, 0);
    int64_t groups_n = mr_numel(c->in[3]), N = mr_numel(c->in[1]) / groups_n;
    double *dw_sum = mri_alloc((size_t)N * sizeof *dw_sum);
    (void)err;
    for (int64_t g = 0; g < groups_n; g++) {
        double r = mri_get(rstd, g), mean = 0;
        for (int64_t i = 0; i < N; i++) {
            double d = mri_get(dy, g * N + i), n = mri_get(x, g * N + i) * r;
            dw_sum[i] += d * n;
            mean += d * (w.kind ? mri_get(w, i) : 1) * n;
        }
        mean /= (double)N;
        for (int64_t i = 0; i < N; i++) {
            double d = mri_get(dy, g * N + i) * (w.kind ? mri_get(w, i) : 1);
            mri_put(dx, g * N + i, r * (d - mri_get(x, g * N + i) * r * mean));
        }
    }
    for (int64_t i = 0; dw.kind && i < N; i++)
        mri_acc(dw, i, dw_sum[i]);
    free(dw_sum);
    return 0;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 10.0 * (double)mr_numel(c->in[1]), 1 << 4);
}

const mr_op_def mri_ops_rmsnorm[] = {
    { MRI_OP, .id = "rmsnorm",
      .doc = "y = cast(x / sqrt(mean(x²) + eps)) w; Zhang & Sennrich 2019",
      .sig = "x w? -> y rstd", .attrs = "eps:f=1e-5 group:i=0", .shape = rmsnorm_shape,
      .vjp = rmsnorm_vjp, .ref = rmsnorm_ref, .cost = rmsnorm_cost,
      .shard = "T D, . -> T D, T D | T:map D:map", /* D: whole groups only, as rstd's dim tells */
      .cases = MRI_CASES("x=F[8,16] w=F[16]", "x=F[1,5]", "x=F[67,33] w=F[33] @eps=1e-3",
                         "x=F[6,24] @group=6", "x=F[2,3,12] w=F[4] @group=4 @eps=1e-6") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "rmsnorm.bwd",
      .doc = "dx = rstd (g - n mean(g n)), dw += Σ dy n; n = x rstd, g = dy w",
      .sig = "dy x w? rstd dw!? -> dx", .attrs = "group:i=0", .shape = bwd_shape,
      .ref = bwd_ref, .cost = bwd_cost,
      .shard = "T D, T D, ., T D, . -> T D | T:sum D:sum",
      .cases = MRI_CASES("dy=F[129,20] x=F[129,20] w=F[20] rstd=S[129,1]pos dw=S[20]",
                         "dy=F[6,24] x=F[6,24] rstd=S[6,4]pos @group=6",
                         "dy=F[6,24] x=F[6,24] w=F[6] rstd=S[6,4]pos dw=S[6] @group=6") },
    MRI_OPS_END
};
