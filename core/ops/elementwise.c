/* SPDX-License-Identifier: Apache-2.0
 *
 * elementwise.c - add; cast to another dtype; store, a cast into a state that a flag may veto
 * (how a parameter gets its new value only after a good step).
 */
#include "core/ops/common.h"

/* the dtypes that reference loops can read and write */
static bool is_plain(const char *dtype)
{
    static const char *const plain[] = { "f32", "f64", "bf16", "i32", "i64", "u8" };
    for (size_t i = 0; i < sizeof plain / sizeof *plain; i++)
        if (!strcmp(dtype, plain[i]))
            return true;
    return false;
}

static mr_status need_plain(const char *dtype, const char *op, const char *what, mr_err *err)
{
    if (is_plain(dtype))
        return 0;
    return mri_op_fail(err, op, "%s is %s, must be f32, f64, bf16, i32, i64 or u8", what, dtype);
}

static mr_status add_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "add", "a:F[..] b:F[..] -> y:F[..]", NULL);
}

static mr_status add_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    for (uint32_t i = 0; i < 2; i++)
        if (mri_need(v, i))
            v->din[i] = v->dout[0];
    return 0;
}

static mr_status add_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view a = mri_in_view(c, in, 0), b = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++)
        mri_put(y, i, mri_get(a, i) + mri_get(b, i));
    return 0;
}

static void add_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]), 0);
}

static mr_status cast_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const char *want = mr_attr_s(c, "dtype", "");
    mr_status st;
    MR_TRY(mri_infer(c, NULL, err, "cast", "x:*[*] ->", NULL));
    MR_TRY(need_plain(c->in[0]->dtype, "cast", "x", err));
    MR_TRY(need_plain(want, "cast", "dtype", err));
    if (c->n_out) {
        *out[0] = *c->in[0];
        out[0]->size = sizeof *out[0];
        out[0]->dtype = mri_dtype_name(want);
    }
out:
    return st;
}

static bool is_float(const mr_type *t)
{
    return mr_is(t, "f32") || mr_is(t, "bf16") || mr_is(t, "f64");
}

static mr_status cast_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_type *x = v->call->in[0];
    (void)err;
    if (v->dout[0] && mri_need(v, 0) && is_float(x) && is_float(v->call->out[0]))
        v->din[0] = mri_emit(v, "cast", MR_IN(v->dout[0]), MR_AT(mr_as("dtype", x->dtype)));
    return 0;
}

static mr_status cast_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), y = mri_out_view(c, out, 0);
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++)
        mri_put(y, i, mri_get(x, i));
    return 0;
}

static void cast_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

static mr_status store_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st;
    MR_TRY(mri_infer(c, out, err, "store", "x:*[..] dst:*[..] ok:f32[1] ->", NULL));
    MR_TRY(need_plain(c->in[0]->dtype, "store", "x", err));
    MR_TRY(need_plain(c->in[1]->dtype, "store", "dst", err));
out:
    return st;
}

static mr_status store_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), dst = mri_in_view(c, in, 1), ok = mri_in_view(c, in, 2);
    (void)out, (void)err;
    if (ok.kind && mri_get(ok, 0) == 0)
        return 0;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++)
        mri_put(dst, i, mri_get(x, i));
    return 0;
}

/* dst is only written */
static void store_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

const mr_op_def mri_ops_elementwise[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "add", .doc = "y = a + b",
      .sig = "a b -> y", .shape = add_shape, .vjp = add_vjp, .ref = add_ref, .cost = add_cost,
      .shard = "T D, T D -> T D | T:map D:map",
      .cases = MRI_CASES("a=F[8,6] b=F[8,6]", "a=F[1] b=F[1]", "a=F[67,33] b=F[67,33]") },
    { MRI_OP, .id = "cast", .doc = "y = x in another dtype, to nearest, ties to even",
      .sig = "x -> y", .attrs = "dtype:s", .shape = cast_shape, .vjp = cast_vjp, .ref = cast_ref,
      .cost = cast_cost, .shard = "T D -> T D | T:map D:map",
      .cases = MRI_CASES("x=F[8,6] @dtype=f64", "x=F[1,3] @dtype=f64", "x=i32[129]<300 @dtype=f32",
                         "x=F[7,5] @dtype=bf16") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "store", .doc = "dst = cast(x), unless ok is 0",
      .sig = "x dst! ok? ->", .shape = store_shape, .ref = store_ref, .cost = store_cost,
      .shard = "T D, T D, . -> | T:map D:map",
      .cases = MRI_CASES("x=f32[8,6] dst=F[8,6]", "x=F[67,3] dst=F[67,3] ok=f32[1]zero",
                         "x=f32[129] dst=bf16[129] ok=f32[1]{1}") },
    MRI_OPS_END
};
