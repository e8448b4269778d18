/* SPDX-License-Identifier: Apache-2.0
 *
 * llama4.c - units model/llama4 and model/llama: their option rows, and the tables that core calls.
 * The blocks are "embed", "layer.dense.rope", "layer.dense.nope", "layer.moe.rope", "layer.moe.nope"
 * and "head"; an instance's parameters carry the names of Hugging Face's Llama4ForCausalLM, or of
 * LlamaForCausalLM: model/llama is dense in every layer and knows nothing of Llama 4's attention.
 */
#include "llama4.h"
#include <stdio.h>

static mr_status create(const mr_host *host, const mr_model_env *env, const void *config,
                        void **model, mr_err *err)
{
    l4_model *m = NULL;
    mr_status st = l4_resolve(host, env, config, false, &m, err);
    *model = m;
    return st;
}

static mr_status create_plain(const mr_host *host, const mr_model_env *env, const void *config,
                              void **model, mr_err *err)
{
    l4_model *m = NULL;
    mr_status st = l4_resolve(host, env, config, true, &m, err);
    *model = m;
    return st;
}

static void destroy(void *model)
{
    l4_free(model);
}

static mr_status info(void *model, mr_model_info *out, mr_err *err)
{
    const l4_model *m = model;
    (void)err;
    out->vocab = m->vocab;
    out->layers = m->layers;
    out->hidden = m->hidden;
    out->max_positions = m->max_positions;
    return 0;
}

/* by [mixture of experts][no rotary positions] */
static const char *const layer_kinds[2][2] = { { "layer.dense.rope", "layer.dense.nope" },
                                               { "layer.moe.rope", "layer.moe.nope" } };

static mr_status assemble(void *model, const mr_assembler *a, mr_asm *as, mr_err *err)
{
    const l4_model *m = model;
    char name[96];
    snprintf(name, sizeof name, "%smodel.", m->prefix);
    int32_t at = a->instance(as, "embed", name);
    for (int64_t i = 0; i < m->layers && at >= 0; i++) {
        snprintf(name, sizeof name, "%smodel.layers.%lld.", m->prefix, (long long)i);
        at = a->instance(as, layer_kinds[m->moe[i]][m->nope[i]], name);
    }
    if (at >= 0)
        at = a->instance(as, "head", m->prefix);
    if (at < 0)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST,
                       "llama4: the host refused a block of the assembly");
    if (m->tie) {
        snprintf(name, sizeof name, "%smodel.embed_tokens.weight", m->prefix);
        a->bind(as, at, "lm_head.weight", name);
    }
    return 0;
}

/* x + attention(norm x), then + feed_forward(norm x) */
static void build_layer(const l4_model *m, const l4_block *b)
{
    mr_net n = b->net;
    mr_type t = mr_type2("model", b->env->tokens, m->hidden);
    mr_val x = n.b->input(n.p, "x", &t);

    mr_val a = l4_norm(m, b, x, l4_norm_weight(m, n, "input_layernorm.weight"), 0);
    l4_region(b, "attn");
    a = l4_attention(m, b, a);
    l4_end(b);
    x = MR_OP(n, "add", MR_IN(x, a), MR_NOAT);

    mr_val f = l4_norm(m, b, x, l4_norm_weight(m, n, "post_attention_layernorm.weight"), 0);
    l4_region(b, b->moe ? "moe" : "mlp");
    f = b->moe ? l4_moe(m, b, f) : l4_dense(m, b, f);
    l4_end(b);
    n.b->output(n.p, "y", MR_OP(n, "add", MR_IN(x, f), MR_NOAT));
}

static mr_status build(void *model, const char *kind, const mr_block_env *env,
                       const mr_builder *builder, mr_prog *prog, mr_err *err)
{
    const l4_model *m = model;
    l4_block b = { .env = env, .net = { builder, prog } };
    b.train = !strcmp(env->mode, "train");
    b.decode = !strcmp(env->mode, "decode");
    if (!b.train && !b.decode && strcmp(env->mode, "infer"))
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST,
                       "llama4 knows no mode \"%s\" (train, infer, decode)", env->mode);
    if (!strcmp(kind, "embed"))
        return l4_embed(m, &b), 0;
    if (!strcmp(kind, "head"))
        return l4_head(m, &b), 0;
    for (int i = 0; i < 4; i++)
        if (!strcmp(kind, layer_kinds[i / 2][i % 2])) {
            b.moe = i / 2;
            b.nope = i % 2;
            return build_layer(m, &b), 0;
        }
    return mr_fail(err, MR_E_PROGRAM, MR_BLAME_HOST, "llama4 has no block \"%s\"", kind);
}

static mr_status hf_config(void *model, char *json, uint64_t cap, mr_err *err)
{
    return l4_write_hf(model, json, cap, err);
}

/* what Llama 2 and 3 have of them */
static const mr_opt plain_options[] = {
    MR_OPT(l4_config, MR_T_BOOL, attention_bias, "attention_bias", "false",
           "biases on the four attention projections"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, rope_factor, "rope_factor", "1", 1, 1e6,
                 "Llama 3 frequency scaling: stretch of the long wavelengths; 1: none"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, rope_low_freq_factor, "rope_low_freq_factor", "1", 1e-6,
                 1e6, "wavelengths above original / this are stretched"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, rope_high_freq_factor, "rope_high_freq_factor", "4", 1e-6,
                 1e6, "wavelengths below original / this are kept"),
    MR_OPT_RANGE(l4_config, MR_T_INT, rope_original_max_positions, "rope_original_max_positions",
                 "8192", 1, 1ll << 40, "context that the unscaled frequencies are for (tokens)"),
    MR_OPT(l4_config, MR_T_BOOL, tie, "tie", "false",
           "the output projection is the embedding table"),
};

