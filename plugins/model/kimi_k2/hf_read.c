/* SPDX-License-Identifier: Apache-2.0
 *
 * hf_read.c - a model from Hugging Face's config.json of model type deepseek_v3 or kimi_k2, at
 * the top or as the text_config of a multimodal file; rope keys as transformers 4.x (rope_theta,
 * rope_scaling) or 5.x (rope_parameters) spells them. A key that the file leaves out has the
 * class default of DeepseekV3Config. What this family does not compute is refused by name.
 */
#include "../hf.h"
#include "kimi_k2.h"

static void read_sizes(k2_model *m, hf_reader *r)
{
    m->layers = hf_integer(r, "num_hidden_layers", 61);
    m->hidden = hf_integer(r, "hidden_size", 7168);
    m->heads = hf_integer(r, "num_attention_heads", 128);
    m->vocab = hf_integer(r, "vocab_size", 129280);
    m->max_positions = hf_integer(r, "max_position_embeddings", 4096);
    m->q_rank = hf_null(r, "q_lora_rank") ? 0 : hf_integer(r, "q_lora_rank", 1536);
    m->kv_rank = hf_integer(r, "kv_lora_rank", 512);
    m->nope = hf_integer(r, "qk_nope_head_dim", 128);
    m->rope = hf_integer(r, "qk_rope_head_dim", 64);
    m->value = hf_integer(r, "v_head_dim", 128);
    m->dense_hidden = hf_integer(r, "intermediate_size", 18432);
    m->expert_hidden = hf_integer(r, "moe_intermediate_size", 2048);
    m->experts = hf_integer(r, "n_routed_experts", hf_integer(r, "num_local_experts", 256));
    m->top_k = hf_integer(r, "num_experts_per_tok", 8);
    m->shared = hf_null(r, "n_shared_experts") ? 0 : hf_integer(r, "n_shared_experts", 1);
    m->first_dense = hf_integer(r, "first_k_dense_replace", 3);
    if (m->first_dense > m->layers) /* the class default is more than a small model has */
        m->first_dense = m->layers;
    m->groups = hf_integer(r, "n_group", 8);
    m->group_topk = hf_integer(r, "topk_group", 4);
    m->routed_scale = hf_number(r, "routed_scaling_factor", 2.5);
    m->norm_topk = !hf_null(r, "norm_topk_prob") && hf_number(r, "norm_topk_prob", 1) != 0;
    m->eps = hf_number(r, "rms_norm_eps", 1e-6);
    m->latent_eps = 1e-6; /* whatever rms_norm_eps is */
    m->init_std = hf_number(r, "initializer_range", 0.02);
    m->bias = hf_number(r, "attention_bias", 0) != 0;
    m->tie = hf_number(r, "tie_word_embeddings", 0) != 0;
    m->mtp_layers = hf_integer(r, "num_nextn_predict_layers", 0);
    m->pad = hf_pad(r, m->vocab);
}

/* keys with one word, or one number, that the family computes */
static void read_choices(const k2_model *m, hf_reader *r)
{
    static const struct {
        const char *key, *only;
    } word[] = {
        { "hidden_act", "silu" },
        { "scoring_func", "sigmoid" },
        { "topk_method", "noaux_tc" },
    };
    const struct {
        const char *key;
        double only;
        const char *hint;
    } number[] = {
        { "moe_layer_freq", 1, "every layer from first_k_dense_replace on must have experts" },
        { "num_key_value_heads", (double)m->heads, "it must be num_attention_heads" },
        { "rope_interleave", 1, "rotary pairs must be neighbours, as DeepSeek stores them" },
        { "attention_dropout", 0, "nothing is dropped: set it to 0" },
    };
    char hint[64];
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) {
        const char *s = hf_text(r, word[i].key);
        snprintf(hint, sizeof hint, "it has \"%s\"", word[i].only);
        if (s && strcmp(s, word[i].only))
            hf_refuse(r, word[i].key, s, hint);
    }
    for (size_t i = 0; i < sizeof number / sizeof *number; i++)
        hf_only(r, number[i].key, number[i].only, number[i].hint);
}

/* a number, or the default where it is 0 too */
static double positive(hf_reader *r, const char *key, double otherwise)
{
    double v = hf_number(r, key, otherwise);
    return v != 0 ? v : otherwise;
}

/* transformers 5.x keeps all in rope_parameters, 4.x in rope_theta and rope_scaling */
static void read_rope(k2_model *m, hf_reader *r)
{
    const char *in = hf_rope(r);
    char key[64];
#define IN(name) (snprintf(key, sizeof key, "%s.%s", in, name), key)
    m->rope_theta = hf_number(r, "rope_theta", 10000);
    m->rope_theta = hf_number(r, IN("rope_theta"), m->rope_theta);
    m->rope_factor = 1;
    m->beta_fast = 32;
    m->beta_slow = 1;
    m->truncate = true;
    m->rope_original = m->max_positions;
    if (!hf_has(r, in) || r->st)
        return;
    const char *type = hf_text(r, IN("rope_type"));
    if (!type)
        type = hf_text(r, IN("type"));
    if (!type || !strcmp(type, "default"))
        return;
    if (strcmp(type, "yarn")) {
        hf_refuse(r, IN("rope_type"), type, "it has \"default\" and \"yarn\"");
        return;
    }
    m->rope_original = hf_original_context(r, in, m->max_positions);
    m->rope_factor = (double)m->max_positions / (double)(m->rope_original ? m->rope_original : 1);
    m->rope_factor = hf_number(r, IN("factor"), m->rope_factor);
    m->beta_fast = positive(r, IN("beta_fast"), 32);
    m->beta_slow = positive(r, IN("beta_slow"), 1);
    m->mscale = hf_number(r, IN("mscale"), 0);
    m->mscale_all_dim = hf_number(r, IN("mscale_all_dim"), 0);
    m->attention_factor = hf_number(r, IN("attention_factor"), 0);
    m->truncate = hf_number(r, IN("truncate"), 1) != 0;
#undef IN
}

mr_status k2_read_hf(k2_model *m, const mr_json_service *js, const void *json, mr_err *err)
{
    hf_reader r = { js, json, "kimi_k2", "", err, 0 };
    if (hf_has(&r, "text_config")) {
        r.at = "text_config.";
        m->prefix = "language_model.";
    }
    const char *type = hf_text(&r, "model_type");
    if (type && strcmp(type, "deepseek_v3") && strcmp(type, "kimi_k2")) {
        mr_fail(err, MR_E_MODEL_CONFIG, MR_BLAME_USER,
                "kimi_k2: config.json is of model type \"%s\"", type);
        mr_hint(err, "this family takes deepseek_v3 and kimi_k2; choose the model plugin of that "
                     "type in [model] plugin");
        return MR_E_MODEL_CONFIG;
    }
    read_sizes(m, &r);
    read_choices(m, &r);
    read_rope(m, &r);
    return r.st;
}
