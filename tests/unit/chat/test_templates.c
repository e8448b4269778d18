/* SPDX-License-Identifier: Apache-2.0
 * Templates render as Jinja with transformers' environment renders them: whole chat templates over
 * conversations with tools, images and thoughts, and small ones a construct at a time.
 * fixtures/renderings.json is written by make_fixtures.py. */
#include "core/chat/template.h"
#include <criterion/criterion.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

enum { NOW = 1722470400 };

static char *fixture(const char *name, size_t *n)
{
    char *path = mri_format("%s/tests/unit/chat/fixtures/%s", getenv("MRUN_SOURCE"), name), *text;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_read_file(path, 64 << 20, &text, n, &err), 0, "%s", err.what);
    free(path);
    return text;
}

static mr_status render(const json_t *c, mri_str *out, mr_err *err)
{
    const json_t *inline_text = json_object_get(c, "template");
    const char *file = json_string_value(json_object_get(c, "file"));
    size_t n = json_string_length(inline_text);
    char *text = inline_text ? mri_strndup(json_string_value(inline_text), n) : fixture(file, &n);
    mri_template *t;
    mr_status st = mri_template_parse(text, n, file ? file : "template", &t, err);
    if (!st)
        st = mri_template_render(t, json_object_get(c, "vars"), NOW, out, err);
    mri_template_free(t);
    free(text);
    return st;
}

Test(templates, render_as_the_library_does)
{
    size_t n, i, texts = 0;
    char *all = fixture("renderings.json", &n);
    json_t *cases = json_loadb(all, n, 0, NULL), *c;
    setenv("TZ", "UTC", 1);
    json_array_foreach(cases, i, c) {
        const char *name = json_string_value(json_object_get(c, "name"));
        const json_t *text = json_object_get(c, "text");
        mri_str out = { 0 };
        mr_err err = MR_ERR_INIT;
        mr_status st = render(c, &out, &err);
        if (text) {
            cr_assert_eq(st, 0, "%s: %s", name, err.what);
            cr_assert(out.n == json_string_length(text) &&
                          !memcmp(out.s ? out.s : "", json_string_value(text), out.n),
                      "%s gives\n%s\nnot\n%s", name, out.s, json_string_value(text));
            texts++;
        } else {
            const char *said = json_string_value(json_object_get(c, "error"));
            cr_assert_eq(st, MR_E_TEMPLATE, "%s renders: %s", name, out.s);
            cr_assert_not_null(strstr(err.what, said), "%s: %s", name, err.what);
        }
        mri_str_free(&out);
    }
    cr_assert_gt(texts, 130, "%zu texts", texts);
    json_decref(cases);
    free(all);
}

/* A comparison that cannot fail would pass too: a changed template must not. */
Test(templates, a_changed_template_is_noticed)
{
    size_t n, i, differ = 0;
    char *all = fixture("renderings.json", &n);
    json_t *cases = json_loadb(all, n, 0, NULL), *c;
    json_array_foreach(cases, i, c) {
        json_t *v = json_object_get(c, "vars");
        mri_str out = { 0 };
        mr_err err = MR_ERR_INIT;
        if (!json_object_get(v, "bos_token") || !json_object_get(c, "text"))
            continue;
        json_object_set_new(v, "bos_token", json_string("<bos>"));
        json_object_set_new(v, "add_generation_prompt", json_boolean(i % 2));
        cr_assert_eq(render(c, &out, &err), 0);
        differ += strcmp(out.s, json_string_value(json_object_get(c, "text"))) != 0;
        mri_str_free(&out);
    }
    cr_assert_gt(differ, 40, "%zu differ", differ);
    json_decref(cases);
    free(all);
}
