/* SPDX-License-Identifier: Apache-2.0
 *
 * hf_read.c - a model from Hugging Face's config.json, of Llama 4 or (plain) of Llama 2 and 3: the
 * text part of a multimodal file (nested
 * text_config, tensors named language_model....) or a bare text model; rope keys as transformers
 * 4.x (rope_theta, rope_scaling) or 5.x (rope_parameters) spells them. A key that the file leaves
 * out has the class default of Llama4TextConfig. The first bad value ends the reading.
 */
#include "../hf.h"
#include "llama4.h"

static void read_sizes(l4_model *m, hf_reader *r)
{
    m->layers = hf_integer(r, "num_hidden_layers", 48);
    m->hidden = hf_integer(r, "hidden_size", 5120);
    m->heads = hf_integer(r, "num_attention_heads", 40);
    m->kv_heads = hf_null(r, "num_key_value_heads") ? m->heads
                                                    : hf_integer(r, "num_key_value_heads", 8);
    m->head_dim = !hf_null(r, "head_dim") ? hf_integer(r, "head_dim", 128)
                  : m->heads > 0          ? m->hidden / m->heads
                                          : 0;
    m->vocab = hf_integer(r, "vocab_size", 202048);
    m->max_positions = hf_integer(r, "max_position_embeddings", 131072);
    m->dense_hidden = hf_integer(r, "intermediate_size_mlp", 16384);
    m->expert_hidden = hf_integer(r, "intermediate_size", 8192);
    m->experts = hf_integer(r, "num_local_experts", 16);
    m->top_k = hf_integer(r, "num_experts_per_tok", 1);
    m->chunk = hf_null(r, "attention_chunk_size") ? 0 : hf_integer(r, "attention_chunk_size", 8192);
    m->eps = hf_number(r, "rms_norm_eps", 1e-5);
    m->init_std = hf_number(r, "initializer_range", 0.02);
    m->floor_scale = hf_number(r, "floor_scale", 8192);
    m->attn_scale = hf_number(r, "attn_scale", 0.1);
    m->qk_norm = hf_number(r, "use_qk_norm", 1) != 0;
    m->temperature = hf_number(r, "attn_temperature_tuning", 1) != 0; /* a bool, once an int */
    m->bias = hf_number(r, "attention_bias", 0) != 0;
    m->tie = hf_number(r, "tie_word_embeddings", 0) != 0;
    m->shared_expert = true;
    m->pad = hf_pad(r, m->vocab);
    hf_only(r, "attention_dropout", 0, "nothing is dropped: set it to 0");
    m->rope_theta = 500000;
}

/* LlamaConfig's class defaults; every layer is dense and has rotary positions. */
static void read_plain(l4_model *m, hf_reader *r)
{
    m->layers = hf_integer(r, "num_hidden_layers", 32);
    m->hidden = hf_integer(r, "hidden_size", 4096);
    m->heads = hf_integer(r, "num_attention_heads", 32);
    m->kv_heads = hf_integer(r, "num_key_value_heads", m->heads);
    m->head_dim = hf_integer(r, "head_dim", m->heads > 0 ? m->hidden / m->heads : 0);
    m->vocab = hf_integer(r, "vocab_size", 32000);
    m->max_positions = hf_integer(r, "max_position_embeddings", 2048);
    m->dense_hidden = hf_integer(r, "intermediate_size", 11008);
    m->eps = hf_number(r, "rms_norm_eps", 1e-6);
    m->init_std = hf_number(r, "initializer_range", 0.02);
    m->bias = hf_number(r, "attention_bias", 0) != 0;
    m->tie = hf_number(r, "tie_word_embeddings", 0) != 0;
    m->pad = hf_pad(r, m->vocab);
    hf_only(r, "attention_dropout", 0, "nothing is dropped: set it to 0");
    m->rope_theta = 10000;
    if (!r->st && hf_number(r, "mlp_bias", 0) != 0)
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "llama: config.json asks for mlp_bias, which this family does not have");
    if (!r->st && hf_has(r, "sliding_window"))
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "llama: config.json asks for a sliding_window, which this family does not "
                        "have");
}

