/* SPDX-License-Identifier: Apache-2.0
 *
 * params.c - declares parameters: shape, placement, initialiser.
 *
 * Initialisers are Megatron's: normal(0, init_std), and for the two projections that write
 * to the residual stream normal(0, init_std / sqrt(2 layers)), so that the stream's variance
 * does not grow with depth; norms start at 1, biases at 0.
 *
 * Placement names the logical axis of a dim. The gate and up halves of an expert lie side
 * by side in one dim, so a contiguous cut of that dim would part them: experts are split
 * over ep and fsdp, not over tp.
 *
 * Folders hold the experts of a layer as one tensor, as transformers has them; or, such that were
 * quantised by weight, a tensor each and transposed: experts.7.gate_proj.weight [F, D].
 */
#include "llama4.h"
#include <math.h>

static mr_val declare(mr_net n, const char *name, mr_type type, const char *placement,
                      const char *init, double scale, uint32_t flags)
{
    mr_param p;
    memset(&p, 0, sizeof p);
    p.size = sizeof p;
    p.flags = flags;
    p.type = type;
    p.placement = placement;
    p.init = init;
    p.scale = scale;
    return n.b->param(n.p, name, &p);
}

static double out_std(const l4_model *m)
{
    return m->init_std / sqrt(2.0 * (double)m->layers);
}

/* [E, in, out] */
static mr_val declare_experts(const l4_model *m, mr_net n, const char *name, int64_t in,
                              int64_t out, double scale, const char *tensors)
{
    mr_param p;
    memset(&p, 0, sizeof p);
    p.size = sizeof p;
    p.flags = MR_PARAM_TURNED | MR_PARAM_WHOLE;
    p.type = mr_type3("model", m->experts, in, out);
    p.placement = "ep:0 fsdp:1";
    p.init = "normal";
    p.scale = scale;
    p.tensors = tensors;
    return n.b->param(n.p, name, &p);
}

mr_val l4_norm_weight(const l4_model *m, mr_net n, const char *name)
{
    return declare(n, name, mr_type1("model", m->hidden), "fsdp:0", "constant", 1,
                   MR_PARAM_NO_DECAY);
}

mr_val l4_bias(const l4_model *m, mr_net n, const char *name, int64_t out, const char *placement)
{
    if (!m->bias)
        return 0;
    return declare(n, name, mr_type1("model", out), placement, "constant", 0, MR_PARAM_NO_DECAY);
}

/* [out, in], rows split over tp: reads the residual stream */
mr_val l4_in_weight(const l4_model *m, mr_net n, const char *name, int64_t out, int64_t in)
{
    return declare(n, name, mr_type2("model", out, in), "tp:0 fsdp:1", "normal", m->init_std, 0);
}

/* [out, in], columns split over tp: writes to the residual stream */
mr_val l4_out_weight(const l4_model *m, mr_net n, const char *name, int64_t out, int64_t in)
{
    return declare(n, name, mr_type2("model", out, in), "tp:1 fsdp:0", "normal", out_std(m), 0);
}

/* [E, D], whole on every tp rank: each must choose the same experts */
mr_val l4_router_weight(const l4_model *m, mr_net n, const char *name)
{
    return declare(n, name, mr_type2("model", m->experts, m->hidden), "fsdp:1", "normal",
                   m->init_std, 0);
}

/* [E, D, 2F] input-major: columns 0..F gate, F..2F up */
mr_val l4_expert_in(const l4_model *m, mr_net n, const char *name)
{
    return declare_experts(m, n, name, m->hidden, 2 * m->expert_hidden, m->init_std,
                           "#.gate_proj.weight #.up_proj.weight");
}

/* [E, F, D] input-major */
mr_val l4_expert_out(const l4_model *m, mr_net n, const char *name)
{
    return declare_experts(m, n, name, m->expert_hidden, m->hidden, out_std(m),
                           "#.down_proj.weight");
}
