/* SPDX-License-Identifier: Apache-2.0
 *
 * feedforward.c - the two feed-forward kinds: a dense SwiGLU, and the mixture of experts
 *   y = shared(x) + sum over the k chosen experts e of p_e expert_e(x)
 * Scores are sigmoids of the router's logits in f32. The choice goes by score + correction bias,
 * within the best groups of experts; p is the score alone, normalised over the chosen and scaled.
 */
#include "kimi_k2.h"
#include <stdio.h>

/* down(silu(gate x) * up x), weights PREFIX{gate,up,down}_proj.weight of width F */
static mr_val swiglu_mlp(const k2_model *m, const k2_block *b, mr_val x, const char *prefix,
                         int64_t F)
{
    mr_net n = b->net;
    char name[96];
    snprintf(name, sizeof name, "%sgate_proj.weight", prefix);
    mr_val gate = MR_OP(n, "linear", MR_IN(x, k2_in_weight(m, n, name, F, m->hidden), 0), MR_NOAT);
    snprintf(name, sizeof name, "%sup_proj.weight", prefix);
    mr_val up = MR_OP(n, "linear", MR_IN(x, k2_in_weight(m, n, name, F, m->hidden), 0), MR_NOAT);
    mr_val y = MR_OP(n, "swiglu", MR_IN(gate, up), MR_NOAT);
    snprintf(name, sizeof name, "%sdown_proj.weight", prefix);
    return MR_OP(n, "linear", MR_IN(y, k2_out_weight(m, n, name, m->hidden, F), 0), MR_NOAT);
}

mr_val k2_dense(const k2_model *m, const k2_block *b, mr_val x)
{
    return swiglu_mlp(m, b, x, "mlp.", m->dense_hidden);
}

/* Megatron's auxiliary losses on the router's logits, under the names it logs them by */
static void router_losses(const k2_model *m, const k2_block *b, mr_val logits)
{
    mr_net n = b->net;
    mr_val out[2] = { 0, 0 };
    if (m->aux_loss > 0) {
        MR_OPN(n, "moe_aux_loss", out, 2, MR_IN(logits, k2_fed(b, "seq_start", "i32")),
               MR_AT(mr_ai("k", m->top_k), mr_as("type", m->aux_type), mr_as("score", "sigmoid"),
                     mr_af("coeff", m->aux_loss)));
        n.b->loss(n.p,
                  strcmp(m->aux_type, "aux") ? "seq_load_balancing_loss" : "load_balancing_loss",
                  out[0]);
    }
    if (m->z_loss > 0) {
        MR_OPN(n, "router_z_loss", out, 2, MR_IN(logits), MR_AT(mr_af("coeff", m->z_loss)));
        n.b->loss(n.p, "z_loss", out[0]);
    }
}

/* x [T, D] -> route: probs f32 [T, K], index i32 [T, K] */
static void router(const k2_model *m, const k2_block *b, mr_val x, mr_val route[2])
{
    mr_net n = b->net;
    bool grouped = m->groups > 1 && m->top_k < m->experts;
    int64_t norm = !m->norm_topk ? 0 : m->top_k == 1 ? 2 : 1; /* of one expert: 1, no gradient */
    mr_val logits = MR_OP(n, "linear", MR_IN(x, k2_router_weight(m, n, "mlp.gate.weight"), 0),
                          MR_AT(mr_as("out_dtype", "f32")));
    mr_val bias = k2_router_bias(m, n, "mlp.gate.e_score_correction_bias");
    MR_OPN(n, "route_topk", route, 2, MR_IN(logits, bias),
           MR_AT(mr_ai("k", m->top_k), mr_as("score", "sigmoid"), mr_ai("norm", norm),
                 mr_af("scale", m->routed_scale), mr_ai("groups", grouped ? m->groups : 0),
                 mr_ai("group_topk", grouped ? m->group_topk : 0),
                 mr_ai("group_best", grouped ? 2 : 0)));
    if (b->train)
        router_losses(m, b, logits);
}

/* x [T, D] (normalised) -> [T, D] */
mr_val k2_moe(const k2_model *m, const k2_block *b, mr_val x)
{
    mr_net n = b->net;
    mr_val route[2] = { 0, 0 }, plan[3] = { 0, 0, 0 }; /* plan: rows, slots, offsets */

    k2_region(b, "moe_router");
    router(m, b, x, route);
    k2_end(b);

    k2_region(b, "moe_dispatch");
    MR_OPN(n, "route_plan", plan, 3, MR_IN(route[1]), MR_AT(mr_ai("experts", m->experts)));
    mr_val routed = MR_OP(n, "permute", MR_IN(x, plan[0], plan[1], 0), MR_NOAT); /* [R, D] */
    k2_end(b);

    k2_region(b, "moe_experts");
    mr_val w = k2_expert_in(m, n, "mlp.experts.gate_up_proj");
    mr_val h = MR_OP(n, "grouped_linear", MR_IN(routed, w, plan[2]),
                     MR_AT(mr_as("layout", "oi"))); /* [R, 2F] */
    k2_region(b, "moe_act");
    h = MR_OP(n, "swiglu", MR_IN(h, 0), MR_NOAT); /* [R, F] */
    k2_end(b);
    w = k2_expert_out(m, n, "mlp.experts.down_proj");
    h = MR_OP(n, "grouped_linear", MR_IN(h, w, plan[2]), MR_AT(mr_as("layout", "oi")));
    k2_end(b);

    k2_region(b, "moe_combine");
    mr_val y = MR_OP(n, "unpermute", MR_IN(h, plan[0], plan[1], route[0]),
                     MR_AT(mr_ai("k", m->top_k)));
    k2_end(b);

    if (m->shared) {
        k2_region(b, "shared_experts");
        mr_val s = swiglu_mlp(m, b, x, "mlp.shared_experts.", m->shared * m->expert_hidden);
        k2_end(b);
        y = MR_OP(n, "add", MR_IN(s, y), MR_NOAT);
    }
    return y;
}
