/* SPDX-License-Identifier: Apache-2.0
 * A model of the Kimi-K2 family is what its profile or config.json says, in any spelling; what
 * contradicts itself, or is not this family's, is one clear error. */
#include "fake.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TINY                                                                                       \
    "layers=3 hidden=24 heads=3 ffn_hidden=36 vocab=50 rope_theta=10000 q_lora_rank=14 "           \
    "kv_lora_rank=10 nope_dim=6 rope_dim=8 value_dim=5 experts=8 expert_hidden=10 groups=2 "       \
    "experts_per_token=2 routed_scale=2.5 "
#define JSON_SIZES                                                                                 \
    "\"vocab_size\": 50, \"hidden_size\": 24, \"intermediate_size\": 36, "                         \
    "\"moe_intermediate_size\": 10, \"num_hidden_layers\": 3, \"num_attention_heads\": 3, "        \
    "\"num_key_value_heads\": 3, \"q_lora_rank\": 14, \"kv_lora_rank\": 10, "                      \
    "\"qk_nope_head_dim\": 6, \"qk_rope_head_dim\": 8, \"v_head_dim\": 5, "                        \
    "\"n_routed_experts\": 8, \"num_experts_per_tok\": 2, \"first_k_dense_replace\": 1, "          \
    "\"n_group\": 2, \"topk_group\": 1"
#define YARN                                                                                       \
    "\"factor\": 4.0, \"beta_fast\": 32.0, \"beta_slow\": 1.0, \"mscale\": 1.0, "                  \
    "\"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 256"
#define V4_ROPE "\"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"yarn\", " YARN "}"
#define V5_ROPE                                                                                    \
    "\"rope_parameters\": {\"rope_type\": \"yarn\", \"rope_theta\": 10000.0, " YARN "}"
#define INI_ROPE                                                                                   \
    "rope_factor=4 beta_fast=32 rope_original_max_positions=256 mscale=1 mscale_all_dim=1 "

static char *described(const char *sizes, const char *json)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, fk_kimi_k2(), sizes, json, &err), 0, "%s", err.what);
    char *text = fk_describe(&m, "train");
    fk_close(&m);
    return text;
}

Test(kimi_k2_config, every_spelling_gives_one_model)
{
    char *ini = described(TINY INI_ROPE, NULL);
    char *v4 = described("", "{" JSON_SIZES ", " V4_ROPE "}");
    char *v5 = described("", "{" JSON_SIZES ", " V5_ROPE "}");
    char *kimi = described("", "{\"model_type\": \"kimi_k2\", \"topk_method\": \"noaux_tc\", "
                               "\"scoring_func\": \"sigmoid\", \"moe_layer_freq\": 1, "
                               "\"num_nextn_predict_layers\": 1, " JSON_SIZES ", " V4_ROPE "}");
    cr_assert_str_eq(ini, v4);
    cr_assert_str_eq(v4, v5);
    cr_assert_str_eq(v4, kimi);
    free(ini), free(v4), free(v5), free(kimi);
}

Test(kimi_k2_config, no_latent_of_queries_is_null_and_not_left_out)
{
    char *none = described("", "{\"q_lora_rank\": null, \"num_hidden_layers\": 1, "
                               "\"first_k_dense_replace\": 1}");
    char *left_out = described("", "{\"num_hidden_layers\": 1, \"first_k_dense_replace\": 1}");
    cr_assert(strstr(none, "self_attn.q_proj.weight"));
    cr_assert(strstr(left_out, "self_attn.q_a_proj.weight"));
    free(none), free(left_out);
}

Test(kimi_k2_config, multimodal_file_prefixes_every_name)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, fk_kimi_k2(), "",
                         "{\"model_type\": \"kimi_k25\", \"text_config\": {\"model_type\": "
                         "\"kimi_k2\", " JSON_SIZES "}}", &err), 0, "%s", err.what);
    for (size_t i = 0; i < m.as.at.n; i++)
        cr_assert_eq(strncmp(m.as.at.v[i].prefix, "language_model.", 15), 0);
    fk_close(&m);
}

#define KIMI                                                                                       \
    "{\"model_type\": \"kimi_k2\", \"vocab_size\": 163840, \"num_attention_heads\": 64, "          \
    "\"num_key_value_heads\": 64, \"n_routed_experts\": 384, \"first_k_dense_replace\": 1, "       \
    "\"n_group\": 1, \"topk_group\": 1, \"routed_scaling_factor\": 2.827, "                        \
    "\"rope_theta\": 50000.0, \"rope_scaling\": {\"type\": \"yarn\", \"factor\": 32.0, "           \
    "\"beta_fast\": 1.0, \"beta_slow\": 1.0, \"mscale\": 1.0, \"mscale_all_dim\": 1.0, "           \
    "\"original_max_position_embeddings\": 4096}}"
