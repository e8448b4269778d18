/* SPDX-License-Identifier: Apache-2.0
 *
 * weighted_act.c - activations of routed rows, times the row's probability: the combine weight is
 * applied inside the expert, before its second product, so that bringing the rows back is a pure
 * sum. After Megatron-LM's fused weighted SwiGLU and weighted squared ReLU; row r of R rows,
 * p f32 [R], g the gradient of y:
 *
 *   weighted_swiglu   y = p silu(gate) up           dgate, dup: those of swiglu for p g
 *                                                   dp = sum over the row of g silu(gate) up
 *   weighted_srelu    y = p max(x, 0)²              dx = p g 2 max(x, 0)
 *                                                   dp = sum over the row of g max(x, 0)²
 *
 * Everything is f32 and rounded once, on store, but for one place: in dp of weighted_srelu the
 * square is rounded to the dtype of x before it meets g, as Megatron-LM evaluates it. Without the
 * operand up, gate is [R,2F]: F values of the gate, then F of up.
 */
#include "core/ops/common.h"

static double sigmoid(double z)
{
    return 1 / (1 + exp(-z));
}

/* ---- weighted_swiglu ---------------------------------------------------------------------- */
/* where element (r, f) of gate and of up are; the fused form keeps both in one operand */
typedef struct halves {
    int64_t R, F, stride, up_at;
    bool fused;
} halves;

static halves halves_of(const mr_call *c, uint32_t gate) /* gate, probs, up? */
{
    bool fused = !mri_in(c, gate + 2);
    int64_t width = mr_last(c->in[gate]);
    return (halves){ mr_rows(c->in[gate]), fused ? width / 2 : width, width,
                     fused ? width / 2 : 0, fused };
}

static mr_status swiglu_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    halves n = halves_of(c, 0);
    return mri_infer(c, out, err, "weighted_swiglu",
                     n.fused ? "gate:F[R,2*F] probs:S[R] up:F[R,F] -> y:F[R,F]"
                             : "gate:F[R,F] probs:S[R] up:F[R,F] -> y:F[R,F]",
                     MRI_GIVEN({ "F", n.F }));
}

static mr_status swiglu_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val d[3] = { 0 }, up = mri_val_in(v, 2);
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1) && !mri_need(v, 2)))
        return MR_OK;
    mri_emit_n(v, d, up ? 3 : 2, "weighted_swiglu.bwd",
               MR_IN(v->dout[0], v->in[0], v->in[1], up), MR_NOAT);
    for (uint32_t i = 0; i < 3; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return MR_OK;
}

static mr_status swiglu_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    halves n = halves_of(c, 0);
    mri_view gate = mri_in_view(c, in, 0), p = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);
    mri_view up = n.fused ? gate : mri_in_view(c, in, 2);
    (void)err;
    for (int64_t r = 0; r < n.R; r++)
        for (int64_t f = 0; f < n.F; f++) {
            double g = mri_get(gate, r * n.stride + f);
            double u = mri_get(up, r * n.stride + n.up_at + f);
            mri_put(y, r * n.F + f, g * sigmoid(g) * u * mri_get(p, r));
        }
    return MR_OK;
}

static void swiglu_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 6 * (double)mr_numel(c->out[0]), 0);
}

static mr_status swiglu_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    halves n = halves_of(c, 1);
    if (c->n_out != (n.fused ? 2 : 3))
        return mri_op_fail(err, "weighted_swiglu.bwd", "%u outputs asked for, %s", c->n_out,
                           n.fused ? "without up there are two, dgate and dprobs"
                                   : "with up there are three");
    return mri_infer(c, out, err, "weighted_swiglu.bwd",
                     n.fused ? "dy:F[R,F] gate:F[R,2*F] probs:S[R] up:F[R,F] -> "
                               "dgate:F[R,2*F] dprobs:S[R]"
                             : "dy:F[R,F] gate:F[R,F] probs:S[R] up:F[R,F] -> "
                               "dgate:F[R,F] dprobs:S[R] dup:F[R,F]",
                     MRI_GIVEN({ "F", n.F }));
}

static mr_status swiglu_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    halves n = halves_of(c, 1);
    mri_view dy = mri_in_view(c, in, 0), gate = mri_in_view(c, in, 1), p = mri_in_view(c, in, 2);
    mri_view up = n.fused ? gate : mri_in_view(c, in, 3), dgate = mri_out_view(c, out, 0);
    mri_view dp = mri_out_view(c, out, 1), dup = n.fused ? dgate : mri_out_view(c, out, 2);
    (void)err;
    for (int64_t r = 0; r < n.R; r++) {
        double sum = 0;
        for (int64_t f = 0; f < n.F; f++) {
            int64_t ig = r * n.stride + f, iu = ig + n.up_at;
            double d = mri_get(dy, r * n.F + f), g = mri_get(gate, ig), s = sigmoid(g);
            double u = mri_get(up, iu), by = d * mri_get(p, r);
            sum += d * g * s * u;
            mri_put(dgate, ig, by * u * s * (1 + g * (1 - s)));
            mri_put(dup, iu, by * g * s);
        }
        mri_put(dp, r, sum);
    }
    return MR_OK;
}

