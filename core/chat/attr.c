/* SPDX-License-Identifier: Apache-2.0
 *
 * attr.c - x.name, x[key], x[from:to:step] (eval.h). As in Jinja, a dot looks for a method first
 * and for a key then, brackets the other way round, and what is not there is undefined: an error
 * only where it is used. Names that the sandbox hides (those that change a value, those that
 * begin with "__") are undefined and say so.
 */
#include "eval.h"
#include "unicode.h"
#include <string.h>

static mri_val missing(mri_render *r, mri_val of, const char *name)
{
    char what[192];
    snprintf(what, sizeof what, "'%.24s object' has no attribute '%.100s', which",
             mri_kind_name(of), name);
    return mri_undef(r, what);
}

static mri_val hidden(mri_render *r, mri_val of, const char *name)
{
    mri_val v = missing(r, of, name);
    v.unsafe = true;
    return v;
}

static mri_val neighbour(mri_render *r, const mri_vloop *l, bool next)
{
    if (next ? l->at + 1 < l->items->n : l->at > 0)
        return l->items->v[next ? l->at + 1 : l->at - 1];
    return mri_undef(r, next ? "there is no next item: it" : "there is no previous item: it");
}

static bool loop_attr(mri_render *r, mri_val of, const char *name, mri_val *out)
{
    const mri_vloop *l = of.loop;
    int64_t n = (int64_t)l->items->n, at = (int64_t)l->at;
    const struct {
        const char *name;
        int64_t value;
    } numbers[] = { { "index", at + 1 }, { "index0", at }, { "revindex", n - at },
                    { "revindex0", n - at - 1 }, { "length", n }, { "depth", l->depth0 + 1 },
                    { "depth0", l->depth0 } };
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++)
        if (!strcmp(name, numbers[i].name)) {
            *out = mri_int(numbers[i].value);
            return true;
        }
    if (!strcmp(name, "first") || !strcmp(name, "last"))
        *out = mri_bool(*name == 'f' ? !at : at + 1 == n);
    else if (!strcmp(name, "nextitem") || !strcmp(name, "previtem"))
        *out = neighbour(r, l, *name == 'n');
    else
        return false;
    return true;
}

/* An attribute proper: not a key. */
static bool attribute(mri_render *r, mri_val of, const char *name, mri_val *out)
{
    bool unsafe = false;
    if (of.kind == MRI_V_LOOP && loop_attr(r, of, name, out))
        return true;
    if (of.kind == MRI_V_SPACE) {
        const mri_val *v = mri_find_s(r, of, name);
        if (v)
            *out = *v;
        return v != NULL;
    }
    if (of.kind == MRI_V_MACRO && !strcmp(name, "name")) {
        *out = mri_text(r, of.macro->node->name);
        return true;
    }
    const mri_func *f = mri_method_find(of, name, &unsafe);
    if (f)
        *out = mri_func_val(r, f, &of);
    else if (unsafe || (name[0] == '_' && name[1] == '_'))
        *out = hidden(r, of, name);
    else
        return false;
    return true;
}

/* of[key] where Python has it; false: it raises LookupError or TypeError there */
static bool element(mri_render *r, mri_val of, mri_val key, mri_val *out)
{
    if (of.kind == MRI_V_DICT) {
        if (key.kind == MRI_V_LIST || key.kind == MRI_V_DICT)
            return false;
        const mri_val *v = mri_find(r, of, key);
        if (v)
            *out = *v;
        return v != NULL;
    }
    if (key.kind != MRI_V_INT && key.kind != MRI_V_BOOL)
        return false;
    bool list = of.kind == MRI_V_LIST || of.kind == MRI_V_TUPLE || of.kind == MRI_V_RANGE;
    if (!list && of.kind != MRI_V_STR)
        return false;
    int64_t n = mri_length(r, of), i = key.kind == MRI_V_BOOL ? key.b : key.i;
    i += i < 0 ? n : 0;
    if (i < 0 || i >= n)
        return false;
    if (list) {
        *out = of.l->v[i];
    } else {
        mri_spend(r, (size_t)i);
        size_t at = of.s->chars == of.s->n ? (size_t)i
                                           : mri_utf8_at(of.s->s, of.s->n, (size_t)i);
        *out = mri_slice_of(r, of, at, mri_utf8_len(of.s->s + at, of.s->n - at));
    }
    return true;
}

static mri_val refuse(mri_render *r, mri_val of)
{
    return mri_raise(r, of.unsafe ? "%s is hidden from templates" : "%s is undefined",
                     of.what ? of.what : "a value");
}