#define DEEPSEEK_V3                                                                                \
    "{\"model_type\": \"deepseek_v3\", \"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": "     \
    "\"yarn\", \"factor\": 40.0, \"beta_fast\": 32.0, \"beta_slow\": 1.0, \"mscale\": 1.0, "       \
    "\"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096}}"

static const struct {
    const char *name, *json;
    long long parameters; /* correction biases included */
    double theta, factor, scale;
    int low, high; /* pairs up to `low` keep their frequency, from `high` on they are slowed */
} published[] = {
    { "Kimi-K2", KIMI, 1026408232448, 5e4, 32, 0.1308608, 19, 20 },
    { "DeepSeek-V3", DEEPSEEK_V3, 671026419200, 1e4, 40, 0.1352338, 10, 23 },
};

Test(kimi_k2_config, published_models_have_their_counts_scales_and_frequencies)
{
    for (size_t i = 0; i < 2; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(fk_open(&m, fk_kimi_k2(), "", published[i].json, &err), 0, "%s", err.what);
        char *all = fk_parameters(&m);
        cr_assert_eq(fk_elements(all), published[i].parameters, "%s: %lld", published[i].name,
                     fk_elements(all));
        free(all);
        mr_prog *p = fk_build(&m, "layer.moe", "infer", 4);
        cr_assert_float_eq(fk_attr(fk_find(p, "attention", 0), "scale")->u.f, published[i].scale,
                           1e-7);
        const fk_op *turn = fk_find(p, "rope_tail", 0);
        const mr_attr *f = fk_attr(turn, "inv_freq");
        cr_assert_eq(fk_attr(turn, "factor")->u.f, 1);
        cr_assert_eq(f->n, 32);
        for (int k = 0; k < 32; k++) {
            double plain = pow(published[i].theta, -2.0 * k / 64);
            double slow = plain / published[i].factor;
            double r = (k - published[i].low) / (double)(published[i].high - published[i].low);
            r = r < 0 ? 0 : r > 1 ? 1 : r;
            cr_assert_float_eq(f->u.fs[k] / (slow * r + plain * (1 - r)), 1, 1e-14,
                               "%s, frequency %d", published[i].name, k);
        }
        fk_free(p);
        fk_close(&m);
    }
}

/* What transformers takes from a key that is null, unwise, or not there. */
Test(kimi_k2_config, small_models_and_nulls_mean_what_they_mean_to_transformers)
{
#define SMALL "{\"vocab_size\": 50, \"hidden_size\": 24, \"num_attention_heads\": 4, " \
              "\"num_key_value_heads\": 4, \"num_hidden_layers\": 2, \"n_routed_experts\": 4, "
    static const char *const same[][2] = {
        { SMALL "\"n_group\": 1}", SMALL "\"first_k_dense_replace\": 2}" }, /* 3 by default */
        { SMALL "\"norm_topk_prob\": null}", SMALL "\"norm_topk_prob\": false}" },
        { SMALL "\"pad_token_id\": -50}", SMALL "\"pad_token_id\": 0}" },
        { SMALL "\"first_k_dense_replace\": 0, \"n_group\": 2, \"topk_group\": 1, "
                "\"num_experts_per_tok\": 4}",
          SMALL "\"first_k_dense_replace\": 0, \"n_group\": 1, \"topk_group\": 1, "
                "\"num_experts_per_tok\": 4}" }, /* all experts: groups do not matter */
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        char *a = described("", same[i][0]), *b = described("", same[i][1]);
        cr_assert_str_eq(a, b, "%s", same[i][0]);
        free(a), free(b);
    }
    free(described("", SMALL "\"first_k_dense_replace\": 0, \"n_group\": 1, \"topk_group\": 1, "
                       "\"num_experts_per_tok\": 1}"));
}

Test(kimi_k2_config, written_config_reads_back_as_the_same_model)
{
    static const char *const row[] = {
        TINY,
        TINY INI_ROPE "tie=true attention_bias=true",
        TINY "q_lora_rank=0 first_dense=0 norm_topk=false shared_experts=2",
        TINY INI_ROPE "mscale_all_dim=0 groups=1 experts_per_token=3",
        TINY "experts=0",
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        char json[4096];
        cr_assert_eq(fk_open(&m, fk_kimi_k2(), row[i], NULL, &err), 0, "%s", err.what);
        cr_assert_eq(m.ops->hf_config(m.model, json, sizeof json, &err), 0, "%s", err.what);
        cr_assert_eq(m.ops->hf_config(m.model, json, strlen(json) + 1, &err), 0, "exact fit");
        cr_assert_eq(m.ops->hf_config(m.model, (char[64]){ 0 }, 64, &err), MR_E_ARG);
        char *ours = fk_describe(&m, "train"), *read = described("", json);
        cr_assert_str_eq(ours, read);
        free(ours), free(read);
        fk_close(&m);
    }
}

