/* SPDX-License-Identifier: Apache-2.0
 *
 * attention.c - grouped-query attention as Llama 4 has it. Two kinds of layer alternate:
 *   rope: interleaved rotary positions, then RMS norm of each head without a weight
 *         (qk_norm), causal attention inside chunks of the sequence;
 *   nope: no positions at all, causal attention over the whole sequence, queries scaled up
 *         slowly with their position (attn_temperature) so that long contexts stay sharp.
 * In mode decode core reads keys and values of op `attention` from its cache.
 * Llama 2 and 3 have one kind: rope, with the pairs half a head apart.
 */
#include "llama4.h"
#include <math.h>

/* x [T, N*C] -> rotated and normalised by head */
static mr_val rotate(const l4_model *m, const l4_block *b, mr_val x, mr_val positions)
{
    x = MR_OP(b->net, "rope", MR_IN(x, positions),
              MR_AT(mr_ai("head_dim", m->head_dim),
                    mr_afs("inv_freq", m->inv_freq, (uint32_t)(m->head_dim / 2)),
                    mr_ai("interleaved", !m->plain)));
    return m->qk_norm ? l4_norm(m, b, x, 0, m->head_dim) : x;
}

/* q [T, H*C], k and v [T, G*C] -> o [T, H*C] */
static mr_val core_attention(const l4_model *m, const l4_block *b, mr_val q, mr_val k, mr_val v)
{
    const mr_attr at[] = {
        mr_ai("heads", m->heads),
        mr_ai("kv_heads", m->kv_heads),
        mr_ai("head_dim", m->head_dim),
        mr_af("scale", 1 / sqrt((double)m->head_dim)),
        mr_ai("chunk", b->nope ? 0 : m->chunk),
        mr_ai("seq", MR_HAS(b->env, seq) ? b->env->seq : 0),
        mr_ai("packed", !(MR_HAS(b->env, whole) && b->env->whole)),
    };
    mr_val out[2] = { 0, 0 }; /* o, lse */

    l4_region(b, "core_attn");
    MR_OPN(b->net, "attention", out, 2, MR_IN(q, k, v, l4_fed(b, "seq_start", "i32")), at,
           sizeof at / sizeof *at);
    l4_end(b);
    return out[0];
}

/* x [T, D] (normalised) -> [T, D], to be added to the residual stream */
mr_val l4_attention(const l4_model *m, const l4_block *b, mr_val x)
{
    mr_net n = b->net;
    int64_t D = m->hidden, Q = m->heads * m->head_dim, KV = m->kv_heads * m->head_dim;
    bool scaled = b->nope && m->temperature;
    mr_val positions = !b->nope || scaled ? l4_fed(b, "positions", "i32") : 0;

    mr_val q = MR_OP(n, "linear",
                     MR_IN(x, l4_in_weight(m, n, "self_attn.q_proj.weight", Q, D),
                           l4_bias(m, n, "self_attn.q_proj.bias", Q, "tp:0")),
                     MR_NOAT);
    mr_val k = MR_OP(n, "linear",
                     MR_IN(x, l4_in_weight(m, n, "self_attn.k_proj.weight", KV, D),
                           l4_bias(m, n, "self_attn.k_proj.bias", KV, "tp:0")),
                     MR_NOAT);
    mr_val v = MR_OP(n, "linear",
                     MR_IN(x, l4_in_weight(m, n, "self_attn.v_proj.weight", KV, D),
                           l4_bias(m, n, "self_attn.v_proj.bias", KV, "tp:0")),
                     MR_NOAT);
    if (!b->nope) {
        q = rotate(m, b, q, positions);
        k = rotate(m, b, k, positions);
    }
    if (scaled)
        q = MR_OP(n, "attn_temperature", MR_IN(q, positions),
                  MR_AT(mr_af("floor_scale", m->floor_scale), mr_af("attn_scale", m->attn_scale)));
    mr_val o = core_attention(m, b, q, k, v);
    return MR_OP(n, "linear",
                 MR_IN(o, l4_out_weight(m, n, "self_attn.o_proj.weight", D, Q),
                       l4_bias(m, n, "self_attn.o_proj.bias", D, "-")),
                 MR_NOAT);
}
