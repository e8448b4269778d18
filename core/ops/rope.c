/* SPDX-License-Identifier: Apache-2.0
 *
 * rope.c - rotary positions; Su et al. 2021. Of each head of C values the first 2n are n
 * pairs (a,b), n = len(inv_freq), the rest pass unchanged:
 *     angle = position inv_freq[i],  a' = f (a cos - b sin),  b' = f (a sin + b cos).
 * Pairs are (2i, 2i+1) if interleaved (Llama 4), else (i, i+n) (GPT-NeoX, Hugging Face).
 * `inverse` turns by -angle, which is the transpose, hence the vjp: both have the factor f.
 */
#include "core/ops/common.h"

static mr_status rope_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    int64_t C = mr_attr_i(c, "head_dim", 0), D = mr_last(c->in[0]);
    if (C < 1 || D % C)
        return mri_op_fail(err, "rope", "head_dim is %lld, must divide the width of x, %lld",
                           (long long)C, (long long)D);
    if (2 * (int64_t)freq->n > C)
        return mri_op_fail(err, "rope",
                           "inv_freq has %u values, a head of %lld has only %lld pairs", freq->n,
                           (long long)C, (long long)(C / 2));
    return mri_infer(c, out, err, "rope", "x:F[T,D] positions:i32[T] -> y:F[T,D]", NULL);
}

static mr_status rope_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_call *c = v->call;
    (void)err;
    if (!v->dout[0] || !mri_need(v, 0))
        return 0;
    v->din[0] = mri_emit(v, "rope", MR_IN(v->dout[0], v->in[1]),
                         MR_AT(*mr_attr_find(c, "head_dim"), *mr_attr_find(c, "inv_freq"),
                               mr_ai("interleaved", mr_attr_i(c, "interleaved", 1)),
                               mr_af("factor", mr_attr_f(c, "factor", 1)),
                               mr_ai("inverse", !mr_attr_i(c, "inverse", 0))));
    return 0;
}

static mr_status rope_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), pos = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], C = mr_attr_i(c, "head_dim", 0);
    int64_t n = freq->n;
    bool interleaved = mr_attr_i(c, "interleaved", 1);
    double factor = mr_attr_f(c, "factor", 1), turn = mr_attr_i(c, "inverse", 0) ? -1 : 1;
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t h = t * D; h < (t + 1) * D; h += C) {
            for (int64_t i = 0; i < n; i++) {
                double angle = turn * mri_get(pos, t) * freq->u.fs[i];
                double co = cos(angle) * factor, si = sin(angle) * factor;
                int64_t ia = h + (interleaved ? 2 * i : i), ib = interleaved ? ia + 1 : ia + n;
                double a = mri_get(x, ia), b = mri_get(x, ib);
                mri_put(y, ia, a * co - b * si);
                mri_put(y, ib, a * si + b * co);
            }
            for (int64_t i = h + 2 * n; i < h + C; i++)
                mri_put(y, i, mri_get(x, i));
        }
    return 0;
}

static void rope_cost(const mr_call *c, mr_cost *cost)
{
    double pairs = (double)mr_numel(c->in[0]) / (double)mr_attr_i(c, "head_dim", 1) *
                   mr_attr_find(c, "inv_freq")->n;
    mri_cost(c, cost, 6 * pairs, 0);
}

const mr_op_def mri_ops_rope[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "rope",
      .doc = "rotates pairs of each head by position · inv_freq; Su et al. 2021",
      .sig = "x positions -> y",
      .attrs = "head_dim:i inv_freq:fs interleaved:i=1 factor:f=1 inverse:i=0",
      .shape = rope_shape, .vjp = rope_vjp, .ref = rope_ref, .cost = rope_cost,
      .shard = "T D, T -> T D | T:map D:map",
      .cases = MRI_CASES("x=F[8,16] positions=i32[8]ramp @head_dim=4 @inv_freq=1,0.1",
                         "x=F[1,6] positions=i32[1]<9 @head_dim=6 @inv_freq=1,0.3,0.01 "
                         "@interleaved=0",
                         "x=F[67,24] positions=i32[67]<4000 @head_dim=8 @inv_freq=1,0.1,0.01 "
                         "@factor=1.25",
                         "x=F[7,20] positions=i32[7]<50 @head_dim=10 @inv_freq=0.5,0.05 "
                         "@interleaved=0 @inverse=1 @factor=0.75") },
    MRI_OPS_END
};
