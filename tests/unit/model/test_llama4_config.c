/* SPDX-License-Identifier: Apache-2.0
 * A model is what its profile or config.json says, in any spelling; contradictions are one
 * clear error. */
#include "fake.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TINY                                                                                       \
    "layers=4 hidden=24 heads=4 kv_heads=2 head_dim=8 ffn_hidden=36 vocab=50 experts=4 "           \
    "expert_hidden=20 moe_step=2 attention_chunk=8 floor_scale=4 rope_theta=10000 "

#define JSON_SIZES                                                                                 \
    "\"vocab_size\": 50, \"hidden_size\": 24, \"intermediate_size\": 20, "                         \
    "\"intermediate_size_mlp\": 36, \"num_hidden_layers\": 4, \"num_attention_heads\": 4, "        \
    "\"num_key_value_heads\": 2, \"head_dim\": 8, \"num_local_experts\": 4, "                      \
    "\"interleave_moe_layer_step\": 2, \"attention_chunk_size\": 8, \"floor_scale\": 4"
#define V4_ROPE                                                                                    \
    "\"rope_theta\": 10000.0, \"rope_scaling\": {\"type\": \"llama3\", \"factor\": 16.0, "         \
    "\"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "                                        \
    "\"original_max_position_embeddings\": 128}"
#define V5_ROPE                                                                                    \
    "\"rope_parameters\": {\"rope_type\": \"llama3\", \"rope_theta\": 10000.0, "                   \
    "\"factor\": 16.0, \"low_freq_factor\": 1.0, \"high_freq_factor\": 4.0, "                      \
    "\"original_max_position_embeddings\": 128}"
#define INI_ROPE                                                                                   \
    "rope_factor=16 rope_low_freq_factor=1 rope_high_freq_factor=4 "                               \
    "rope_original_max_positions=128 "

static char *described(const char *sizes, const char *json)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, fk_llama4(), sizes, json, &err), 0, "%s", err.what);
    char *text = fk_describe(&m, "train");
    fk_close(&m);
    return text;
}

Test(llama4_config, every_spelling_gives_one_model)
{
    char *ini = described(TINY INI_ROPE, NULL);
    char *v4 = described("", "{" JSON_SIZES ", " V4_ROPE "}");
    char *v5 = described("", "{" JSON_SIZES ", " V5_ROPE "}");
    char *pattern = described("", "{" JSON_SIZES ", " V5_ROPE ", \"moe_layers\": [1, 3], "
                                  "\"no_rope_layers\": [1, 1, 1, 0], \"layer_types\": "
                                  "[\"chunked_attention\", \"chunked_attention\", "
                                  "\"chunked_attention\", \"full_attention\"]}");
    char *old = described("", "{" JSON_SIZES ", " V4_ROPE ", \"attn_temperature_tuning\": 4, "
                              "\"no_rope_layers\": [], \"model_type\": \"llama4_text\"}");
    cr_assert_str_eq(ini, v4);
    cr_assert_str_eq(v4, v5);
    cr_assert_str_eq(v4, pattern);
    cr_assert_str_eq(v4, old);
    free(ini), free(v4), free(v5), free(pattern), free(old);
}

Test(llama4_config, multimodal_file_prefixes_every_name)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, fk_llama4(), "",
                         "{\"model_type\": \"llama4\", \"text_config\": {\"model_type\": "
                         "\"llama4_text\", " JSON_SIZES ", \"tie_word_embeddings\": true}}",
                         &err),
                 0, "%s", err.what);
    for (size_t i = 0; i < m.as.at.n; i++)
        cr_assert_eq(strncmp(m.as.at.v[i].prefix, "language_model.", 15), 0);
    cr_assert_str_eq(m.as.bound_to.v[0], "language_model.model.embed_tokens.weight");
    fk_close(&m);
}

Test(llama4_config, a_bare_file_has_the_class_defaults_of_scout)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    mr_model_info info = { .size = sizeof info };
    cr_assert_eq(fk_open(&m, fk_llama4(), "", "{\"model_type\": \"llama4_text\"}", &err), 0);
    cr_assert_eq(m.ops->info(m.model, &info, &err), 0);
    cr_assert(info.vocab == 202048 && info.layers == 48 && info.hidden == 5120);
    cr_assert_str_eq(m.as.at.v[4].kind, "layer.moe.nope");
    char *all = fk_parameters(&m);
    cr_assert(strstr(all, "model.layers.47.feed_forward.experts.gate_up_proj [16,5120,16384]\n"));
    free(all);
    fk_close(&m);
}

