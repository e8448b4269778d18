/* SPDX-License-Identifier: Apache-2.0
 *
 * feedforward.c - the two feed-forward kinds: a dense SwiGLU, and the mixture of experts
 *   y = shared(x) + sum over the k chosen experts e of expert_e(sigmoid(r_e) x)
 * with router logits r = W x in f32. The score multiplies the expert's INPUT, which is not
 * the same as multiplying its output, SwiGLU not being linear. Scores are not renormalised.
 */
#include "llama4.h"
#include <stdio.h>

/* down(silu(gate x) * up x), weights PREFIX{gate,up,down}_proj.weight of width F */
static mr_val swiglu_mlp(const l4_model *m, const l4_block *b, mr_val x, const char *prefix,
                         int64_t F)
{
    mr_net n = b->net;
    char name[96];
    snprintf(name, sizeof name, "%sgate_proj.weight", prefix);
    mr_val gate = MR_OP(n, "linear", MR_IN(x, l4_in_weight(m, n, name, F, m->hidden), 0), MR_NOAT);
    snprintf(name, sizeof name, "%sup_proj.weight", prefix);
    mr_val up = MR_OP(n, "linear", MR_IN(x, l4_in_weight(m, n, name, F, m->hidden), 0), MR_NOAT);
    mr_val y = MR_OP(n, "swiglu", MR_IN(gate, up), MR_NOAT);
    snprintf(name, sizeof name, "%sdown_proj.weight", prefix);
    return MR_OP(n, "linear", MR_IN(y, l4_out_weight(m, n, name, m->hidden, F), 0), MR_NOAT);
}

mr_val l4_dense(const l4_model *m, const l4_block *b, mr_val x)
{
    return swiglu_mlp(m, b, x, m->plain ? "mlp." : "feed_forward.", m->dense_hidden);
}

/* Megatron's auxiliary losses on the router's logits, under the names it logs them by */
static void router_losses(const l4_model *m, const l4_block *b, mr_val logits)
{
    mr_net n = b->net;
    mr_val out[2] = { 0, 0 };
    if (m->aux_loss > 0) {
        MR_OPN(n, "moe_aux_loss", out, 2, MR_IN(logits, l4_fed(b, "seq_start", "i32")),
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

/* x [T, D] (normalised) -> [T, D] */
mr_val l4_moe(const l4_model *m, const l4_block *b, mr_val x)
{
    mr_net n = b->net;
    mr_val route[2] = { 0, 0 };   /* probs f32 [T, K], index i32 [T, K] */
    mr_val plan[3] = { 0, 0, 0 }; /* rows [R], slots [R], offsets [E+1]  */

    l4_region(b, "moe_router");
    mr_val logits =
        MR_OP(n, "linear", MR_IN(x, l4_router_weight(m, n, "feed_forward.router.weight"), 0),
              MR_AT(mr_as("out_dtype", "f32")));
    MR_OPN(n, "route_topk", route, 2, MR_IN(logits, 0),
           MR_AT(mr_ai("k", m->top_k), mr_as("score", "sigmoid"), mr_ai("norm", 0)));
    if (b->train)
        router_losses(m, b, logits);
    l4_end(b);

    l4_region(b, "moe_dispatch");
    MR_OPN(n, "route_plan", plan, 3, MR_IN(route[1]), MR_AT(mr_ai("experts", m->experts)));
    mr_val routed = MR_OP(n, "permute", MR_IN(x, plan[0], plan[1], route[0]), MR_NOAT); /* [R, D] */
    l4_end(b);

    l4_region(b, "moe_experts");
    mr_val w = l4_expert_in(m, n, "feed_forward.experts.gate_up_proj");
    mr_val h = MR_OP(n, "grouped_linear", MR_IN(routed, w, plan[2]),
                     MR_AT(mr_as("layout", "io"))); /* [R, 2F] */
    l4_region(b, "moe_act");
    h = MR_OP(n, "swiglu", MR_IN(h, 0), MR_NOAT); /* [R, F] */
    l4_end(b);
    w = l4_expert_out(m, n, "feed_forward.experts.down_proj");
    h = MR_OP(n, "grouped_linear", MR_IN(h, w, plan[2]), MR_AT(mr_as("layout", "io")));
    l4_end(b);

    l4_region(b, "moe_combine");
    mr_val y = MR_OP(n, "unpermute", MR_IN(h, plan[0], plan[1], 0), MR_AT(mr_ai("k", m->top_k)));
    l4_end(b);

    if (m->shared_expert) {
        l4_region(b, "shared_experts");
        mr_val s = swiglu_mlp(m, b, x, "feed_forward.shared_expert.", m->expert_hidden);
        l4_end(b);
        y = MR_OP(n, "add", MR_IN(s, y), MR_NOAT);
    }
    return y;
}
