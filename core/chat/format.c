/* SPDX-License-Identifier: Apache-2.0
 *
 * format.c - "%s of %05.1f" % values and "{} of {name}".format(...), as Python has them (eval.h).
 */
#include "eval.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct spec { /* what stands between % or : and the letter */
    bool left, plus, blank, zero, alternate, comma;
    char align; /* < > ^ = or 0 */
    char fill[5];
    int width, precision; /* precision -1: none */
    char letter;
} spec;

static int digits(const char **p, const char *end)
{
    int v = 0;
    for (; *p < end && **p >= '0' && **p <= '9'; ++*p)
        v = v < 100000 ? 10 * v + (**p - '0') : v;
    return v;
}

/* Text with its sign apart, into the width. */
static void put(mri_str *out, const spec *s, const char *sign, const char *text, size_t n,
                size_t chars, char align)
{
    size_t have = strlen(sign) + chars, gap = (size_t)s->width > have ? (size_t)s->width - have : 0;
    size_t before = align == '>' ? gap : align == '^' ? gap / 2 : 0;
    const char *fill = *s->fill ? s->fill : s->zero ? "0" : " ";
    for (size_t i = 0; i < before; i++)
        mri_str_add(out, fill);
    mri_str_add(out, sign);
    for (size_t i = 0; align == '=' && i < gap; i++)
        mri_str_add(out, fill);
    mri_str_addn(out, text, n);
    for (size_t i = before; align != '=' && i < gap; i++)
        mri_str_add(out, fill);
}

static void commas(mri_str *b) /* thousands */
{
    size_t whole = strspn(b->s, "0123456789");
    mri_str out = { 0 };
    for (size_t i = 0; i < b->n; i++) {
        if (i && i < whole && (whole - i) % 3 == 0)
            mri_str_add(&out, ",");
        mri_str_addn(&out, b->s + i, 1);
    }
    mri_str_free(b);
    *b = out;
}

static void integer(mri_render *r, const spec *s, mri_val v, mri_str *out)
{
    mri_str b = { 0 };
    int64_t i = v.kind == MRI_V_FLOAT ? (int64_t)v.f : v.kind == MRI_V_BOOL ? v.b : v.i;
    uint64_t u = i < 0 ? 0 - (uint64_t)i : (uint64_t)i;
    const char *sign = i < 0 ? "-" : s->plus ? "+" : s->blank ? " " : "";
    const char *format = s->letter == 'x' ? "%.*llx" : s->letter == 'X' ? "%.*llX"
                         : s->letter == 'o' ? "%.*llo" : "%.*llu";
    if (s->precision > 1000)
        mri_raise(r, "a precision above 1000");
    else if (s->letter == 'b')
        for (int bit = u ? 63 - __builtin_clzll(u) : 0; bit >= 0; bit--)
            mri_str_add(&b, u >> bit & 1 ? "1" : "0");
    else
        mri_str_fmt(&b, format, s->precision > 0 ? s->precision : 1, (unsigned long long)u);
    if (s->comma && b.s)
        commas(&b);
    put(out, s, sign, b.s ? b.s : "", b.n, b.n,
        s->align ? s->align : s->left ? '<' : s->zero ? '=' : '>');
    mri_str_free(&b);
}

static void real(mri_render *r, const spec *s, double f, mri_str *out)
{
    char format[8] = "%.*f";
    mri_str b = { 0 };
    int precision = s->precision < 0 ? 6 : s->precision;
    if (precision > 1000)
        mri_raise(r, "a precision above 1000");
    format[3] = s->letter == '%' ? 'f' : s->letter;
    if (!r->st)
        mri_str_fmt(&b, format, precision, fabs(s->letter == '%' ? 100 * f : f));
    if (s->letter == '%')
        mri_str_add(&b, "%");
    if (s->comma && b.s)
        commas(&b);
    put(out, s, signbit(f) && f == f ? "-" : s->plus ? "+" : s->blank ? " " : "", b.s ? b.s : "",
        b.n, b.n, s->align ? s->align : s->left ? '<' : s->zero ? '=' : '>');
    mri_str_free(&b);
}

