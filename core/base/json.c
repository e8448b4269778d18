/* SPDX-License-Identifier: Apache-2.0
 * json.c - see json.h. */
#include "json.h"
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* Whole numbers of more than 18 digits as reals: "model_max_length": 1000000000000000019884624838656
 * stands in many a tokenizer_config.json. */
static char *widened(const char *text, size_t n, size_t *out)
{
    mri_str b = { 0 };
    bool quoted = false, real = false;
    for (size_t i = 0, digits = 0; i <= n; i++) {
        char c = i < n ? text[i] : 0;
        if (!quoted && c && strchr("0123456789+-.eE", c)) {
            digits += c >= '0' && c <= '9';
            real |= c == '.' || c == 'e' || c == 'E';
        } else {
            mri_str_add(&b, digits > 18 && !real ? ".0" : "");
            digits = 0;
            real = false;
        }
        if (c == '"')
            quoted = !quoted;
        mri_str_addn(&b, text + i, i < n);
        if (quoted && c == '\\' && i + 1 < n)
            mri_str_addn(&b, text + ++i, 1);
    }
    *out = b.n;
    return mri_str_take(&b);
}

mr_status mri_json_parse(const char *text, size_t n, const char *name, mri_json **out, mr_err *err)
{
    json_error_t e;
    *out = json_loadb(text, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
    if (!*out && json_error_code(&e) == json_error_numeric_overflow) {
        char *wide = widened(text, n, &n);
        *out = json_loadb(wide, n, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, &e);
        free(wide);
    }
    if (*out)
        return 0;
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s:%d:%d: %s", name, e.line, e.column, e.text);
    mr_hint(err, "the text must be one valid JSON document in UTF-8 without duplicate keys");
    return MR_E_STORE_FORMAT;
}

mr_status mri_json_read(const char *path, size_t limit, mri_json **out, mr_err *err)
{
    char *text = NULL;
    size_t n = 0;
    *out = NULL;
    mr_status st = mri_read_file(path, limit, &text, &n, err);
    if (!st)
        st = mri_json_parse(text, n, path, out, err);
    free(text);
    return st;
}

void mri_json_free(mri_json *json)
{
    json_decref(json);
}

/* An array index: digits only, so that "-1", "+1" and "" name nothing. */
static const json_t *element(const json_t *array, const char *digits, size_t n)
{
    size_t i = 0;
    if (!n || n > 18)
        return NULL;
    for (size_t k = 0; k < n; k++) {
        if (digits[k] < '0' || digits[k] > '9')
            return NULL;
        i = 10 * i + (size_t)(digits[k] - '0');
    }
    return json_array_get(array, i);
}

static const json_t *lookup(const void *json, const char *path)
{
    const json_t *at = json;
    while (at && *path) {
        size_t n = strcspn(path, ".");
        if (json_is_array(at)) {
            at = element(at, path, n);
        } else {
            char *key = mri_strndup(path, n);
            at = json_object_get(at, key); /* NULL for anything but an object */
            free(key);
        }
        path += n;
        if (*path == '.' && !*++path)
            return NULL; /* a trailing dot names nothing */
    }
    return at;
}

static int32_t get_number(const void *json, const char *path, double *out)
{
    const json_t *v = lookup(json, path);
    if (json_is_boolean(v))
        *out = json_is_true(v);
    else if (json_is_number(v))
        *out = json_number_value(v);
    else
        return 0;
    return 1;
}

static int32_t get_string(const void *json, const char *path, const char **out)
{
    const json_t *v = lookup(json, path);
    if (!json_is_string(v))
        return 0;
    *out = json_string_value(v);
    return 1;
}

static int64_t get_length(const void *json, const char *path)
{
    const json_t *v = lookup(json, path);
    return json_is_array(v) ? (int64_t)json_array_size(v) : -1;
}

static int32_t get_has(const void *json, const char *path)
{
    const json_t *v = lookup(json, path);
    return v && !json_is_null(v);
}

static int32_t get_is_null(const void *json, const char *path)
{
    return json_is_null(lookup(json, path));
}

static const void *get_at(const void *json, const char *path)
{
    return lookup(json, path);
}

const mr_json_service mri_json_service = {
    sizeof(mr_json_service), 0, get_number, get_string, get_length, get_has, get_is_null, get_at,
};
