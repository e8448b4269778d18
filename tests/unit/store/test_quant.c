/* SPDX-License-Identifier: Apache-2.0
 * A quantised folder reads as its own library reads it, to the last bit, from any element on; what
 * does not fit together, or is of an unknown scheme, is one error that names it. */
#include "core/store/quant.h"
#include "scratch.h"
#include <math.h>

static char *fixture(const char *name)
{
    return mri_format("%s/tests/unit/store/fixtures/%s", getenv("MRUN_SOURCE"), name);
}

/* the same number (zeros of either sign are), or NaN both */
static void same(const float *a, const float *b, int64_t n, const char *what)
{
    for (int64_t i = 0; i < n; i++)
        cr_assert(a[i] == b[i] || (isnan(a[i]) && isnan(b[i])),
                  "%s, element %lld: %.9g, the library has %.9g", what, (long long)i, a[i], b[i]);
}

/* whole, then in uneven parts that start and end anywhere in rows and blocks */
static void check_weight(const mri_stored *s, const mri_tensor *want, const char *what)
{
    int64_t n = mr_numel(&want->type);
    float *got = mri_alloc((size_t)n * sizeof *got);
    cr_assert(mr_same_type(&s->type, &want->type), "%s", what);
    mri_stored_read(s, 0, n, got);
    same(got, want->data, n, what);
    memset(got, 0xff, (size_t)n * sizeof *got);
    for (int64_t i = 0, k = 1; i < n; i += k, k = (k * 7 + 3) % 131 + 1)
        mri_stored_read(s, i, i + k < n ? k : n - i, got + i);
    same(got, want->data, n, what);
    free(got);
}

static void check_folder(const char *name)
{
    char *dir = fixture(name), *path = mri_format("%s/expected.safetensors", dir);
    mri_safetensors *f, *expected;
    mri_quant *q;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open_folder(dir, &f, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_open(path, &expected, &err), 0, "%s", err.what);
    cr_assert_eq(mri_quant_open(dir, &q, &err), 0, "%s", err.what);
    cr_assert_not_null(q, "%s", name);
    size_t quantised = 0;
    for (size_t i = 0; i < mri_safetensors_count(expected); i++) {
        const mri_tensor *want = mri_safetensors_at(expected, i);
        char *what = mri_format("%s: %s", name, want->name);
        mri_stored s;
        bool found;
        cr_assert_eq(mri_stored_find(f, q, want->name, &s, &found, &err), 0, "%s: %s", what,
                     err.what);
        cr_assert(found, "%s", what);
        if (s.rule)
            check_weight(&s, want, what);
        else
            cr_assert(!strcmp(want->name, "lm_head.weight") && !strcmp(s.type.dtype, "bf16"));
        quantised += s.rule != NULL;
        free(what);
    }
    cr_assert_geq(quantised, 1);
    mri_quant_free(q);
    mri_safetensors_close(f);
    mri_safetensors_close(expected);
    free(path);
    free(dir);
}

Test(quant, every_scheme_reads_as_its_library_reads_it)
{
    static const char *const folder[] = {
        "fp8-block",   "fp8-channel", "fp8-tensor", "fp8-compressed-block", "int4",  "int4-zeros",
        "int4-channel", "int8-packed", "int8",      "nvfp4", "modelopt-fp8", "modelopt-nvfp4",
        "modelopt-nvfp4-fused",
    };
    for (size_t i = 0; i < sizeof folder / sizeof *folder; i++)
        check_folder(folder[i]);
}

/* ---- three dimensions: a scheme's matrices one behind the other ------------------------------ */

