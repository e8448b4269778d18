/* SPDX-License-Identifier: Apache-2.0
 *
 * mla.c - heads of multi-head latent attention in its expanded form (DeepSeek-V2, 2024), from
 * the products of its low-rank projections to operands of `attention`:
 *     rope_tail   q of each head [ nope | rope ]  ->  [ nope | R_t rope ]
 *     mla_kv      kv of each head [ k | v ] and kr, which all heads share
 *                 ->  key [ k | R_t kr ] and value v of each head
 * with R_t the rotation of neighbouring pairs by position inv_freq[i], times factor. Both are
 * linear: gradients turn back, and that of kr sums over the heads.
 */
#include "core/ops/mla.h"

/* ---- rope_tail -------------------------------------------------------------------------- */
static mr_status tail_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t C = mr_attr_i(c, "head_dim", 0), D = mr_last(c->in[0]);
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    if (C < 1 || D % C)
        return mri_op_fail(err, "rope_tail", "head_dim is %lld, must divide the width of x, %lld",
                           (long long)C, (long long)D);
    if (2 * (int64_t)freq->n > C)
        return mri_op_fail(err, "rope_tail",
                           "inv_freq has %u values, a head of %lld has only %lld pairs", freq->n,
                           (long long)C, (long long)(C / 2));
    return mri_infer(c, out, err, "rope_tail", "x:F[T,D] positions:i32[T] -> y:F[T,D]", NULL);
}

static mr_status tail_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_call *c = v->call;
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "rope_tail", MR_IN(v->dout[0], v->in[1]),
                             MR_AT(*mr_attr_find(c, "head_dim"), *mr_attr_find(c, "inv_freq"),
                                   mr_af("factor", mr_attr_f(c, "factor", 1)),
                                   mr_ai("inverse", !mr_attr_i(c, "inverse", 0))));
    return 0;
}

static mr_status tail_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), pos = mri_in_view(c, in, 1), y = mri_out_view(c, out, 0);
    mri_mla m = mri_mla_of(c, 0);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], C = mr_attr_i(c, "head_dim", 0);
    double turn = mr_attr_i(c, "inverse", 0) ? -1 : 1;
    (void)err;
    for (int64_t t = 0; t < T; t++)
        for (int64_t h = t * D; h < (t + 1) * D; h += C) {
            int64_t tail = h + C - m.P;
            for (int64_t i = h; i < tail; i++)
                mri_put(y, i, mri_get(x, i));
            for (int64_t i = 0; i < m.P / 2; i++) {
                double a = mri_get(x, tail + 2 * i), b = mri_get(x, tail + 2 * i + 1);
                mri_mla_turn(&m, mri_get(pos, t), i, turn, &a, &b);
                mri_put(y, tail + 2 * i, a);
                mri_put(y, tail + 2 * i + 1, b);
            }
        }
    return 0;
}

static void tail_cost(const mr_call *c, mr_cost *cost)
{
    double pairs = (double)mr_numel(c->in[0]) / (double)mr_attr_i(c, "head_dim", 1) *
                   mr_attr_find(c, "inv_freq")->n;
    mri_cost(c, cost, 6 * pairs, 0);
}

/* ---- mla_kv ----------------------------------------------------------------------------- */
static mr_status kv_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_mla m = mri_mla_of(c, mr_last(c->in[0]));
    mr_status st;
    MR_TRY(mri_mla_check(&m, true, "mla_kv", err));
    MR_TRY(mri_infer(c, out, err, "mla_kv",
                     "kv:F[T,H*D] kr:F[T,P] positions:i32[T] -> k:F[T,H*C] v:F[T,H*V]",
                     MRI_GIVEN({ "H", m.H }, { "D", m.N + m.V }, { "C", m.N + m.P }, { "V", m.V },
                               { "P", m.P })));
out:
    return st;
}

