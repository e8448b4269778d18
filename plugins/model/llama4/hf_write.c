/* SPDX-License-Identifier: Apache-2.0
 *
 * hf_write.c - the config.json that transformers opens as Llama4ForCausalLM or LlamaForCausalLM:
 * the 4.x spelling, which 5.x reads too, with Llama 4's layer pattern spelled out.
 */
#include "../hf.h"
#include "llama4.h"

static void put_layers(hf_writer *w, const l4_model *m)
{
    const char *sep = "";
    hf_put(w, "  \"no_rope_layers\": [");
    for (int64_t i = 0; i < m->layers; i++)
        hf_put(w, "%s%d", i ? ", " : "", !m->nope[i]);
    hf_put(w, "],\n  \"moe_layers\": [");
    for (int64_t i = 0; i < m->layers; i++)
        if (m->moe[i]) {
            hf_put(w, "%s%lld", sep, (long long)i);
            sep = ", ";
        }
    hf_put(w, "],\n");
}

/* what both families end with */
static void put_rest(hf_writer *w, const l4_model *m)
{
    hf_put(w, "  ");
    hf_put_real(w, "rope_theta", m->rope_theta, ",\n  ");
    if (m->rope_factor == 1) {
        hf_put(w, "\"rope_scaling\": null,\n  ");
    } else {
        hf_put(w, "\"rope_scaling\": {\"rope_type\": \"llama3\", ");
        hf_put_real(w, "factor", m->rope_factor, ", ");
        hf_put_real(w, "low_freq_factor", m->rope_low, ", ");
        hf_put_real(w, "high_freq_factor", m->rope_high, ", ");
        hf_put(w, "\"original_max_position_embeddings\": %lld},\n  ", (long long)m->rope_original);
    }
    hf_put_real(w, "rms_norm_eps", m->eps, ",\n  ");
    hf_put_real(w, "initializer_range", m->init_std, ",\n");
    hf_put(w, "  \"attention_bias\": %s,\n  \"tie_word_embeddings\": %s\n}\n",
           hf_boolean(m->bias), hf_boolean(m->tie));
}

static mr_status write_plain(const l4_model *m, char *json, uint64_t cap, mr_err *err)
{
    hf_writer w = { json, cap, 0 };
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
        { "intermediate_size", m->dense_hidden },
        { "max_position_embeddings", m->max_positions },
    };
    hf_put(&w, "{\n  \"architectures\": [\"LlamaForCausalLM\"],\n"
               "  \"model_type\": \"llama\",\n  \"hidden_act\": \"silu\",\n");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        hf_put(&w, "  \"%s\": %lld,\n", ints[i].key, (long long)ints[i].v);
    put_rest(&w, m);
    return hf_written(&w, "llama", err);
}

mr_status l4_write_hf(const l4_model *m, char *json, uint64_t cap, mr_err *err)
{
    if (m->plain)
        return write_plain(m, json, cap, err);
    hf_writer w = { json, cap, 0 };
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
    hf_put(&w, "{\n  \"architectures\": [\"Llama4ForCausalLM\"],\n"
               "  \"model_type\": \"llama4_text\",\n  \"hidden_act\": \"silu\",\n");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        hf_put(&w, "  \"%s\": %lld,\n", ints[i].key, (long long)ints[i].v);
    hf_put(&w, "  \"use_qk_norm\": %s,\n  \"attn_temperature_tuning\": %s,\n",
           hf_boolean(m->qk_norm), hf_boolean(m->temperature));
    hf_put(&w, "  \"floor_scale\": %.17g,\n  ", m->floor_scale); /* a whole number there */
    hf_put_real(&w, "attn_scale", m->attn_scale, ",\n");
    put_layers(&w, m);
    put_rest(&w, m);
    return hf_written(&w, "llama4", err);
}
