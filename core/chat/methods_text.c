/* SPDX-License-Identifier: Apache-2.0
 *
 * methods_text.c - the methods of strings, as Python has them (eval.h), but for those that take
 * strings apart and put them together (methods_parts.c). Slot 0 is the string.
 */
#include "eval.h"
#include "unicode.h"
#include <string.h>

#define ARGS mri_render *r, mri_val *a, MR_UNUSED const mri_args *raw
#define GIVEN(x) ((x).kind != MRI_V_ABSENT && (x).kind != MRI_V_NONE)

bool mri_need_text(mri_render *r, mri_val v, const char *what)
{
    if (v.kind != MRI_V_STR)
        mri_raise(r, "%s takes a string, not %s", what, mri_kind_name(v));
    return !r->st;
}

/* ---- letter case -------------------------------------------------------------------- */
enum { UPPER, LOWER, CAPITALIZE, TITLE, SWAP };

static mri_val recase(mri_render *r, mri_val v, int how)
{
    mri_str b = { 0 };
    bool inside = false; /* a letter stands before */
    mri_spend(r, 2 * v.s->n);
    for (size_t i = 0, n; i < v.s->n; i += n) {
        uint32_t c = mri_utf8_get(v.s->s + i, v.s->n - i, &n);
        bool up = how == UPPER || (how == CAPITALIZE && !i) || (how == TITLE && !inside) ||
                  (how == SWAP && mri_unicode_is(c, MRI_U_LOWER));
        bool cased = mri_unicode_is(c, MRI_U_UPPER) || mri_unicode_is(c, MRI_U_LOWER);
        char out[4];
        if (up && c == 0xdf) /* the one letter of Latin-1 that becomes two */
            mri_str_add(&b, how == UPPER || how == SWAP ? "SS" : "Ss");
        else
            mri_str_addn(&b, out,
                         mri_utf8_put(up ? mri_unicode_upper(c) : mri_unicode_lower(c), out));
        inside = cased;
    }
    return mri_take_str(r, &b);
}

static mri_val m_upper(ARGS)
{
    return recase(r, a[0], UPPER);
}

static mri_val m_lower(ARGS)
{
    return recase(r, a[0], LOWER);
}

static mri_val m_capitalize(ARGS)
{
    return recase(r, a[0], CAPITALIZE);
}

static mri_val m_title(ARGS)
{
    return recase(r, a[0], TITLE);
}

static mri_val m_swapcase(ARGS)
{
    return recase(r, a[0], SWAP);
}

/* ---- ends --------------------------------------------------------------------------- */
static bool in_set(mri_val set, uint32_t c)
{
    if (set.kind != MRI_V_STR)
        return mri_unicode_is(c, MRI_U_SPACE);
    for (size_t i = 0, n; i < set.s->n; i += n)
        if (mri_utf8_get(set.s->s + i, set.s->n - i, &n) == c)
            return true;
    return false;
}

static mri_val stripped(mri_render *r, mri_val *a, bool left, bool right)
{
    const mri_vstr *v = a[0].s;
    size_t from = 0, keep = 0;
    if (GIVEN(a[1]) && !mri_need_text(r, a[1], "strip"))
        return a[0];
    mri_spend(r, v->n);
    for (size_t n; left && from < v->n; from += n)
        if (!in_set(a[1], mri_utf8_get(v->s + from, v->n - from, &n)))
            break;
    for (size_t i = keep = from, n; i < v->n; i += n) {
        bool out = in_set(a[1], mri_utf8_get(v->s + i, v->n - i, &n));
        keep = out ? keep : i + n;
    }
    if (!right)
        keep = v->n;
    return mri_slice_of(r, a[0], from, keep - from);
}

static mri_val m_strip(ARGS)
{
    return stripped(r, a, true, true);
}

static mri_val m_lstrip(ARGS)
{
    return stripped(r, a, true, false);
}

static mri_val m_rstrip(ARGS)
{
    return stripped(r, a, false, true);
}

static bool has_end(mri_val s, mri_val x, bool front)
{
    return x.s->n <= s.s->n &&
           !memcmp(front ? s.s->s : s.s->s + s.s->n - x.s->n, x.s->s, x.s->n);
}

static mri_val m_ends(mri_render *r, mri_val *a, bool front)
{
    if (a[1].kind == MRI_V_TUPLE) { /* any of them */
        for (size_t i = 0; i < a[1].l->n; i++)
            if (mri_need_text(r, a[1].l->v[i], "startswith") && has_end(a[0], a[1].l->v[i], front))
                return mri_bool(true);
        return mri_bool(false);
    }
    return mri_bool(mri_need_text(r, a[1], "startswith") && has_end(a[0], a[1], front));
}

