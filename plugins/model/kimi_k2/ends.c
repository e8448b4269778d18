/* SPDX-License-Identifier: Apache-2.0
 *
 * ends.c - the first and the last block: token embedding, and the final norm with the
 * vocabulary projection and the loss. With `tie` the assembly binds lm_head.weight to the
 * embedding, so the head declares it either way.
 */
#include "kimi_k2.h"

void k2_embed(const k2_model *m, const k2_block *b)
{
    mr_net n = b->net;
    mr_val table = k2_in_weight(m, n, "embed_tokens.weight", m->vocab, m->hidden);
    mr_val y = MR_OP(n, "embedding", MR_IN(k2_fed(b, "tokens", "i32"), table),
                     MR_AT(mr_ai("skip", m->pad)));
    n.b->output(n.p, "y", y);
}

void k2_head(const k2_model *m, const k2_block *b)
{
    mr_net n = b->net;
    mr_type t = mr_type2("model", b->env->tokens, m->hidden);
    mr_val x = n.b->input(n.p, "x", &t);
    x = mr_logit_rows(n, b->env, x);
    x = k2_norm(b, x, "model.norm.weight", m->hidden, m->eps);
    if (k2_predicts_more(m, b->env->mode))
        n.b->output(n.p, "h", x); /* which the first module reads */
    mr_val w = k2_in_weight(m, n, "lm_head.weight", m->vocab, m->hidden);
    mr_val logits = MR_OP(n, "linear", MR_IN(x, w, 0), MR_NOAT); /* [T, V] */
    if (!b->train)
        n.b->output(n.p, "logits", logits);
    if (b->decode)
        return;

    mr_val ce[3] = { 0, 0, 0 }; /* loss [1], nll [T], lse [T] */
    MR_OPN(n, "cross_entropy", ce, 3,
           MR_IN(logits, k2_fed(b, "targets", "i32"), k2_fed(b, "loss_weight", "f32")), MR_NOAT);
    n.b->output(n.p, "nll", ce[1]);
    if (b->train)
        n.b->loss(n.p, "lm_loss", ce[0]);
}