Test(llama4_config, published_models_have_their_parameter_counts)
{
    static const struct {
        const char *json;
        long long want;
    } row[] = {
        { "{\"num_local_experts\": 16}", 107769861120 },
        { "{\"num_local_experts\": 128, \"interleave_moe_layer_step\": 2, \"use_qk_norm\": false}",
          400711848960 },
    };
    for (size_t i = 0; i < 2; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(fk_open(&m, fk_llama4(), "", row[i].json, &err), 0, "%s", err.what);
        char *all = fk_parameters(&m);
        cr_assert_eq(fk_elements(all), row[i].want, "%lld", fk_elements(all));
        free(all);
        fk_close(&m);
    }
}

Test(llama4_config, scout_stretches_the_last_29_frequencies)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, fk_llama4(), "",
                         "{\"rope_theta\": 500000.0, \"rope_scaling\": {\"rope_type\": "
                         "\"llama3\", \"factor\": 16.0, \"low_freq_factor\": 1.0, "
                         "\"high_freq_factor\": 1.0, \"original_max_position_embeddings\": 8192}}",
                         &err),
                 0);
    mr_prog *p = fk_build(&m, "layer.moe.rope", "infer", 4);
    const mr_attr *f = fk_attr(fk_find(p, "rope", 0), "inv_freq");
    cr_assert_eq(f->n, 64);
    for (int k = 0; k < 64; k++) {
        double want = pow(500000.0, -2.0 * k / 128) / (k < 35 ? 1 : 16);
        cr_assert_float_eq(f->u.fs[k] / want, 1, 1e-14, "frequency %d", k);
    }
    fk_free(p);
    fk_close(&m);
}

/* What transformers takes from a key that is null or not there, and which spelling goes first. */
Test(llama4_config, nulls_and_spellings_mean_what_they_mean_to_transformers)
{
    static const char *const same[][2] = {
        { "\"head_dim\": null", "\"head_dim\": 6" },
        { "\"attention_chunk_size\": null", "\"attention_chunk_size\": 0" },
        { "\"num_key_value_heads\": null", "\"num_key_value_heads\": 8" },
        { "\"pad_token_id\": null", "\"bos_token_id\": 3" },
        { "\"pad_token_id\": -1", "\"pad_token_id\": 49" },
        { "\"rope_scaling\": {\"rope_type\": \"default\", \"rope_theta\": 7}, "
          "\"rope_parameters\": {\"rope_type\": \"linear\"}",
          "\"rope_theta\": 7" },
        { "\"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 2, \"low_freq_factor\": 1, "
          "\"high_freq_factor\": 4, \"original_max_position_embeddings\": 64}",
          "\"max_position_embeddings\": 64, \"rope_scaling\": {\"rope_type\": \"llama3\", "
          "\"factor\": 2, \"low_freq_factor\": 1, \"high_freq_factor\": 4}" },
    };
    for (size_t i = 0; i < sizeof same / sizeof *same; i++) {
        char *text[2];
        for (int k = 0; k < 2; k++) {
            char *json = mri_format("{\"vocab_size\": 50, \"hidden_size\": 48, "
                                    "\"num_attention_heads\": 8, \"num_hidden_layers\": 1, %s}",
                                    same[i][k]);
            text[k] = described("", json);
            free(json);
        }
        cr_assert_str_eq(text[0], text[1], "%s", same[i][0]);
        free(text[0]), free(text[1]);
    }
}

Test(llama4_config, written_config_reads_back_as_the_same_model)
{
    static const char *const row[] = {
        TINY,
        TINY INI_ROPE "tie=true attention_bias=true",
        TINY "qk_norm=false attn_temperature=false nope_layers=1,2 experts_per_token=3",
        TINY "experts=0 nope_interval=0",
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        char json[4096];
        cr_assert_eq(fk_open(&m, fk_llama4(), row[i], NULL, &err), 0, "%s", err.what);
        cr_assert_eq(m.ops->hf_config(m.model, json, sizeof json, &err), 0, "%s", err.what);
        cr_assert_eq(m.ops->hf_config(m.model, json, strlen(json) + 1, &err), 0, "exact fit");
        cr_assert_eq(m.ops->hf_config(m.model, (char[64]) { 0 }, 64, &err), MR_E_ARG);
        char *ours = fk_describe(&m, "train"), *read = described("", json);
        cr_assert_str_eq(ours, read);
        free(ours), free(read);
        fk_close(&m);
    }
}

