/* SPDX-License-Identifier: Apache-2.0
 * mrun.json/1 reads a document by path, and a bad document is refused with line and column. */
#include "core/base/json.h"
#include <criterion/criterion.h>
#include <string.h>

static const char text[] = "{\n"
                           "  \"text_config\": {\"rope_scaling\": {\"factor\": 8.5}},\n"
                           "  \"moe_layers\": [1, 3, 5, [7]],\n"
                           "  \"tie\": true, \"off\": false, \"none\": null, \"name\": \"llama\",\n"
                           "  \"0\": 42\n"
                           "}";

static mri_json *parse(void)
{
    mri_json *j;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_json_parse(text, strlen(text), "config.json", &j, &err), 0, "%s", err.what);
    return j;
}

Test(json, numbers_by_path)
{
    const struct {
        const char *path;
        double want;
    } good[] = { { "text_config.rope_scaling.factor", 8.5 },
                 { "moe_layers.0", 1 },
                 { "moe_layers.3.0", 7 },
                 { "tie", 1 },
                 { "off", 0 },
                 { "0", 42 } };
    const char *const bad[] = { "name",          "none",           "moe_layers", "moe_layers.4",
                                "moe_layers.-1", "moe_layers.",    "tie.x",      "nowhere",
                                "moe_layers.1x", "text_config.",   ".",          "moe_layers..0",
                                "moe_layers.99999999999999999999", "" };
    mri_json *j = parse();
    double x;
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        cr_assert_eq(mri_json_service.number(j, good[i].path, &x), 1, "%s", good[i].path);
        cr_assert_eq(x, good[i].want, "%s", good[i].path);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        cr_assert_eq(mri_json_service.number(j, bad[i], &x), 0, "%s", bad[i]);
    mri_json_free(j);
}

Test(json, strings_lengths_and_presence)
{
    mri_json *j = parse();
    const char *s = NULL;
    cr_assert_eq(mri_json_service.string(j, "name", &s), 1);
    cr_assert_str_eq(s, "llama");
    cr_assert_eq(mri_json_service.string(j, "tie", &s), 0);
    cr_assert_eq(mri_json_service.length(j, "moe_layers"), 4);
    cr_assert_eq(mri_json_service.length(j, "text_config"), -1);
    cr_assert_eq(mri_json_service.length(j, "nowhere"), -1);
    cr_assert(mri_json_service.has(j, "text_config.rope_scaling"));
    cr_assert(mri_json_service.has(j, "off"));
    cr_assert_not(mri_json_service.has(j, "none"));
    cr_assert_not(mri_json_service.has(j, "text_config.x"));
    cr_assert(mri_json_service.is_null(j, "none"));
    cr_assert_not(mri_json_service.is_null(j, "off"));
    cr_assert_not(mri_json_service.is_null(j, "text_config.x"));
    mri_json_free(j);
}

Test(json, errors_name_line_and_column)
{
    const struct {
        const char *text, *where, *why;
    } bad[] = { { "{\n  \"a\": 1,\n  \"a\": 2}", "c.json:3:", "duplicate" },
                { "{\"a\": }", "c.json:1:7:", "" },
                { "{\"a\": 1} x", "c.json:1:", "end of file" },
                { "", "c.json:1:0:", "" },
                { "{\"a\": \"\xff\"}", "c.json:1:", "byte 0xff" },
                { "[1, 2", "c.json:1:", "" } };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mri_json *j;
        mr_err err = MR_ERR_INIT;
        mr_status st = mri_json_parse(bad[i].text, strlen(bad[i].text), "c.json", &j, &err);
        cr_assert_eq(st, MR_E_STORE_FORMAT, "case %zu", i);
        cr_assert_null(j);
        cr_assert_eq(strncmp(err.what, bad[i].where, strlen(bad[i].where)), 0, "%s", err.what);
        cr_assert_not_null(strstr(err.what, bad[i].why), "%s", err.what);
    }
}

/* transformers writes 10^30 for "no limit"; strings and reals of many digits stay as they are. */
Test(json, whole_numbers_beyond_64_bits_are_reals)
{
    static const char wide[] = "{\"model_max_length\": 1000000000000000019884624838656,\n"
                               "\"s\": \"12345678901234567890123\\\"12345678901234567890\", "
                               "\"f\": 0.12345678901234567890123, \"i\": 7, "
                               "\"a\": [-99999999999999999999999, 1e3]}";
    mri_json *j;
    mr_err err = MR_ERR_INIT;
    double x;
    const char *s;
    cr_assert_eq(mri_json_parse(wide, strlen(wide), "t.json", &j, &err), 0, "%s", err.what);
    cr_assert(mri_json_service.number(j, "model_max_length", &x) && x == 1e30);
    cr_assert(mri_json_service.number(j, "f", &x) && x == 0.12345678901234567890123);
    cr_assert(mri_json_service.number(j, "i", &x) && x == 7);
    cr_assert(mri_json_service.number(j, "a.0", &x) && x == -1e23);
    cr_assert(mri_json_service.string(j, "s", &s));
    cr_assert_str_eq(s, "12345678901234567890123\"12345678901234567890");
    mri_json_free(j);
}
