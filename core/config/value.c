/* SPDX-License-Identifier: Apache-2.0
 * value.c - the text of one value becomes its typed form (mri_option_parse).
 *
 * Invariant: a number is taken whole or refused with the place where it stopped making
 * sense; nothing is rounded silently except a SIZE with a fraction of a unit. */
#include "option.h"
#include <locale.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* mantissa x 10^scale; 19 digits fit a uint64_t */
typedef struct decimal {
    bool negative, too_long, inexact; /* digits that were dropped: whole ones, fractional ones */
    uint64_t mantissa;
    int scale;
    size_t n; /* characters read; 0: no number here */
} decimal;

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static decimal read_decimal(const char *s)
{
    decimal d = { 0 };
    size_t i = 0;
    bool any = false, fraction = false;
    if (s[i] == '-' || s[i] == '+')
        d.negative = s[i++] == '-';
    for (;; i++) {
        if (s[i] == '.' && !fraction) {
            fraction = true;
        } else if (s[i] == '_' && i && is_digit(s[i - 1]) && is_digit(s[i + 1])) {
            continue;
        } else if (is_digit(s[i])) {
            any = true;
            if (d.mantissa > (UINT64_MAX - 9) / 10) {
                d.too_long |= s[i] != '0' && !fraction;
                d.inexact |= s[i] != '0' && fraction;
                d.scale += !fraction;
            } else {
                d.mantissa = 10 * d.mantissa + (uint64_t)(s[i] - '0');
                d.scale -= fraction;
            }
        } else {
            break;
        }
    }
    if (!any)
        return (decimal){ 0 };
    if (s[i] == 'e' || s[i] == 'E') {
        size_t j = i + 1;
        bool minus = s[j] == '-';
        j += s[j] == '-' || s[j] == '+';
        if (is_digit(s[j])) {
            int e = 0;
            for (; is_digit(s[j]); j++)
                e = e < 100000 ? 10 * e + (s[j] - '0') : e;
            d.scale += minus ? -e : e;
            i = j;
        }
    }
    d.n = i;
    return d;
}

typedef struct text_value {
    const mr_opt *o;
    const char *s; /* trimmed copy */
    mr_err *err;
} text_value;

/* "lr = 1e-3x : " and the reason */
MR_PRINTF(2, 3) static mr_status refuse(const text_value *t, const char *fmt, ...)
{
    mri_str why = { 0 };
    va_list ap;
    va_start(ap, fmt);
    mri_str_vfmt(&why, fmt, ap);
    va_end(ap);
    mr_fail(t->err, MR_E_PROFILE_VALUE, MR_BLAME_USER, "%s = %.48s%s : %s", t->o->key, t->s,
            strlen(t->s) > 48 ? "..." : "", why.s);
    mri_str_free(&why);
    return MR_E_PROFILE_VALUE;
}

static mr_status refuse_stop(const text_value *t, const char *type, size_t stop)
{
    const char *rest = t->s + stop;
    while (*rest == ' ' || *rest == '\t')
        rest++;
    mr_status st = !*t->s ? refuse(t, "expected %s, got nothing", type)
                   : !stop ? refuse(t, "expected %s", type)
                           : refuse(t, "expected %s, stopped at '%.16s'", type, rest);
    if (stop && *rest == '#')
        mr_detail(t->err, "a comment after a value starts with ' ;'");
    return st;
}

static mr_status check_range(const text_value *t, double x)
{
    const mr_opt *o = t->o;
    if (!(o->lo < o->hi) || (x >= o->lo && x <= o->hi))
        return 0;
    mri_str type = { 0 };
    mr_opt bare = *o;
    bare.choices = NULL;
    mri_opt_type_text(&bare, &type);
    const char *range = strchr(type.s, ' ');
    mr_status st = refuse(t, "out of range, allowed %s", range ? range + 1 : type.s);
    mri_str_free(&type);
    return st;
}

static mr_status parse_int(const text_value *t, void *at)
{
    decimal d = read_decimal(t->s);
    if (!d.n || t->s[d.n])
        return refuse_stop(t, "int", d.n);
    while (d.scale < 0 && d.mantissa % 10 == 0 && d.mantissa) {
        d.mantissa /= 10;
        d.scale++;
    }
    if ((d.scale < 0 && d.mantissa) || d.inexact)
        return refuse(t, "not a whole number");
    uint64_t v = d.mantissa;
    bool over = d.too_long;
    for (int i = 0; i < d.scale && v && !over; i++)
        over = __builtin_mul_overflow(v, (uint64_t)10, &v);
    if (over || v > INT64_MAX)
        return refuse(t, "does not fit 64 bits");
    int64_t x = d.negative ? -(int64_t)v : (int64_t)v;
    memcpy(at, &x, sizeof x);
    return check_range(t, (double)x);
}

