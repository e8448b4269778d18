/* SPDX-License-Identifier: Apache-2.0
 *
 * kimi_k2.c - units model/kimi_k2 and model/deepseek_v3, one family: its option rows, and the
 * table that core calls. The blocks are "embed", "layer.dense", "layer.moe", "head" and in training
 * "mtp.1" ...; an instance's parameters carry the names of Hugging Face's DeepseekV3ForCausalLM,
 * which holds the experts of a layer as one tensor, too.
 */
#include "kimi_k2.h"
#include <stdio.h>
#include <stdlib.h>

static mr_status create(const mr_host *host, const mr_model_env *env, const void *config,
                        void **model, mr_err *err)
{
    k2_model *m = NULL;
    mr_status st = k2_resolve(host, env, config, &m, err);
    *model = m;
    return st;
}

static void destroy(void *model)
{
    k2_free(model);
}

static mr_status info(void *model, mr_model_info *out, mr_err *err)
{
    const k2_model *m = model;
    (void)err;
    out->vocab = m->vocab;
    out->layers = m->layers;
    out->hidden = m->hidden;
    out->max_positions = m->max_positions;
    return 0;
}

static mr_status assemble(void *model, const mr_assembler *a, mr_asm *as, mr_err *err)
{
    const k2_model *m = model;
    char name[96];
    snprintf(name, sizeof name, "%smodel.", m->prefix);
    int32_t at = a->instance(as, "embed", name);
    for (int64_t i = 0; i < m->layers && at >= 0; i++) {
        snprintf(name, sizeof name, "%smodel.layers.%lld.", m->prefix, (long long)i);
        at = a->instance(as, i < m->first_dense ? "layer.dense" : "layer.moe", name);
    }
    if (at >= 0)
        at = a->instance(as, "head", m->prefix);
    if (at >= 0 && m->tie) {
        snprintf(name, sizeof name, "%smodel.embed_tokens.weight", m->prefix);
        a->bind(as, at, "lm_head.weight", name);
    }
    if (at >= 0 && k2_predicts_more(m, MR_HAS(a, env) && a->env ? a->env->mode : "train"))
        at = k2_assemble_mtp(m, a, as, at);
    return at >= 0 ? 0
                   : mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST,
                             "kimi_k2: the host refused a block of the assembly");
}

mr_val k2_layer(const k2_model *m, const k2_block *b, mr_val x)
{
    mr_net n = b->net;
    mr_val a = k2_norm(b, x, "input_layernorm.weight", m->hidden, m->eps);
    k2_region(b, "attn");
    a = k2_attention(m, b, a);
    k2_end(b);
    x = MR_OP(n, "add", MR_IN(x, a), MR_NOAT);

    mr_val f = k2_norm(b, x, "post_attention_layernorm.weight", m->hidden, m->eps);
    k2_region(b, b->moe ? "moe" : "mlp");
    f = b->moe ? k2_moe(m, b, f) : k2_dense(m, b, f);
    k2_end(b);
    return MR_OP(n, "add", MR_IN(x, f), MR_NOAT);
}

static void build_layer(const k2_model *m, const k2_block *b)
{
    mr_net n = b->net;
    mr_type t = mr_type2("model", b->env->tokens, m->hidden);
    n.b->output(n.p, "y", k2_layer(m, b, n.b->input(n.p, "x", &t)));
}

static mr_status build(void *model, const char *kind, const mr_block_env *env,
                       const mr_builder *builder, mr_prog *prog, mr_err *err)
{
    const k2_model *m = model;
    k2_block b = { .env = env, .net = { builder, prog } };
    b.train = !strcmp(env->mode, "train");
    b.decode = !strcmp(env->mode, "decode");
    if (!strncmp(kind, K2_MTP, strlen(K2_MTP)))
        b.mtp = strtoll(kind + strlen(K2_MTP), NULL, 10);
    b.moe = b.mtp ? m->first_dense < m->layers : !strcmp(kind, "layer.moe");
    if (!b.train && !b.decode && strcmp(env->mode, "infer"))
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST,
                       "kimi_k2 knows no mode \"%s\" (train, infer, decode)", env->mode);
    if (!strcmp(kind, "embed"))
        k2_embed(m, &b);
    else if (!strcmp(kind, "head"))
        k2_head(m, &b);
    else if (b.mtp > 0 && b.mtp <= m->mtp_layers && b.train)
        k2_mtp(m, &b);
    else if (!b.mtp && (b.moe || !strcmp(kind, "layer.dense")))
        build_layer(m, &b);
    else
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST, "kimi_k2 has no block \"%s\"", kind);
    return 0;
}

static mr_status hf_config(void *model, char *json, uint64_t cap, mr_err *err)
{
    return k2_write_hf(model, json, cap, err);
}