static void text(mri_render *r, const spec *s, mri_val v, mri_str *out, char align)
{
    if (s->precision >= 0)
        v = mri_slice(r, v, mri_none(), mri_int(s->precision), mri_none());
    if (!r->st)
        put(out, s, "", v.s->s, v.s->n, v.s->chars, s->align ? s->align : align);
}

static mri_val repr_of(mri_render *r, mri_val v)
{
    mri_str b = { 0 };
    mri_repr(r, v, &b);
    return mri_take_str(r, &b);
}

static bool check_width(mri_render *r, const spec *s)
{
    if (s->width > 10000)
        mri_raise(r, "a width above 10000");
    return mri_spend(r, (size_t)s->width);
}

/* ---- % ------------------------------------------------------------------------------ */
static void percent_one(mri_render *r, spec *s, mri_val v, mri_str *out)
{
    if (!check_width(r, s))
        return;
    switch (s->letter) {
    case 's':
        text(r, s, mri_to_str(r, v), out, s->left ? '<' : '>');
        break;
    case 'r': case 'a':
        text(r, s, repr_of(r, v), out, s->left ? '<' : '>');
        break;
    case 'd': case 'i': case 'u': case 'x': case 'X': case 'o':
        if (mri_is_num(v) && (v.kind != MRI_V_FLOAT || strchr("diu", s->letter)))
            integer(r, s, v, out);
        else
            mri_raise(r, "%%%c takes a number, not %s", s->letter, mri_kind_name(v));
        break;
    case 'f': case 'F': case 'e': case 'E': case 'g': case 'G':
        if (mri_is_num(v))
            real(r, s, mri_num(v), out);
        else
            mri_raise(r, "%%%c takes a number, not %s", s->letter, mri_kind_name(v));
        break;
    default:
        mri_raise(r, "unknown format '%%%c'", s->letter);
    }
}

mri_val mri_percent(mri_render *r, mri_val format, mri_val args)
{
    const char *p = format.s->s, *end = p + format.s->n;
    bool tuple = args.kind == MRI_V_TUPLE, keyed = false;
    size_t used = 0, have = tuple ? args.l->n : 1;
    mri_str out = { 0 };
    for (; p < end && !r->st; p++) {
        if (*p != '%') {
            mri_str_addn(&out, p, 1);
            continue;
        }
        spec s = { .precision = -1 };
        mri_val v = { .kind = MRI_V_ABSENT };
        const char *close;
        if (++p < end && *p == '(' && (close = memchr(p, ')', (size_t)(end - p)))) {
            v = args.kind == MRI_V_DICT
                    ? mri_getitem(r, args, mri_strn(r, p + 1, (size_t)(close - p) - 1))
                    : mri_raise(r, "%%(name) needs a dict");
            keyed = true;
            p = close + 1;
        }
        for (; p < end && strchr("-+ 0#", *p) && *p; p++) {
            s.left |= *p == '-';
            s.plus |= *p == '+';
            s.blank |= *p == ' ';
            s.zero |= *p == '0';
        }
        s.width = digits(&p, end);
        if (p < end && *p == '.') {
            p++;
            s.precision = digits(&p, end);
        }
        s.letter = p < end ? *p : 0;
        if (s.letter == '%') {
            mri_str_add(&out, "%");
            continue;
        }
        if (v.kind == MRI_V_ABSENT)
            v = used < have ? tuple ? args.l->v[used] : args
                            : mri_raise(r, "not enough arguments for the format string");
        used++;
        percent_one(r, &s, v, &out);
    }
    bool mapping = args.kind == MRI_V_DICT || args.kind == MRI_V_LIST || args.kind == MRI_V_RANGE ||
                   args.kind == MRI_V_UNDEF; /* has keys or indices: nobody need ask for them */
    if (!keyed && used < have && !mapping)
        mri_raise(r, "not all arguments were converted by the format string");
    return mri_take_str(r, &out);
}

/* ---- {} ----------------------------------------------------------------------------- */
static bool is_align(char c)
{
    return c == '<' || c == '>' || c == '^' || c == '=';
}

