/* SPDX-License-Identifier: Apache-2.0
 *
 * mtp.c - modules for multi-token prediction (DeepSeek-V3, 2024, section 2.2), which exist in
 * training alone. Module k = 1 .. D goes one token further than the one before it:
 *     z_i = eh_proj [ enorm(Embed(t_{i+k})) ; hnorm(h_i) ]
 *     h_i = shared_head.norm(Layer(z)_i),  logits = head(h_i), for the target of token i + k
 * The h of the first is what the main head reads, after the final norm, as in Megatron-LM, vLLM and
 * SGLang. Embedding and head are the main model's, bound by name. Positions are those of i. A
 * token without k more tokens in its sequence or document counts nothing, so none looks into
 * the next one. The objective gains mtp_loss / D times the sum over k of mean losses.
 *
 * Invariant: a module reads h of the block just before it, so that each output has one reader.
 */
#include "kimi_k2.h"
#include <stdio.h>

bool k2_predicts_more(const k2_model *m, const char *mode)
{
    return m->mtp_layers && m->mtp_loss > 0 && !strcmp(mode, "train");
}

int32_t k2_assemble_mtp(const k2_model *m, const mr_assembler *a, mr_asm *as, int32_t at)
{
    char name[128], kind[32];
    for (int64_t k = 1; k <= m->mtp_layers && at >= 0; k++) {
        int32_t before = at;
        snprintf(kind, sizeof kind, K2_MTP "%lld", (long long)k);
        snprintf(name, sizeof name, "%smodel.layers.%lld.", m->prefix,
                 (long long)(m->layers + k - 1));
        at = a->instance(as, kind, name);
        if (at < 0)
            break;
        a->edge(as, before, "h", at, "h");
        snprintf(name, sizeof name, "%smodel.embed_tokens.weight", m->prefix);
        a->bind(as, at, "embed_tokens.weight", name);
        if (!m->tie)
            snprintf(name, sizeof name, "%slm_head.weight", m->prefix);
        a->bind(as, at, "shared_head.head.weight", name);
    }
    return at;
}

/* One of the inputs that core feeds, as it is `by` tokens further on */
static mr_val ahead(const k2_block *b, const char *name, const char *dtype, int64_t by, double keep)
{
    return MR_OP(b->net, "ahead", MR_IN(k2_fed(b, name, dtype), k2_fed(b, "seq_start", "i32")),
                 MR_AT(mr_ai("by", by), mr_af("keep", keep)));
}

void k2_mtp(const k2_model *m, const k2_block *b)
{
    mr_net n = b->net;
    mr_type t = mr_type2("model", b->env->tokens, m->hidden);
    const int64_t D = m->hidden;
    mr_val h = n.b->input(n.p, "h", &t), ce[3] = { 0, 0, 0 }; /* loss [1], nll [T], lse [T] */
    mr_val table = k2_in_weight(m, n, "embed_tokens.weight", m->vocab, D);
    mr_val e = MR_OP(n, "embedding", MR_IN(ahead(b, "tokens", "i32", b->mtp, 0), table),
                     MR_AT(mr_ai("skip", m->pad)));

    e = k2_norm(b, e, "enorm.weight", D, m->eps);
    h = k2_norm(b, h, "hnorm.weight", D, m->eps);
    mr_val z = MR_OP(n, "concat", MR_IN(e, h), MR_AT(mr_ai("first", D), mr_ai("second", D)));
    z = MR_OP(n, "linear", MR_IN(z, k2_down_weight(m, n, "eh_proj.weight", D, 2 * D), 0), MR_NOAT);
    h = k2_norm(b, k2_layer(m, b, z), "shared_head.norm.weight", D, m->eps);
    n.b->output(n.p, "h", h);

    mr_val w = k2_in_weight(m, n, "shared_head.head.weight", m->vocab, D);
    MR_OPN(n, "cross_entropy", ce, 3,
           MR_IN(MR_OP(n, "linear", MR_IN(h, w, 0), MR_NOAT),
                 ahead(b, "targets", "i32", b->mtp, 0),
                 ahead(b, "loss_weight", "f32", b->mtp, m->mtp_loss / (double)m->mtp_layers)),
           MR_NOAT);
    n.b->loss(n.p, "mtp_loss", ce[0]);
}
