/* SPDX-License-Identifier: Apache-2.0
 *
 * hf_write.c - the config.json that transformers opens as DeepseekV3ForCausalLM, which is what
 * Kimi-K2 is as well: the 4.x spelling, which 5.x reads too.
 */
#include "../hf.h"
#include "kimi_k2.h"

static void put_rope(hf_writer *w, const k2_model *m)
{
    hf_put_real(w, "rope_theta", m->rope_theta, ",\n  ");
    if (m->rope_factor == 1) {
        hf_put(w, "\"rope_scaling\": null,\n  ");
        return;
    }
    hf_put(w, "\"rope_scaling\": {\"rope_type\": \"yarn\", \"type\": \"yarn\", ");
    hf_put_real(w, "factor", m->rope_factor, ", ");
    hf_put_real(w, "beta_fast", m->beta_fast, ", ");
    hf_put_real(w, "beta_slow", m->beta_slow, ", ");
    hf_put_real(w, "mscale", m->mscale, ", ");
    hf_put_real(w, "mscale_all_dim", m->mscale_all_dim, ", ");
    if (m->attention_factor != 0)
        hf_put_real(w, "attention_factor", m->attention_factor, ", ");
    if (!m->truncate)
        hf_put(w, "\"truncate\": false, ");
    hf_put(w, "\"original_max_position_embeddings\": %lld},\n  ", (long long)m->rope_original);
}

static mr_status check(const k2_model *m, mr_err *err)
{
    const char *what = m->latent_eps != 1e-6                     ? "latent_norm_eps = 1e-6"
                       : !m->shared && m->first_dense < m->layers ? "shared_experts = 1 or more"
                                                                  : NULL;
    if (!what)
        return 0;
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
            "kimi_k2: Hugging Face's DeepSeek-V3 has %s always, this model has not", what);
    mr_hint(err, "train with %s to export the model", what);
    return MR_E_UNSUPPORTED;
}

mr_status k2_write_hf(const k2_model *m, char *json, uint64_t cap, mr_err *err)
{
    hf_writer w = { json, cap, 0 };
    bool moe = m->first_dense < m->layers;
    const struct {
        const char *key;
        int64_t v;
    } ints[] = {
        { "vocab_size", m->vocab },
        { "hidden_size", m->hidden },
        { "num_hidden_layers", m->layers },
        { "num_attention_heads", m->heads },
        { "num_key_value_heads", m->heads },
        { "kv_lora_rank", m->kv_rank },
        { "qk_nope_head_dim", m->nope },
        { "qk_rope_head_dim", m->rope },
        { "v_head_dim", m->value },
        { "intermediate_size", m->dense_hidden ? m->dense_hidden : m->expert_hidden },
        { "moe_intermediate_size", m->expert_hidden ? m->expert_hidden : m->dense_hidden },
        { "n_routed_experts", moe ? m->experts : 1 },
        { "num_experts_per_tok", moe ? m->top_k : 1 },
        { "n_shared_experts", moe ? m->shared : 1 },
        { "first_k_dense_replace", m->first_dense },
        { "moe_layer_freq", 1 },
        { "n_group", moe ? m->groups : 1 },
        { "topk_group", moe ? m->group_topk : 1 },
        { "max_position_embeddings", m->max_positions },
        { "num_nextn_predict_layers", k2_predicts_more(m, "train") ? m->mtp_layers : 0 },
    };
    mr_status st = check(m, err);
    if (st)
        return st;
    hf_put(&w, "{\n  \"architectures\": [\"DeepseekV3ForCausalLM\"],\n"
               "  \"model_type\": \"deepseek_v3\",\n  \"hidden_act\": \"silu\",\n"
               "  \"scoring_func\": \"sigmoid\",\n  \"topk_method\": \"noaux_tc\",\n");
    for (size_t i = 0; i < sizeof ints / sizeof *ints; i++)
        hf_put(&w, "  \"%s\": %lld,\n", ints[i].key, (long long)ints[i].v);
    if (m->q_rank)
        hf_put(&w, "  \"q_lora_rank\": %lld,\n", (long long)m->q_rank);
    else
        hf_put(&w, "  \"q_lora_rank\": null,\n");
    hf_put(&w, "  \"norm_topk_prob\": %s,\n  ", hf_boolean(m->norm_topk));
    hf_put_real(&w, "routed_scaling_factor", m->routed_scale, ",\n  ");
    put_rope(&w, m);
    hf_put_real(&w, "rms_norm_eps", m->eps, ",\n  ");
    hf_put_real(&w, "initializer_range", m->init_std, ",\n");
    hf_put(&w, "  \"attention_bias\": %s,\n  \"tie_word_embeddings\": %s\n}\n",
           hf_boolean(m->bias), hf_boolean(m->tie));
    return hf_written(&w, "kimi_k2", err);
}
