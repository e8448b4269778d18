/* SPDX-License-Identifier: Apache-2.0
 *
 * split.c - cuts each row in two, and lays two rows end to end. Each is the other's gradient; a
 * part that nobody read has no gradient, which concat takes as zeros.
 */
#include "core/ops/common.h"

static mr_status split_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t first = mr_attr_i(c, "first", 0), D = mr_last(c->in[0]);
    if (first < 1 || first >= D)
        return mri_op_fail(err, "split", "first is %lld, must be in 1..%lld, the width of x less 1",
                           (long long)first, (long long)D - 1);
    return mri_infer(c, out, err, "split", "x:F[..,A+B] -> a:F[..,A] b:F[..,B]",
                     MRI_GIVEN({ "A", first }, { "B", D - first }));
}

static mr_status split_vjp(const mr_vjp *v, mr_err *err)
{
    int64_t first = mr_attr_i(v->call, "first", 0);
    (void)err;
    if (mri_need(v, 0) && (v->dout[0] || v->dout[1]))
        v->din[0] = mri_emit(v, "concat", MR_IN(v->dout[0], v->dout[1]),
                             MR_AT(mr_ai("first", first),
                                   mr_ai("second", mr_last(v->call->in[0]) - first)));
    return 0;
}

static mr_status split_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), a = mri_out_view(c, out, 0), b = mri_out_view(c, out, 1);
    int64_t D = mr_last(c->in[0]), A = mr_attr_i(c, "first", 0), B = D - A;
    (void)err;
    for (int64_t r = 0; r < mr_rows(c->in[0]); r++) {
        for (int64_t i = 0; i < A; i++)
            mri_put(a, r * A + i, mri_get(x, r * D + i));
        for (int64_t i = 0; i < B; i++)
            mri_put(b, r * B + i, mri_get(x, r * D + A + i));
    }
    return 0;
}

static mr_status concat_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t A = mr_attr_i(c, "first", 0), B = mr_attr_i(c, "second", 0);
    if (A < 1 || B < 1)
        return mri_op_fail(err, "concat", "first is %lld and second %lld, must be at least 1",
                           (long long)A, (long long)B);
    if (!mri_in(c, 0) && !mri_in(c, 1))
        return mri_op_fail(err, "concat", "both parts are absent, one gives dtype and rows");
    return mri_infer(c, out, err, "concat", "a:F[..,A] b:F[..,B] -> x:F[..,A+B]",
                     MRI_GIVEN({ "A", A }, { "B", B }));
}

static mr_status concat_vjp(const mr_vjp *v, mr_err *err)
{
    mr_val d[2] = { 0 };
    (void)err;
    if (!v->dout[0] || (!mri_need(v, 0) && !mri_need(v, 1)))
        return 0;
    mri_emit_n(v, d, 2, "split", MR_IN(v->dout[0]),
               MR_AT(mr_ai("first", mr_attr_i(v->call, "first", 0))));
    for (uint32_t i = 0; i < 2; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return 0;
}

static mr_status concat_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view a = mri_in_view(c, in, 0), b = mri_in_view(c, in, 1), x = mri_out_view(c, out, 0);
    int64_t A = mr_attr_i(c, "first", 0), D = mr_last(c->out[0]), B = D - A;
    (void)err;
    for (int64_t r = 0; r < mr_rows(c->out[0]); r++) {
        for (int64_t i = 0; i < A; i++)
            mri_put(x, r * D + i, a.p ? mri_get(a, r * A + i) : 0);
        for (int64_t i = 0; i < B; i++)
            mri_put(x, r * D + A + i, b.p ? mri_get(b, r * B + i) : 0);
    }
    return 0;
}

static void copy_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

const mr_op_def mri_ops_split[] = {
    { MRI_OP, .id = "split", .doc = "a = the first values of each row of x, b = the others",
      .sig = "x -> a b", .attrs = "first:i", .shape = split_shape, .vjp = split_vjp,
      .ref = split_ref, .cost = copy_cost, .shard = "T D -> T A, T B | T:map",
      .cases = MRI_CASES("x=F[7,13] @first=9", "x=F[1,2] @first=1", "x=F[3,5,40] @first=32") },
    { MRI_OP, .id = "concat", .doc = "x = each row of a, then that of b; an absent part is zeros",
      .sig = "a? b? -> x", .attrs = "first:i second:i", .shape = concat_shape, .vjp = concat_vjp,
      .ref = concat_ref, .cost = copy_cost, .shard = "T A, T B -> T D | T:map",
      .cases = MRI_CASES("a=F[7,9] b=F[7,4] @first=9 @second=4",
                         "a=- b=F[2,3] @first=5 @second=3",
                         "a=F[3,2,32] b=- @first=32 @second=8") },
    MRI_OPS_END
};