Test(llama4_config, a_model_without_shared_expert_cannot_be_exported)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    char json[4096];
    cr_assert_eq(fk_open(&m, fk_llama4(), TINY "shared_expert=false", NULL, &err), 0);
    cr_assert_eq(m.ops->hf_config(m.model, json, sizeof json, &err), MR_E_UNSUPPORTED);
    fk_close(&m);
}

/* a profile or a config.json that cannot be: what the one error must name */
static const struct {
    const char *sizes, *json, *want;
} contradiction[] = {
    { "", NULL, "layers = 0" },
    { TINY "vocab=0", NULL, "vocab is 0" },
    { TINY "heads=5", NULL, "heads = 5 is not a multiple of kv_heads = 2" },
    { TINY "head_dim=7", NULL, "head_dim = 7 is odd" },
    { TINY "head_dim=0 heads=5 kv_heads=5", NULL, "hidden = 24 is not a multiple of heads = 5" },
    { TINY "experts_per_token=5", NULL, "experts_per_token = 5 is outside 1..4" },
    { TINY "ffn_hidden=0", NULL, "ffn_hidden" },
    { TINY "ffn_hidden=0 expert_hidden=0 moe_step=1", NULL, "expert_hidden is 0" },
    { TINY "nope_layers=1,4", NULL, "nope_layers names layer \"4\", the model has 4 layers" },
    { TINY "nope_layers=x", NULL, "\"x\"" },
    { TINY "rope_factor=8 rope_low_freq_factor=4 rope_high_freq_factor=1", NULL,
      "rope_low_freq_factor = 4" },
    { TINY "rope_factor=0.5", NULL, "rope_factor = 0.5" },
    { TINY "vocab=3000000000", NULL, "vocab is 3000000000" },
    { TINY "vocab=2147483648 hidden=2147483648", NULL, "too large to address" },
    { "hidden=32", "{" JSON_SIZES "}", "[model] hidden = 32 contradicts config.json" },
    { "", "{" JSON_SIZES ", \"rope_scaling\": {\"rope_type\": \"yarn\"}}",
      "rope_scaling.rope_type = yarn" },
    { "", "{" JSON_SIZES ", \"rope_scaling\": {\"rope_type\": \"llama3\", \"factor\": 8}}",
      "without rope_scaling.low_freq_factor" },
    { "", "{" JSON_SIZES ", \"partial_rotary_factor\": 0.5}", "partial_rotary_factor = 0.5" },
    { "", "{" JSON_SIZES ", \"attention_dropout\": 0.1}", "attention_dropout = 0.1" },
    { "", "{" JSON_SIZES ", \"pad_token_id\": 100000}", "pad_token_id = 100000" },
    { "",
      "{" JSON_SIZES ", \"layer_types\": [\"chunked_attention\", \"chunked_attention\", "
      "\"chunked_attention\", \"sliding_attention\"]}",
      "layer 3 has no rotary positions" },
    { "", "{" JSON_SIZES ", \"moe_layers\": [0, 4]}", "moe_layers in config.json names layer 4" },
    { "", "{" JSON_SIZES ", \"no_rope_layers\": [1, 0]}", "2 entries for 4 layers" },
    { "",
      "{" JSON_SIZES ", \"layer_types\": [\"full_attention\", \"full_attention\", "
      "\"full_attention\", \"full_attention\"]}",
      "layer 0 has rotary positions" },
    { "", "{" JSON_SIZES ", \"hidden_act\": \"gelu\"}", "hidden_act \"gelu\"" },
    { "", "{\"model_type\": \"qwen3\"}", "model type \"qwen3\"" },
    { "", "{\"hidden_size\": \"large\"}", "hidden_size in config.json is not a number" },
    { "", "{\"num_hidden_layers\": 2.5}", "num_hidden_layers = 2.5" },
    { "", "{\"num_hidden_layers\": -1}", "layers = -1" },
    { "", "{\"num_hidden_layers\": 1e300}", "num_hidden_layers = 1e+300" },
};

Test(llama4_config, contradictions_are_one_clear_error)
{
    for (size_t i = 0; i < sizeof contradiction / sizeof *contradiction; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        mr_status st =
            fk_open(&m, fk_llama4(), contradiction[i].sizes, contradiction[i].json, &err);
        cr_assert_eq(st, MR_E_MODEL_CONFIG, "%s: status %d", contradiction[i].want, st);
        cr_assert(strstr(err.what, contradiction[i].want), "wanted \"%s\" in \"%s\"",
                  contradiction[i].want, err.what);
        cr_assert_eq(err.blame, MR_BLAME_USER);
        cr_assert_null(m.model);
        fk_close(&m);
    }
}
