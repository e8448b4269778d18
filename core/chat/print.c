/* SPDX-License-Identifier: Apache-2.0
 *
 * print.c - str() and repr() of values as Python has them (value.h).
 */
#include "value.h"
#include "unicode.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The shortest decimal that reads back as f; with an exponent below 1e-4 and from 1e16 on. */
void mri_float_text(double f, mri_str *out)
{
    char b[40], digits[24];
    int precision = 0, exponent;
    if (!isfinite(f)) {
        mri_str_add(out, isnan(f) ? "nan" : f > 0 ? "inf" : "-inf");
        return;
    }
    do
        snprintf(b, sizeof b, "%.*e", precision, f);
    while (strtod(b, NULL) != f && ++precision < 17);
    exponent = atoi(strchr(b, 'e') + 1);
    if (exponent < -4 || exponent >= 16) {
        *strchr(b, 'e') = 0;
        mri_str_fmt(out, "%se%c%02d", b, exponent < 0 ? '-' : '+', abs(exponent));
        return;
    }
    snprintf(digits, sizeof digits, "%.*f", precision > exponent ? precision - exponent : 0, f);
    mri_str_add(out, digits);
    if (!strchr(digits, '.'))
        mri_str_add(out, ".0");
}

static void repr_text(const mri_vstr *v, mri_str *out)
{
    bool quote = memchr(v->s, '\'', v->n) && !memchr(v->s, '"', v->n);
    char q = quote ? '"' : '\'';
    mri_str_addn(out, &q, 1);
    for (size_t i = 0, n; i < v->n; i += n) {
        uint32_t c = mri_utf8_get(v->s + i, v->n - i, &n);
        if (c == '\n' || c == '\r' || c == '\t')
            mri_str_add(out, c == '\n' ? "\\n" : c == '\r' ? "\\r" : "\\t");
        else if (c == '\\' || c == (unsigned char)q)
            mri_str_fmt(out, "\\%c", (int)c);
        else if (mri_unicode_is(c, MRI_U_PRINT))
            mri_str_addn(out, v->s + i, n);
        else
            mri_str_fmt(out, c < 0x100 ? "\\x%02x" : c < 0x10000 ? "\\u%04x" : "\\U%08x", c);
    }
    mri_str_addn(out, &q, 1);
}

static void repr_list(mri_render *r, mri_val v, const char *open, const char *close, mri_str *out)
{
    mri_str_add(out, open);
    for (size_t i = 0; i < v.l->n && !r->st; i++) {
        mri_str_add(out, i ? ", " : "");
        mri_repr(r, v.l->v[i], out);
    }
    mri_str_add(out, v.kind == MRI_V_TUPLE && v.l->n == 1 ? ",)" : close);
}

static void repr_dict(mri_render *r, const mri_vdict *d, mri_str *out)
{
    mri_str_add(out, "{");
    for (size_t i = 0; i < d->n && !r->st; i++) {
        mri_str_add(out, i ? ", " : "");
        mri_repr(r, d->key[i], out);
        mri_str_add(out, ": ");
        mri_repr(r, d->val[i], out);
    }
    mri_str_add(out, "}");
}

/* a range is what its items say: start, stop and step */
static void repr_range(const mri_vlist *l, mri_str *out)
{
    int64_t first = l->n ? l->v[0].i : 0, step = l->n > 1 ? l->v[1].i - first : 1;
    mri_str_fmt(out, "range(%lld, %lld", (long long)first,
                (long long)(l->n ? l->v[l->n - 1].i + (step > 0 ? 1 : -1) : 0));
    if (step != 1)
        mri_str_fmt(out, ", %lld", (long long)step);
    mri_str_add(out, ")");
}

void mri_repr(mri_render *r, mri_val v, mri_str *out)
{
    mri_spend(r, 0);
    if (++r->depth > MRI_CHAT_DEPTH)
        mri_raise(r, "values are nested more than %d deep", MRI_CHAT_DEPTH);
    if (out->n > MRI_CHAT_OUTPUT)
        mri_raise(r, "a text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    if (!r->st) {
        switch (v.kind) {
        case MRI_V_STR:
            mri_spend(r, v.s->n);
            repr_text(v.s, out);
            break;
        case MRI_V_LIST:
            repr_list(r, v, "[", "]", out);
            break;
        case MRI_V_TUPLE:
            repr_list(r, v, "(", ")", out);
            break;
        case MRI_V_VIEW:
            repr_list(r, v, "dict_view([", "])", out);
            break;
        case MRI_V_RANGE:
            repr_range(v.l, out);
            break;
        case MRI_V_DICT:
            repr_dict(r, v.d, out);
            break;
        case MRI_V_SPACE:
            mri_str_add(out, "<Namespace ");
            repr_dict(r, v.d, out);
            mri_str_add(out, ">");
            break;
        case MRI_V_UNDEF:
            mri_str_add(out, "Undefined");
            break;
        default:
            mri_show(r, v, out);
        }
    }
    r->depth--;
}

void mri_show(mri_render *r, mri_val v, mri_str *out)
{
    switch (v.kind) {
    case MRI_V_STR:
        mri_spend(r, v.s->n);
        mri_str_addn(out, v.s->s, v.s->n);
        break;
    case MRI_V_UNDEF:
        break;
    case MRI_V_NONE:
        mri_str_add(out, "None");
        break;
    case MRI_V_BOOL:
        mri_str_add(out, v.b ? "True" : "False");
        break;
    case MRI_V_INT:
        mri_str_fmt(out, "%lld", (long long)v.i);
        break;
    case MRI_V_FLOAT:
        mri_float_text(v.f, out);
        break;
    case MRI_V_ITER: case MRI_V_MACRO: case MRI_V_FUNC: case MRI_V_LOOP:
        mri_str_fmt(out, "<%s>", mri_kind_name(v));
        break;
    default:
        mri_repr(r, v, out);
    }
}

mri_val mri_to_str(mri_render *r, mri_val v)
{
    mri_str b = { 0 };
    if (v.kind == MRI_V_STR)
        return v;
    mri_show(r, v, &b);
    return mri_take_str(r, &b);
}
