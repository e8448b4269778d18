/* SPDX-License-Identifier: Apache-2.0
 *
 * linear_add.c - products that are added to something: the residual stream plus a projection,
 * y = a + x wᵀ + bias, and a sum of data gradients, dx = a + dy w. The product library adds in
 * its own fp32 registers (beta = 1), so neither the product nor the sum is written twice, and the
 * sum is rounded once. The result has a's dtype, which may differ from the factors'.
 */
#include "core/ops/common.h"

static mr_status linear_add_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "linear_add",
                     "a:F[..,O] x:G[..,I] w:H[O,I] bias:H[O] -> y:F[..,O]", NULL);
}

static mr_status linear_add_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val dy = v->dout[0], dw, dbias;
    (void)err;
    if (!dy)
        return 0;
    if (mri_need(v, 0))
        v->din[0] = dy;
    if (mri_need(v, 1)) {
        const mr_type *x = v->call->in[1];
        if (mr_is(x, v->call->out[0]->dtype))
            v->din[1] = mri_emit(v, "linear.dgrad", MR_IN(dy, v->in[2]), MR_NOAT);
        else
            v->din[1] = mri_emit(v, "linear.dgrad", MR_IN(dy, v->in[2]),
                                 MR_AT(mr_as("out_dtype", x->dtype)));
    }
    if ((dw = mri_main_grad(v, 2)))
        mri_emit_n(v, NULL, 0, "linear.wgrad", MR_IN(dy, v->in[1], dw), MR_NOAT);
    if ((dbias = mri_main_grad(v, 3)))
        mri_emit_n(v, NULL, 0, "sum_rows", MR_IN(dy, dbias), MR_NOAT);
    return 0;
}

static mr_status linear_add_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view a = mri_in_view(c, in, 0), x = mri_in_view(c, in, 1), w = mri_in_view(c, in, 2);
    mri_view b = mri_in_view(c, in, 3), y = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[1]), I = mr_last(c->in[1]), O = c->in[2]->dim[0];
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < O; o++) {
            double sum = mri_get(b, o); /* an absent bias reads as 0 */
            for (int64_t i = 0; i < I; i++)
                sum += mri_get(x, t * I + i) * mri_get(w, o * I + i);
            mri_put(y, t * O + o, mri_get(a, t * O + o) + sum);
        }
    return 0;
}

static void linear_add_cost(const mr_call *c, mr_cost *cost)
{
    double sums = (double)mr_numel(c->out[0]) * (mri_in(c, 3) ? 2 : 1);
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[1]) * (double)mr_numel(c->in[2]) + sums, 0);
}

static mr_status dgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "linear_add.dgrad",
                     "a:F[..,I] dy:G[..,O] w:H[O,I] -> dx:F[..,I]", NULL);
}

static mr_status dgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view a = mri_in_view(c, in, 0), dy = mri_in_view(c, in, 1), w = mri_in_view(c, in, 2);
    mri_view dx = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[1]), O = c->in[2]->dim[0], I = c->in[2]->dim[1];
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t o = 0; o < O; o++)
                sum += mri_get(dy, t * O + o) * mri_get(w, o * I + i);
            mri_put(dx, t * I + i, mri_get(a, t * I + i) + sum);
        }
    return 0;
}

static void dgrad_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[1]) * (double)mr_numel(c->in[2]) +
             (double)mr_numel(c->out[0]), 0);
}

const mr_op_def mri_ops_linear_add[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "linear_add", .doc = "y = a + x wᵀ + bias",
      .sig = "a x w bias? -> y", .shape = linear_add_shape, .vjp = linear_add_vjp,
      .ref = linear_add_ref, .cost = linear_add_cost,
      .shard = "T O, T ., O ., O -> T O | T:map O:map",
      .cases = MRI_CASES("a=F[8,6] x=F[8,16] w=F[6,16]", "a=F[1,5] x=F[1,3] w=F[5,3] bias=F[5]",
                         "a=F[2,3,4] x=F[2,3,8] w=F[4,8] bias=F[4]",
                         "a=F[67,34] x=F[67,33] w=F[34,33]") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "linear_add.dgrad",
      .doc = "dx = a + dy w", .sig = "a dy w -> dx", .shape = dgrad_shape, .ref = dgrad_ref,
      .cost = dgrad_cost, .shard = "T I, T ., . I -> T I | T:map I:map",
      .cases = MRI_CASES("a=F[67,33] dy=F[67,34] w=F[34,33]", "a=F[1,3] dy=F[1,5] w=F[5,3]",
                         "a=F[9,40] dy=f32[9,3] w=F[3,40]") },
    MRI_OPS_END
};
