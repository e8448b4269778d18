/* SPDX-License-Identifier: Apache-2.0
 *
 * filters_text.c - filters that make text (eval.h). Each has the name, the parameters
 * and the meaning of Jinja's filter; `tojson` is the one that transformers puts in its place.
 */
#include "eval.h"
#include "json_text.h"
#include "unicode.h"
#include <string.h>

#define ARGS mri_render *r, mri_val *a, MR_UNUSED const mri_args *raw
#define GIVEN(x) ((x).kind != MRI_V_ABSENT)

int64_t mri_to_int(mri_render *r, mri_val v, const char *what)
{
    if (v.kind == MRI_V_INT)
        return v.i;
    if (v.kind == MRI_V_BOOL)
        return v.b;
    mri_raise(r, "%s must be a whole number, not %s", what, mri_kind_name(v));
    return 0;
}

/* A text method on str(value): the filters upper, lower, trim ... */
static mri_val method(mri_render *r, const char *name, mri_val of, const mri_val *args, size_t n)
{
    mri_val text = mri_to_str(r, of);
    const mri_args given = { args, n, NULL, NULL, 0 };
    return mri_invoke(r, mri_text_method_find(name), &text, &given);
}

static mri_val f_upper(ARGS)
{
    return method(r, "upper", a[0], NULL, 0);
}

static mri_val f_lower(ARGS)
{
    return method(r, "lower", a[0], NULL, 0);
}

static mri_val f_capitalize(ARGS)
{
    return method(r, "capitalize", a[0], NULL, 0);
}

static mri_val f_trim(ARGS)
{
    return method(r, "strip", a[0], a + 1, GIVEN(a[1]));
}

static mri_val f_center(ARGS)
{
    mri_val width = GIVEN(a[1]) ? a[1] : mri_int(80);
    return method(r, "center", a[0], &width, 1);
}

static mri_val f_string(ARGS)
{
    return mri_to_str(r, a[0]);
}

static mri_val f_replace(ARGS)
{
    mri_val old = mri_to_str(r, a[1]), new = mri_to_str(r, a[2]);
    mri_val given[] = { old, new, GIVEN(a[3]) && a[3].kind != MRI_V_NONE ? a[3] : mri_int(-1) };
    return method(r, "replace", a[0], given, 3);
}

/* Letters behind a start, a blank, "-", "(", "{", "[" or "<" are capitals, all others small. */
static mri_val f_title(ARGS)
{
    mri_val s = mri_to_str(r, a[0]);
    mri_str b = { 0 };
    bool begins = true;
    for (size_t i = 0, n; i < s.s->n && mri_spend(r, 0); i += n) {
        uint32_t c = mri_utf8_get(s.s->s + i, s.s->n - i, &n);
        char out[4];
        mri_str_addn(&b, out,
                     mri_utf8_put(begins ? mri_unicode_upper(c) : mri_unicode_lower(c), out));
        begins = mri_unicode_is(c, MRI_U_SPACE) || (c < 0x80 && c && strchr("-({[<", (int)c));
    }
    return mri_take_str(r, &b);
}