static mr_status kv_vjp(const mr_vjp *v, mr_err *err)
{
    const mr_call *c = v->call;
    mri_mla m = mri_mla_of(c, mr_last(c->in[0]));
    mr_val d[2] = { 0 };
    (void)err;
    if ((!v->dout[0] && !v->dout[1]) || (!mri_need(v, 0) && !mri_need(v, 1)))
        return 0;
    mri_emit_n(v, d, 2, "mla_kv.bwd", MR_IN(v->dout[0], v->dout[1], v->in[2]),
               MR_AT(mr_ai("heads", m.H), mr_ai("nope_dim", m.N), *mr_attr_find(c, "inv_freq"),
                     mr_af("factor", m.factor), mr_ai("value_dim", m.V)));
    for (uint32_t i = 0; i < 2; i++)
        if (mri_need(v, i))
            v->din[i] = d[i];
    return 0;
}

static mr_status kv_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view kv = mri_in_view(c, in, 0), kr = mri_in_view(c, in, 1), pos = mri_in_view(c, in, 2);
    mri_view k = mri_out_view(c, out, 0), v = mri_out_view(c, out, 1);
    mri_mla m = mri_mla_of(c, mr_last(c->in[0]));
    (void)err;
    for (int64_t t = 0; t < c->in[0]->dim[0]; t++)
        for (int64_t h = 0; h < m.H; h++) {
            int64_t from = (t * m.H + h) * (m.N + m.V), key = (t * m.H + h) * (m.N + m.P);
            for (int64_t i = 0; i < m.N; i++)
                mri_put(k, key + i, mri_get(kv, from + i));
            for (int64_t i = 0; i < m.V; i++)
                mri_put(v, (t * m.H + h) * m.V + i, mri_get(kv, from + m.N + i));
            for (int64_t i = 0; i < m.P / 2; i++) {
                double a = mri_get(kr, t * m.P + 2 * i), b = mri_get(kr, t * m.P + 2 * i + 1);
                mri_mla_turn(&m, mri_get(pos, t), i, 1, &a, &b);
                mri_put(k, key + m.N + 2 * i, a);
                mri_put(k, key + m.N + 2 * i + 1, b);
            }
        }
    return 0;
}

static void kv_cost(const mr_call *c, mr_cost *cost)
{
    mri_mla m = mri_mla_of(c, 0);
    mri_cost(c, cost, 3 * (double)c->in[2]->dim[0] * (double)m.P, 0);
}

/* ---- mla_kv.bwd: an absent gradient is zeros --------------------------------------------- */
static mr_status kv_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mri_mla m = mri_mla_of(c, 0);
    mr_status st;
    m.V = mr_attr_i(c, "value_dim", 0);
    MR_TRY(mri_mla_check(&m, true, "mla_kv.bwd", err));
    if (!mri_in(c, 0) && !mri_in(c, 1))
        return mri_op_fail(err, "mla_kv.bwd", "dk and dv are absent, one gives the dtype");
    MR_TRY(mri_infer(c, out, err, "mla_kv.bwd",
                     "dk:F[T,H*C] dv:F[T,H*V] positions:i32[T] -> dkv:F[T,H*D] dkr:F[T,P]",
                     MRI_GIVEN({ "H", m.H }, { "D", m.N + m.V }, { "C", m.N + m.P }, { "V", m.V },
                               { "P", m.P })));
out:
    return st;
}

static mr_status kv_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view dk = mri_in_view(c, in, 0), dv = mri_in_view(c, in, 1), pos = mri_in_view(c, in, 2);
    mri_view dkv = mri_out_view(c, out, 0), dkr = mri_out_view(c, out, 1);
    mri_mla m = mri_mla_of(c, 0);
    (void)err;
    m.V = mr_attr_i(c, "value_dim", 0);
    for (int64_t t = 0; t < c->in[2]->dim[0]; t++) {
        for (int64_t h = 0; h < m.H; h++) {
            int64_t to = (t * m.H + h) * (m.N + m.V), key = (t * m.H + h) * (m.N + m.P);
            for (int64_t i = 0; i < m.N; i++)
                mri_put(dkv, to + i, dk.p ? mri_get(dk, key + i) : 0);
            for (int64_t i = 0; i < m.V; i++)
                mri_put(dkv, to + m.N + i, dv.p ? mri_get(dv, (t * m.H + h) * m.V + i) : 0);
        }
        for (int64_t i = 0; i < m.P / 2; i++) {
            double a = 0, b = 0;
            for (int64_t h = 0; dk.p && h < m.H; h++) {
                int64_t at = (t * m.H + h) * (m.N + m.P) + m.N + 2 * i;
                a += mri_get(dk, at);
                b += mri_get(dk, at + 1);
            }
            mri_mla_turn(&m, mri_get(pos, t), i, -1, &a, &b);
            mri_put(dkr, t * m.P + 2 * i, a);
            mri_put(dkr, t * m.P + 2 * i + 1, b);
        }
    }
    return 0;
}

