/* SPDX-License-Identifier: Apache-2.0
 *
 * linear.c - y = x wᵀ + bias and its two gradients, dx = dy w and dw += dyᵀ x; the column sum
 * that is bias's gradient, and the plain accumulation. Weights are [O,I] as in PyTorch's Linear.
 * Products are summed over the whole inner dim before the one rounding.
 */
#include "core/ops/common.h"

/* out_dtype, if given, instead of the first operand's. It is there to spare a rounding, so f32
 * asked of an f64 product stays f64: programs that are checked in f64 keep their digits. */
static mr_status set_out_dtype(const mr_call *c, mr_type *const *out, mr_err *err, const char *op)
{
    const char *want = mr_attr_s(c, "out_dtype", NULL), *own = mri_dtype_name(want);
    if (!want)
        return 0;
    if (!own || (strcmp(own, "f32") && strcmp(own, "bf16") && strcmp(own, "f64")))
        return mri_op_fail(err, op, "out_dtype is \"%s\", must be f32, bf16 or f64", want);
    if (c->n_out && !(mr_is(c->in[0], "f64") && !strcmp(own, "f32")))
        out[0]->dtype = own;
    return 0;
}

static mr_status linear_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_infer(c, out, err, "linear",
                             "x:F[..,I] w:G[O,I] bias:H[O] -> y:F[..,O]", NULL);
    return st ? st : set_out_dtype(c, out, err, "linear");
}

static mr_status linear_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val dy = v->dout[0], dw, dbias;
    (void)err;
    if (!dy)
        return 0;
    if (mri_need(v, 0)) {
        const mr_type *x = v->call->in[0];
        if (mr_is(x, v->call->out[0]->dtype))
            v->din[0] = mri_emit(v, "linear.dgrad", MR_IN(dy, v->in[1]), MR_NOAT);
        else
            v->din[0] = mri_emit(v, "linear.dgrad", MR_IN(dy, v->in[1]),
                                 MR_AT(mr_as("out_dtype", x->dtype)));
    }
    if ((dw = mri_main_grad(v, 1)))
        mri_emit_n(v, NULL, 0, "linear.wgrad", MR_IN(dy, v->in[0], dw), MR_NOAT);
    if ((dbias = mri_main_grad(v, 2)))
        mri_emit_n(v, NULL, 0, "sum_rows", MR_IN(dy, dbias), MR_NOAT);
    return 0;
}

static mr_status linear_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1), b = mri_in_view(c, in, 2);
    mri_view y = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[0]), I = mr_last(c->in[0]), O = c->in[1]->dim[0];
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < O; o++) {
            double sum = mri_get(b, o); /* an absent bias reads as 0 */
            for (int64_t i = 0; i < I; i++)
                sum += mri_get(x, t * I + i) * mri_get(w, o * I + i);
            mri_put(y, t * O + o, sum);
        }
    return 0;
}

/* of all three products: 2 T I O, whatever is the inner dim */
static void linear_cost(const mr_call *c, mr_cost *cost)
{
    double bias = mri_in(c, 2) ? (double)mr_numel(c->out[0]) : 0;
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[0]) * (double)mr_numel(c->in[1]) + bias, 0);
}

static mr_status dgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_infer(c, out, err, "linear.dgrad", "dy:F[..,O] w:G[O,I] -> dx:F[..,I]",
                             NULL);
    return st ? st : set_out_dtype(c, out, err, "linear.dgrad");
}

static mr_status dgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), w = mri_in_view(c, in, 1), dx = mri_out_view(c, out, 0);
    int64_t T = mr_rows(c->in[0]), O = c->in[1]->dim[0], I = c->in[1]->dim[1];
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t o = 0; o < O; o++)
                sum += mri_get(dy, t * O + o) * mri_get(w, o * I + i);
            mri_put(dx, t * I + i, sum);
        }
    return 0;
}

static void dgrad_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[0]) * (double)mr_numel(c->in[1]), 0);
}

static mr_status wgrad_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "linear.wgrad", "dy:G[..,O] x:F[..,I] dw:S[O,I] ->", NULL);
}

static mr_status wgrad_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dy = mri_in_view(c, in, 0), x = mri_in_view(c, in, 1), dw = mri_in_view(c, in, 2);
    int64_t T = mr_rows(c->in[0]), O = mr_last(c->in[0]), I = mr_last(c->in[1]);
    (void)out, (void)err;
    for (int64_t o = 0; o < O; o++)
        for (int64_t i = 0; i < I; i++) {
            double sum = 0;
            for (int64_t t = 0; t < T; t++)
                sum += mri_get(dy, t * O + o) * mri_get(x, t * I + i);
            mri_acc(dw, o * I + i, sum);
        }
    return 0;
}