static const mr_opt options[] = {
    MR_OPT_RANGE(k2_config, MR_T_INT, q_lora_rank, "q_lora_rank", "0", 0, 1 << 30,
                 "width of the queries' latent; 0: queries straight from the residual stream"),
    MR_OPT_RANGE(k2_config, MR_T_INT, kv_lora_rank, "kv_lora_rank", "512", 1, 1 << 30,
                 "width of the latent of keys and values"),
    MR_OPT_RANGE(k2_config, MR_T_INT, nope_dim, "nope_dim", "128", 1, 65536,
                 "of a head's query and key, the values without positions"),
    MR_OPT_RANGE(k2_config, MR_T_INT, rope_dim, "rope_dim", "64", 2, 65536,
                 "of a head's query and key, the values with rotary positions"),
    MR_OPT_RANGE(k2_config, MR_T_INT, value_dim, "value_dim", "128", 1, 65536,
                 "width of a head's value"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, latent_norm_eps, "latent_norm_eps", "1e-6", 1e-30, 1,
                 "epsilon of the norms of the two latents"),
    MR_OPT_RANGE(k2_config, MR_T_INT, experts, "experts", "16", 0, 65536,
                 "routed experts of a mixture layer; 0: every layer is dense"),
    MR_OPT_RANGE(k2_config, MR_T_INT, experts_per_token, "experts_per_token", "2", 1, 65536,
                 "experts that a token is sent to (Kimi-K2 and DeepSeek-V3: 8)"),
    MR_OPT_RANGE(k2_config, MR_T_INT, expert_hidden, "expert_hidden", "0", 0, 1 << 30,
                 "width of each routed expert; 0: ffn_hidden"),
    MR_OPT_RANGE(k2_config, MR_T_INT, shared_experts, "shared_experts", "1", 0, 65536,
                 "widths of an expert that the one shared expert has; 0: none"),
    MR_OPT_RANGE(k2_config, MR_T_INT, first_dense, "first_dense", "1", 0, 65536,
                 "first layers that are dense (Kimi-K2 1, DeepSeek-V3 3)"),
    MR_OPT_RANGE(k2_config, MR_T_INT, groups, "groups", "1", 1, 65536,
                 "groups of experts of which a token may use some (DeepSeek-V3 8)"),
    MR_OPT_RANGE(k2_config, MR_T_INT, group_topk, "group_topk", "1", 1, 65536,
                 "groups that a token may use (DeepSeek-V3 4)"),
    MR_OPT(k2_config, MR_T_BOOL, norm_topk, "norm_topk", "true",
           "normalise the weights of a token's experts to sum to 1 before routed_scale"),
    MR_OPT(k2_config, MR_T_FLOAT, routed_scale, "routed_scale", "2.827",
           "what the weights of a token's experts are multiplied by (DeepSeek-V3 2.5)"),
    MR_OPT(k2_config, MR_T_BOOL, attention_bias, "attention_bias", "false",
           "biases on the projections to the latents and from the heads"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, rope_factor, "rope_factor", "1", 1, 1e6,
                 "YaRN: stretch of the long wavelengths; 1: plain rotary positions"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, beta_fast, "beta_fast", "1", 1e-6, 1e6,
                 "YaRN: pairs that turn more often in the original context stay (DeepSeek-V3 32)"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, beta_slow, "beta_slow", "1", 1e-6, 1e6,
                 "YaRN: pairs that turn less often are stretched"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, mscale, "mscale", "1", 0, 1e6,
                 "YaRN: growth of cosines and sines, over that of mscale_all_dim"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, mscale_all_dim, "mscale_all_dim", "1", 0, 1e6,
                 "YaRN: growth of attention's scores; 0: none"),
    MR_OPT_RANGE(k2_config, MR_T_INT, rope_original_max_positions, "rope_original_max_positions",
                 "4096", 1, 1ll << 40, "context that the unscaled frequencies are for (tokens)"),
    MR_OPT(k2_config, MR_T_BOOL, tie, "tie", "false",
           "the output projection is the embedding table"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, aux_loss, "aux_loss", "0", 0, 1e6,
                 "coefficient of the router's load-balancing loss in training; 0: none"),
    MR_OPT_CHOICE(k2_config, aux_loss_type, "aux_loss_type", "seq_aux", "aux|seq_aux",
                  "balance over the micro-batch, or over each sequence"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, z_loss, "z_loss", "0", 0, 1e6,
                 "coefficient of the router's z-loss in training; 0: none"),
    MR_OPT_RANGE(k2_config, MR_T_INT, mtp_layers, "mtp_layers", "0", 0, 64,
                 "modules that predict further tokens in training (DeepSeek-V3 1)"),
    MR_OPT_RANGE(k2_config, MR_T_FLOAT, mtp_loss, "mtp_loss", "0.1", 0, 1e6,
                 "coefficient of those modules' mean loss; 0: they are left out"),
};

static const mr_model_ops table = {
    sizeof(mr_model_ops), 0, create, destroy, info, assemble, build, hf_config,
};

#define UNIT(name, doc)                                                                            \
    {                                                                                              \
        sizeof(mr_unit), 0, "model", name, doc, options, sizeof options / sizeof *options,         \
            sizeof(k2_config), &table, NULL,                                                       \
    }

/* The second is the first by the name that its checkpoints have as model_type, so that a folder
 * finds its family. */
static const mr_unit units[] = {
    UNIT("kimi_k2", "Kimi-K2 and DeepSeek-V3: sizes from [model] and these options, or from "
                    "[model] hf = DIR, which leaves only aux_loss, aux_loss_type, z_loss and "
                    "mtp_loss to the profile"),
    UNIT("deepseek_v3", "the same as model/kimi_k2, by the model type of its checkpoints"),
};

MR_EXPORT const mr_plugin mrun_plugin_v1 = {
    MR_PLUGIN_HEADER,
    "org.mrun.kimi_k2",
    "0.1.0",
    "Apache-2.0",
    "the Kimi-K2 and DeepSeek-V3 model family",
    units,
    sizeof units / sizeof *units,
    0,
    NULL,
    NULL,
};
MR_PLUGIN_NOTE("org.mrun.kimi_k2", "0.1.0", "model/kimi_k2 model/deepseek_v3");
