/* SPDX-License-Identifier: Apache-2.0
 *
 * attn_temperature.c - Llama 4's temperature tuning of the queries of layers without rotary
 * positions: y = x (1 + attn_scale ln(1 + floor((position + 1) / floor_scale))). Linear and
 * diagonal in x, so the vjp is the op itself.
 */
#include "core/ops/common.h"

static mr_status temperature_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    double f = mr_attr_f(c, "floor_scale", 0);
    if (!(f > 0))
        return mri_op_fail(err, "attn_temperature", "floor_scale is %g, must be above 0", f);
    return mri_infer(c, out, err, "attn_temperature", "x:F[T,D] positions:i32[T] -> y:F[T,D]",
                     NULL);
}

static mr_status temperature_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "attn_temperature", MR_IN(v->dout[0], v->in[1]), v->call->attr,
                             v->call->n_attr);
    return 0;
}

static mr_status temperature_ref(const mr_call *c, const mr_buf *in, const mr_buf *out,
                                 mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), pos = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1];
    double floor_scale = mr_attr_f(c, "floor_scale", 0), scale = mr_attr_f(c, "attn_scale", 0);
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double s = 1 + scale * log(1 + floor((mri_get(pos, t) + 1) / floor_scale));
        for (int64_t d = 0; d < D; d++)
            mri_put(y, t * D + d, mri_get(x, t * D + d) * s);
    }
    return 0;
}

static void temperature_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_attn_temperature[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "attn_temperature",
      .doc = "y = x (1 + attn_scale ln(1 + floor((position + 1) / floor_scale))); Llama 4",
      .sig = "x positions -> y", .attrs = "floor_scale:f attn_scale:f",
      .shape = temperature_shape, .vjp = temperature_vjp, .ref = temperature_ref,
      .cost = temperature_cost, .shard = "T D, T -> T D | T:map D:map",
      .cases = MRI_CASES("x=F[8,6] positions=i32[8]ramp @floor_scale=3 @attn_scale=0.1",
                         "x=F[1,3] positions=i32[1]zero @floor_scale=1 @attn_scale=0.5",
                         "x=F[67,5] positions=i32[67]<20000 @floor_scale=8192 @attn_scale=0.1") },
    MRI_OPS_END
};