/* The double that strtod gives, without hex, inf, nan or the locale's comma. */
static mr_status read_double(const text_value *t, const char *type, double *x, size_t *n)
{
    decimal d = read_decimal(t->s);
    *n = d.n;
    if (!d.n)
        return refuse_stop(t, type, 0);
    char *plain = mri_alloc(d.n + 1);
    for (size_t i = 0, k = 0; i < d.n; i++)
        if (t->s[i] != '_')
            plain[k++] = t->s[i];
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    *x = strtod_l(plain, NULL, c);
    freelocale(c);
    free(plain);
    return isfinite(*x) ? 0 : refuse(t, "does not fit a double");
}

static mr_status parse_float(const text_value *t, void *at)
{
    double x;
    size_t n;
    mr_status st = read_double(t, "float", &x, &n);
    if (st)
        return st;
    if (t->s[n])
        return refuse_stop(t, "float", n);
    memcpy(at, &x, sizeof x);
    return check_range(t, x);
}

typedef struct unit {
    const char *name;
    double factor;
} unit;
static const unit size_units[] = {
    { "", 1 }, { "B", 1 }, { "KiB", 1024 }, { "MiB", 1048576 }, { "GiB", 1073741824 },
    { "TiB", 1099511627776 }, { "kB", 1e3 }, { "KB", 1e3 }, { "MB", 1e6 }, { "GB", 1e9 },
    { "TB", 1e12 }, { NULL, 0 },
};
static const unit time_units[] = {
    { "us", 1e-6 }, { "ms", 1e-3 }, { "s", 1 }, { "min", 60 }, { "h", 3600 }, { "d", 86400 },
    { NULL, 0 },
};

static const unit *find_unit(const unit *u, const char *name)
{
    while (u->name && strcmp(u->name, name))
        u++;
    return u->name ? u : NULL;
}

static size_t skip_blanks(const char *s, size_t i)
{
    while (s[i] == ' ' || s[i] == '\t')
        i++;
    return i;
}

static mr_status parse_size(const text_value *t, void *at)
{
    decimal d = read_decimal(t->s);
    if (!d.n)
        return refuse_stop(t, "size", 0);
    const unit *u = find_unit(size_units, t->s + skip_blanks(t->s, d.n));
    if (!u) {
        mr_status st = refuse_stop(t, "size", d.n);
        mr_detail(t->err, "units are B KiB MiB GiB TiB, kB MB GB TB");
        return st;
    }
    long double x = (long double)d.mantissa * powl(10, d.scale) * (long double)u->factor;
    if (d.negative || d.too_long || !(x < 9223372036854775808.0L))
        return refuse(t, d.negative ? "a size is not negative" : "does not fit 64 bits");
    if (u->factor == 1 && x != floorl(x))
        return refuse(t, "not a whole number of bytes");
    int64_t v = (int64_t)roundl(x);
    memcpy(at, &v, sizeof v);
    return check_range(t, (double)v);
}

static mr_status parse_time(const text_value *t, void *at)
{
    double x;
    size_t n;
    mr_status st = read_double(t, "time", &x, &n);
    if (st)
        return st;
    size_t after = skip_blanks(t->s, n);
    const unit *u = find_unit(time_units, t->s + after);
    if (!u && !t->s[after] && x == 0)
        u = &time_units[2]; /* nothing is nothing in every unit */
    if (!u) {
        st = t->s[after] ? refuse_stop(t, "time", n) : refuse(t, "expected time with its unit");
        mr_detail(t->err, "units are us ms s min h d");
        return st;
    }
    x *= u->factor;
    memcpy(at, &x, sizeof x);
    return check_range(t, x);
}

static mr_status parse_bool(const text_value *t, void *at)
{
    static const char *const words[] = { "false", "true", "no", "yes", "off", "on", "0", "1" };
    for (int32_t i = 0; i < 8; i++)
        if (!strcasecmp(t->s, words[i])) {
            int32_t x = i & 1;
            memcpy(at, &x, sizeof x);
            return 0;
        }
    return refuse(t, "expected true or false");
}

static mr_status store_text(const char *s, void *at)
{
    char *copy = mri_strdup(s);
    memcpy(at, &copy, sizeof copy);
    return 0;
}

