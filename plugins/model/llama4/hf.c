/* SPDX-License-Identifier: Apache-2.0
 *
 * hf.c - Hugging Face's config.json, both ways. Read: the text part of a multimodal file
 * (nested text_config, tensors named language_model....) or a bare text model; rope keys as
 * transformers 4.x (rope_theta, rope_scaling) or 5.x (rope_parameters) spells them; a key that
 * the file leaves out has the class default of Llama4TextConfig. Written: the 4.x spelling,
 * which both read, with the layer pattern spelled out.
 */
#include "llama4.h"
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

typedef struct reader {
    const mr_json_service *js;
    const void *json;
    const char *at; /* "" or "text_config." */
    mr_err *err;
    mr_status st; /* of the first bad value */
} reader;

static const char *path(const reader *r, const char *key, char *buf, size_t cap)
{
    snprintf(buf, cap, "%s%s", r->at, key);
    return buf;
}

static bool has(const reader *r, const char *key)
{
    char p[128];
    return r->js->has(r->json, path(r, key, p, sizeof p));
}

static const char *text(const reader *r, const char *key)
{
    char p[128];
    const char *s = NULL;
    return r->js->string(r->json, path(r, key, p, sizeof p), &s) ? s : NULL;
}

static double number(reader *r, const char *key, double otherwise)
{
    char p[128];
    double v = otherwise;
    if (!r->st && has(r, key) && !r->js->number(r->json, path(r, key, p, sizeof p), &v))
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "llama4: %s in config.json is not a number", p);
    return v;
}

static int64_t integer(reader *r, const char *key, int64_t otherwise)
{
    double v = number(r, key, (double)otherwise);
    if (r->st)
        return otherwise;
    if (!(v >= -0x1p53 && v <= 0x1p53) || v != floor(v)) {
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "llama4: %s%s = %g in config.json is not a whole number", r->at, key, v);
        return otherwise;
    }
    return (int64_t)v;
}

static void read_sizes(l4_model *m, reader *r)
{
    m->layers = integer(r, "num_hidden_layers", 48);
    m->hidden = integer(r, "hidden_size", 5120);
    m->heads = integer(r, "num_attention_heads", 40);
    m->kv_heads = integer(r, "num_key_value_heads", 8);
    m->head_dim = integer(r, "head_dim", 128);
    m->vocab = integer(r, "vocab_size", 202048);
    m->max_positions = integer(r, "max_position_embeddings", 131072);
    m->dense_hidden = integer(r, "intermediate_size_mlp", 16384);
    m->expert_hidden = integer(r, "intermediate_size", 8192);
    m->experts = integer(r, "num_local_experts", 16);
    m->top_k = integer(r, "num_experts_per_tok", 1);
    m->chunk = integer(r, "attention_chunk_size", 8192);
    m->eps = number(r, "rms_norm_eps", 1e-5);
    m->init_std = number(r, "initializer_range", 0.02);
    m->floor_scale = number(r, "floor_scale", 8192);
    m->attn_scale = number(r, "attn_scale", 0.1);
    m->qk_norm = number(r, "use_qk_norm", 1) != 0;
    m->temperature = number(r, "attn_temperature_tuning", 1) != 0; /* a bool, once an int */
    m->bias = number(r, "attention_bias", 0) != 0;
    m->tie = number(r, "tie_word_embeddings", 0) != 0;
    m->shared_expert = true;
}

/* transformers 5.x keeps both in rope_parameters, 4.x in rope_theta and rope_scaling */
static void read_rope(l4_model *m, reader *r)
{
    const char *in = has(r, "rope_parameters") ? "rope_parameters" : "rope_scaling";
    char key[64];
#define IN(name) (snprintf(key, sizeof key, "%s.%s", in, name), key)
    m->rope_theta = number(r, "rope_theta", 500000);
    m->rope_theta = number(r, IN("rope_theta"), m->rope_theta);
    m->rope_factor = m->rope_low = m->rope_high = 1;
    m->rope_original = 8192;
    if (!has(r, in) || r->st)
        return;
    const char *type = text(r, IN("rope_type"));
    if (!type)
        type = text(r, IN("type"));
    if (!type || !strcmp(type, "default"))
        return;
    if (strcmp(type, "llama3")) {
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "llama4: rope type \"%s\" in config.json is not one that this family has",
                        type);
        mr_hint(r->err, "it has \"default\" and \"llama3\"");
        return;
    }
    m->rope_factor = number(r, IN("factor"), 8);
    m->rope_low = number(r, IN("low_freq_factor"), 1);
    m->rope_high = number(r, IN("high_freq_factor"), 4);
    m->rope_original = integer(r, IN("original_max_position_embeddings"), 8192);