static void kv_bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_mla m = mri_mla_of(c, 0);
    mri_cost(c, cost, (double)c->in[2]->dim[0] * (double)m.P * (double)(m.H + 3), 0);
}

const mr_op_def mri_ops_mla[] = {
    { MRI_OP, .flags = MR_OP_INPLACE0, .id = "rope_tail",
      .doc = "rotates the last pairs of each head by position · inv_freq; DeepSeek-V2, 2024",
      .sig = "x positions -> y", .attrs = "head_dim:i inv_freq:fs factor:f=1 inverse:i=0",
      .shape = tail_shape, .vjp = tail_vjp, .ref = tail_ref, .cost = tail_cost,
      .shard = "T D, T -> T D | T:map D:map",
      .cases = MRI_CASES("x=F[8,24] positions=i32[8]ramp @head_dim=12 @inv_freq=1,0.1",
                         "x=F[1,4] positions=i32[1]{3} @head_dim=2 @inv_freq=0.7",
                         "x=F[67,48] positions=i32[67]<4000 @head_dim=24 "
                         "@inv_freq=1,0.3,0.1,0.01 @factor=1.25",
                         "x=F[5,20] positions=i32[5]<50 @head_dim=10 @inv_freq=0.5,0.05 "
                         "@inverse=1 @factor=0.75") },
    { MRI_OP, .id = "mla_kv",
      .doc = "per head: key = its nope part, then the rotated shared part; value; DeepSeek-V2, "
             "2024",
      .sig = "kv kr positions -> k v", .attrs = MRI_MLA_ATTRS, .shape = kv_shape, .vjp = kv_vjp,
      .ref = kv_ref, .cost = kv_cost,
      .shard = "T H, T P, T -> T H, T H | T:map H:map:heads",
      .cases = MRI_CASES("kv=F[8,20] kr=F[8,4] positions=i32[8]ramp @heads=2 @nope_dim=6 "
                         "@inv_freq=1,0.1",
                         "kv=F[1,3] kr=F[1,2] positions=i32[1]{9} @heads=1 @nope_dim=1 "
                         "@inv_freq=0.3 @factor=1.25",
                         "kv=F[35,96] kr=F[35,8] positions=i32[35]<4000 @heads=4 @nope_dim=16 "
                         "@inv_freq=1,0.3,0.1,0.01") },
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "mla_kv.bwd",
      .doc = "gradients of mla_kv: turned back, and summed over heads for the shared part",
      .sig = "dk? dv? positions -> dkv dkr", .attrs = MRI_MLA_ATTRS " value_dim:i",
      .shape = kv_bwd_shape, .ref = kv_bwd_ref, .cost = kv_bwd_cost,
      .shard = "T H, T H, T -> T H, T P | T:map H:sum:heads",
      .cases = MRI_CASES("dk=F[8,20] dv=F[8,8] positions=i32[8]ramp @heads=2 @nope_dim=6 "
                         "@inv_freq=1,0.1 @value_dim=4",
                         "dk=F[9,24] dv=- positions=i32[9]<70 @heads=2 @nope_dim=8 "
                         "@inv_freq=1,0.1 @value_dim=3",
                         "dk=- dv=F[3,6] positions=i32[3]<70 @heads=2 @nope_dim=8 "
                         "@inv_freq=1,0.1 @value_dim=3") },
    MRI_OPS_END
};