static mr_status parse_enum(const text_value *t, void *at)
{
    const char *choices = t->o->choices ? t->o->choices : "";
    if (mri_opt_has_word(choices, t->s, strlen(t->s), NULL))
        return store_text(t->s, at);
    MRI_VEC(const char *) words = { 0 };
    char *copy = mri_strdup(choices), *save = NULL;
    for (char *w = strtok_r(copy, "|", &save); w; w = strtok_r(NULL, "|", &save))
        MRI_PUSH(&words, w);
    mr_status st = refuse(t, "expected one of %s", choices);
    const char *near = mri_nearest(t->s, words.v, words.n);
    if (near)
        mr_detail(t->err, "did you mean '%s'?", near);
    free(copy);
    free(words.v);
    return st;
}

/* pointers, then the texts that they point at: one block */
static mr_status parse_list(const text_value *t, void *at)
{
    mr_list list = { NULL, 0 };
    size_t len = strlen(t->s);
    if (strcmp(t->s, "none") || !mri_opt_has_word(t->o->choices, "none", 4, NULL)) {
        size_t n = len > 0;
        for (const char *c = t->s; *c; c++)
            n += *c == ',';
        char **v = mri_alloc(n * sizeof *v + len + 1);
        char *text = (char *)(v + n);
        memcpy(text, t->s, len);
        for (size_t i = 0; i < n; i++) {
            size_t item = strcspn(text, ","), from = skip_blanks(text, 0), to = item;
            while (to > from && (text[to - 1] == ' ' || text[to - 1] == '\t'))
                to--;
            if (to <= from) {
                free(v);
                return refuse(t, "item %zu of the list is empty", i + 1);
            }
            text[to] = 0;
            v[i] = text + from;
            text += item + 1;
        }
        if (!n) {
            free(v);
            v = NULL;
        }
        list = (mr_list){ (const char *const *)v, n };
    }
    memcpy(at, &list, sizeof list);
    return 0;
}

static mr_status parse_path(const text_value *t, const char *base_dir, void *at)
{
    char *why, *path = mri_path_resolve(t->s, base_dir, &why);
    if (!path) {
        mr_status st = refuse(t, "%s", why);
        free(why);
        return st;
    }
    memcpy(at, &path, sizeof path);
    return 0;
}

/* A word of `choices` for a type that is not an ENUM: see profile.h. */
static void store_word(const mr_opt *o, uint32_t index, const char *word, void *at)
{
    int64_t i = -(int64_t)index;
    double x = (double)i;
    int32_t b = -1 - (int32_t)index;
    switch (o->type) {
    case MR_T_BOOL: memcpy(at, &b, sizeof b); break;
    case MR_T_INT:
    case MR_T_SIZE: memcpy(at, &i, sizeof i); break;
    case MR_T_FLOAT:
    case MR_T_TIME: memcpy(at, &x, sizeof x); break;
    default: store_text(word, at); break;
    }
}

static mr_status parse_typed(const text_value *t, const char *base_dir, void *at)
{
    switch (t->o->type) {
    case MR_T_BOOL: return parse_bool(t, at);
    case MR_T_INT: return parse_int(t, at);
    case MR_T_FLOAT: return parse_float(t, at);
    case MR_T_SIZE: return parse_size(t, at);
    case MR_T_TIME: return parse_time(t, at);
    case MR_T_ENUM: return parse_enum(t, at);
    case MR_T_PATH: return parse_path(t, base_dir, at);
    case MR_T_LIST: return parse_list(t, at);
    default: return refuse(t, "its row has type %u, which this mrun does not know", t->o->type);
    }
}

mr_status mri_option_parse(const mr_opt *row, const char *text, const char *base_dir, void *config,
                           mr_err *err)
{
    mr_opt o = mri_opt_read(row);
    void *at = (char *)config + o.offset;
    if (o.type == MR_T_STR)
        return *text ? store_text(text, at) : 0; /* blanks belong to a text */

    size_t from = skip_blanks(text, 0), to = strlen(text);
    while (to > from && (text[to - 1] == ' ' || text[to - 1] == '\t'))
        to--;
    if (to == from && (o.type == MR_T_PATH || o.type == MR_T_LIST))
        return 0;
    char *s = mri_strndup(text + from, to - from);
    text_value t = { &o, s, err };
    uint32_t index;
    mr_status st = 0;
    if (o.type != MR_T_ENUM && o.type != MR_T_LIST &&
        mri_opt_has_word(o.choices, s, to - from, &index))
        store_word(&o, index, s, at);
    else
        st = parse_typed(&t, base_dir, at);
    free(s);
    return st;
}