Test(quant, fused_experts_have_scales_of_their_own)
{
    static const uint8_t codes[2 * 2 * 4] = { 0x38, 0x38, 0x38, 0x38, 0x40, 0x40, 0x40, 0x40,
                                              0xb8, 0xb8, 0xb8, 0xb8, 0x38, 0x38, 0x38, 0x38 };
    static const float scales[2 * 1 * 2] = { 1, 10, 100, 1000 };
    static const float want[16] = { 1, 1, 10, 10, 2, 2, 20, 20,
                                    -100, -100, -1000, -1000, 100, 100, 1000, 1000 };
    static const char config[] = "{\"quant_method\": \"fp8\", \"weight_block_size\": [2, 2]}";
    const mri_tensor t[] = { { "l.experts.down", mr_type3("f8e4m3", 2, 2, 4), codes },
                             { "l.experts.down_weight_scale_inv", mr_type3("f32", 2, 1, 2),
                               scales } };
    char *dir = scratch_make(), *path = mri_format("%s/model.safetensors", dir);
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    mri_quant *q;
    mri_stored s;
    float got[16];
    bool found;
    cr_assert_eq(mri_safetensors_write(path, t, 2, NULL, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_open(path, &f, &err), 0, "%s", err.what);
    cr_assert_eq(mri_quant_parse(config, strlen(config), "c", &q, &err), 0, "%s", err.what);
    cr_assert_eq(mri_stored_find(f, q, "l.experts.down", &s, &found, &err), 0, "%s", err.what);
    cr_assert(found);
    mri_stored_read(&s, 0, 16, got);
    cr_assert_arr_eq(got, want, sizeof want);
    cr_assert(mri_quant_companion(q, t[1].name) && !mri_quant_companion(q, t[0].name));
    mri_quant_free(q);
    mri_safetensors_close(f);
    free(path);
    scratch_drop(dir);
}

/* ---- refusals -------------------------------------------------------------------------------- */

Test(quant, a_scheme_that_is_not_known_is_named_beside_the_known_ones)
{
    static const struct {
        const char *config, *says;
    } bad[] = {
        { "{\"quant_method\": \"gptq\", \"bits\": 4}", "gptq" },
        { "{\"quant_method\": 4}", "(none)" },
        { "[]", "not an object" },
        { "{\"quant_method\": \"fp8\", \"fmt\": \"e5m2\"}", "e5m2" },
        { "{\"quant_method\": \"fp8\", \"weight_block_size\": [128]}", "two whole numbers" },
        { "{\"quant_method\": \"fp8\", \"weight_block_size\": [0, 128]}", "two whole numbers" },
        { "{\"quant_method\": \"fp8\", \"weight_block_size\": [9223372036854775807, 1]}",
          "two whole numbers" },
        { "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\"}",
          "config_groups" },
        { "{\"quant_method\": \"compressed-tensors\", \"format\": \"marlin-24\", "
          "\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4}}}}", "marlin-24" },
        { "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
          "\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 3}}}}", "3-bit int" },
        { "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "
          "\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4, \"strategy\": \"group\"}}}}",
          "group_size" },
        { "{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\", "
          "\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 8, \"type\": \"float\", "
          "\"strategy\": \"attn_head\"}}}}", "attn_head" },
        { "{\"quant_method\": \"modelopt\", \"quant_algo\": \"W4A16_AWQ\"}", "W4A16_AWQ" },
        { "{\"quant_algo\": \"NVFP4\", \"group_size\": 0}", "group_size" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_err err = MR_ERR_INIT;
        mri_quant *q;
        cr_assert_neq(mri_quant_parse(bad[i].config, strlen(bad[i].config), "config.json", &q,
                                      &err), 0, "%s", bad[i].config);
        cr_assert_null(q);
        cr_assert(strstr(err.what, bad[i].says), "%s: %s", bad[i].config, err.what);
        if (err.code == MR_E_UNSUPPORTED)
            cr_assert(strstr(err.detail, "modelopt NVFP4"), "%s", err.detail);
    }
}

Test(quant, a_scheme_that_leaves_weights_alone_has_no_rules)
{
    static const char *const good[] = {
        "{\"quant_algo\": null, \"kv_cache_quant_algo\": \"FP8\"}",
        "{\"quant_method\": \"compressed-tensors\", \"format\": \"dense\", \"config_groups\": "
        "{\"g\": {\"weights\": {\"num_bits\": 8}}}}",
        "{\"quant_method\": \"compressed-tensors\", \"format\": \"float-quantized\", "
        "\"config_groups\": {\"g\": {\"weights\": null, \"input_activations\": {}}}}",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        mr_err err = MR_ERR_INIT;
        mri_quant *q;
        cr_assert_eq(mri_quant_parse(good[i], strlen(good[i]), "c", &q, &err), 0, "%s", err.what);
        cr_assert(q && !q->rules.n, "%s", good[i]);
        mri_quant_free(q);
    }
}

#define FP8 "{\"quant_method\": \"fp8\", \"weight_block_size\": [2, 2]}"
#define INT4                                                                                       \
    "{\"quant_method\": \"compressed-tensors\", \"format\": \"pack-quantized\", "                  \
    "\"config_groups\": {\"g\": {\"weights\": {\"num_bits\": 4, \"strategy\": \"group\", "         \
    "\"group_size\": 8, \"symmetric\": false}}}}"
#define NVFP4 "{\"quant_algo\": \"NVFP4\"}"

static void refused(const char *config, const mri_tensor *t, size_t n, const char *says)
{
    char *dir = scratch_make(), *path = mri_format("%s/model.safetensors", dir);
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f;
    mri_quant *q = NULL;
    mri_stored s;
    bool found = true;
    cr_assert_eq(mri_safetensors_write(path, t, n, NULL, &err), 0, "%s", err.what);
    cr_assert_eq(mri_safetensors_open(path, &f, &err), 0, "%s", err.what);
    if (config)
        cr_assert_eq(mri_quant_parse(config, strlen(config), "c", &q, &err), 0, "%s", err.what);
    cr_assert_neq(mri_stored_find(f, q, "a.weight", &s, &found, &err), 0, "%s", says);
    cr_assert(!found && strstr(err.what, says), "\"%s\" does not say \"%s\"", err.what, says);
    mri_quant_free(q);
    mri_safetensors_close(f);
    free(path);
    scratch_drop(dir);
}

Test(quant, parts_that_do_not_fit_together_are_named)
{
    static const uint8_t zero[256];
    static const int32_t sizes[][2] = { { 4, 8 }, { 4, 17 }, { 3, 16 }, { 4, -1 }, { 4, 8 } };
#define D { "a.weight", mr_type2("f8e4m3", 4, 4), zero }
#define S(t) { "a.weight_scale_inv", t, zero }
    refused(NULL, (mri_tensor[]){ D }, 1, "no scheme");
    refused(FP8, (mri_tensor[]){ D }, 1, "a.weight_scale_inv is not there");
    refused(FP8, (mri_tensor[]){ D, S(mr_type2("f32", 2, 3)) }, 2, "a scale every 2 x 2");
    refused(FP8, (mri_tensor[]){ D, S(mr_type1("f32", 4)) }, 2, "a scale every 2 x 2");
    refused(FP8, (mri_tensor[]){ D, S(mr_type2("i8", 2, 2)) }, 2, "dtype");
    refused(FP8, (mri_tensor[]){ { "a.weight", mr_type1("f8e4m3", 4), zero },
                                 S(mr_type1("f32", 2)) }, 2, "1 dimensions");
    refused(FP8, (mri_tensor[]){ { "a.weight", mr_type2("i8", 4, 4), zero },
                                 S(mr_type2("f32", 2, 2)) }, 2, "no scheme");
#define P { "a.weight_packed", mr_type2("i32", 4, 2), zero }
#define G { "a.weight_scale", mr_type2("bf16", 4, 2), zero }
    for (int i = 0; i < 4; i++)
        refused(INT4, (mri_tensor[]){ P, G, { "a.weight_shape", mr_type1("i32", 2), sizes[i] } }, 3,
                "a.weight_shape is");
    refused(INT4, (mri_tensor[]){ P, G, { "a.weight_shape", mr_type1("i32", 1), zero } }, 3,
            "a.weight_shape is");
    refused(INT4, (mri_tensor[]){ P, G }, 2, "a.weight_zero_point is not there");
    refused(INT4, (mri_tensor[]){ P, G, { "a.weight_zero_point", mr_type2("i32", 2, 2), zero } }, 3,
            "zero point");
    refused(INT4, (mri_tensor[]){ P, G, { "a.weight_zero_point", mr_type2("i32", 1, 2), zero },
                                  { "a.weight_g_idx", mr_type1("i32", 16), zero } }, 4, "g_idx");
#define N { "a.weight", mr_type2("u8", 4, 8), zero }
#define E { "a.weight_scale", mr_type2("f8e4m3", 4, 1), zero }
    refused(NVFP4, (mri_tensor[]){ N, E }, 2, "a.weight_scale_2 is not there");
    refused(NVFP4, (mri_tensor[]){ N, E, { "a.weight_scale_2", mr_type1("f32", 2), zero } }, 3,
            "one f32");
    refused(NVFP4, (mri_tensor[]){ N, E, { "a.weight_scale_2", mr_type1("f32", 1), zero },
                                   { "a.pre_quant_scale", mr_type1("bf16", 16), zero } }, 4,
            "pre_quant_scale");
}
