/* SPDX-License-Identifier: Apache-2.0
 * mrun inspect DIR says what the family of a Hugging Face folder makes of it: the published
 * architectures by their counts in both spellings of config.json, names that are missing, of
 * another shape or not read, the scheme of a quantised one. Nothing of it needs weights. */
#include "core/store/quant.h"
#include "tests/unit/jobs/job.h"

static job_result inspect(const job *j, const char *config, const char *option)
{
    char *dir = job_path(j, "hf"), *path = job_path(j, "hf/config.json");
    mkdir(dir, 0777);
    if (config)
        job_write(path, config, strlen(config));
    return job_run(j, "inspect", dir, option);
}

#define LLAMA \
    "\"vocab_size\": 202048, \"hidden_size\": 5120, \"intermediate_size\": 8192, " \
    "\"intermediate_size_mlp\": 16384, \"num_hidden_layers\": 48, \"num_attention_heads\": 40, " \
    "\"num_key_value_heads\": 8, \"head_dim\": 128, \"num_experts_per_tok\": 1, " \
    "\"rms_norm_eps\": 1e-05, \"attention_chunk_size\": 8192, \"floor_scale\": 8192, " \
    "\"attn_scale\": 0.1, \"hidden_act\": \"silu\", \"attention_bias\": false, " \
    "\"no_rope_layer_interval\": 4, \"no_rope_layers\": [], \"tie_word_embeddings\": false, " \
    "\"max_position_embeddings\": 1048576, \"model_type\": \"llama4_text\", "
#define SCOUT LLAMA "\"num_local_experts\": 16, \"interleave_moe_layer_step\": 1, "
#define MAVERICK \
    LLAMA "\"num_local_experts\": 128, \"interleave_moe_layer_step\": 2, \"use_qk_norm\": false, "
#define LLAMA3 \
    "\"rope_type\": \"llama3\", \"factor\": 16.0, \"low_freq_factor\": 1.0, " \
    "\"high_freq_factor\": 1.0, \"original_max_position_embeddings\": 8192"
#define DEEPSEEK \
    "\"architectures\": [\"DeepseekV3ForCausalLM\"], \"hidden_size\": 7168, " \
    "\"num_hidden_layers\": 61, \"q_lora_rank\": 1536, \"kv_lora_rank\": 512, " \
    "\"qk_nope_head_dim\": 128, \"qk_rope_head_dim\": 64, \"v_head_dim\": 128, " \
    "\"intermediate_size\": 18432, \"moe_intermediate_size\": 2048, \"n_shared_experts\": 1, " \
    "\"num_experts_per_tok\": 8, \"moe_layer_freq\": 1, \"scoring_func\": \"sigmoid\", " \
    "\"topk_method\": \"noaux_tc\", \"norm_topk_prob\": true, \"rms_norm_eps\": 1e-06, " \
    "\"hidden_act\": \"silu\", \"num_nextn_predict_layers\": 1, "
#define KIMI \
    DEEPSEEK "\"vocab_size\": 163840, \"num_attention_heads\": 64, \"num_key_value_heads\": 64, " \
    "\"n_routed_experts\": 384, \"first_k_dense_replace\": 1, \"n_group\": 1, \"topk_group\": 1, " \
    "\"routed_scaling_factor\": 2.827, \"max_position_embeddings\": 131072, "
#define V3 \
    DEEPSEEK "\"vocab_size\": 129280, \"num_attention_heads\": 128, " \
    "\"num_key_value_heads\": 128, \"n_routed_experts\": 256, \"first_k_dense_replace\": 3, " \
    "\"n_group\": 8, \"topk_group\": 4, \"routed_scaling_factor\": 2.5, " \
    "\"max_position_embeddings\": 163840, "
#define YARN(factor, fast) \
    "\"factor\": " factor ", \"beta_fast\": " fast ", \"beta_slow\": 1.0, \"mscale\": 1.0, " \
    "\"mscale_all_dim\": 1.0, \"original_max_position_embeddings\": 4096"