static mri_val f_indent(ARGS)
{
    mri_val width = GIVEN(a[1]) ? a[1] : mri_int(4);
    bool first = GIVEN(a[2]) && mri_truth(a[2]), blank = GIVEN(a[3]) && mri_truth(a[3]);
    mri_str b = { 0 }, pad = { 0 };
    if (a[0].kind != MRI_V_STR)
        return mri_raise(r, "indent takes a string, not %s", mri_kind_name(a[0]));
    if (width.kind == MRI_V_STR)
        mri_str_addn(&pad, width.s->s, width.s->n);
    else
        for (int64_t i = mri_to_int(r, width, "indent's width"); i > 0 && mri_spend(r, 0); i--)
            mri_str_add(&pad, " ");
    mri_val text = mri_join2(r, a[0], mri_text(r, "\n")), none = mri_bool(false);
    mri_val lines = method(r, "splitlines", text, &none, 1);
    for (size_t i = 0; !r->st && i < lines.l->n && mri_spend(r, pad.n); i++) {
        const mri_vstr *line = lines.l->v[i].s;
        mri_str_add(&b, i ? "\n" : "");
        if (i ? line->n || blank : first)
            mri_str_addn(&b, pad.s ? pad.s : "", pad.n);
        mri_str_addn(&b, line->s, line->n);
        if (b.n > MRI_CHAT_OUTPUT)
            mri_raise(r, "a text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    }
    mri_str_free(&pad);
    return mri_take_str(r, &b);
}

static mri_val f_truncate(ARGS)
{
    mri_val dots = GIVEN(a[3]) ? a[3] : mri_text(r, "..."), cut, parts[2];
    int64_t n = GIVEN(a[1]) ? mri_to_int(r, a[1], "truncate's length") : 255;
    int64_t leeway = GIVEN(a[4]) ? mri_to_int(r, a[4], "truncate's leeway") : 5;
    if (a[0].kind != MRI_V_STR || dots.kind != MRI_V_STR)
        return mri_raise(r, "truncate takes a string, not %s", mri_kind_name(a[0]));
    if (n < (int64_t)dots.s->chars || leeway < 0)
        return mri_raise(r, "truncate's length is below that of its end, or its leeway below 0");
    if ((int64_t)a[0].s->chars - n <= leeway)
        return a[0];
    cut = mri_slice(r, a[0], mri_none(), mri_int(n - (int64_t)dots.s->chars), mri_none());
    parts[0] = mri_text(r, " ");
    parts[1] = mri_int(1);
    if (!GIVEN(a[2]) || !mri_truth(a[2])) {
        mri_val words = method(r, "rsplit", cut, parts, 2);
        cut = r->st ? cut : words.l->v[0];
    }
    return mri_join2(r, cut, dots);
}

static mri_val f_wordcount(ARGS)
{
    mri_val s = mri_to_str(r, a[0]);
    int64_t words = 0;
    bool inside = false;
    for (size_t i = 0, n; i < s.s->n && mri_spend(r, 0); i += n) {
        uint32_t c = mri_utf8_get(s.s->s + i, s.s->n - i, &n);
        bool word = c == '_' || mri_unicode_is(c, MRI_U_ALPHA) || mri_unicode_is(c, MRI_U_DIGIT);
        words += word && !inside;
        inside = word;
    }
    return mri_int(words);
}

static mri_val f_safe(ARGS)
{
    return mri_safe(r, mri_to_str(r, a[0]));
}

static mri_val f_forceescape(ARGS)
{
    static const char *const to[][2] = { { "&", "&amp;" }, { "<", "&lt;" }, { ">", "&gt;" },
                                         { "'", "&#39;" }, { "\"", "&#34;" } };
    mri_val s = mri_to_str(r, a[0]);
    mri_str b = { 0 };
    for (size_t i = 0; i < s.s->n && mri_spend(r, 0); i++) {
        size_t k = 0;
        while (k < 5 && *to[k][0] != s.s->s[i])
            k++;
        if (k < 5)
            mri_str_add(&b, to[k][1]);
        else
            mri_str_addn(&b, s.s->s + i, 1);
    }
    return mri_safe(r, mri_take_str(r, &b));
}

static mri_val f_escape(ARGS)
{
    return a[0].kind == MRI_V_STR && a[0].s->safe ? a[0] : f_forceescape(r, a, raw);
}

mri_val mri_add_text(mri_render *r, mri_val x, mri_val y)
{
    const mri_args none = { 0 };
    if (!x.s->safe && !y.s->safe)
        return mri_join2(r, x, y);
    x = f_escape(r, &x, &none);
    y = f_escape(r, &y, &none);
    return mri_safe(r, mri_join2(r, x, y));
}

static mri_val f_tojson(ARGS)
{
    mri_json_style style = { .comma = ", ", .colon = ": ", .ascii = GIVEN(a[1]) && mri_truth(a[1]),
                             .sort = GIVEN(a[4]) && mri_truth(a[4]) };
    mri_str out = { 0 }, pad = { 0 }, comma = { 0 }, colon = { 0 };
    if (GIVEN(a[2]) && a[2].kind != MRI_V_NONE) {
        style.comma = ",";
        mri_str_add(&pad, "");
        if (a[2].kind == MRI_V_STR)
            mri_str_addn(&pad, a[2].s->s, a[2].s->n);
        else
            for (int64_t i = mri_to_int(r, a[2], "tojson's indent"); i > 0 && i <= 1000; i--)
                mri_str_add(&pad, " ");
        style.indent = pad.s;
    }
    if (GIVEN(a[3]) && a[3].kind != MRI_V_NONE) {
        const mri_vlist *l = mri_is_list(a[3]) ? a[3].l : NULL;
        if (!l || l->n != 2 || l->v[0].kind != MRI_V_STR || l->v[1].kind != MRI_V_STR) {
            mri_raise(r, "tojson's separators must be two strings");
        } else {
            mri_show(r, l->v[0], &comma);
            mri_show(r, l->v[1], &colon);
            style.comma = comma.s ? comma.s : "";
            style.colon = colon.s ? colon.s : "";
        }
    }
    mri_json_text(r, a[0], &style, 0, &out);
    mri_str_free(&pad);
    mri_str_free(&comma);
    mri_str_free(&colon);
    return mri_take_str(r, &out);
}

static mri_val f_format(ARGS)
{
    mri_val args = mri_list(r, MRI_V_TUPLE, raw->n), kw = mri_dict(r, MRI_V_DICT);
    for (size_t i = 0; i < raw->n; i++)
        mri_push(r, args, raw->pos[i]);
    for (size_t i = 0; i < raw->n_kw; i++)
        mri_put(r, kw, mri_text(r, raw->name[i]), raw->kw[i]);
    if (raw->n && raw->n_kw)
        return mri_raise(r, "format takes either arguments or keywords, not both");
    return mri_percent(r, mri_to_str(r, a[0]), raw->n_kw ? kw : args);
}

static mri_val f_default(ARGS)
{
    bool empty = a[0].kind == MRI_V_UNDEF || (GIVEN(a[2]) && mri_truth(a[2]) && !mri_truth(a[0]));
    return !empty ? a[0] : GIVEN(a[1]) ? a[1] : mri_text(r, "");
}

static const mri_func filters[] = {
    { "capitalize", "value", 1, f_capitalize },
    { "center", "value width", 1, f_center },
    { "d", "value default_value boolean", 1, f_default },
    { "default", "value default_value boolean", 1, f_default },
    { "e", "value", 1, f_escape },
    { "escape", "value", 1, f_escape },
    { "forceescape", "value", 1, f_forceescape },
    { "format", NULL, 1, f_format },
    { "indent", "s width first blank", 1, f_indent },
    { "lower", "value", 1, f_lower },
    { "replace", "s old new count", 3, f_replace },
    { "safe", "value", 1, f_safe },
    { "string", "value", 1, f_string },
    { "title", "value", 1, f_title },
    { "tojson", "x ensure_ascii indent separators sort_keys", 1, f_tojson },
    { "trim", "value chars", 1, f_trim },
    { "truncate", "s length killwords end leeway", 1, f_truncate },
    { "upper", "value", 1, f_upper },
    { "wordcount", "value", 1, f_wordcount },
};

const mri_func *mri_filter_find(const char *name)
{
    const mri_func *f = mri_func_in(filters, sizeof filters / sizeof *filters, name);
    if (!f)
        f = mri_number_filter_find(name);
    if (!f)
        f = mri_list_filter_find(name);
    return f ? f : mri_pick_filter_find(name);
}
