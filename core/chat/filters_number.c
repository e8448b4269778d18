/* SPDX-License-Identifier: Apache-2.0
 *
 * filters_number.c - filters that make numbers (eval.h): int, float, abs, round, with Python's
 * spellings of numbers and its rounding.
 */
#include "eval.h"
#include "unicode.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ARGS mri_render *r, mri_val *a, MR_UNUSED const mri_args *raw
#define GIVEN(x) ((x).kind != MRI_V_ABSENT)

/* A number of Python's spelling: blanks around it, "_" between digits. NULL where it is none. */
static char *digits_of(mri_val v)
{
    mri_str b = { 0 };
    size_t i = 0, n = v.s->n, len;
    while (i < n && mri_unicode_is(mri_utf8_get(v.s->s + i, n - i, &len), MRI_U_SPACE))
        i += len;
    while (n > i && mri_unicode_is((unsigned char)v.s->s[n - 1], MRI_U_SPACE))
        n--;
    for (size_t k = i; k < n; k++) {
        bool between = k > i && k + 1 < n && v.s->s[k - 1] != '_';
        if (v.s->s[k] == '_' ? !between : !v.s->s[k]) {
            mri_str_free(&b);
            return NULL;
        }
        if (v.s->s[k] != '_')
            mri_str_addn(&b, v.s->s + k, 1);
    }
    return b.n ? mri_str_take(&b) : NULL;
}

static bool read_float(mri_val v, double *out)
{
    char *text, *end;
    bool ok;
    if (v.kind != MRI_V_STR) {
        *out = mri_is_num(v) ? mri_num(v) : 0;
        return mri_is_num(v);
    }
    text = digits_of(v);
    if (!text)
        return false;
    *out = strtod(text, &end);
    ok = end > text && !*end && !strpbrk(text, "xXpP(");
    free(text);
    return ok;
}

static bool read_int(mri_render *r, mri_val v, int base, int64_t *out)
{
    double f;
    if (v.kind == MRI_V_STR) {
        char *text = digits_of(v), *end;
        errno = 0;
        bool ok = text && (*out = strtoll(text, &end, base), end > text && !*end && !errno);
        free(text);
        if (ok)
            return true;
    }
    if (!read_float(v, &f) || !isfinite(f))
        return false;
    if (fabs(f) >= 9223372036854775808.0) {
        mri_raise(r, "int: %g does not fit 64 bits", f);
        return true;
    }
    *out = v.kind == MRI_V_INT ? v.i : (int64_t)f;
    return true;
}

static mri_val f_int(ARGS)
{
    int64_t v = 0, base = GIVEN(a[2]) ? mri_to_int(r, a[2], "int's base") : 10;
    if (a[0].kind == MRI_V_UNDEF)
        return mri_raise(r, "%s is undefined", a[0].what);
    if (base && (base < 2 || base > 36))
        return mri_raise(r, "int's base must be 0 or from 2 to 36");
    return read_int(r, a[0], (int)base, &v) ? mri_int(v) : GIVEN(a[1]) ? a[1] : mri_int(0);
}

static mri_val f_float(ARGS)
{
    double v;
    if (a[0].kind == MRI_V_UNDEF)
        return mri_raise(r, "%s is undefined", a[0].what);
    return read_float(a[0], &v) ? mri_float(v) : GIVEN(a[1]) ? a[1] : mri_float(0);
}

static mri_val f_abs(ARGS)
{
    if (!mri_is_num(a[0]))
        return mri_raise(r, "abs takes a number, not %s", mri_kind_name(a[0]));
    if (a[0].kind == MRI_V_FLOAT)
        return mri_float(fabs(a[0].f));
    int64_t i = mri_to_int(r, a[0], "abs");
    return i == INT64_MIN ? mri_raise(r, "abs: %lld does not fit 64 bits", (long long)i)
                          : mri_int(i < 0 ? -i : i);
}

/* Half to even on the decimal digits of the number, as Python's round() has it. */
static double round_at(double f, int64_t places)
{
    char digits[400];
    if (!isfinite(f) || places > 22)
        return f;
    if (places < 0) {
        double p = pow(10, (double)-places);
        return p > 1e300 ? 0 : nearbyint(f / p) * p;
    }
    snprintf(digits, sizeof digits, "%.*f", (int)places, f);
    return strtod(digits, NULL);
}

static mri_val f_round(ARGS)
{
    int64_t places = GIVEN(a[1]) ? mri_to_int(r, a[1], "round's precision") : 0;
    if (!mri_is_num(a[0]))
        return mri_raise(r, "round takes a number, not %s", mri_kind_name(a[0]));
    double f = mri_num(a[0]), p = pow(10, (double)places);
    if (!GIVEN(a[2]) || mri_str_is(a[2], "common"))
        return a[0].kind == MRI_V_FLOAT ? mri_float(round_at(f, places))
               : places >= 0            ? mri_int(mri_to_int(r, a[0], "round"))
                                        : mri_int((int64_t)round_at(f, places));
    if (mri_str_is(a[2], "ceil"))
        return mri_float(ceil(f * p) / p);
    if (mri_str_is(a[2], "floor"))
        return mri_float(floor(f * p) / p);
    return mri_raise(r, "round's method must be common, ceil or floor");
}

static const mri_func filters[] = {
    { "abs", "value", 1, f_abs },
    { "float", "value default", 1, f_float },
    { "int", "value default base", 1, f_int },
    { "round", "value precision method", 1, f_round },
};

const mri_func *mri_number_filter_find(const char *name)
{
    return mri_func_in(filters, sizeof filters / sizeof *filters, name);
}