static mri_val m_startswith(ARGS)
{
    return m_ends(r, a, true);
}

static mri_val m_endswith(ARGS)
{
    return m_ends(r, a, false);
}

static mri_val m_removeprefix(ARGS)
{
    return mri_need_text(r, a[1], "removeprefix") && has_end(a[0], a[1], true)
               ? mri_slice_of(r, a[0], a[1].s->n, a[0].s->n - a[1].s->n)
               : a[0];
}

static mri_val m_removesuffix(ARGS)
{
    return mri_need_text(r, a[1], "removesuffix") && has_end(a[0], a[1], false)
               ? mri_slice_of(r, a[0], 0, a[0].s->n - a[1].s->n)
               : a[0];
}

const char *mri_rfind(const mri_vstr *v, size_t n, const mri_vstr *x)
{
    for (size_t i = x->n <= n ? n - x->n + 1 : 0; i--;)
        if (!memcmp(v->s + i, x->s, x->n))
            return v->s + i;
    return NULL;
}

/* ---- questions ---------------------------------------------------------------------- */
static int64_t find(mri_render *r, mri_val *a, bool from_right)
{
    const mri_vstr *v = a[0].s;
    if (!mri_need_text(r, a[1], "find"))
        return -1;
    int64_t skip = 0;
    mri_val in = a[0];
    if (GIVEN(a[2]) || GIVEN(a[3])) {
        mri_val from = GIVEN(a[2]) ? a[2] : mri_none(), to = GIVEN(a[3]) ? a[3] : mri_none();
        in = mri_slice(r, a[0], from, to, mri_none());
        skip = GIVEN(a[2]) ? mri_to_int(r, a[2], "find's start") : 0;
        skip += skip < 0 ? (int64_t)v->chars : 0;
        skip = skip < 0 ? 0 : skip;
        if (skip > (int64_t)v->chars || r->st)
            return -1;
    }
    mri_spend(r, in.s->n);
    const char *hit = from_right ? mri_rfind(in.s, in.s->n, a[1].s)
                                 : memmem(in.s->s, in.s->n, a[1].s->s, a[1].s->n);
    return hit ? skip + (int64_t)mri_utf8_chars(in.s->s, (size_t)(hit - in.s->s)) : -1;
}

static mri_val m_find(ARGS)
{
    return mri_int(find(r, a, false));
}

static mri_val m_rfind(ARGS)
{
    return mri_int(find(r, a, true));
}

static mri_val m_index(ARGS)
{
    int64_t i = find(r, a, false);
    return i < 0 ? mri_raise(r, "substring not found") : mri_int(i);
}

static mri_val m_count(ARGS)
{
    const mri_vstr *v = a[0].s;
    int64_t n = 0;
    if (!mri_need_text(r, a[1], "count"))
        return mri_int(0);
    if (!a[1].s->n)
        return mri_int((int64_t)v->chars + 1);
    mri_spend(r, v->n);
    for (const char *p = v->s; (p = memmem(p, v->n - (size_t)(p - v->s), a[1].s->s, a[1].s->n));
         p += a[1].s->n)
        n++;
    return mri_int(n);
}

/* All characters have one of two properties, and there is one at least. */
static mri_val all(mri_render *r, mri_val v, int property, int or_else)
{
    mri_spend(r, v.s->n);
    for (size_t i = 0, n; i < v.s->n; i += n) {
        uint32_t c = mri_utf8_get(v.s->s + i, v.s->n - i, &n);
        if (!mri_unicode_is(c, property) && !mri_unicode_is(c, or_else))
            return mri_bool(false);
    }
    return mri_bool(v.s->n != 0);
}

static mri_val m_isdigit(ARGS)
{
    return all(r, a[0], MRI_U_DIGIT, MRI_U_DIGIT);
}

static mri_val m_isalpha(ARGS)
{
    return all(r, a[0], MRI_U_ALPHA, MRI_U_ALPHA);
}

static mri_val m_isalnum(ARGS)
{
    return all(r, a[0], MRI_U_ALPHA, MRI_U_DIGIT);
}

static mri_val m_isspace(ARGS)
{
    return all(r, a[0], MRI_U_SPACE, MRI_U_SPACE);
}

