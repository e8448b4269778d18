/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - multi-head latent attention (DeepSeek-V2, 2024). Keys and values of all heads
 * are linear in a latent c of a few hundred values, beside one rotated key part that the heads
 * share; queries may have a latent of their own. Training and scoring expand the latent to H
 * heads and run `attention`; decoding caches c and the shared part alone (576 values a token in
 * Kimi-K2) and leaves the expansion absorbed in query and output: mla_attention.paged.
 */
#include "kimi_k2.h"

/* x [T, D] -> what queries are made of: their normed latent, or x itself */
static mr_val query_latent(const k2_model *m, const k2_block *b, mr_val x)
{
    mr_net n = b->net;
    if (!m->q_rank)
        return x;
    mr_val w = k2_down_weight(m, n, "self_attn.q_a_proj.weight", m->q_rank, m->hidden);
    mr_val bias = k2_bias(m, n, "self_attn.q_a_proj.bias", m->q_rank);
    mr_val c = MR_OP(n, "linear", MR_IN(x, w, bias), MR_NOAT);
    return k2_norm(b, c, "self_attn.q_a_layernorm.weight", m->q_rank, m->latent_eps);
}

/* -> q [T, H * (nope + rope)], not rotated */
static mr_val queries(const k2_model *m, const k2_block *b, mr_val c)
{
    const char *name = m->q_rank ? "self_attn.q_b_proj.weight" : "self_attn.q_proj.weight";
    mr_val w = k2_in_weight(m, b->net, name, m->heads * (m->nope + m->rope),
                            m->q_rank ? m->q_rank : m->hidden);
    return MR_OP(b->net, "linear", MR_IN(c, w, 0), MR_NOAT);
}

/* x -> latent[0] the normed c [T, L], latent[1] the shared key part [T, rope], not rotated */
static void latents(const k2_model *m, const k2_block *b, mr_val x, mr_val latent[2])
{
    mr_net n = b->net;
    int64_t L = m->kv_rank;
    mr_val w = k2_down_weight(m, n, "self_attn.kv_a_proj_with_mqa.weight", L + m->rope, m->hidden);
    mr_val bias = k2_bias(m, n, "self_attn.kv_a_proj_with_mqa.bias", L + m->rope);
    mr_val t = MR_OP(n, "linear", MR_IN(x, w, bias), MR_NOAT);
    MR_OPN(n, "split", latent, 2, MR_IN(t), MR_AT(mr_ai("first", L)));
    latent[0] = k2_norm(b, latent[0], "self_attn.kv_a_layernorm.weight", L, m->latent_eps);
}

/* c: query_latent(). What goes from latents to heads is one region, as Megatron has it: its
 * values are many times the latents', and cheap to make again. */
static mr_val expanded(const k2_model *m, const k2_block *b, mr_val c, const mr_val latent[2],
                       mr_val w)
{
    mr_net n = b->net;
    mr_val positions = k2_fed(b, "positions", "i32"), kv[2] = { 0, 0 }, out[2] = { 0, 0 };
    const mr_attr freq = mr_afs("inv_freq", m->inv_freq, (uint32_t)(m->rope / 2));
    const mr_attr factor = mr_af("factor", m->turn_factor);
    const int64_t C = m->nope + m->rope;
    k2_region(b, "mla_up_proj");
    mr_val q = MR_OP(n, "rope_tail", MR_IN(queries(m, b, c), positions),
                     MR_AT(mr_ai("head_dim", C), freq, factor));
    mr_val up = MR_OP(n, "linear", MR_IN(latent[0], w, 0), MR_NOAT);
    MR_OPN(n, "mla_kv", kv, 2, MR_IN(up, latent[1], positions),
           MR_AT(mr_ai("heads", m->heads), mr_ai("nope_dim", m->nope), freq, factor));
    k2_end(b);
    k2_region(b, "core_attn");
    MR_OPN(n, "attention", out, 2, MR_IN(q, kv[0], kv[1], k2_fed(b, "seq_start", "i32")),
           MR_AT(mr_ai("heads", m->heads), mr_ai("kv_heads", m->heads), mr_ai("head_dim", C),
                 mr_af("scale", m->scale),
                 mr_ai("seq", MR_HAS(b->env, seq) ? b->env->seq : 0),
                 mr_ai("packed", !(MR_HAS(b->env, whole) && b->env->whole))));
    k2_end(b);
    return out[0];
}

static mr_val absorbed(const k2_model *m, const k2_block *b, mr_val c, const mr_val latent[2],
                       mr_val w)
{
    mr_net n = b->net;
    mr_val cache = mr_paged_state(n, b->env, "latent_cache", m->kv_rank + m->rope);
    k2_region(b, "mla_up_proj");
    mr_val q = queries(m, b, c);
    k2_end(b);
    k2_region(b, "core_attn");
    mr_val o = MR_OP(n, "mla_attention.paged",
                     MR_IN(q, latent[0], latent[1], w, k2_fed(b, "positions", "i32"),
                           k2_fed(b, "slot", "i32"), mr_fed_pages(n, b->env), cache),
                     MR_AT(mr_ai("heads", m->heads), mr_ai("nope_dim", m->nope),
                           mr_afs("inv_freq", m->inv_freq, (uint32_t)(m->rope / 2)),
                           mr_af("factor", m->turn_factor), mr_af("scale", m->scale)));
    k2_end(b);
    return o;
}

/* x [T, D] (normalised) -> [T, D], to be added to the residual stream */
mr_val k2_attention(const k2_model *m, const k2_block *b, mr_val x)
{
    mr_net n = b->net;
    mr_val latent[2] = { 0, 0 }, c = query_latent(m, b, x);
    latents(m, b, x, latent);
    mr_val w = k2_in_weight(m, n, "self_attn.kv_b_proj.weight", m->heads * (m->nope + m->value),
                            m->kv_rank);
    mr_val o = b->decode ? absorbed(m, b, c, latent, w) : expanded(m, b, c, latent, w);
    w = k2_out_weight(m, n, "self_attn.o_proj.weight", m->hidden, m->heads * m->value);
    return MR_OP(n, "linear", MR_IN(o, w, k2_bias(m, n, "self_attn.o_proj.bias", m->hidden)),
                 MR_NOAT);
}
