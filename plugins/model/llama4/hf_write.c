/* SPDX-License-Identifier: Apache-2.0
 *
 * hf_write.c - the config.json that transformers opens as Llama4ForCausalLM: the 4.x spelling,
 * which 5.x reads too, with the layer pattern spelled out.
 */
#include "llama4.h"
#include <stdio.h>
#include <stdlib.h>

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
