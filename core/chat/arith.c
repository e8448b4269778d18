/* SPDX-License-Identifier: Apache-2.0
 *
 * arith.c - the operators + - * / // % ** as Python has them, on numbers, strings and lists
 * (eval.h). Whole numbers have 64 bits here; what does not fit them is an error.
 */
#include "eval.h"
#include "lex.h"
#include <math.h>
#include <string.h>

static const char *sign_of(uint8_t op)
{
    static const char *const signs[] = { "+", "-", "*", "/", "//", "%", "**" };
    return op >= MRI_T_ADD && op <= MRI_T_POW ? signs[op - MRI_T_ADD] : "?";
}

static bool power(int64_t base, int64_t exponent, int64_t *out)
{
    bool over = false;
    *out = 1;
    while (exponent > 0 && !over) {
        if (exponent & 1)
            over = __builtin_mul_overflow(*out, base, out);
        exponent >>= 1;
        if (exponent)
            over |= __builtin_mul_overflow(base, base, &base);
    }
    return over;
}

static mri_val whole(mri_render *r, uint8_t op, int64_t a, int64_t b)
{
    int64_t v = 0;
    bool over = false;
    if (op == MRI_T_POW && b < 0)
        return a ? mri_float(pow((double)a, (double)b))
                 : mri_raise(r, "0 cannot be raised to a negative power");
    if ((op == MRI_T_DIV || op == MRI_T_FLOORDIV || op == MRI_T_MOD) && !b)
        return mri_raise(r, "division by zero");
    switch (op) {
    case MRI_T_ADD:
        over = __builtin_add_overflow(a, b, &v);
        break;
    case MRI_T_SUB:
        over = __builtin_sub_overflow(a, b, &v);
        break;
    case MRI_T_MUL:
        over = __builtin_mul_overflow(a, b, &v);
        break;
    case MRI_T_DIV:
        return mri_float((double)a / (double)b);
    case MRI_T_FLOORDIV:
        over = b == -1 && a == INT64_MIN;
        v = over ? 0 : a / b - (a % b != 0 && (a < 0) != (b < 0));
        break;
    case MRI_T_MOD:
        v = b == -1 ? 0 : a % b;
        v += v && (v < 0) != (b < 0) ? b : 0;
        break;
    default:
        over = power(a, b, &v);
    }
    return over ? mri_raise(r, "%lld %s %lld does not fit 64 bits", (long long)a, sign_of(op),
                            (long long)b)
                : mri_int(v);
}

static mri_val real(mri_render *r, uint8_t op, double a, double b)
{
    double m;
    if ((op == MRI_T_DIV || op == MRI_T_FLOORDIV || op == MRI_T_MOD) && b == 0)
        return mri_raise(r, "float division by zero");
    switch (op) {
    case MRI_T_ADD:
        return mri_float(a + b);
    case MRI_T_SUB:
        return mri_float(a - b);
    case MRI_T_MUL:
        return mri_float(a * b);
    case MRI_T_DIV:
        return mri_float(a / b);
    case MRI_T_POW:
        return mri_float(pow(a, b));
    default:
        break;
    }
    m = fmod(a, b);
    m = m != 0 && (m < 0) != (b < 0) ? m + b : m == 0 ? copysign(0.0, b) : m;
    if (op == MRI_T_MOD)
        return mri_float(m);
    double d = (a - m) / b, f = floor(d);
    return mri_float(d == 0 ? copysign(0.0, a / b) : d - f > 0.5 ? f + 1 : f);
}

static bool is_whole(mri_val v)
{
    return v.kind == MRI_V_INT || v.kind == MRI_V_BOOL;
}

static mri_val joined(mri_render *r, mri_val a, mri_val b)
{
    mri_val out = mri_list(r, (mri_kind)a.kind, a.l->n + b.l->n);
    for (size_t i = 0; i < a.l->n && !r->st; i++)
        mri_push(r, out, a.l->v[i]);
    for (size_t i = 0; i < b.l->n && !r->st; i++)
        mri_push(r, out, b.l->v[i]);
    return out;
}

static mri_val repeated(mri_render *r, mri_val a, int64_t times)
{
    size_t n = a.kind == MRI_V_STR ? a.s->n : a.l->n, k = times > 0 ? (size_t)times : 0;
    if (n && k > MRI_CHAT_MEMORY / sizeof(mri_val) / n)
        return mri_raise(r, "%zu times %zu is more than a template may take", k, n);
    if (a.kind == MRI_V_STR) {
        mri_str b = { 0 };
        for (size_t i = 0; i < k && n && mri_spend(r, n); i++)
            mri_str_addn(&b, a.s->s, n);
        return mri_take_str(r, &b);
    }
    mri_val out = mri_list(r, (mri_kind)a.kind, n * k);
    for (size_t i = 0; i < (n ? k : 0) && !r->st; i++)
        for (size_t j = 0; j < n && !r->st; j++)
            mri_push(r, out, a.l->v[j]);
    return out;
}

static bool repeats(mri_val v)
{
    return v.kind == MRI_V_STR || v.kind == MRI_V_LIST || v.kind == MRI_V_TUPLE;
}

mri_val mri_binary(mri_render *r, uint8_t op, mri_val a, mri_val b)
{
    if (r->st)
        return mri_none();
    if (is_whole(a) && is_whole(b))
        return whole(r, op, a.kind == MRI_V_BOOL ? a.b : a.i, b.kind == MRI_V_BOOL ? b.b : b.i);
    if (mri_is_num(a) && mri_is_num(b))
        return real(r, op, mri_num(a), mri_num(b));
    if (op == MRI_T_ADD && a.kind == b.kind && a.kind == MRI_V_STR)
        return mri_add_text(r, a, b);
    if (op == MRI_T_ADD && a.kind == b.kind && (a.kind == MRI_V_LIST || a.kind == MRI_V_TUPLE))
        return joined(r, a, b);
    if (op == MRI_T_MUL && repeats(a) && is_whole(b))
        return repeated(r, a, b.kind == MRI_V_BOOL ? b.b : b.i);
    if (op == MRI_T_MUL && repeats(b) && is_whole(a))
        return repeated(r, b, a.kind == MRI_V_BOOL ? a.b : a.i);
    if (op == MRI_T_MOD && a.kind == MRI_V_STR)
        return mri_percent(r, a, b);
    if (a.kind == MRI_V_UNDEF || b.kind == MRI_V_UNDEF)
        return mri_raise(r, "%s is undefined", a.kind == MRI_V_UNDEF ? a.what : b.what);
    return mri_raise(r, "'%s' does not go between '%s' and '%s'", sign_of(op), mri_kind_name(a),
                     mri_kind_name(b));
}
