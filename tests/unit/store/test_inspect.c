/* SPDX-License-Identifier: Apache-2.0
 * inspect shows what is there, the same for people and for programs. */
#include "apps/mrun/inspect.h"
#include "core/base/json.h"
#include "scratch.h"
#include <math.h>

static const float data[6] = { 1, 2, 3, 4, 5, 6 };
static const mri_tensor model[] = {
    { "a.weight", { .size = sizeof(mr_type), .rank = 2, .dtype = "f32", .dim = { 2, 3 } }, data },
    { "b.bias", { .size = sizeof(mr_type), .rank = 1, .dtype = "bf16", .dim = { 4 } }, data },
};

static char *shown(const char *path, const char *differences, bool json)
{
    inspect_view v;
    mri_str out = { 0 };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(inspect_open(path, &v, &err), 0, "%s", err.what);
    inspect_how how = { differences, json, false };
    inspect_print(&v, &how, &out);
    inspect_close(&v);
    return mri_str_take(&out);
}

static void expect_numbers(const char *text, const char *const *paths, const double *want, size_t n)
{
    mri_json *j;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_json_parse(text, strlen(text), "out", &j, &err), 0, "%s\n%s", err.what, text);
    for (size_t i = 0; i < n; i++) {
        double v = NAN;
        cr_assert(mri_json_service.number(j, paths[i], &v), "%s", paths[i]);
        cr_assert_eq(v, want[i], "%s", paths[i]);
    }
    mri_json_free(j);
}

static void save(const char *dir, int64_t step)
{
    mri_checkpoint_meta m = { .step = step, .samples = 8, .tokens = 64, .profile_text = "[a]\n" };
    const mri_checkpoint_file files[] = { { "model", model, 2 }, { "optimizer", model, 1 } };
    mr_err err = MR_ERR_INIT;
    MRI_PUSH(&m.counters, mr_ai("epoch", 3));
    MRI_PUSH(&m.counters, mr_af("scale", NAN));
    cr_assert_eq(mri_checkpoint_save(dir, &m, files, 2, 0, &err), 0, "%s", err.what);
    free(m.counters.v);
}

Test(inspect, a_run_shows_its_newest_checkpoint)
{
    static const char *const paths[] = { "step", "samples", "tokens", "counters.epoch",
                                         "total.tensors", "total.elements", "total.bytes",
                                         "groups.0.tensors.0.shape.1", "groups.0.tensors.1.bytes",
                                         "steps.0", "steps.1" };
    static const double want[] = { 20, 8, 64, 3, 3, 16, 56, 3, 8, 20, 10 };
    char *run = scratch_make(), *dir = mri_format("%s/checkpoints", run);
    save(dir, 10);
    save(dir, 20);
    char *text = shown(run, "model.hidden: 64 | 32\n", false);
    cr_assert_not_null(strstr(text, "/checkpoints/step-00000020\n"), "%s", text);
    cr_assert_not_null(strstr(text, "step        20\n"));
    cr_assert_not_null(strstr(text, "all steps   20, 10\n"));
    cr_assert_not_null(strstr(text, "  f32     [2, 3]        24 B  a.weight\n"), "%s", text);
    cr_assert_not_null(strstr(text, "  bf16    [4]            8 B  b.bias\n"), "%s", text);
    cr_assert_not_null(strstr(text, "total       3 tensors, 16 elements, 56 B\n"), "%s", text);
    cr_assert_not_null(strstr(text, "model.hidden: 64 | 32\n"));
    free(text);
    text = shown(run, "model.hidden: 64 | 32\n", true);
    expect_numbers(text, paths, want, sizeof want / sizeof *want);
    cr_assert_not_null(strstr(text, "\"profile_differences\": [\"model.hidden: 64 | 32\"]"));
    free(text);

    char *one = mri_format("%s/step-00000010/", dir); /* and a step's own folder, by itself */
    text = shown(one, "", true);
    expect_numbers(text, paths, (const double[]){ 10 }, 1);
    free(text);
    free(one);
    free(dir);
    scratch_drop(run);
}

Test(inspect, a_hugging_face_folder_and_a_file)
{
    static const char *const paths[] = { "total.tensors", "total.bytes" };
    static const double want[] = { 2, 32 };
    static const char config[] = "{\"model_type\": \"llama4_text\"}";
    char *dir = scratch_make(), *file = mri_format("%s/model.safetensors", dir);
    char *json = mri_format("%s/config.json", dir);
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_write(file, model, 2, NULL, &err), 0, "%s", err.what);
    scratch_put(json, config, strlen(config));
    char *text = shown(dir, NULL, true);
    expect_numbers(text, paths, want, 2);
    cr_assert_not_null(strstr(text, "\"family\": \"llama4_text\""));
    cr_assert_null(strstr(text, "profile"));
    free(text);
    text = shown(file, NULL, true);
    expect_numbers(text, paths, want, 2);
    free(text);
    free(json);
    free(file);
    scratch_drop(dir);
}

Test(inspect, nothing_to_show_is_an_error)
{
    char *dir = scratch_make(), *none = mri_format("%s/none", dir);
    inspect_view v;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(inspect_open(dir, &v, &err), MR_E_STORE_MISSING);
    cr_assert_not_null(strstr(err.hint, "a run"));
    cr_assert_eq(inspect_open(none, &v, &err), MR_E_STORE_MISSING);
    free(none);
    scratch_drop(dir);
}