static const struct {
    const char *name, *plugin, *v4, *v5; /* by the spelling of transformers 4.x and 5.x */
    long long parameters;
} published[] = {
    { "Scout", "llama4",
      "{\"model_type\": \"llama4\", \"text_config\": {" SCOUT "\"rope_theta\": 500000.0, "
      "\"attn_temperature_tuning\": 4, \"rope_scaling\": {" LLAMA3 "}}}",
      "{\"model_type\": \"llama4\", \"text_config\": {" SCOUT "\"attn_temperature_tuning\": true, "
      "\"rope_parameters\": {\"rope_theta\": 500000.0, " LLAMA3 "}}}", 107769861120 },
    { "Maverick", "llama4", "{" MAVERICK "\"rope_theta\": 500000.0, \"rope_scaling\": null}",
      "{" MAVERICK "\"rope_parameters\": {\"rope_type\": \"default\", \"rope_theta\": 500000.0}}",
      400711848960 },
    { "Kimi-K2", "kimi_k2",
      "{\"model_type\": \"kimi_k2\", " KIMI "\"rope_theta\": 50000.0, \"rope_scaling\": "
      "{\"type\": \"yarn\", " YARN("32.0", "1.0") "}}",
      "{\"model_type\": \"kimi_k2\", " KIMI "\"rope_parameters\": {\"rope_type\": \"yarn\", "
      "\"rope_theta\": 50000.0, " YARN("32.0", "1.0") "}}", 1026408232448 },
    { "DeepSeek-V3", "deepseek_v3",
      "{\"model_type\": \"deepseek_v3\", " V3 "\"rope_theta\": 10000, \"rope_scaling\": "
      "{\"type\": \"yarn\", " YARN("40", "32") "}}",
      "{\"model_type\": \"deepseek_v3\", " V3 "\"rope_parameters\": {\"rope_type\": \"yarn\", "
      "\"rope_theta\": 10000.0, " YARN("40", "32") "}}", 671026419200 },
};

Test(inspect_folder, published_architectures_are_planned_in_both_spellings)
{
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        job j = job_new();
        job_result a = inspect(&j, published[i].v4, NULL), b = inspect(&j, published[i].v5, NULL);
        char *want = mri_format("plugin      model/%s, %lld parameters", published[i].plugin,
                                published[i].parameters);
        job_expect(&a, 0, NULL);
        cr_assert(strstr(a.out, want), "%s: %s", published[i].name, a.out);
        cr_assert(strstr(a.out, "weights     none") && strstr(a.out, "memory"), "%s", a.out);
        cr_assert_str_eq(a.out, b.out);
        free(want);
        job_free(&j);
    }
}

/* generate: two bytes a parameter in bf16 (gaps of alignment aside), 4 in fp32; train: weights,
 * f32 masters and gradients, two f32 states; a token's cache: 512 + 64 values a layer */
Test(inspect_folder, memory_is_that_of_the_parameters_by_recipe)
{
    job j = job_new();
    job_result r = inspect(&j, published[2].v4, "--json");
    static const double bytes[2][2] = { { 2, 18 }, { 4, 16 } };
    job_expect(&r, 0, NULL);
    json_t *doc = json_loads(r.out, 0, NULL), *rows = json_object_get(doc, "memory");
    cr_assert_eq(json_array_size(rows), 2, "%s", r.out);
    for (size_t i = 0; i < 2; i++) {
        json_t *row = json_array_get(rows, i);
        double n = (double)published[2].parameters;
        cr_assert_float_eq(json_number_value(json_object_get(row, "generate")) / n, bytes[i][0],
                           1e-3);
        cr_assert_float_eq(json_number_value(json_object_get(row, "train")) / n, bytes[i][1], 1e-2);
        cr_assert_eq(json_integer_value(json_object_get(row, "cache_a_token")),
                     61 * 576 * (i ? 4 : 2));
    }
    json_decref(doc);
    job_free(&j);
}