#undef IN
}

static int64_t length(const reader *r, const char *key)
{
    char p[128];
    return has(r, key) ? r->js->length(r->json, path(r, key, p, sizeof p)) : -1;
}

/* no_rope_layers holds 1 where a layer HAS rotary positions; an empty list means every
 * no_rope_layer_interval-th has none. */
static void read_nope(l4_model *m, reader *r)
{
    int64_t n = length(r, "no_rope_layers");
    int64_t interval = integer(r, "no_rope_layer_interval", 4);
    char key[64];
    if (n > 0 && n != m->layers) {
        r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                        "llama4: no_rope_layers in config.json has %lld entries for %lld layers",
                        (long long)n, (long long)m->layers);
        return;
    }
    for (int64_t i = 0; i < m->layers; i++) {
        snprintf(key, sizeof key, "no_rope_layers.%lld", (long long)i);
        m->nope[i] = n > 0 ? integer(r, key, 1) == 0 : interval > 0 && (i + 1) % interval == 0;
    }
    /* an explicit mask pattern must be the one that goes with the positions */
    for (int64_t i = 0; i < m->layers && length(r, "layer_types") > 0; i++) {
        snprintf(key, sizeof key, "layer_types.%lld", (long long)i);
        const char *type = text(r, key);
        if (type && !r->st && !!strcmp(type, "chunked_attention") != m->nope[i])
            r->st = mr_fail(r->err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                            "llama4: layer %lld %s rotary positions, yet its type in config.json "
                            "is \"%s\"",
                            (long long)i, m->nope[i] ? "has no" : "has", type);
    }
}

static void read_moe(l4_model *m, reader *r)
{
    int64_t n = length(r, "moe_layers");
    int64_t step = integer(r, "interleave_moe_layer_step", 1);
    char key[64];
    for (int64_t i = 0; n < 0 && i < m->layers; i++)
        m->moe[i] = step > 0 && (i + 1) % step == 0;
    for (int64_t i = 0; i < n && !r->st; i++) {
        snprintf(key, sizeof key, "moe_layers.%lld", (long long)i);
        int64_t layer = integer(r, key, -1);
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
    reader r = { js, json, "", err, 0 };
    if (has(&r, "text_config")) {
        r.at = "text_config.";
        m->prefix = "language_model.";
    }
    const char *type = text(&r, "model_type");
    if (type && strcmp(type, "llama4_text") && strcmp(type, "llama4")) {
        mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                "llama4: config.json is of model type \"%s\"", type);
        mr_hint(err, "choose the model plugin of that type in [model] plugin");
        return MR_E_MODEL_CONFIG;
    }
    const char *act = text(&r, "hidden_act");
    if (act && strcmp(act, "silu"))
        return mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                       "llama4: hidden_act \"%s\" in config.json is not silu", act);
    read_sizes(m, &r);
    read_rope(m, &r);
    if (!r.st)
        r.st = l4_layer_marks(m, err);
    if (!r.st)
        read_nope(m, &r);
    if (!r.st)
        read_moe(m, &r);
    return r.st;
}

/* ---- writing -------------------------------------------------------------------------- */
typedef struct writer {
    char *s;
    uint64_t cap, n; /* n counts on past cap, so that the error can say what is needed */
} writer;

static void put(writer *w, const char *fmt, ...) MR_PRINTF(2, 3);

static void put(writer *w, const char *fmt, ...)
{
    bool room = w->n < w->cap;
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(room ? w->s + w->n : NULL, room ? w->cap - w->n : 0, fmt, ap);
    va_end(ap);
    w->n += n > 0 ? (uint64_t)n : 0;
}

