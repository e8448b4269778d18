/* SPDX-License-Identifier: Apache-2.0
 *
 * mla_ring.c - attention_ring.c for latent attention (DeepSeek-V2, 2024): what passes round the
 * ranks is the latents c, the part kr that the keys of all heads share, and positions, where these
 * are fewer bytes than keys and values. Each step makes its block's keys and values of them,
 *
 *     k, v = mla_kv(linear(c, w), kr, positions)
 *
 * and so does the backward, in which the sums of dc and dkr travel with c and kr, in f32; w is
 * every rank's, and takes what its own queries give.
 */
#include "core/ops/catalogue.h"
#include "core/ops/mla.h"
#include "core/ops/ring.h"

enum { Q, LATENT, SHARED, WEIGHT, START, POSITIONS, ACC, LSE };

static mr_status shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    static const char op[] = "mla_attention.ring";
    const mr_type *w = mri_in(c, WEIGHT);
    int64_t N = mr_attr_i(c, "ranks", 1), n = mr_attr_i(c, "index", 0);
    mri_mla m = mri_mla_of(c, w->rank ? w->dim[0] : 0);
    bool alone = !mri_in(c, ACC);
    mr_status st;
    if (N < 1 || n < 0 || n >= N)
        return mri_op_fail(err, op, "index is %lld of %lld ranks", (long long)n, (long long)N);
    if (alone != !mri_in(c, LSE) || (alone && N > 1))
        return mri_op_fail(err, op, "of %lld ranks acc and lse must be there", (long long)N);
    MR_TRY(mri_mla_check(&m, true, op, err));
    if (mr_attr_i(c, "kv_heads", 0) != m.H || mr_attr_i(c, "head_dim", 0) != m.N + m.P)
        return mri_op_fail(err, op, "kv_heads must be heads, %lld, and head_dim nope_dim and "
                           "rope, %lld", (long long)m.H, (long long)(m.N + m.P));
    MR_TRY(mri_infer(c, out, err, op,
                     "q:F[T,H*C] c:F[T,L] kr:F[T,P] w:F[H*D,L] seq_start:i32[T] "
                     "positions:i32[T] acc:S[T,H*V] lse:S[T,H] -> o:F[T,H*V]",
                     MRI_GIVEN({ "H", m.H }, { "C", m.N + m.P }, { "P", m.P }, { "D", m.N + m.V },
                               { "V", m.V })));
out:
    return st;
}

/* A ring of one: its one step is made here. */
static mr_status alone(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    const char *F = c->in[Q]->dtype;
    int64_t T = c->in[Q]->dim[0];
    mri_mla m = mri_mla_of(c, c->in[WEIGHT]->dim[0]);
    enum { UP, K, V, L, N_MADE };
    const mr_type made[N_MADE] = { mr_type2(F, T, m.H * (m.N + m.V)),
                                   mr_type2(F, T, m.H * (m.N + m.P)), mr_type2(F, T, m.H * m.V),
                                   mr_type2(mri_stat_dtype(c->in[Q]), T, m.H) };
    mr_buf b[N_MADE];
    mr_status st = 0;
    for (int i = 0; i < N_MADE; i++)
        b[i] = (mr_buf){ mri_alloc(mr_bytes(&made[i])), NULL };
    const struct {
        const char *id;
        const mr_type *in[4], *out[2];
        mr_buf x[4], y[2];
        uint32_t n_in, n_out;
    } steps[] = {
        { "linear", { c->in[LATENT], c->in[WEIGHT] }, { &made[UP] },
          { in[LATENT], in[WEIGHT] }, { b[UP] }, 2, 1 },
        { "mla_kv", { &made[UP], c->in[SHARED], c->in[POSITIONS] }, { &made[K], &made[V] },
          { b[UP], in[SHARED], in[POSITIONS] }, { b[K], b[V] }, 3, 2 },
        { "attention.part", { c->in[Q], &made[K], &made[V], c->in[START] },
          { c->out[0], &made[L] }, { in[Q], b[K], b[V], in[START] }, { out[0], b[L] }, 4, 2 },
    };
    for (size_t i = 0; i < sizeof steps / sizeof *steps; i++) {
        mr_call call = *c; /* its attributes serve all three */
        call.n_in = steps[i].n_in;
        call.n_out = steps[i].n_out;
        call.in = steps[i].in;
        call.out = steps[i].out;
        MR_TRY(mri_op_find(steps[i].id)->ref(&call, steps[i].x, steps[i].y, err));
    }
out:
    for (int i = 0; i < N_MADE; i++)
        free(b[i].data);
    return st;
}

static mr_status ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view acc = mri_in_view(c, in, ACC), o = mri_out_view(c, out, 0);
    if (!acc.kind)
        return alone(c, in, out, err);
    for (int64_t i = 0; i < mr_numel(c->out[0]); i++)
        mri_put(o, i, mri_get(acc, i));
    return 0;
}

