/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_gelu.c - GELU within the products beside it: y = gelu(x wᵀ + bias), with what went into
 * GELU as a second output where the backward wants it, and the gradient on its way back through
 * the next product, dpre = (dy w) gelu'(pre). gelu.c has the function and its tanh form. The sum
 * is rounded for `pre` only, y is made of the unrounded one.
 */
#include "core/ops/common.h"

static const double root_2_over_pi = 0.79788456080286535588, cubic = 0.044715;

static double gelu(double z, bool approx)
{
    return z * (approx ? 0.5 * (1 + tanh(root_2_over_pi * (z + cubic * z * z * z)))
                       : 0.5 * erfc(-z * M_SQRT1_2));
}

static double slope(double z, bool approx)
{
    if (!approx) /* Φ(z) + z φ(z), φ the density */
        return 0.5 * erfc(-z * M_SQRT1_2) + z * exp(-0.5 * z * z) * 0.5 * root_2_over_pi;
    double t = tanh(root_2_over_pi * (z + cubic * z * z * z));
    return 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * root_2_over_pi * (1 + 3 * cubic * z * z);
}

static bool is_tanh(const mr_call *c)
{
    return !strcmp(mr_attr_s(c, "approx", "none"), "tanh");
}

static mr_status linear_gelu_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "linear_gelu",
                     "x:F[..,I] w:G[O,I] bias:H[O] -> y:F[..,O] pre:F[..,O]", NULL);
}

static mr_status linear_gelu_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val d = v->dout[1], dw, dbias;
    if (v->dout[0] && v->call->n_out < 2)
        return mri_op_fail(err, "linear_gelu", "its gradient needs the output pre");
    if (v->dout[0]) {
        mr_val through = mri_emit(v, "gelu.bwd", MR_IN(v->dout[0], v->out[1]), v->call->attr,
                                  v->call->n_attr);
        d = d ? mri_emit(v, "add", MR_IN(d, through), MR_NOAT) : through;
    }
    if (!d)
        return 0;
    if (mri_need(v, 0))
        v->din[0] = mri_emit(v, "linear.dgrad", MR_IN(d, v->in[1]), MR_NOAT);
    if ((dw = mri_main_grad(v, 1)))
        mri_emit_n(v, NULL, 0, "linear.wgrad", MR_IN(d, v->in[0], dw), MR_NOAT);
    if ((dbias = mri_main_grad(v, 2)))
        mri_emit_n(v, NULL, 0, "sum_rows", MR_IN(d, dbias), MR_NOAT);
    return 0;
}

static mr_status linear_gelu_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1), b = mri_in_view(c, in, 2);
    mri_view y = mri_out_view(c, out, 0), pre = mri_out_view(c, out, 1);
    int64_t T = mr_rows(c->in[0]), I = mr_last(c->in[0]), O = c->in[1]->dim[0];
    bool approx = is_tanh(c);
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < O; o++) {
            double sum = mri_get(b, o); /* an absent bias reads as 0 */
            for (int64_t i = 0; i < I; i++)
                sum += mri_get(x, t * I + i) * mri_get(w, o * I + i);
            if (pre.kind)
                mri_put(pre, t * O + o, sum);
            mri_put(y, t * O + o, gelu(sum, approx));
        }
    return 0;
}

static void linear_gelu_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[0]) * (double)mr_numel(c->in[1]) +
             9.0 * (double)mr_numel(c->out[0]), 0);
}

static mr_status dgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "linear_gelu.dgrad",
                     "dy:G[..,O] w:H[O,I] pre:F[..,I] -> dpre:F[..,I]", NULL);
}

static mr_status dgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1), pre = mri_in_view(c, in, 2);
    mri_view dpre = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[0]), O = c->in[1]->dim[0], I = c->in[1]->dim[1];
    bool approx = is_tanh(c);
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t o = 0; o < O; o++)
                sum += mri_get(dy, t * O + o) * mri_get(w, o * I + i);
            mri_put(dpre, t * I + i, sum * slope(mri_get(pre, t * I + i), approx));
        }
    return 0;
}

static void dgrad_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[0]) * (double)mr_numel(c->in[1]) +
             15.0 * (double)mr_numel(c->out[0]), 0);
}

const mr_op_def mri_ops_linear_gelu[] = {
    { MRI_OP, .id = "linear_gelu",
      .doc = "y = gelu(pre), pre = x wᵀ + bias; Hendrycks & Gimpel 2016",
      .sig = "x w bias? -> y pre?", .attrs = "approx:s=none|tanh", .shape = linear_gelu_shape,
      .vjp = linear_gelu_vjp, .ref = linear_gelu_ref, .cost = linear_gelu_cost,
      .shard = "T ., O ., O -> T O, T O | T:map O:map",
      .cases = MRI_CASES("x=F[8,16] w=F[6,16]", "x=F[1,3] w=F[5,3] bias=F[5] @approx=tanh",
                         "x=F[64,48] w=F[32,48] bias=F[32] @approx=tanh",
                         "x=F[2,3,8] w=F[4,8] bias=F[4]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear_gelu.dgrad",
      .doc = "dpre = (dy w) gelu'(pre)", .sig = "dy w pre -> dpre", .attrs = "approx:s=none|tanh",
      .shape = dgrad_shape, .ref = dgrad_ref, .cost = dgrad_cost,
      .shard = "T ., . I, T I -> T I | T:map I:map",
      .cases = MRI_CASES("dy=F[67,34] w=F[34,33] pre=F[67,33]",
                         "dy=F[40,32] w=F[32,64] pre=F[40,64] @approx=tanh") },
    MRI_OPS_END
};