/* The same without anything to add to. */
static mr_status wgrad_first_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "linear.wgrad.first", "dy:G[..,O] x:F[..,I] -> dw:S[O,I]", NULL);
}

static mr_status wgrad_first_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_call add = { sizeof add, 3, 0, 0, (const mr_type *[]){ c->in[0], c->in[1], c->out[0] },
                    NULL, NULL };
    mr_buf buf[3] = { in[0], in[1], out[0] };
    memset(out[0].data, 0, mr_bytes(c->out[0]));
    return wgrad_ref(&add, buf, NULL, err);
}

static void wgrad_first_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[0]) * (double)mr_numel(c->out[0]), 0);
}

static void wgrad_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)mr_rows(c->in[0]) * (double)mr_numel(c->in[2]), 1 << 2);
}

static mr_status sum_rows_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "sum_rows", "x:F[..,D] acc:S[D] ->", NULL);
}

static mr_status sum_rows_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), acc = mri_in_view(c, in, 1);
    int64_t T = mr_rows(c->in[0]), D = mr_last(c->in[0]);
    (void)out, (void)err;
    for (int64_t d = 0; d < D; d++) {
        double sum = 0;
        for (int64_t t = 0; t < T; t++)
            sum += mri_get(x, t * D + d);
        mri_acc(acc, d, sum);
    }
    return 0;
}

static mr_status accumulate_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st = mri_infer(c, out, err, "accumulate", "x:F[*] dst:S[*] ->", NULL);
    if (!st && mr_numel(c->in[0]) != mr_numel(c->in[1]))
        return mri_op_fail(err, "accumulate", "x has %lld elements, dst has %lld",
                           (long long)mr_numel(c->in[0]), (long long)mr_numel(c->in[1]));
    return st;
}

static mr_status accumulate_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), dst = mri_in_view(c, in, 1);
    (void)out, (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++)
        mri_acc(dst, i, mri_get(x, i));
    return 0;
}

static void add_into_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]), 1 << 1);
}

const mr_op_def mri_ops_linear[] = {
    { MRI_OP, .id = "linear", .doc = "y = x wᵀ + bias",
      .sig = "x w bias? -> y", .attrs = "out_dtype:s?", .shape = linear_shape, .vjp = linear_vjp,
      .ref = linear_ref, .cost = linear_cost,
      .shard = "T I, O I, O -> T O | T:map O:map I:sum:-bias",
      .cases = MRI_CASES("x=F[8,16] w=F[6,16]", "x=F[1,3] w=F[5,3] bias=F[5]",
                         "x=F[2,3,7] w=F[4,7] bias=F[4] @out_dtype=f32",
                         "x=F[67,33] w=F[34,33] bias=F[34]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear.dgrad", .doc = "dx = dy w",
      .sig = "dy w -> dx", .attrs = "out_dtype:s?", .shape = dgrad_shape, .ref = dgrad_ref,
      .cost = dgrad_cost, .shard = "T O, O I -> T I | T:map I:map O:sum",
      .cases = MRI_CASES("dy=F[67,34] w=F[34,33]", "dy=F[1,5] w=F[5,3] @out_dtype=f32") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear.wgrad", .doc = "dw += dyᵀ x",
      .sig = "dy x dw! ->", .shape = wgrad_shape, .ref = wgrad_ref, .cost = wgrad_cost,
      .shard = "T O, T I, O I -> | T:sum O:map I:map",
      .cases = MRI_CASES("dy=F[67,34] x=F[67,33] dw=S[34,33]", "dy=F[1,5] x=F[1,3] dw=S[5,3]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "linear.wgrad.first",
      .doc = "dw = dyᵀ x: the first micro-batch's",
      .sig = "dy x -> dw", .shape = wgrad_first_shape, .ref = wgrad_first_ref,
      .cost = wgrad_first_cost, .shard = "T O, T I -> O I | T:sum O:map I:map",
      .cases = MRI_CASES("dy=F[67,34] x=F[67,33]", "dy=F[1,5] x=F[1,3]",
                         "dy=F[128,72] x=F[128,136]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "sum_rows", .doc = "acc[d] += Σ_t x[t,d]",
      .sig = "x acc! ->", .shape = sum_rows_shape, .ref = sum_rows_ref, .cost = add_into_cost,
      .shard = "T D, D -> | T:sum D:map",
      .cases = MRI_CASES("x=F[66,10] acc=S[10]", "x=F[1,3] acc=S[3]", "x=F[129,1] acc=S[1]") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "accumulate", .doc = "dst += x",
      .sig = "x dst! ->", .shape = accumulate_shape, .ref = accumulate_ref, .cost = add_into_cost,
      .shard = "T D, T D -> | T:map D:map",
      .cases = MRI_CASES("x=F[6,10] dst=S[6,10]", "x=F[129] dst=S[3,43]") },
    MRI_OPS_END
};
