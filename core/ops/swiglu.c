/* SPDX-License-Identifier: Apache-2.0
 *
 * swiglu.c - y = silu(gate) up with silu(z) = z σ(z); Shazeer 2020. Without the operand up,
 * gate is [..,2F]: F values of the gate, then F of up, as fused projections produce it.
 *     dgate = dy up σ(gate) (1 + gate (1 - σ(gate))),  dup = dy silu(gate).
 */
#include "core/ops/common.h"

static double sigmoid(double z)
{
    return 1 / (1 + exp(-z));
}

/* where element (t, f) of gate and of up are; the fused form keeps both in one operand */
typedef struct halves {
    int64_t T, F, stride, up_at;
    bool fused;
} halves;

static halves halves_of(const mr_call *c, uint32_t gate)
{
    bool fused = !mri_in(c, gate + 1);
    int64_t width = mr_last(c->in[gate]);
    return (halves){ mr_rows(c->in[gate]), fused ? width / 2 : width, width,
                     fused ? width / 2 : 0, fused };
}

static mr_status swiglu_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    halves n = halves_of(c, 0);
    return mri_infer(c, out, err, "swiglu", n.fused ? "gate:F[..,2*F] up:F[..,F] -> y:F[..,F]"
                                                    : "gate:F[..,F] up:F[..,F] -> y:F[..,F]",
                     MRI_GIVEN({ "F", n.F }));
}

static mr_status swiglu_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val d[2] = { 0 }, up = mri_val_in(v, 1);
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1)))
        return 0;
    mri_emit_n(v, d, up ? 2 : 1, "swiglu.bwd", MR_IN(v->dout[0], v->in[0], up), MR_NOAT);
    for (uint32_t i = 0; i < 2; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return 0;
}

static mr_status swiglu_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    halves n = halves_of(c, 0);
    mri_view gate = mri_in_view(c, in, 0), y = mri_out_view(c, out, 0);
    mri_view up = n.fused ? gate : mri_in_view(c, in, 1);
    (void)err;
    for (int64_t t = 0; t < n.T; t++)
        for (int64_t f = 0; f < n.F; f++) {
            double g = mri_get(gate, t * n.stride + f);
            mri_put(y, t * n.F + f, g * sigmoid(g) * mri_get(up, t * n.stride + n.up_at + f));
        }
    return 0;
}

static void swiglu_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 5.0 * (double)mr_numel(c->out[0]), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    halves n = halves_of(c, 1);
    if (c->n_out != (n.fused ? 1 : 2))
        return mri_op_fail(err, "swiglu.bwd", "%u outputs asked for, %s", c->n_out,
                           n.fused ? "without up there is one, dgate" : "with up there are two");
    return mri_infer(c, out, err, "swiglu.bwd",
                     n.fused ? "dy:F[..,F] gate:F[..,2*F] up:F[..,F] -> dgate:F[..,2*F]"
                             : "dy:F[..,F] gate:F[..,F] up:F[..,F] -> dgate:F[..,F] dup:F[..,F]",
                     MRI_GIVEN({ "F", n.F }));
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    halves n = halves_of(c, 1);
    mri_view dy = mri_in_view(c, in, 0), gate = mri_in_view(c, in, 1);
    mri_view up = n.fused ? gate : mri_in_view(c, in, 2), dgate = mri_out_view(c, out, 0);
    mri_view dup = n.fused ? dgate : mri_out_view(c, out, 1);
    (void)err;
    for (int64_t t = 0; t < n.T; t++)
        for (int64_t f = 0; f < n.F; f++) {
            int64_t ig = t * n.stride + f, iu = ig + n.up_at;
            double d = mri_get(dy, t * n.F + f), g = mri_get(gate, ig), s = sigmoid(g);
            mri_put(dgate, ig, d * mri_get(up, iu) * s * (1 + g * (1 - s)));
            mri_put(dup, iu, d * g * s);
        }
    return 0;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 10.0 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_swiglu[] = {
    { MRI_OP, .id = "swiglu", .doc = "y = gate σ(gate) up; Shazeer 2020",
      .sig = "gate up? -> y", .shape = swiglu_shape, .vjp = swiglu_vjp, .ref = swiglu_ref,
      .cost = swiglu_cost, .shard = "T F, T F -> T F | T:map F:map:+up",
      .cases = MRI_CASES("gate=F[8,6] up=F[8,6]", "gate=F[8,14]", "gate=F[1,1] up=F[1,1]",
                         "gate=F[67,18]", "gate=F[2,3,5] up=F[2,3,5]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "swiglu.bwd",
      .doc = "dgate = dy up σ(1 + gate (1 - σ)), dup = dy gate σ; σ = σ(gate)",
      .sig = "dy gate up? -> dgate dup?", .shape = bwd_shape, .ref = bwd_ref, .cost = bwd_cost,
      .shard = "T F, T F, T F -> T F, T F | T:map F:map:+up",
      .cases = MRI_CASES("dy=F[67,6] gate=F[67,6] up=F[67,6]") },
    MRI_OPS_END
};
