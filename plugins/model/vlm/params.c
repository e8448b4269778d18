/* SPDX-License-Identifier: Apache-2.0
 *
 * params.c - declares the parameters of tower and projector: shape, placement, initialiser,
 * frozen or not. Weights start normal(0, init_std), norms at 1, biases at 0. The weight of the
 * patch embedding is a matrix here and, in checkpoints of convolutions, [D, channels, p, p].
 */
#include "vlm.h"
#include <math.h>

static mr_val declare(const vlm_model *m, const vlm_block *b, uint32_t part, const char *name,
                      mr_param p)
{
    p.size = sizeof p;
    if (m->frozen & part)
        p.flags |= MR_PARAM_FROZEN;
    return b->net.b->param(b->net.p, name, &p);
}

mr_val vlm_weight(const vlm_model *m, const vlm_block *b, uint32_t part, const char *name,
                  int64_t out, int64_t in, enum vlm_split split)
{
    return declare(m, b, part, name,
                   (mr_param){ .type = mr_type2("model", out, in),
                               .placement = split == VLM_IN ? "tp:0 fsdp:1" : "tp:1 fsdp:0",
                               .init = "normal", .scale = m->init_std });
}

mr_val vlm_bias(const vlm_model *m, const vlm_block *b, uint32_t part, const char *name, int64_t n)
{
    return declare(m, b, part, name,
                   (mr_param){ .flags = MR_PARAM_NO_DECAY, .type = mr_type1("model", n),
                               .placement = "-", .init = "constant" });
}

mr_val vlm_patch_weight(const vlm_model *m, const vlm_block *b)
{
    int64_t p = m->patch;
    mr_param w = { .type = mr_type2("model", m->hidden, 3 * p * p), .placement = "fsdp:0",
                   .init = "normal", .scale = m->init_std };
    if (m->tower->convolution) {
        w.stored_rank = 4;
        w.stored[0] = m->hidden;
        w.stored[1] = 3;
        w.stored[2] = w.stored[3] = p;
    }
    return declare(m, b, VLM_TOWER, m->tower->patch, w);
}

/* learned rows that are added; rows 0: one row without that dim */
mr_val vlm_rows(const vlm_model *m, const vlm_block *b, const char *name, int64_t rows)
{
    return declare(m, b, VLM_TOWER, name,
                   (mr_param){ .flags = MR_PARAM_NO_DECAY,
                               .type = rows ? mr_type2("model", rows, m->hidden)
                                            : mr_type1("model", m->hidden),
                               .placement = "-", .init = "normal",
                               .scale = m->tower->rope ? 1 / sqrt((double)m->hidden)
                                                       : m->init_std });
}

mr_val vlm_linear(const vlm_model *m, const vlm_block *b, uint32_t part, const char *name, mr_val x,
                  int64_t out, int64_t in, bool bias, enum vlm_split split)
{
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    mr_val w = vlm_weight(m, b, part, full, out, in, split);
    snprintf(full, sizeof full, "%s.bias", name);
    return MR_OP(b->net, "linear", MR_IN(x, w, bias ? vlm_bias(m, b, part, full, out) : 0),
                 MR_NOAT);
}

mr_val vlm_layernorm(const vlm_model *m, const vlm_block *b, const char *name, mr_val x)
{
    mr_val out[3] = { 0, 0, 0 }; /* y, mean, rstd */
    char full[96];
    snprintf(full, sizeof full, "%s.weight", name);
    mr_val w = declare(m, b, VLM_TOWER, full,
                       (mr_param){ .flags = MR_PARAM_NO_DECAY, .type = mr_type1("model", m->hidden),
                                   .placement = "-", .init = "constant", .scale = 1 });
    snprintf(full, sizeof full, "%s.bias", name);
    mr_val bias = vlm_bias(m, b, VLM_TOWER, full, m->hidden);
    b->net.b->region(b->net.p, "layernorm");
    MR_OPN(b->net, "layernorm", out, 3, MR_IN(x, w, bias), MR_AT(mr_af("eps", m->eps)));
    b->net.b->end(b->net.p);
    return out[0];
}