static void swiglu_bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 13 * (double)mr_numel(c->in[0]), 0);
}

/* ---- weighted_srelu ----------------------------------------------------------------------- */
static mr_status srelu_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "weighted_srelu", "x:F[R,F] probs:S[R] -> y:F[R,F]", NULL);
}

static mr_status srelu_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val d[2] = { 0 };
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1)))
        return MR_OK;
    mri_emit_n(v, d, 2, "weighted_srelu.bwd", MR_IN(v->dout[0], v->in[0], v->in[1]), MR_NOAT);
    for (uint32_t i = 0; i < 2; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return MR_OK;
}

static double relu(double x) /* NaN stays NaN */
{
    return x < 0 ? 0 : x;
}

static mr_status srelu_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), p = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);
    int64_t R = mr_rows(c->in[0]), F = mr_last(c->in[0]);
    (void)err;
    for (int64_t r = 0; r < R; r++)
        for (int64_t i = r * F; i < (r + 1) * F; i++) {
            double v = relu(mri_get(x, i));
            mri_put(y, i, v * v * mri_get(p, r));
        }
    return MR_OK;
}

static void srelu_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 3 * (double)mr_numel(c->in[0]), 0);
}

static mr_status srelu_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "weighted_srelu.bwd",
                     "dy:F[R,F] x:F[R,F] probs:S[R] -> dx:F[R,F] dprobs:S[R]", NULL);
}

static mr_status srelu_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), x = mri_in_view(c, in, 1), p = mri_in_view(c, in, 2);
    mri_view dx = mri_out_view(c, out, 0), dp = mri_out_view(c, out, 1);
    int64_t R = mr_rows(c->in[0]), F = mr_last(c->in[0]);
    (void)err;
    for (int64_t r = 0; r < R; r++) {
        double sum = 0;
        for (int64_t i = r * F; i < (r + 1) * F; i++) {
            double d = mri_get(dy, i), v = relu(mri_get(x, i));
            sum += d * mri_round(x, v * v);
            mri_put(dx, i, d * mri_get(p, r) * 2 * v);
        }
        mri_put(dp, r, sum);
    }
    return MR_OK;
}

static void srelu_bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 6 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_weighted_act[] = {
    { MRI_OP, .id = "weighted_swiglu",
      .doc = "y = probs[r] gate σ(gate) up in row r: the combine weight inside the expert; "
             "Megatron-LM's weighted SwiGLU",
      .sig = "gate probs up? -> y", .shape = swiglu_shape, .vjp = swiglu_vjp, .ref = swiglu_ref,
      .cost = swiglu_cost, .shard = "R F, R, R F -> R F | R:map F:map:+up",
      .cases = MRI_CASES("gate=F[8,6] probs=S[8]pos up=F[8,6]", "gate=F[8,14] probs=S[8]pos",
                         "gate=F[1,1] probs=S[1] up=F[1,1]", "gate=F[67,16] probs=S[67]pos",
                         "gate=F[5,32] probs=S[5]{0,1,-0.5,2,1}") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "weighted_swiglu.bwd",
      .doc = "dgate and dup of swiglu for probs[r] dy; dprobs[r] = <dy, gate σ(gate) up> of row r",
      .sig = "dy gate probs up? -> dgate dprobs dup?", .shape = swiglu_bwd_shape,
      .ref = swiglu_bwd_ref, .cost = swiglu_bwd_cost,
      .shard = "R F, R F, R, R F -> R F, R, R F | R:map F:sum:+up",
      .cases = MRI_CASES("dy=F[67,6] gate=F[67,6] probs=S[67]pos up=F[67,6]") },
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "weighted_srelu",
      .doc = "y = probs[r] max(x, 0)² in row r: the combine weight inside the expert; "
             "Megatron-LM's weighted squared ReLU",
      .sig = "x probs -> y", .shape = srelu_shape, .vjp = srelu_vjp, .ref = srelu_ref,
      .cost = srelu_cost, .shard = "R F, R -> R F | R:map F:map",
      .cases = MRI_CASES("x=F[8,6] probs=S[8]pos", "x=F[1,1] probs=S[1]pos",
                         "x=F[67,33] probs=S[67]pos", "x=F[5,16] probs=S[5]{0,1,-0.5,2,1}") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "weighted_srelu.bwd",
      .doc = "dx = probs[r] dy 2 max(x, 0); dprobs[r] = <dy, max(x, 0)²> of row r, the square "
             "rounded to the dtype of x",
      .sig = "dy x probs -> dx dprobs", .shape = srelu_bwd_shape, .ref = srelu_bwd_ref,
      .cost = srelu_bwd_cost, .shard = "R F, R F, R -> R F, R | R:map F:sum",
      .cases = MRI_CASES("dy=F[67,33] x=F[67,33] probs=S[67]pos") },
    MRI_OPS_END
};