/* transformers 5.x keeps both in rope_parameters, 4.x in rope_theta and rope_scaling */
static void read_rope(l4_model *m, hf_reader *r)
{
    static const char *const factors[] = { "factor", "low_freq_factor", "high_freq_factor" };
    const char *in = hf_rope(r);
    char key[64];
#define IN(name) (snprintf(key, sizeof key, "%s.%s", in, name), key)
    m->rope_theta = hf_number(r, "rope_theta", m->rope_theta);
    m->rope_theta = hf_number(r, IN("rope_theta"), m->rope_theta);
    m->rope_factor = m->rope_low = m->rope_high = 1;
    m->rope_original = 8192;
    if (!hf_has(r, in) || r->st)
        return;
    const char *type = hf_text(r, IN("rope_type"));
    if (!type)
        type = hf_text(r, IN("type"));
    if (!type || !strcmp(type, "default"))
        return;
    if (strcmp(type, "llama3")) {
        hf_refuse(r, IN("rope_type"), type, "it has \"default\" and \"llama3\"");
        return;
    }
    for (size_t i = 0; i < sizeof factors / sizeof *factors; i++)
        if (!r->st && !hf_has(r, IN(factors[i])))
            r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                            "llama4: config.json has rope type llama3 without %s", key);
    m->rope_factor = hf_number(r, IN("factor"), 1);
    m->rope_low = hf_number(r, IN("low_freq_factor"), 1);
    m->rope_high = hf_number(r, IN("high_freq_factor"), 1);
    m->rope_original = hf_original_context(r, in, m->max_positions);
#undef IN
}

/* no_rope_layers holds 1 where a layer HAS rotary positions; an empty list means every
 * no_rope_layer_interval-th has none. */
static void read_nope(l4_model *m, hf_reader *r)
{
    int64_t n = hf_length(r, "no_rope_layers");
    int64_t interval = hf_integer(r, "no_rope_layer_interval", 4);
    char key[64];
    if (n > 0 && n != m->layers) {
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "llama4: no_rope_layers in config.json has %lld entries for %lld layers",
                        (long long)n, (long long)m->layers);
        return;
    }
    for (int64_t i = 0; i < m->layers; i++) {
        snprintf(key, sizeof key, "no_rope_layers.%lld", (long long)i);
        m->nope[i] = n > 0 ? hf_integer(r, key, 1) == 0 : interval > 0 && (i + 1) % interval == 0;
    }
    /* an explicit mask pattern must be the one that goes with the positions */
    for (int64_t i = 0; i < m->layers && hf_length(r, "layer_types") > 0; i++) {
        snprintf(key, sizeof key, "layer_types.%lld", (long long)i);
        const char *type = hf_text(r, key);
        const char *wanted = m->nope[i] ? "full_attention" : "chunked_attention";
        if (type && !r->st && strcmp(type, wanted))
            r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                            "llama4: layer %lld %s rotary positions, yet its type in config.json "
                            "is \"%s\"",
                            (long long)i, m->nope[i] ? "has no" : "has", type);
    }
}

static void read_moe(l4_model *m, hf_reader *r)
{
    int64_t n = hf_length(r, "moe_layers");
    int64_t step = hf_integer(r, "interleave_moe_layer_step", 1);
    char key[64];
    for (int64_t i = 0; n < 0 && i < m->layers; i++)
        m->moe[i] = step > 0 && (i + 1) % step == 0;
    for (int64_t i = 0; i < n && !r->st; i++) {
        snprintf(key, sizeof key, "moe_layers.%lld", (long long)i);
        int64_t layer = hf_integer(r, key, -1);
        if (layer >= 0 && layer < m->layers)
            m->moe[layer] = 1;
        else if (!r->st)
            r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                            "llama4: moe_layers in config.json names layer %lld, the model has "
                            "%lld layers",
                            (long long)layer, (long long)m->layers);
    }
}

mr_status l4_read_hf(l4_model *m, const mr_json_service *js, const void *json, mr_err *err)
{
    hf_reader r = { js, json, m->plain ? "llama" : "llama4", "", err, 0 };
    if (!m->plain && hf_has(&r, "text_config")) {
        r.at = "text_config.";
        m->prefix = "language_model.";
    }
    const char *type = hf_text(&r, "model_type");
    if (type && (m->plain ? strcmp(type, "llama") && strcmp(type, "mistral")
                          : strcmp(type, "llama4_text") && strcmp(type, "llama4"))) {
        mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                "%s: config.json is of model type \"%s\"", r.family, type);
        mr_hint(err, "choose the model plugin of that type in [model] plugin");
        return MR_E_MODEL_CONFIG;
    }
    const char *act = hf_text(&r, "hidden_act");
    if (act && strcmp(act, "silu"))
        return mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                       "%s: hidden_act \"%s\" in config.json is not silu", r.family, act);
    if (m->plain)
        read_plain(m, &r);
    else
        read_sizes(m, &r);
    read_rope(m, &r);
    if (!r.st)
        r.st = l4_layer_marks(m, err);
    if (!r.st && !m->plain)
        read_nope(m, &r);
    if (!r.st && !m->plain)
        read_moe(m, &r);
    return r.st;
}