/* the shortest text that reads back as v, and that reads as a real number */
static void put_real(writer *w, const char *key, double v, const char *end)
{
    char text[40];
    for (int digits = 6; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, v);
        if (strtod(text, NULL) == v)
            break;
    }
    put(w, "\"%s\": %s%s%s", key, text, strpbrk(text, ".e") ? "" : ".0", end);
}

static const char *boolean(bool b)
{
    return b ? "true" : "false";
}

static void put_layers(writer *w, const l4_model *m)
{
    const char *sep = "";
    put(w, "  \"no_rope_layers\": [");
    for (int64_t i = 0; i < m->layers; i++)
        put(w, "%s%d", i ? ", " : "", !m->nope[i]);
    put(w, "],\n  \"moe_layers\": [");
    for (int64_t i = 0; i < m->layers; i++)
        if (m->moe[i]) {
            put(w, "%s%lld", sep, (long long)i);
            sep = ", ";
        }
    put(w, "],\n");
}

mr_status l4_write_hf(const l4_model *m, char *json, uint64_t cap, mr_err *err)
{
    writer w = { json, cap, 0 };
    const struct {
        const char *key;
        int64_t v;
    } ints[] = {
        { "vocab_size", m->vocab },
        { "hidden_size", m->hidden },
        { "num_hidden_layers", m->layers },
        { "num_attention_heads", m->heads },
        { "num_key_value_heads", m->kv_heads },
        { "head_dim", m->head_dim },
        { "intermediate_size", m->expert_hidden ? m->expert_hidden : m->dense_hidden },
        { "intermediate_size_mlp", m->dense_hidden ? m->dense_hidden : m->expert_hidden },
        { "num_local_experts", m->experts ? m->experts : 1 },
        { "num_experts_per_tok", m->top_k },
        { "max_position_embeddings", m->max_positions },
        /* it has no word for "no chunks": one chunk that no sequence outgrows */
        { "attention_chunk_size", m->chunk ? m->chunk : m->max_positions },
    };
    if (!m->shared_expert && memchr(m->moe, 1, (size_t)m->layers)) {
        mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                "llama4: Hugging Face's Llama 4 always has a shared expert, this model has none");
        mr_hint(err, "train with shared_expert = true to export the model");
        return MR_E_UNSUPPORTED;
    }
    put(&w, "{\n  \"architectures\": [\"Llama4ForCausalLM\"],\n"
            "  \"model_type\": \"llama4_text\",\n  \"hidden_act\": \"silu\",\n");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        put(&w, "  \"%s\": %lld,\n", ints[i].key, (long long)ints[i].v);
    put(&w, "  \"use_qk_norm\": %s,\n  \"attn_temperature_tuning\": %s,\n", boolean(m->qk_norm),
        boolean(m->temperature));
    put(&w, "  \"floor_scale\": %.17g,\n  ", m->floor_scale); /* a whole number there */
    put_real(&w, "attn_scale", m->attn_scale, ",\n");
    put_layers(&w, m);
    put(&w, "  ");
    put_real(&w, "rope_theta", m->rope_theta, ",\n  ");
    if (m->rope_factor == 1) {
        put(&w, "\"rope_scaling\": null,\n  ");
    } else {
        put(&w, "\"rope_scaling\": {\"rope_type\": \"llama3\", ");
        put_real(&w, "factor", m->rope_factor, ", ");
        put_real(&w, "low_freq_factor", m->rope_low, ", ");
        put_real(&w, "high_freq_factor", m->rope_high, ", ");
        put(&w, "\"original_max_position_embeddings\": %lld},\n  ", (long long)m->rope_original);
    }
    put_real(&w, "rms_norm_eps", m->eps, ",\n  ");
    put_real(&w, "initializer_range", m->init_std, ",\n");
    put(&w, "  \"attention_bias\": %s,\n  \"tie_word_embeddings\": %s\n}\n", boolean(m->bias),
        boolean(m->tie));
    if (w.n >= cap)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST,
                       "llama4: config.json takes %llu bytes, the buffer has %llu",
                       (unsigned long long)w.n + 1, (unsigned long long)cap);
    return 0;
}