static void cost(const mr_call *c, mr_cost *cost)
{
    cost->flops = 0;
    cost->bytes = (double)mr_bytes(c->out[0]) + (double)mr_bytes(c->in[mri_in(c, ACC) ? ACC : Q]);
}

/* ---- backward ----------------------------------------------------------------------------- */
static uint32_t turn_attrs(const mr_call *c, mr_attr at[5])
{
    at[0] = mr_ai("heads", mr_attr_i(c, "heads", 1));
    at[1] = mr_ai("nope_dim", mr_attr_i(c, "nope_dim", 0));
    at[2] = *mr_attr_find(c, "inv_freq");
    at[3] = mr_af("factor", mr_attr_f(c, "factor", 1));
    return 4;
}

/* x: c, kr and positions of one rank -> its keys and values */
static void expand(const mr_vjp *v, const mr_val x[3], mr_val kv[2])
{
    mr_attr at[5];
    uint32_t n = turn_attrs(v->call, at);
    mr_val up = mri_emit(v, "linear", MR_IN(x[0], v->in[WEIGHT]), MR_NOAT);
    mri_emit_n(v, kv, 2, "mla_kv", MR_IN(up, x[1], x[2]), at, n);
}

/* dk and dv -> dc and dkr of that rank, and what w gets */
static void fold(const mri_ring *r, const mr_val x[3], const mr_val dkv[2], mr_val d[2])
{
    const mr_vjp *v = r->v;
    mr_attr at[5];
    uint32_t n = turn_attrs(v->call, at);
    mri_mla m = mri_mla_of(v->call, v->call->in[WEIGHT]->dim[0]);
    mr_val g[2] = { 0 }, dw = mri_main_grad(v, WEIGHT);
    at[n++] = mr_ai("value_dim", m.V);
    mri_emit_n(v, g, 2, "mla_kv.bwd",
               MR_IN(mri_ring_cast(r, dkv[0], r->dtype), mri_ring_cast(r, dkv[1], r->dtype), x[2]),
               at, n);
    d[0] = mri_emit(v, "linear.dgrad", MR_IN(g[0], v->in[WEIGHT]),
                    MR_AT(mr_as("out_dtype", r->acc)));
    d[1] = mri_ring_cast(r, g[1], r->acc);
    if (dw)
        mri_emit_n(v, NULL, 0, "linear.wgrad", MR_IN(g[0], x[0], dw), MR_NOAT);
}

static mr_status vjp(const mr_vjp *v, mr_err *err)
{
    mri_ring r = mri_ring_of(v);
    mr_val x[3] = { v->in[LATENT], v->in[SHARED], v->in[POSITIONS] }, sums[3] = { 0 };
    mr_val lse = mri_val_in(v, LSE);
    (void)err;
    if (!v->dout[0])
        return 0;
    for (int64_t s = 0; s < r.ranks; s++) {
        mr_val next[3] = { 0 }, kv[2] = { 0 }, d[3] = { 0 }, back[2] = { 0 };
        for (uint32_t i = 0; i < 3 && s + 1 < r.ranks; i++)
            next[i] = mri_ring_pass(&r, x[i]);
        expand(v, x, kv);
        lse = lse ? lse : mri_ring_lse(&r, kv, v->in[START]);
        mri_ring_part(&r, s, kv, v->in[START], lse, d);
        fold(&r, x, d + 1, back);
        sums[0] = mri_ring_sum(&r, sums[0], d[0]);
        for (uint32_t i = 1; i < 3; i++)
            sums[i] = mri_ring_pass(&r, mri_ring_sum(&r, sums[i], back[i - 1]));
        for (uint32_t i = 0; i < 3; i++)
            x[i] = next[i];
    }
    for (uint32_t i = 0; i < 3; i++)
        if (mri_need(v, i))
            v->din[i] = mri_ring_cast(&r, sums[i], r.dtype);
    return 0;
}

const mr_op_def mri_ops_mla_ring[] = {
    { MRI_OP, .id = "mla_attention.ring",
      .doc = "attention.ring of latents: these pass round, keys and values are made of them",
      .sig = "q c kr w seq_start positions acc? lse? -> o",
      .attrs = MRI_HEADS_ATTRS " nope_dim:i inv_freq:fs factor:f=1 ranks:i=1 index:i=0 group:s=cp",
      .shape = shape, .vjp = vjp, .ref = ref, .cost = cost,
      .cases = MRI_CASES(
          "q=F[12,12] c=F[12,5] kr=F[12,2] w=F[18,5] seq_start=i32[12]start:6 "
          "positions=i32[12]<6 @heads=2 @kv_heads=2 @head_dim=6 @seq=6 @nope_dim=4 @inv_freq=0.3",
          "q=F[16,7] c=F[16,3] kr=F[16,4] w=F[5,3] seq_start=i32[16]zero "
          "positions=i32[16]ramp @heads=1 @kv_heads=1 @head_dim=7 @seq=16 @nope_dim=3 "
          "@inv_freq=1,0.2 @factor=1.5 @scale=0.3") },
    MRI_OPS_END
};
