/* SPDX-License-Identifier: Apache-2.0
 *
 * rope_norm.c - rotary positions, then the RMS norm of each head, without a weight: what Llama 4
 * does to queries and keys, in one pass over memory. With R the rotation by the token's angles
 * and f the factor (rope.c):
 *     y = f R x rstd,  rstd = 1 / sqrt(mean((f R x)²) + eps)          over each head of C
 * The gradient needs no x: y is itself the normalised value (and attention keeps it anyway):
 *     dx = f Rᵀ rstd (dy - y mean(dy y)).
 */
#include "core/ops/common.h"

#define ROPE_ATTRS "head_dim:i inv_freq:fs interleaved:i=1 factor:f=1 inverse:i=0"

static mr_status infer(const mr_call *c, mr_type *const *out, mr_err *err, const char *op,
                       const char *spec)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    int64_t C = mr_attr_i(c, "head_dim", 0), D = mr_last(c->in[0]);
    if (C < 1 || D % C)
        return mri_op_fail(err, op, "head_dim is %lld, must divide the width of x, %lld",
                           (long long)C, (long long)D);
    if (2 * (int64_t)freq->n > C)
        return mri_op_fail(err, op,
                           "inv_freq has %u values, a head of %lld has only %lld pairs", freq->n,
                           (long long)C, (long long)(C / 2));
    return mri_infer(c, out, err, op, spec, MRI_GIVEN({ "N", D / C }));
}

static mr_status rope_norm_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return infer(c, out, err, "rope_norm",
                 "x:F[T,D] positions:i32[T] -> y:F[T,D] rstd:S[T,N]");
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return infer(c, out, err, "rope_norm.bwd",
                 "dy:F[T,D] y:F[T,D] rstd:S[T,N] positions:i32[T] -> dx:F[T,D]");
}

static mr_status rope_norm_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_call *c = v->call;
    (void)err;
    if (!v->dout[0] || !mri_need(v, 0))
        return 0;
    v->din[0] = mri_emit(v, "rope_norm.bwd", MR_IN(v->dout[0], v->out[0], v->out[1], v->in[1]),
                         MR_AT(*mr_attr_find(c, "head_dim"), *mr_attr_find(c, "inv_freq"),
                               mr_ai("interleaved", mr_attr_i(c, "interleaved", 1)),
                               mr_af("factor", mr_attr_f(c, "factor", 1)),
                               mr_ai("inverse", mr_attr_i(c, "inverse", 0))));
    return 0;
}

/* Turns the pairs of one head v [C] in place: by the forward angles, or (back) against them. */
static void turn(const mr_call *c, double *v, double position, bool back)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    bool interleaved = mr_attr_i(c, "interleaved", 1), inverse = mr_attr_i(c, "inverse", 0);
    double factor = mr_attr_f(c, "factor", 1), sign = inverse != back ? -1 : 1;
    for (int64_t i = 0; i < freq->n; i++) {
        double angle = sign * position * freq->u.fs[i];
        double co = cos(angle) * factor, si = sin(angle) * factor;
        int64_t ia = interleaved ? 2 * i : i, ib = interleaved ? ia + 1 : ia + freq->n;
        double a = v[ia], b = v[ib];
        v[ia] = a * co - b * si;
        v[ib] = a * si + b * co;
    }
}

static mr_status rope_norm_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), pos = mri_in_view(c, in, 1);
    mri_view y = mri_out_view(c, out, 0), rstd = mri_out_view(c, out, 1);
    int64_t C = mr_attr_i(c, "head_dim", 1), N = mr_last(c->in[0]) / C;
    double eps = mr_attr_f(c, "eps", 1e-5), *v = mri_alloc((size_t)C * sizeof *v);
    (void)err;
    for (int64_t h = 0; h < c->in[0]->dim[0] * N; h++) {
        double sum = 0;
        for (int64_t i = 0; i < C; i++)
            v[i] = mri_get(x, h * C + i);
        turn(c, v, mri_get(pos, h / N), false);
        for (int64_t i = 0; i < C; i++)
            sum += v[i] * v[i];
        double r = 1 / sqrt(sum / (double)C + eps);
        mri_put(rstd, h, r);
        for (int64_t i = 0; i < C; i++)
            mri_put(y, h * C + i, v[i] * r);
    }
    free(v);
    return 0;
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), y = mri_in_view(c, in, 1), rstd = mri_in_view(c, in, 2);
    mri_view pos = mri_in_view(c, in, 3), dx = mri_out_view(c, out, 0);
    int64_t C = mr_attr_i(c, "head_dim", 1), N = mr_last(c->in[0]) / C;
    double *v = mri_alloc((size_t)C * sizeof *v);
    (void)err;
    for (int64_t h = 0; h < c->in[0]->dim[0] * N; h++) {
        double mean = 0, r = mri_get(rstd, h);
        for (int64_t i = h * C; i < (h + 1) * C; i++)
            mean += mri_get(dy, i) * mri_get(y, i);
        mean /= (double)C;
        for (int64_t i = 0; i < C; i++)
            v[i] = r * (mri_get(dy, h * C + i) - mri_get(y, h * C + i) * mean);
        turn(c, v, mri_get(pos, h / N), true);
        for (int64_t i = 0; i < C; i++)
            mri_put(dx, h * C + i, v[i]);
    }
    free(v);
    return 0;
}

static void rope_norm_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 7.0 * (double)mr_numel(c->in[0]), 0);
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 8.0 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_rope_norm[] = {
    { MRI_OP, .id = "rope_norm",
      .doc = "y = rmsnorm of each head of rope(x), no weight; Llama 4's queries and keys",
      .sig = "x positions -> y rstd", .attrs = ROPE_ATTRS " eps:f=1e-5", .shape = rope_norm_shape,
      .vjp = rope_norm_vjp, .ref = rope_norm_ref, .cost = rope_norm_cost,
      .shard = "T D, T -> T D, T D | T:map D:map",
      .cases = MRI_CASES("x=F[8,16] positions=i32[8]ramp @head_dim=4 @inv_freq=1,0.1",
                         "x=F[1,6] positions=i32[1]<9 @head_dim=6 @inv_freq=1,0.3,0.01 "
                         "@interleaved=0 @eps=1e-6",
                         "x=F[67,24] positions=i32[67]<4000 @head_dim=8 @inv_freq=1,0.1,0.01 "
                         "@factor=1.25",
                         "x=F[7,20] positions=i32[7]<50 @head_dim=10 @inv_freq=0.5,0.05 "
                         "@interleaved=0 @inverse=1 @factor=0.75",
                         "x=F[5,64] positions=i32[5]<900 @head_dim=32 @inv_freq=1,0.5,0.3,0.2,0.1,"
                         "0.05,0.03,0.02,0.01,0.005,0.003,0.002,0.001,0.0005,0.0003,0.0002") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "rope_norm.bwd",
      .doc = "dx = f Rᵀ rstd (dy - y mean(dy y)), R the rotation by position · inv_freq",
      .sig = "dy y rstd positions -> dx", .attrs = ROPE_ATTRS, .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost, .shard = "T D, T D, T D, T -> T D | T:map D:map",
      .cases = MRI_CASES("dy=F[9,12] y=F[9,12] rstd=S[9,3]pos positions=i32[9]<500 @head_dim=4 "
                         "@inv_freq=1,0.1") },
    MRI_OPS_END
};