static const mr_opt options[] = {
    MR_OPT_RANGE(l4_config, MR_T_INT, experts, "experts", "16", 0, 65536,
                 "routed experts of a mixture layer; 0: every layer is dense"),
    MR_OPT_RANGE(l4_config, MR_T_INT, experts_per_token, "experts_per_token", "1", 1, 65536,
                 "experts that a token is sent to"),
    MR_OPT_RANGE(l4_config, MR_T_INT, expert_hidden, "expert_hidden", "0", 0, 1 << 30,
                 "width of each routed expert and of the shared one; 0: ffn_hidden"),
    MR_OPT(l4_config, MR_T_BOOL, shared_expert, "shared_expert", "true",
           "one more expert, which every token passes"),
    MR_OPT_RANGE(l4_config, MR_T_INT, moe_step, "moe_step", "1", 1, 65536,
                 "every n-th layer is a mixture of experts (Scout 1, Maverick 2)"),
    MR_OPT_RANGE(l4_config, MR_T_INT, nope_interval, "nope_interval", "4", 0, 65536,
                 "every n-th layer has no rotary positions and full attention; 0: none"),
    MR_OPT(l4_config, MR_T_LIST, nope_layers, "nope_layers", NULL,
           "those layers by number from 0, instead of nope_interval"),
    MR_OPT_RANGE(l4_config, MR_T_INT, attention_chunk, "attention_chunk", "8192", 0, 1 << 30,
                 "attention chunk of layers with rotary positions (tokens); 0: no chunks"),
    MR_OPT(l4_config, MR_T_BOOL, qk_norm, "qk_norm", "true",
           "RMS norm of rotated queries and keys, by head, without a weight"),
    MR_OPT(l4_config, MR_T_BOOL, attn_temperature, "attn_temperature", "true",
           "scale queries by position in layers without rotary positions"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, floor_scale, "floor_scale", "8192", 1, 1e12,
                 "positions between two steps of the attention temperature (tokens)"),
    MR_OPT(l4_config, MR_T_FLOAT, attn_scale, "attn_scale", "0.1",
           "growth of the attention temperature"),
    MR_OPT(l4_config, MR_T_BOOL, attention_bias, "attention_bias", "false",
           "biases on the four attention projections"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, rope_factor, "rope_factor", "1", 1, 1e6,
                 "Llama 3 frequency scaling: stretch of the long wavelengths; 1: none"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, rope_low_freq_factor, "rope_low_freq_factor", "1", 1e-6,
                 1e6, "wavelengths above original / this are stretched"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, rope_high_freq_factor, "rope_high_freq_factor", "1", 1e-6,
                 1e6, "wavelengths below original / this are kept"),
    MR_OPT_RANGE(l4_config, MR_T_INT, rope_original_max_positions, "rope_original_max_positions",
                 "8192", 1, 1ll << 40, "context that the unscaled frequencies are for (tokens)"),
    MR_OPT(l4_config, MR_T_BOOL, tie, "tie", "false",
           "the output projection is the embedding table"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, aux_loss, "aux_loss", "0", 0, 1e6,
                 "coefficient of the router's load-balancing loss in training; 0: none"),
    MR_OPT_CHOICE(l4_config, aux_loss_type, "aux_loss_type", "seq_aux", "aux|seq_aux",
                  "balance over the micro-batch, or over each sequence"),
    MR_OPT_RANGE(l4_config, MR_T_FLOAT, z_loss, "z_loss", "0", 0, 1e6,
                 "coefficient of the router's z-loss in training; 0: none"),
};

static const mr_model_ops table = {
    sizeof(mr_model_ops), 0, create, destroy, info, assemble, build, hf_config,
};

static const mr_model_ops plain_table = {
    sizeof(mr_model_ops), 0, create_plain, destroy, info, assemble, build, hf_config,
};

#define UNIT(name, doc, rows, table)                                                               \
    {                                                                                              \
        sizeof(mr_unit), 0, "model", name, doc, rows, sizeof rows / sizeof *rows,                  \
            sizeof(l4_config), &table, NULL,                                                       \
    }

static const mr_unit units[] = {
    UNIT("llama4", "Llama 4 text models (Scout, Maverick): sizes from [model] and these options, "
                   "or from [model] hf = DIR, which leaves only aux_loss, aux_loss_type and z_loss "
                   "to the profile", options, table),
    UNIT("llama", "Llama 2 and 3 and what is built like them: sizes from [model] and these "
                  "options, or from [model] hf = DIR", plain_options, plain_table),
    UNIT("mistral", "the same as model/llama, by the model type of Mistral's checkpoints",
         plain_options, plain_table),
};

MR_EXPORT const mr_plugin mrun_plugin_v1 = {
    MR_PLUGIN_HEADER,
    "org.mrun.llama4",
    "0.1.0",
    "Apache-2.0",
    "the Llama 4 model family, and Llama 2 and 3",
    units,
    sizeof units / sizeof *units,
    0,
    NULL,
    NULL,
};
MR_PLUGIN_NOTE("org.mrun.llama4", "0.1.0", "model/llama4 model/llama model/mistral");
