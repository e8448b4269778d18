/* SPDX-License-Identifier: Apache-2.0
 *
 * gelu.c - y = x Φ(x), Φ the normal distribution's integral; Hendrycks & Gimpel 2016. `tanh` is
 * their approximation, the one of GPT-2:  y = x/2 (1 + tanh(√(2/π) (x + 0.044715 x³))). `quick` is
 * their other one, CLIP's:  y = x σ(1.702 x).
 */
#include "core/ops/common.h"

static const double root_2_over_pi = 0.79788456080286535588, cubic = 0.044715;

static const double quick = 1.702;

static char approx_of(const mr_call *c) /* 'n', 't', 'q' */
{
    return *mr_attr_s(c, "approx", "none");
}

static mr_status gelu_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "gelu", "x:F[..] -> y:F[..]", NULL);
}

static mr_status gelu_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "gelu.bwd", MR_IN(v->dout[0], v->in[0]), v->call->attr,
                             v->call->n_attr);
    return 0;
}

static mr_status gelu_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), y = mri_out_view(c, out, 0);
    char approx = approx_of(c);
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++) {
        double z = mri_get(x, i);
        double phi = approx == 't' ? 0.5 * (1 + tanh(root_2_over_pi * (z + cubic * z * z * z)))
                   : approx == 'q' ? 1 / (1 + exp(-quick * z))
                                   : 0.5 * erfc(-z * M_SQRT1_2);
        mri_put(y, i, z * phi);
    }
    return 0;
}

static void gelu_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 8.0 * (double)mr_numel(c->in[0]), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "gelu.bwd", "dy:F[..] x:F[..] -> dx:F[..]", NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), x = mri_in_view(c, in, 1), dx = mri_out_view(c, out, 0);
    char approx = approx_of(c);
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++) {
        double z = mri_get(x, i), slope;
        if (approx == 't') {
            double t = tanh(root_2_over_pi * (z + cubic * z * z * z));
            slope = 0.5 * (1 + t) +
                    0.5 * z * (1 - t * t) * root_2_over_pi * (1 + 3 * cubic * z * z);
        } else if (approx == 'q') {
            double s = 1 / (1 + exp(-quick * z));
            slope = s + quick * z * s * (1 - s);
        } else { /* Φ(z) + z φ(z), φ the density */
            slope = 0.5 * erfc(-z * M_SQRT1_2) + z * exp(-0.5 * z * z) * 0.5 * root_2_over_pi;
        }
        mri_put(dx, i, mri_get(dy, i) * slope);
    }
    return 0;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 15.0 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_gelu[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "gelu", .doc = "y = x Φ(x); Hendrycks & Gimpel 2016",
      .sig = "x -> y", .attrs = "approx:s=none|tanh|quick", .shape = gelu_shape, .vjp = gelu_vjp,
      .ref = gelu_ref, .cost = gelu_cost, .shard = "T D -> T D | T:map D:map",
      .cases = MRI_CASES("x=F[8,6]", "x=F[1,1] @approx=tanh", "x=F[67,33] @approx=tanh",
                         "x=F[129]", "x=F[67,33] @approx=quick") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "gelu.bwd",
      .doc = "dx = dy (Φ(x) + x φ(x)), or the derivative of another form",
      .sig = "dy x -> dx", .attrs = "approx:s=none|tanh|quick", .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost, .shard = "T D, T D -> T D | T:map D:map",
      .cases = MRI_CASES("dy=F[8,6] x=F[8,6]", "dy=F[129] x=F[129] @approx=tanh",
                         "dy=F[67,33] x=F[67,33] @approx=quick") },
    MRI_OPS_END
};