static spec parse_spec(const char *p, const char *end)
{
    spec s = { .precision = -1 };
    if (end - p >= 2 && is_align(p[1])) {
        s.fill[0] = p[0];
        s.align = p[1];
        p += 2;
    } else if (p < end && is_align(*p)) {
        s.align = *p++;
    }
    for (; p < end && strchr("+- #", *p) && *p; p++) {
        s.plus |= *p == '+';
        s.blank |= *p == ' ';
    }
    if (p < end && *p == '0') {
        s.zero = true;
        p++;
    }
    s.width = digits(&p, end);
    if (p < end && *p == ',') {
        s.comma = true;
        p++;
    }
    if (p < end && *p == '.') {
        p++;
        s.precision = digits(&p, end);
    }
    s.letter = p < end ? *p : 0;
    return s;
}

static void braces_one(mri_render *r, mri_val v, char conversion, const char *p, const char *end,
                       mri_str *out)
{
    spec s = parse_spec(p, end);
    if (conversion == 'r')
        v = repr_of(r, v);
    else if (conversion == 's')
        v = mri_to_str(r, v);
    if (!check_width(r, &s))
        return;
    if (p == end)
        mri_show(r, v, out);
    else if ((v.kind == MRI_V_INT || v.kind == MRI_V_BOOL) &&
             (!s.letter || strchr("dxXob", s.letter)))
        integer(r, &s, v, out);
    else if (mri_is_num(v) && s.letter && strchr("fFeEgG%", s.letter))
        real(r, &s, mri_num(v), out);
    else if (!s.letter || s.letter == 's')
        text(r, &s, mri_to_str(r, v), out, mri_is_num(v) ? '>' : '<');
    else
        mri_raise(r, "unknown format '%c' for %s", s.letter, mri_kind_name(v));
}

/* "0.name[key]": what is meant among the arguments */
static mri_val field(mri_render *r, const char *p, const char *end, size_t *next,
                     const mri_args *args)
{
    size_t n = 0;
    mri_val v = { .kind = MRI_V_ABSENT };
    while (p + n < end && p[n] != '.' && p[n] != '[')
        n++;
    if (!n || (*p >= '0' && *p <= '9')) {
        size_t at = n ? strtoull(p, NULL, 10) : (*next)++;
        v = at < args->n ? args->pos[at] : mri_raise(r, "format lacks the argument %zu", at);
    } else {
        for (size_t i = 0; i < args->n_kw; i++)
            if (strlen(args->name[i]) == n && !strncmp(args->name[i], p, n))
                v = args->kw[i];
        if (v.kind == MRI_V_ABSENT)
            v = mri_raise(r, "format lacks the argument '%.*s'", (int)n, p);
    }
    for (p += n; p < end && !r->st;) {
        bool bracket = *p++ == '[';
        for (n = 0; p + n < end && (bracket ? p[n] != ']' : p[n] != '.' && p[n] != '[');)
            n++;
        mri_val key = mri_strn(r, p, n);
        bool number = bracket && n && strspn(p, "0123456789") >= n;
        v = mri_getitem(r, v, number ? mri_int(atoll(p)) : key);
        p += n + (bracket && p + n < end);
    }
    return v;
}

mri_val mri_str_format(mri_render *r, mri_val format, const mri_args *args)
{
    size_t next = 0;
    mri_str out = { 0 }, copy = { 0 };
    mri_str_addn(&copy, format.s->s, format.s->n); /* NUL-ended, for the readers of digits */
    for (const char *p = copy.s, *end = p + copy.n; p < end && !r->st; p++) {
        if ((*p == '{' || *p == '}') && p + 1 < end && p[1] == *p) {
            mri_str_addn(&out, p++, 1);
            continue;
        }
        const char *close = *p == '{' ? memchr(p, '}', (size_t)(end - p)) : NULL;
        if (!close && (*p == '{' || *p == '}'))
            mri_raise(r, "a single '%c' in a format string", *p);
        if (!close) {
            mri_str_addn(&out, p, 1);
            continue;
        }
        const char *colon = memchr(p, ':', (size_t)(close - p)), *stop = colon ? colon : close;
        const char *mark = memchr(p, '!', (size_t)(stop - p));
        mri_val v = field(r, p + 1, mark ? mark : stop, &next, args);
        if (!r->st)
            braces_one(r, v, mark ? mark[1] : 0, colon ? colon + 1 : close, close, &out);
        p = close;
    }
    mri_str_free(&copy);
    return mri_take_str(r, &out);
}
