/* SPDX-License-Identifier: Apache-2.0
 *
 * json_text.c - values to JSON text as Python's json.dumps writes it, and a parsed JSON document
 * to values.
 */
#include "json_text.h"
#include "unicode.h"
#include <jansson.h>
#include <math.h>
#include <string.h>

static void quoted(const mri_vstr *v, bool ascii, mri_str *out)
{
    mri_str_add(out, "\"");
    for (size_t i = 0, n; i < v->n; i += n) {
        uint32_t c = mri_utf8_get(v->s + i, v->n - i, &n);
        static const char *const shorts[0x20] = { [8] = "\\b", [9] = "\\t", [10] = "\\n",
                                                  [12] = "\\f", [13] = "\\r" };
        if (c < 0x20 && shorts[c])
            mri_str_add(out, shorts[c]);
        else if (c == '"' || c == '\\')
            mri_str_fmt(out, "\\%c", (int)c);
        else if (c < 0x20 || (ascii && c >= 0x7f && c < 0x10000))
            mri_str_fmt(out, "\\u%04x", c);
        else if (ascii && c >= 0x10000)
            mri_str_fmt(out, "\\u%04x\\u%04x", 0xd7c0 + (c >> 10), 0xdc00 + (c & 0x3ff));
        else
            mri_str_addn(out, v->s + i, n);
    }
    mri_str_add(out, "\"");
}

static void number(double f, mri_str *out)
{
    if (isfinite(f))
        mri_float_text(f, out);
    else
        mri_str_add(out, isnan(f) ? "NaN" : f > 0 ? "Infinity" : "-Infinity");
}

static void newline(const mri_json_style *s, int depth, mri_str *out)
{
    if (!s->indent)
        return;
    mri_str_add(out, "\n");
    for (int i = 0; i < depth; i++)
        mri_str_add(out, s->indent);
}

/* keys are strings in JSON: numbers, booleans and None become theirs */
static void key(mri_render *r, mri_val k, const mri_json_style *s, mri_str *out)
{
    mri_str b = { 0 };
    if (k.kind == MRI_V_STR) {
        quoted(k.s, s->ascii, out);
        return;
    }
    if (k.kind != MRI_V_NONE && !mri_is_num(k)) {
        mri_raise(r, "keys must be str, int, float, bool or None, not %s", mri_kind_name(k));
        return;
    }
    mri_json_text(r, k, s, 0, &b);
    mri_str_fmt(out, "\"%s\"", b.s ? b.s : "");
    mri_str_free(&b);
}

static void object(mri_render *r, mri_val v, const mri_json_style *s, int depth, mri_str *out)
{
    mri_val order = mri_list(r, MRI_V_LIST, v.d->n);
    for (size_t i = 0; i < v.d->n; i++)
        mri_push(r, order, mri_pair(r, v.d->key[i], mri_int((int64_t)i)));
    if (s->sort)
        for (size_t i = 1; i < order.l->n && !r->st; i++) /* insertion: objects are small */
            for (size_t j = i; j && mri_order(r, order.l->v[j], order.l->v[j - 1]) < 0; j--) {
                mri_val t = order.l->v[j];
                order.l->v[j] = order.l->v[j - 1];
                order.l->v[j - 1] = t;
            }
    mri_str_add(out, "{");
    for (size_t i = 0; i < v.d->n && !r->st; i++) {
        int64_t at = order.l->v[i].l->v[1].i;
        mri_str_add(out, i ? s->comma : "");
        newline(s, depth + 1, out);
        key(r, v.d->key[at], s, out);
        mri_str_add(out, s->colon);
        mri_json_text(r, v.d->val[at], s, depth + 1, out);
    }
    if (v.d->n)
        newline(s, depth, out);
    mri_str_add(out, "}");
}

void mri_json_text(mri_render *r, mri_val v, const mri_json_style *s, int depth, mri_str *out)
{
    mri_spend(r, 0);
    if (depth > MRI_CHAT_DEPTH)
        mri_raise(r, "values are nested more than %d deep", MRI_CHAT_DEPTH);
    if (out->n > MRI_CHAT_OUTPUT)
        mri_raise(r, "a text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    if (r->st)
        return;
    switch (v.kind) {
    case MRI_V_NONE:
        mri_str_add(out, "null");
        break;
    case MRI_V_BOOL:
        mri_str_add(out, v.b ? "true" : "false");
        break;
    case MRI_V_INT:
        mri_str_fmt(out, "%lld", (long long)v.i);
        break;
    case MRI_V_FLOAT:
        number(v.f, out);
        break;
    case MRI_V_STR:
        mri_spend(r, v.s->n);
        quoted(v.s, s->ascii, out);
        break;
    case MRI_V_LIST: case MRI_V_TUPLE:
        mri_str_add(out, "[");
        for (size_t i = 0; i < v.l->n && !r->st; i++) {
            mri_str_add(out, i ? s->comma : "");
            newline(s, depth + 1, out);
            mri_json_text(r, v.l->v[i], s, depth + 1, out);
        }
        if (v.l->n)
            newline(s, depth, out);
        mri_str_add(out, "]");
        break;
    case MRI_V_DICT:
        object(r, v, s, depth, out);
        break;
    default:
        mri_raise(r, "an object of type %s is not JSON serializable", mri_kind_name(v));
    }
}

mri_val mri_from_json(mri_render *r, const mri_json *json)
{
    const json_t *j = json, *x;
    const char *k;
    size_t i;
    mri_val v;
    switch (json_typeof(j)) {
    case JSON_OBJECT:
        v = mri_dict(r, MRI_V_DICT);
        json_object_foreach((json_t *)(uintptr_t)j, k, x) /* in the order of the text */
            mri_put(r, v, mri_text(r, k), mri_from_json(r, x));
        return v;
    case JSON_ARRAY:
        v = mri_list(r, MRI_V_LIST, json_array_size(j));
        json_array_foreach(j, i, x)
            mri_push(r, v, mri_from_json(r, x));
        return v;
    case JSON_STRING:
        return mri_strn(r, json_string_value(j), json_string_length(j));
    case JSON_INTEGER:
        return mri_int(json_integer_value(j));
    case JSON_REAL:
        return mri_float(json_real_value(j));
    case JSON_NULL:
        return mri_none();
    default:
        return mri_bool(json_is_true(j));
    }
}
