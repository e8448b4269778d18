/* SPDX-License-Identifier: Apache-2.0
 *
 * params.c - declares parameters: shape, placement, initialiser.
 *
 * Initialisers are Megatron's: normal(0, init_std), and for the projections that write to the
 * residual stream normal(0, init_std / sqrt(2 layers)), so that the stream's variance does not
 * grow with depth; norms start at 1, biases at 0.
 *
 * Placement names the logical axis of a dim. Projections to a latent are whole on every tp rank,
 * as each needs all of it for its heads. The gate and up halves of an expert lie side by side in
 * one dim, so a contiguous cut of that dim would part them: experts are split over ep and fsdp.
 */
#include "kimi_k2.h"
#include <math.h>

static mr_param describe(mr_type type, const char *placement, const char *init, double scale,
                         uint32_t flags)
{
    mr_param p;
    memset(&p, 0, sizeof p);
    p.size = sizeof p;
    p.flags = flags;
    p.type = type;
    p.placement = placement;
    p.init = init;
    p.scale = scale;
    return p;
}

static mr_val declare(mr_net n, const char *name, mr_type type, const char *placement,
                      const char *init, double scale, uint32_t flags)
{
    mr_param p = describe(type, placement, init, scale, flags);
    return n.b->param(n.p, name, &p);
}

/* The weights of all experts are one parameter, which checkpoints hold as `tensors`. */
static mr_val declare_experts(const k2_model *m, mr_net n, const char *name, int64_t out,
                              int64_t in, double scale, const char *tensors)
{
    mr_param p = describe(mr_type3("model", m->experts, out, in), "ep:0 fsdp:1", "normal", scale,
                          0);
    p.tensors = tensors;
    return n.b->param(n.p, name, &p);
}

static double out_std(const k2_model *m)
{
    return m->init_std / sqrt(2.0 * (double)m->layers);
}

mr_val k2_norm_weight(mr_net n, const char *name, int64_t width)
{
    return declare(n, name, mr_type1("model", width), "fsdp:0", "constant", 1, MR_PARAM_NO_DECAY);
}

mr_val k2_bias(const k2_model *m, mr_net n, const char *name, int64_t out)
{
    if (!m->bias)
        return 0;
    return declare(n, name, mr_type1("model", out), "-", "constant", 0, MR_PARAM_NO_DECAY);
}

/* [out, in], rows split over tp */
mr_val k2_in_weight(const k2_model *m, mr_net n, const char *name, int64_t out, int64_t in)
{
    return declare(n, name, mr_type2("model", out, in), "tp:0 fsdp:1", "normal", m->init_std, 0);
}

/* [out, in] to a latent or to a module's own stream, whole on every tp rank */
mr_val k2_down_weight(const k2_model *m, mr_net n, const char *name, int64_t out, int64_t in)
{
    return declare(n, name, mr_type2("model", out, in), "fsdp:1", "normal", m->init_std, 0);
}

/* [out, in], columns split over tp: writes to the residual stream */
mr_val k2_out_weight(const k2_model *m, mr_net n, const char *name, int64_t out, int64_t in)
{
    return declare(n, name, mr_type2("model", out, in), "tp:1 fsdp:0", "normal", out_std(m), 0);
}

/* [E, D], whole on every tp rank: each must choose the same experts */
mr_val k2_router_weight(const k2_model *m, mr_net n, const char *name)
{
    return declare(n, name, mr_type2("model", m->experts, m->hidden), "fsdp:1", "normal",
                   m->init_std, 0);
}

/* [E] added to the scores for the choice alone, hence without gradient; in full precision, as
 * a rounded one would choose other experts */
mr_val k2_router_bias(const k2_model *m, mr_net n, const char *name)
{
    return declare(n, name, mr_type1("f32", m->experts), "-", "constant", 0,
                   MR_PARAM_NO_DECAY | MR_PARAM_FROZEN | MR_PARAM_F32);
}

/* [E, 2F, D]: rows 0..F gate, F..2F up */
mr_val k2_expert_in(const k2_model *m, mr_net n, const char *name)
{
    return declare_experts(m, n, name, 2 * m->expert_hidden, m->hidden, m->init_std,
                           "#.gate_proj.weight #.up_proj.weight");
}

/* [E, D, F] */
mr_val k2_expert_out(const k2_model *m, mr_net n, const char *name)
{
    return declare_experts(m, n, name, m->hidden, m->expert_hidden, out_std(m),
                           "#.down_proj.weight");
}
