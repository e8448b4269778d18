/* SPDX-License-Identifier: Apache-2.0
 *
 * ahead.c - what stands `by` tokens further on, for prediction of several tokens (DeepSeek-V3,
 * 2024): ids, targets and loss weights of the same sequence or document, never of the next.
 *
 *   y[t] = x[t + by] where t + by < T and seq_start[t + by] = seq_start[t], else 0
 *
 * With keep > 0, for loss weights: y is then scaled so that sum(y) = keep sum(x), all 0 where no
 * weight is left. A loss weighted so, divided by sum(x), is keep times the mean over the tokens
 * that still have something `by` further on: Megatron-LM's normalisation.
 */
#include "core/ops/common.h"

#define ATTRS "by:i=1 keep:f=0"

static mr_status ahead_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t by = mr_attr_i(c, "by", 1);
    double keep = mr_attr_f(c, "keep", 0);
    const mr_type *x = mri_in(c, 0);
    bool integers = x && mr_is(x, "i32");
    if (by < 1 || by > INT32_MAX)
        return mri_op_fail(err, "ahead", "by is %lld, must be in 1..2147483647", (long long)by);
    if (!(keep >= 0) || (keep > 0 && integers))
        return mri_op_fail(err, "ahead", "keep is %g, must be 0 or more, and 0 for i32", keep);
    return mri_infer(c, out, err, "ahead",
                     integers ? "x:i32[T] seq_start:i32[T] -> y:i32[T]"
                              : "x:F[T] seq_start:i32[T] -> y:F[T]", NULL);
}

/* the token that t looks at; -1: its sequence ends before */
static int64_t seen_from(mri_view start, int64_t t, int64_t by, int64_t T)
{
    return by < T - t && mri_get_i(start, t + by) == mri_get_i(start, t) ? t + by : -1;
}

static mr_status ahead_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), start = mri_in_view(c, in, 1);
    mri_view y = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], by = mr_attr_i(c, "by", 1);
    double keep = mr_attr_f(c, "keep", 0), all = 0, left = 0;
    (void)err;
    for (int64_t t = 0, at; t < T && keep > 0; t++) {
        all += mri_get(x, t);
        left += (at = seen_from(start, t, by, T)) < 0 ? 0 : mri_get(x, at);
    }
    double scale = keep <= 0 ? 1 : left == 0 ? 0 : keep * all / left;
    for (int64_t t = 0, at; t < T; t++)
        mri_put(y, t, (at = seen_from(start, t, by, T)) < 0 ? 0 : scale * mri_get(x, at));
    return MR_OK;
}

static void ahead_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_ahead[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "ahead",
      .doc = "y[t] = x[t + by] of the same sequence, else 0; keep: scaled to sum(y) = keep sum(x)",
      .sig = "x seq_start -> y", .attrs = ATTRS, .shape = ahead_shape, .ref = ahead_ref,
      .cost = ahead_cost,
      .cases = MRI_CASES("x=i32[7]<50 seq_start=i32[7]{0,0,0,3,3,5,6}",
                         "x=i32[6]{4,-1,7,9,2,3} seq_start=i32[6]zero @by=2",
                         "x=F[7] seq_start=i32[7]{0,0,0,3,3,5,6}",
                         "x=F[7]pos seq_start=i32[7]{0,0,0,3,3,5,6} @keep=0.3",
                         "x=F[5]pos seq_start=i32[5]{0,1,2,3,4} @by=1 @keep=0.1",
                         "x=F[1]pos seq_start=i32[1]zero @by=3 @keep=0.1",
                         "x=F[3001]pos seq_start=i32[3001]zero @by=2 @keep=0.15") },
    MRI_OPS_END
};