Test(kimi_k2_config, what_hugging_face_cannot_say_is_not_exported)
{
    static const char *const row[] = { TINY "shared_experts=0", TINY "latent_norm_eps=1e-5" };
    for (size_t i = 0; i < 2; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        char json[4096];
        cr_assert_eq(fk_open(&m, fk_kimi_k2(), row[i], NULL, &err), 0);
        cr_assert_eq(m.ops->hf_config(m.model, json, sizeof json, &err), MR_E_UNSUPPORTED);
        fk_close(&m);
    }
}

/* a profile or a config.json that cannot be: what the one error must name */
static const struct {
    const char *sizes, *json, *want;
} contradiction[] = {
    { "", NULL, "layers is 0" },
    { TINY "vocab=0", NULL, "vocab is 0" },
    { TINY "kv_heads=1", NULL, "kv_heads = 1" },
    { TINY "head_dim=8", NULL, "head_dim = 8, the model has 14" },
    { TINY "rope_dim=7", NULL, "rope_dim = 7 is odd" },
    { TINY "first_dense=4", NULL, "first_dense is 4, it must be from 0 to 3" },
    { TINY "ffn_hidden=0", NULL, "ffn_hidden" },
    { TINY "experts_per_token=9", NULL, "experts_per_token = 9 is outside 1..8" },
    { TINY "experts_per_token=1", NULL, "experts_per_token = 1 with norm_topk" },
    { TINY "groups=3", NULL, "groups = 3 does not divide experts = 8" },
    { TINY "groups=8", NULL, "groups = 8 leaves one expert" },
    { TINY "group_topk=3", NULL, "group_topk = 3 is outside 1..2" },
    { TINY "experts_per_token=5", NULL, "groups that a token may use hold 4" },
    { TINY "routed_scale=0", NULL, "routed_scale = 0" },
    { TINY "rope_factor=0.5", NULL, "rope_factor = 0.5" },
    { TINY "rope_factor=4 beta_fast=1 beta_slow=2", NULL, "beta_slow = 2" },
    { TINY "rope_theta=1", NULL, "rope_theta = 1" },
    { TINY "vocab=2147483648 hidden=2147483648", NULL, "too large to address" },
    { "hidden=32", "{" JSON_SIZES "}", "[model] hidden = 32, the model has 24" },
    { "", "{" JSON_SIZES ", \"rope_scaling\": {\"rope_type\": \"linear\"}}", "= linear" },
    { "", "{" JSON_SIZES ", \"rope_interleave\": false}", "rope_interleave = 0" },
    { "", "{" JSON_SIZES ", \"moe_layer_freq\": 2}", "moe_layer_freq = 2" },
    { "", "{" JSON_SIZES ", \"attention_dropout\": 0.1}", "attention_dropout = 0.1" },
    { "", "{" JSON_SIZES ", \"partial_rotary_factor\": 0.5}", "partial_rotary_factor = 0.5" },
    { "", "{" JSON_SIZES ", \"pad_token_id\": -100000}", "pad_token_id = -100000" },
    { "", "{" JSON_SIZES ", \"topk_method\": \"greedy\"}", "topk_method = greedy" },
    { "", "{" JSON_SIZES ", \"scoring_func\": \"softmax\"}", "scoring_func = softmax" },
    { "", "{" JSON_SIZES ", \"hidden_act\": \"gelu\"}", "hidden_act = gelu" },
    { "", "{\"num_attention_heads\": 8, \"num_key_value_heads\": 2}", "num_key_value_heads = 2" },
    { "", "{\"model_type\": \"deepseek_v2\"}", "model type \"deepseek_v2\"" },
    { "", "{\"kv_lora_rank\": \"large\"}", "kv_lora_rank in config.json is not a number" },
    { "", "{\"n_routed_experts\": 2.5}", "n_routed_experts = 2.5" },
    { "", "{\"num_hidden_layers\": -1}", "layers is -1" },
    { "", "{\"num_hidden_layers\": 1e300}", "num_hidden_layers = 1e+300" },
};

Test(kimi_k2_config, contradictions_are_one_clear_error)
{
    for (size_t i = 0; i < sizeof contradiction / sizeof *contradiction; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        mr_status st =
            fk_open(&m, fk_kimi_k2(), contradiction[i].sizes, contradiction[i].json, &err);
        cr_assert_eq(st, MR_E_MODEL_CONFIG, "%s: status %d", contradiction[i].want, st);
        cr_assert(strstr(err.what, contradiction[i].want), "wanted \"%s\" in \"%s\"",
                  contradiction[i].want, err.what);
        cr_assert_eq(err.blame, MR_BLAME_USER);
        cr_assert_null(m.model);
        fk_close(&m);
    }
}
