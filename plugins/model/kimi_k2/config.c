/* SPDX-License-Identifier: Apache-2.0
 *
 * config.c - resolves a model: sizes from the profile, or from config.json where [model] hf names
 * one. With a config.json the architecture is the file's alone; a size that the profile states as
 * well must agree, so that neither is silently ignored. Training's own numbers (auxiliary
 * losses, init_std, max_positions) may come from the profile always.
 */
#include "kimi_k2.h"
#include <stdio.h>
#include <stdlib.h>

static int64_t or_else(int64_t v, int64_t otherwise)
{
    return v ? v : otherwise;
}

static void from_profile(k2_model *m, const mr_model_sizes *s, const k2_config *c)
{
    m->layers = s->layers;
    m->hidden = s->hidden;
    m->heads = s->heads;
    m->vocab = s->vocab;
    m->max_positions = or_else(s->max_positions, 131072);
    m->q_rank = c->q_lora_rank;
    m->kv_rank = c->kv_lora_rank;
    m->nope = c->nope_dim;
    m->rope = c->rope_dim;
    m->value = c->value_dim;
    m->dense_hidden = s->ffn_hidden;
    m->expert_hidden = or_else(c->expert_hidden, s->ffn_hidden);
    m->experts = c->experts;
    m->top_k = c->experts_per_token;
    m->shared = c->shared_experts;
    m->first_dense = c->experts ? c->first_dense : s->layers;
    m->groups = c->groups;
    m->group_topk = c->group_topk;
    m->routed_scale = c->routed_scale;
    m->norm_topk = c->norm_topk;
    m->eps = s->norm_eps > 0 ? s->norm_eps : 1e-6;
    m->latent_eps = c->latent_norm_eps;
    m->init_std = s->init_std > 0 ? s->init_std : 0.02;
    m->rope_theta = s->rope_theta > 0 ? s->rope_theta : 50000;
    m->rope_factor = c->rope_factor;
    m->beta_fast = c->beta_fast;
    m->beta_slow = c->beta_slow;
    m->mscale = c->mscale;
    m->mscale_all_dim = c->mscale_all_dim;
    m->rope_original = c->rope_original_max_positions;
    m->truncate = true;
    m->bias = c->attention_bias;
    m->tie = c->tie;
    m->mtp_layers = c->mtp_layers;
}

/* A size that the profile states must be the one that the model has: of config.json, or that
 * follows from the options. */
static mr_status agree(const k2_model *m, const mr_model_sizes *s, mr_err *err)
{
    const struct {
        const char *key;
        int64_t profile, own;
        const char *why;
    } row[] = {
        { "layers", s->layers, m->layers, "num_hidden_layers" },
        { "hidden", s->hidden, m->hidden, "hidden_size" },
        { "heads", s->heads, m->heads, "num_attention_heads" },
        { "kv_heads", s->kv_heads, m->heads, "heads: every head has keys of its own" },
        { "head_dim", s->head_dim, m->nope + m->rope, "nope_dim + rope_dim" },
        { "ffn_hidden", s->ffn_hidden, m->dense_hidden, "intermediate_size" },
        { "vocab", s->vocab, m->vocab, "vocab_size" },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].profile && row[i].profile != row[i].own) {
            mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                    "kimi_k2: [model] %s = %lld, the model has %lld (%s)", row[i].key,
                    (long long)row[i].profile, (long long)row[i].own, row[i].why);
            mr_hint(err, "leave %s out of the profile, or change the other", row[i].key);
            return MR_E_MODEL_CONFIG;
        }
    return 0;
}

static mr_status from_file(k2_model *m, const mr_host *host, const mr_model_env *env, mr_err *err)
{
    char name[128];
    const mr_json_service *js = MR_CAN(host, ext) ? host->ext(host->self, MR_EXT_JSON) : NULL;
    if (!js)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST,
                       "kimi_k2: this host does not offer " MR_EXT_JSON
                       ", so config.json cannot be read");
    mr_status st = k2_read_hf(m, js, env->hf_config, err);
    if (st)
        return st;
    /* saved by transformers, the folder has lost the modules that its config.json still counts */
    snprintf(name, sizeof name, "%smodel.layers.%lld.eh_proj.weight", m->prefix,
             (long long)m->layers);
    if (!MR_CAN(env, has_tensor) || !env->has_tensor(env->weights, name))
        m->mtp_layers = 0;
    m->max_positions = or_else(env->sizes->max_positions, m->max_positions);
    if (env->sizes->init_std > 0)
        m->init_std = env->sizes->init_std;
    return 0;
}

mr_status k2_resolve(const mr_host *host, const mr_model_env *env, const k2_config *cfg,
                     k2_model **out, mr_err *err)
{
    mr_status st = 0;
    k2_model *m = calloc(1, sizeof *m);
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "kimi_k2: no memory for the model");
    m->prefix = "";
    m->pad = -1;
    m->aux_loss = cfg->aux_loss;
    m->aux_type = cfg->aux_loss_type ? cfg->aux_loss_type : "seq_aux";
    m->z_loss = cfg->z_loss;
    m->mtp_loss = cfg->mtp_loss;
    m->imported = env->hf_config != NULL;
    if (m->imported)
        MR_TRY(from_file(m, host, env, err));
    else
        from_profile(m, env->sizes, cfg);
    MR_TRY(k2_check(m, err));
    MR_TRY(agree(m, env->sizes, err));
    m->inv_freq = calloc((size_t)m->rope / 2, sizeof *m->inv_freq);
    if (!m->inv_freq)
        MR_TRY(mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "kimi_k2: no memory for frequencies"));
    k2_positions(m);
    *out = m;
    return 0;
out:
    k2_free(m);
    return st;
}

void k2_free(k2_model *m)
{
    if (m)
        free(m->inv_freq);
    free(m);
}