Test(inspect_folder, an_architecture_that_none_takes_is_named_with_the_nearest_family)
{
    static const struct {
        const char *config, *says;
    } row[] = {
        { "{\"model_type\": \"deepseek_v2\"}", "the nearest family is deepseek_v3" },
        { "{\"model_type\": \"lama4\"}", "the nearest family is llama4" },
        { "{\"architectures\": [\"KimiK1ForCausalLM\"]}", "the nearest family is kimi_k2" },
        { "{}", "has no model_type" },
        { "{\"model_type\": \"llama4\", \"hidden_size\": -1}", "hidden" },
    };
    job j = job_new();
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        job_result r = inspect(&j, row[i].config, NULL);
        cr_assert(!r.code && strstr(r.out, "not planned"), "%s%s", r.out, r.err);
        cr_assert(strstr(r.out, row[i].says), "%s: %s", row[i].says, r.out);
    }
    char *dir = job_path(&j, "hf");
    job_result r = inspect(&j, row[0].config, NULL);
    r = job_run(&j, "score", "--hf", dir, "--ids", "1 2");
    cr_assert(r.code && strstr(r.err, "E0201") && strstr(r.err, "deepseek_v3"), "%s", r.err);
    r = inspect(&j, "{\"architectures\": [\"DeepseekV3ForCausalLM\"]}", NULL);
    cr_assert(strstr(r.out, "plugin      model/deepseek_v3, 671026419200"), "%s", r.out);
    job_free(&j);
}

/* ---- with weights: the tiny models of the parity fixtures ------------------------------------ */

/* The fixture's weights, one renamed, one of another shape, one more; in reverse order. */
static void spoil(const job *j, const char *fixture, const char *rename, const char *reshape)
{
    static const float more[4];
    char *from = mri_format("%s/tests/parity/fixtures/%s", getenv("MRUN_SOURCE"), fixture);
    char *hf = job_path(j, "hf"), *to = job_path(j, "hf/model.safetensors");
    char *copy = mri_format("mkdir -p '%s' && cp '%s/config.json' '%s/'", hf, from, hf);
    MRI_VEC(mri_tensor) t = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    cr_assert_eq(system(copy), 0);
    cr_assert_eq(mri_safetensors_open_folder(from, &f, &err), 0, "%s", err.what);
    for (size_t i = mri_safetensors_count(f); i-- > 0;) {
        mri_tensor x = *mri_safetensors_at(f, i);
        if (rename && !strcmp(x.name, rename))
            x.name = "stray.7.weight";
        if (reshape && !strcmp(x.name, reshape)) {
            x.type.rank = 1;
            x.type.dim[0] *= x.type.dim[1];
        }
        MRI_PUSH(&t, x);
    }
    mri_tensor extra = { "stray.12.weight", mr_type1("f32", 4), more };
    MRI_PUSH(&t, extra);
    cr_assert_eq(mri_safetensors_write(to, t.v, t.n, NULL, &err), 0, "%s", err.what);
    mri_safetensors_close(f);
    free(t.v);
    free(copy);
    free(to);
    free(hf);
    free(from);
}

Test(inspect_folder, whole_models_lack_nothing)
{
    static const char *const fixtures[] = { "llama4-scout", "llama4-tied", "kimi",
                                            "deepseek-direct" };
    job j = job_new();
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        char *dir = mri_format("%s/tests/parity/fixtures/%s", getenv("MRUN_SOURCE"), fixtures[i]);
        job_result r = job_run(&j, "inspect", dir);
        job_expect(&r, 0, NULL);
        cr_assert(strstr(r.out, "missing     nothing") && strstr(r.out, "not read    nothing"),
                  "%s: %s", fixtures[i], r.out);
        free(dir);
    }
    job_free(&j);
}

