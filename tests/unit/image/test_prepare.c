/* SPDX-License-Identifier: Apache-2.0
 * test_prepare.c - resized bytes equal torchvision's and prepared pixels those of transformers'
 * processors, bit by bit; settings come from the folder in either spelling. */
#include "image_kit.h"

Test(resize, equals_torchvision_bit_by_bit)
{
    mri_safetensors *f = kit_tensors("prepared.safetensors");
    int64_t seen = 0;
    for (size_t i = 0; i < mri_safetensors_count(f); i++) {
        const mri_tensor *t = mri_safetensors_at(f, i);
        mr_err err = MR_ERR_INIT;
        char how[16];
        int w, h, nw, nh;
        mri_image y;
        if (sscanf(t->name, "u8.%15[a-z].%dx%d.%dx%d", how, &w, &h, &nw, &nh) != 5)
            continue;
        mri_image x = kit_picture(w, h);
        OK(mri_image_resize(&x, nw, nh, !strcmp(how, "bicubic") ? MRI_BICUBIC : MRI_BILINEAR, &y,
                            &err));
        for (int64_t k = 0; k < 3 * y.width * y.height; k++)
            cr_assert_eq(y.rgb[k], ((const uint8_t *)t->data)[k], "%s at %lld: %d, not %d", t->name,
                         (long long)k, y.rgb[k], ((const uint8_t *)t->data)[k]);
        mri_image_free(&x);
        mri_image_free(&y);
        seen++;
    }
    cr_assert_eq(seen, 12);
    mri_safetensors_close(f);
}

static void same(const char *name, const float *have, const float *want, int64_t n, int64_t step)
{
    for (int64_t k = 0; k * step < n; k++)
        cr_assert(have[k * step] == want[k], "%s at %lld: %.9g, not %.9g", name, (long long)k,
                  have[k * step], want[k]);
}

/* Each case once as transformers 4 spells its folder, and once as 5 does. */
Test(prepare, equals_the_processors_of_transformers)
{
    mri_safetensors *f = kit_tensors("prepared.safetensors");
    json_t *cases = kit_json("cases.json"), *c;
    size_t i;
    cr_assert_geq(json_array_size(cases), 80);
    json_array_foreach (cases, i, c) {
        mr_err err = MR_ERR_INIT;
        const char *key = json_string_value(json_object_get(c, "key"));
        const mri_tensor *want = mri_safetensors_find(f, key);
        char *config = json_dumps(json_object_get(c, "config"), 0), *dir = kit_folder();
        mri_image_rule rule;
        mri_tiles t;
        if (i % 2) {
            char *nested = mri_format("{\"image_processor\":%s,\"processor_class\":\"X\"}", config);
            kit_write(dir, "processor_config.json", nested);
            free(nested);
        } else {
            kit_write(dir, "preprocessor_config.json", config);
        }
        OK(mri_image_rule_read(dir, 0, &rule, &err));
        mri_image x = kit_picture(json_integer_value(json_object_get(c, "width")),
                                  json_integer_value(json_object_get(c, "height")));
        OK(mri_image_prepare(&rule, &x, &t, &err));
        const json_t *grid = json_object_get(c, "grid");
        cr_assert_eq(t.rows, json_integer_value(json_array_get(grid, 0)), "%s", key);
        cr_assert_eq(t.cols, json_integer_value(json_array_get(grid, 1)), "%s", key);
        cr_assert_eq(t.n * 3 * t.side * t.side, mr_numel(&want->type), "%s", key);
        cr_assert_leq(t.n, mri_image_most_tiles(&rule));
        same(key, t.pixels, want->data, mr_numel(&want->type), 1);
        mri_tiles_free(&t);
        mri_image_free(&x);
        free(config);
        kit_remove(dir);
    }
    json_decref(cases);
    mri_safetensors_close(f);
}

Test(prepare, equals_them_at_the_true_size)
{
    mr_err err = MR_ERR_INIT;
    mri_safetensors *f = kit_tensors("prepared.safetensors");
    mri_image_rule rule = mri_image_rule_usual("llama4_vision_model", 336);
    mri_image x = kit_picture(1333, 700);
    const int32_t *grid = mri_safetensors_find(f, "big.grid")->data;
    mri_tiles t;
    OK(mri_image_prepare(&rule, &x, &t, &err));
    cr_assert_eq(t.rows, grid[0]);
    cr_assert_eq(t.cols, grid[1]);
    same("big", t.pixels, mri_safetensors_find(f, "big")->data, t.n * 3 * 336 * 336, 997);
    mri_tiles_free(&t);
    mri_image_free(&x);
    mri_safetensors_close(f);
}

Test(prepare, room_for_tiles_is_checked)
{
    mr_err err = MR_ERR_INIT;
    mri_image_rule rule = mri_image_rule_usual("llama4_vision_model", 16);
    mri_image x = kit_picture(64, 64);
    float *pixels = malloc(16 * 3 * 16 * 16 * sizeof *pixels);
    mri_tiles t;
    cr_assert_eq(mri_image_prepare_into(&rule, &x, pixels, 16, &t, &err), MR_E_IMAGE_LIMIT);
    cr_assert(strstr(err.what, "17 tiles"), "%s", err.what);
    free(pixels);
    mri_image_free(&x);
}

Test(rule, wrong_settings_are_refused)
{
    static const struct {
        const char *text;
        mr_status st;
    } rows[] = {
        { "{\"image_processor_type\":\"QwenImageProcessor\"}", MR_E_UNSUPPORTED },
        { "{\"image_processor_type\":\"CLIPImageProcessor\",\"resample\":1}", MR_E_MODEL_CONFIG },
        { "{\"image_processor_type\":\"CLIPImageProcessor\",\"image_std\":[1,0,1]}",
          MR_E_MODEL_CONFIG },
        { "{\"image_processor_type\":\"SiglipImageProcessor\",\"size\":{\"height\":8,\"width\":9}}",
          MR_E_MODEL_CONFIG },
        { "{\"image_processor_type\":\"SiglipImageProcessor\",\"size\":1e9}", MR_E_MODEL_CONFIG },
        { "{\"image_processor_type\":\"Llama4ImageProcessorFast\",\"max_patches\":65}",
          MR_E_MODEL_CONFIG },
        { "{\"image_processor_type\":\"SiglipImageProcessor\",\"size\":30}", MR_E_MODEL_CONFIG },
        { "{\"image_processor_type\":", MR_E_STORE_FORMAT },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        char *dir = kit_folder();
        mri_image_rule rule;
        kit_write(dir, "preprocessor_config.json", rows[i].text);
        cr_assert_eq(mri_image_rule_read(dir, 24, &rule, &err), rows[i].st, "%s: %s", rows[i].text,
                     err.what);
        kit_remove(dir);
    }
}

Test(rule, a_folder_without_settings_goes_by_its_tower)
{
    mr_err err = MR_ERR_INIT;
    mri_image_rule rule;
    char *dir = kit_folder();
    kit_write(dir, "config.json", "{\"vision_config\":{\"model_type\":\"llama4_vision_model\"}}");
    OK(mri_image_rule_read(dir, 48, &rule, &err));
    cr_assert(rule.form == MRI_TILES && rule.side == 48 && rule.bf16);
    kit_write(dir, "config.json", "{\"vision_config\":{\"model_type\":\"clip_vision_model\"}}");
    OK(mri_image_rule_read(dir, 48, &rule, &err));
    cr_assert(rule.form == MRI_WHOLE && rule.side == 48 && rule.shortest == 48 && rule.crop);
    kit_remove(dir);
}