mri_val mri_getattr(mri_render *r, mri_val of, const char *name)
{
    mri_val v;
    if (r->st)
        return mri_none();
    if (of.kind == MRI_V_UNDEF)
        return refuse(r, of);
    if (attribute(r, of, name, &v))
        return v;
    if (of.kind == MRI_V_DICT) {
        const mri_val *found = mri_find_s(r, of, name);
        if (found)
            return *found;
    }
    return missing(r, of, name);
}

mri_val mri_getitem(mri_render *r, mri_val of, mri_val key)
{
    mri_val v;
    if (r->st)
        return mri_none();
    if (of.kind == MRI_V_UNDEF)
        return refuse(r, of);
    if (element(r, of, key, &v))
        return v;
    mri_val text = mri_to_str(r, key);
    char *name = mri_take(r, text.s->n + 1);
    memcpy(name, text.s->s, text.s->n);
    if (key.kind == MRI_V_STR && attribute(r, of, name, &v))
        return v;
    return missing(r, of, name);
}

/* The argument `attribute` of filters: keys with dots between them, digits are indices. */
mri_val mri_path(mri_render *r, mri_val of, mri_val path, mri_val otherwise)
{
    if (path.kind != MRI_V_STR) {
        mri_val v = mri_getitem(r, of, path);
        return v.kind == MRI_V_UNDEF && otherwise.kind > MRI_V_NONE ? otherwise : v;
    }
    for (size_t at = 0; at <= path.s->n && !r->st;) {
        const char *dot = memchr(path.s->s + at, '.', path.s->n - at);
        size_t n = dot ? (size_t)(dot - path.s->s) - at : path.s->n - at;
        mri_val key = mri_slice_of(r, path, at, n);
        int64_t number = 0;
        bool digits = n > 0 && n < 18;
        for (size_t i = 0; i < n && digits; i++) {
            digits = key.s->s[i] >= '0' && key.s->s[i] <= '9';
            number = 10 * number + (key.s->s[i] - '0');
        }
        of = mri_getitem(r, of, digits ? mri_int(number) : key);
        if (of.kind == MRI_V_UNDEF && otherwise.kind > MRI_V_NONE)
            of = otherwise;
        at += n + 1;
    }
    return of;
}

/* ---- slices ------------------------------------------------------------------------- */
static int64_t bound(mri_render *r, mri_val v, int64_t otherwise, int64_t n, int64_t lo, int64_t hi)
{
    if (v.kind == MRI_V_NONE || v.kind == MRI_V_UNDEF)
        return otherwise;
    int64_t i = mri_to_int(r, v, "a slice's bound");
    i += i < 0 ? n : 0;
    return i < lo ? lo : i > hi ? hi : i;
}

static mri_val text_slice(mri_render *r, mri_val of, int64_t from, int64_t to, int64_t step)
{
    if (step == 1) {
        size_t a = mri_utf8_at(of.s->s, of.s->n, (size_t)from);
        size_t n = to > from ? mri_utf8_at(of.s->s + a, of.s->n - a, (size_t)(to - from)) : 0;
        mri_spend(r, a);
        return mri_slice_of(r, of, a, n);
    }
    const mri_vlist *chars = mri_items(r, of);
    mri_str b = { 0 };
    for (int64_t i = from; (step > 0 ? i < to : i > to) && mri_spend(r, 0); i += step)
        mri_str_addn(&b, chars->v[i].s->s, chars->v[i].s->n);
    return mri_take_str(r, &b);
}

mri_val mri_slice(mri_render *r, mri_val of, mri_val from, mri_val to, mri_val step)
{
    int64_t by = 1, n, a, b;
    if (of.kind == MRI_V_UNDEF)
        return refuse(r, of);
    if (of.kind != MRI_V_STR && of.kind != MRI_V_LIST && of.kind != MRI_V_TUPLE &&
        of.kind != MRI_V_RANGE)
        return missing(r, of, "[slice]");
    if (step.kind != MRI_V_NONE)
        by = mri_to_int(r, step, "a slice's step");
    if (!by)
        return mri_raise(r, "a slice's step cannot be zero");
    n = mri_length(r, of);
    by = by > n + 1 ? n + 1 : by < -n - 1 ? -n - 1 : by; /* no item is further away */
    a = bound(r, from, by > 0 ? 0 : n - 1, n, by > 0 ? 0 : -1, by > 0 ? n : n - 1);
    b = bound(r, to, by > 0 ? n : -1, n, by > 0 ? 0 : -1, by > 0 ? n : n - 1);
    if (r->st)
        return mri_none();
    if (of.kind == MRI_V_STR)
        return text_slice(r, of, a, b, by);
    mri_val out = mri_list(r, (mri_kind)of.kind, 4);
    for (int64_t i = a; (by > 0 ? i < b : i > b) && !r->st; i += by)
        mri_push(r, out, of.l->v[i]);
    return out;
}
