/* SPDX-License-Identifier: Apache-2.0
 *
 * config.c - resolves a model: sizes and layer pattern from the profile, or from config.json
 * where [model] hf names one. With a config.json the architecture is the file's alone; a size
 * that the profile states as well must agree, so that neither is silently ignored. Training's
 * own numbers (auxiliary losses, init_std, max_positions) may come from the profile always.
 */
#include "llama4.h"
#include <errno.h>
#include <stdlib.h>

mr_status l4_layer_marks(l4_model *m, mr_err *err)
{
    if (m->layers < 1 || m->layers > 65536)
        return mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                       "llama4: layers = %lld is outside 1..65536", (long long)m->layers);
    m->nope = calloc((size_t)m->layers, 1);
    m->moe = calloc((size_t)m->layers, 1);
    if (!m->nope || !m->moe)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "llama4: no memory for %lld layer marks",
                       (long long)m->layers);
    return 0;
}

static mr_status mark_nope_layers(l4_model *m, const mr_list *list, mr_err *err)
{
    for (uint64_t i = 0; i < list->n; i++) {
        char *end;
        errno = 0;
        long long layer = strtoll(list->v[i], &end, 10);
        if (errno || end == list->v[i] || *end || layer < 0 || layer >= m->layers) {
            mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                    "llama4: nope_layers names layer \"%s\", the model has %lld layers", list->v[i],
                    (long long)m->layers);
            mr_hint(err, "give layer numbers from 0 to %lld", (long long)m->layers - 1);
            return MR_E_MODEL_CONFIG;
        }
        m->nope[layer] = 1;
    }
    return 0;
}

static int64_t or_else(int64_t v, int64_t otherwise)
{
    return v ? v : otherwise;
}

static mr_status from_profile(l4_model *m, const mr_model_sizes *s, const l4_config *c, mr_err *err)
{
    mr_status st;
    m->layers = s->layers;
    m->hidden = s->hidden;
    m->heads = s->heads;
    m->kv_heads = or_else(s->kv_heads, s->heads);
    m->head_dim = s->head_dim;
    m->vocab = s->vocab;
    m->max_positions = or_else(s->max_positions, 131072);
    m->dense_hidden = s->ffn_hidden;
    m->expert_hidden = or_else(c->expert_hidden, s->ffn_hidden);
    m->experts = c->experts;
    m->top_k = c->experts_per_token;
    m->chunk = c->attention_chunk;
    m->eps = s->norm_eps > 0 ? s->norm_eps : 1e-5;
    m->rope_theta = s->rope_theta > 0 ? s->rope_theta : 500000;
    m->init_std = s->init_std > 0 ? s->init_std : 0.02;
    m->rope_factor = c->rope_factor;
    m->rope_low = c->rope_low_freq_factor;
    m->rope_high = c->rope_high_freq_factor;
    m->rope_original = c->rope_original_max_positions;
    m->floor_scale = c->floor_scale;
    m->attn_scale = c->attn_scale;
    m->qk_norm = c->qk_norm;
    m->temperature = c->attn_temperature;
    m->shared_expert = c->shared_expert;
    m->bias = c->attention_bias;
    m->tie = c->tie;
    if (!m->head_dim && m->heads > 0) {
        if (m->hidden % m->heads) {
            mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                    "llama4: hidden = %lld is not a multiple of heads = %lld", (long long)m->hidden,
                    (long long)m->heads);
            mr_hint(err, "set head_dim in [model], or change hidden or heads");
            return MR_E_MODEL_CONFIG;
        }
        m->head_dim = m->hidden / m->heads;
    }
    st = l4_layer_marks(m, err);
    if (!st && c->nope_layers.n)
        st = mark_nope_layers(m, &c->nope_layers, err);
    if (st)
        return st;
    for (int64_t i = 0; i < m->layers; i++) {
        m->moe[i] = m->experts > 0 && (i + 1) % c->moe_step == 0;
        if (!c->nope_layers.n)
            m->nope[i] = c->nope_interval > 0 && (i + 1) % c->nope_interval == 0;
    }
    return 0;
}

/* A size that both the profile and config.json state must be the same in both. */
static mr_status agree(const l4_model *m, const mr_model_sizes *s, mr_err *err)
{
    const struct {
        const char *key;
        int64_t profile, file;
    } row[] = {
        { "layers", s->layers, m->layers },       { "hidden", s->hidden, m->hidden },
        { "heads", s->heads, m->heads },          { "kv_heads", s->kv_heads, m->kv_heads },
        { "head_dim", s->head_dim, m->head_dim }, { "ffn_hidden", s->ffn_hidden, m->dense_hidden },
        { "vocab", s->vocab, m->vocab },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        if (row[i].profile && row[i].profile != row[i].file) {
            mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                    "llama4: [model] %s = %lld contradicts config.json, which has %lld", row[i].key,
                    (long long)row[i].profile, (long long)row[i].file);
            mr_hint(err, "leave %s out of the profile, or leave hf out", row[i].key);
            return MR_E_MODEL_CONFIG;
        }
    return 0;
}

static mr_status from_file(l4_model *m, const mr_host *host, const mr_model_env *env, mr_err *err)
{
    const mr_json_service *js = MR_CAN(host, ext) ? host->ext(host->self, MR_EXT_JSON) : NULL;
    if (!js)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST,
                       "llama4: this host does not offer " MR_EXT_JSON
                       ", so config.json cannot be read");
    mr_status st = l4_read_hf(m, js, env->hf_config, err);
    if (!st)
        st = agree(m, env->sizes, err);
    if (st)
        return st;
    m->max_positions = or_else(env->sizes->max_positions, m->max_positions);
    if (env->sizes->init_std > 0)
        m->init_std = env->sizes->init_std;
    return 0;
}

mr_status l4_resolve(const mr_host *host, const mr_model_env *env, const l4_config *cfg,
                     bool plain, l4_model **out, mr_err *err)
{
    mr_status st = 0;
    l4_model *m = calloc(1, sizeof *m);
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "llama4: no memory for the model");
    m->prefix = "";
    m->pad = -1;
    m->plain = plain;
    m->aux_loss = cfg->aux_loss;
    m->aux_type = cfg->aux_loss_type ? cfg->aux_loss_type : "seq_aux";
    m->z_loss = cfg->z_loss;
    if (env->hf_config)
        MR_TRY(from_file(m, host, env, err));
    else
        MR_TRY(from_profile(m, env->sizes, cfg, err));
    MR_TRY(l4_check(m, err));
    m->inv_freq = calloc((size_t)m->head_dim / 2, sizeof *m->inv_freq);
    if (!m->inv_freq)
        MR_TRY(mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "llama4: no memory for frequencies"));
    l4_inv_freq(m, m->inv_freq);
    *out = m;
    return 0;
out:
    l4_free(m);
    return st;
}

void l4_free(l4_model *m)
{
    if (!m)
        return;
    free(m->nope);
    free(m->moe);
    free(m->inv_freq);
    free(m);
}