Test(inspect_folder, what_is_missing_misshapen_or_not_read_is_named)
{
    job j = job_new();
    spoil(&j, "deepseek-base", "model.layers.1.mlp.experts.3.up_proj.weight",
          "model.layers.0.mlp.up_proj.weight");
    job_result r = inspect(&j, NULL, NULL);
    job_expect(&r, 0, NULL);
    cr_assert(strstr(r.out, "missing or of another shape"), "%s", r.out);
    cr_assert(strstr(r.out, "  no tensor model.layers.1.mlp.experts.3.up_proj.weight\n"), "%s",
              r.out);
    cr_assert(strstr(r.out, "tensor model.layers.0.mlp.up_proj.weight is f32["), "%s", r.out);
    cr_assert(strstr(r.out, "not read by this family"), "%s", r.out);
    cr_assert(strstr(r.out, "1 x stray.12.weight") && strstr(r.out, "1 x stray.7.weight"), "%s",
              r.out);
    cr_assert(strstr(r.out, "model.layers.[1-2].mlp.experts.[0-7].down_proj.weight"), "%s", r.out);
    r = inspect(&j, NULL, "--all");
    cr_assert(strstr(r.out, "  model.layers.1.mlp.experts.5.down_proj.weight\n"), "%s", r.out);
    r = inspect(&j, NULL, "--json");
    json_t *doc = json_loads(r.out, 0, NULL);
    cr_assert_eq(json_array_size(json_object_get(doc, "missing")), 2, "%s", r.out);
    cr_assert_eq(json_array_size(json_object_get(doc, "not_read")), 2, "%s", r.out);
    json_decref(doc);
    job_free(&j);
}

Test(inspect_folder, a_scheme_and_a_tokenizer_are_seen)
{
    char *dir = mri_format("%s/tests/unit/store/fixtures/int4", getenv("MRUN_SOURCE"));
    job j = job_new();
    job_result r = job_run(&j, "inspect", dir);
    job_expect(&r, 0, NULL);
    cr_assert(strstr(r.out, "quantised   compressed-tensors, pack-quantized"), "%s", r.out);
    cr_assert(strstr(r.out, "beside it   no tokenizer"), "%s", r.out);
    char *tok = job_path(&j, "hf/tokenizer.json");
    r = inspect(&j, published[0].v4, NULL);
    job_write(tok, "{}", 2);
    r = inspect(&j, published[0].v4, NULL);
    cr_assert(strstr(r.out, "beside it   tokenizer.json"), "%s%s", r.out, r.err);
    r = inspect(&j, "{\"model_type\": \"llama4\", \"quantization_config\": {\"quant_method\": "
                    "\"gptq\"}}", NULL);
    cr_assert(!r.code && strstr(r.out, "\"gptq\" is not one that mrun reads"), "%s", r.out);
    cr_assert(strstr(r.out, "known: fp8 block") && strstr(r.out, "plugin      model/llama4"), "%s",
              r.out);
    free(tok);
    free(dir);
    job_free(&j);
}

Test(inspect_folder, published_architectures_have_a_plan_as_profiles)
{
    job j = job_new();
    for (size_t i = 0; i < sizeof published / sizeof *published; i++) {
        char *ini = mri_format("[model]\nplugin = %s\nhf = hf\n[train]\nsteps = 1\nseq = 16\n"
                               "[data]\nplugin = text\n[data.text]\npath = text.txt\n"
                               "[tokenizer]\nplugin = bytes\n", published[i].plugin);
        char *path = job_path(&j, "plan.ini"), want[32];
        job_result r = inspect(&j, published[i].v5, NULL);
        job_write(path, ini, strlen(ini));
        r = job_run(&j, "plan", "plan.ini");
        snprintf(want, sizeof want, "%lld parameters", published[i].parameters);
        cr_assert(!r.code && strstr(r.out, want), "%s: %s%s", published[i].name, r.out, r.err);
        free(path);
        free(ini);
    }
    job_free(&j);
}