static mri_val all_cased(mri_render *r, mri_val v, int wanted, int other)
{
    bool some = false;
    mri_spend(r, v.s->n);
    for (size_t i = 0, n; i < v.s->n; i += n) {
        uint32_t c = mri_utf8_get(v.s->s + i, v.s->n - i, &n);
        some |= mri_unicode_is(c, wanted);
        if (mri_unicode_is(c, other))
            return mri_bool(false);
    }
    return mri_bool(some);
}

static mri_val m_isupper(ARGS)
{
    return all_cased(r, a[0], MRI_U_UPPER, MRI_U_LOWER);
}

static mri_val m_islower(ARGS)
{
    return all_cased(r, a[0], MRI_U_LOWER, MRI_U_UPPER);
}

/* ---- padding ------------------------------------------------------------------------ */
static mri_val padded(mri_render *r, mri_val *a, int where) /* -1 left, 0 centre, 1 right */
{
    int64_t width = mri_to_int(r, a[1], "the width"), gap = width - (int64_t)a[0].s->chars;
    mri_str b = { 0 };
    if (width > MRI_CHAT_OUTPUT)
        return mri_raise(r, "a text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    if (gap <= 0 || (GIVEN(a[2]) && !mri_need_text(r, a[2], "padding")))
        return a[0];
    if (GIVEN(a[2]) && a[2].s->chars != 1)
        return mri_raise(r, "the fill character must be one character");
    int64_t left = where < 0 ? 0 : where > 0 ? gap : gap / 2 + (gap & width & 1);
    for (int64_t i = 0; i <= gap && mri_spend(r, 0); i++) {
        if (i == left)
            mri_str_addn(&b, a[0].s->s, a[0].s->n);
        if (i < gap && GIVEN(a[2]))
            mri_str_addn(&b, a[2].s->s, a[2].s->n);
        else if (i < gap)
            mri_str_add(&b, " ");
    }
    return mri_take_str(r, &b);
}

static mri_val m_center(ARGS)
{
    return padded(r, a, 0);
}

static mri_val m_ljust(ARGS)
{
    return padded(r, a, -1);
}

static mri_val m_rjust(ARGS)
{
    return padded(r, a, 1);
}

static mri_val m_zfill(ARGS)
{
    bool sign = a[0].s->n && strchr("+-", *a[0].s->s);
    mri_val in[3] = { sign ? mri_slice_of(r, a[0], 1, a[0].s->n - 1) : a[0],
                      mri_int(mri_to_int(r, a[1], "zfill's width") - sign), mri_text(r, "0") };
    mri_val out = padded(r, in, 1);
    return sign && !r->st ? mri_join2(r, mri_slice_of(r, a[0], 0, 1), out) : out;
}

static mri_val m_format(mri_render *r, mri_val *a, const mri_args *raw)
{
    return mri_str_format(r, a[0], raw);
}

static const mri_func methods[] = {
    { "capitalize", "self", 1, m_capitalize }, { "casefold", "self", 1, m_lower },
    { "center", "self width fillchar", 2, m_center }, { "count", "self sub", 2, m_count },
    { "endswith", "self suffix", 2, m_endswith }, { "find", "self sub start end", 2, m_find },
    { "format", NULL, 1, m_format }, { "index", "self sub start end", 2, m_index },
    { "isalnum", "self", 1, m_isalnum }, { "isalpha", "self", 1, m_isalpha },
    { "isdecimal", "self", 1, m_isdigit }, { "isdigit", "self", 1, m_isdigit },
    { "islower", "self", 1, m_islower }, { "isnumeric", "self", 1, m_isdigit },
    { "isspace", "self", 1, m_isspace }, { "isupper", "self", 1, m_isupper },
    { "ljust", "self width fillchar", 2, m_ljust }, { "lower", "self", 1, m_lower },
    { "lstrip", "self chars", 1, m_lstrip }, { "removeprefix", "self x", 2, m_removeprefix },
    { "removesuffix", "self x", 2, m_removesuffix }, { "rfind", "self sub start end", 2, m_rfind },
    { "rjust", "self width fillchar", 2, m_rjust }, { "rstrip", "self chars", 1, m_rstrip },
    { "startswith", "self prefix", 2, m_startswith }, { "strip", "self chars", 1, m_strip },
    { "swapcase", "self", 1, m_swapcase }, { "title", "self", 1, m_title },
    { "upper", "self", 1, m_upper }, { "zfill", "self width", 2, m_zfill },
};

const mri_func *mri_text_method_find(const char *name)
{
    const mri_func *f = mri_func_in(methods, sizeof methods / sizeof *methods, name);
    return f ? f : mri_parts_method_find(name);
}
