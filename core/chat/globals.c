/* SPDX-License-Identifier: Apache-2.0
 *
 * globals.c - the functions that every template sees (range, dict, namespace, raise_exception,
 * strftime_now ...), and the methods of dicts, lists and `loop` (eval.h).
 */
#include "eval.h"
#include <string.h>
#include <time.h>

#define ARGS mri_render *r, mri_val *a, MR_UNUSED const mri_args *raw
#define GIVEN(x) ((x).kind != MRI_V_ABSENT)

enum { MAX_RANGE = 100000 }; /* the sandbox's limit too */

static mri_val g_range(ARGS)
{
    int64_t from = 0, to = mri_to_int(r, a[0], "range"), step = 1;
    if (GIVEN(a[1])) {
        from = to;
        to = mri_to_int(r, a[1], "range");
    }
    if (GIVEN(a[2]))
        step = mri_to_int(r, a[2], "range");
    if (!step)
        return mri_raise(r, "range: the step cannot be zero");
    mri_val out = mri_list(r, MRI_V_RANGE, 4);
    for (int64_t i = from; (step > 0 ? i < to : i > to) && !r->st;) {
        mri_push(r, out, mri_int(i));
        if (out.l->n > MAX_RANGE)
            mri_raise(r, "range: more than %d items", MAX_RANGE);
        if (__builtin_add_overflow(i, step, &i))
            break;
    }
    return out;
}

/* {} from a dict or pairs, and keywords */
static mri_val filled(mri_render *r, mri_kind kind, const mri_args *raw)
{
    mri_val out = mri_dict(r, kind);
    if (raw->n > 1)
        return mri_raise(r, "at most one argument is expected, got %zu", raw->n);
    if (raw->n && (raw->pos[0].kind == MRI_V_DICT || raw->pos[0].kind == MRI_V_SPACE)) {
        const mri_vdict *d = raw->pos[0].d;
        for (size_t i = 0; i < d->n && !r->st; i++)
            mri_put(r, out, d->key[i], d->val[i]);
    } else if (raw->n) {
        const mri_vlist *l = mri_items(r, raw->pos[0]);
        for (size_t i = 0; i < l->n && !r->st; i++) {
            const mri_vlist *pair = mri_items(r, l->v[i]);
            if (pair->n != 2)
                return mri_raise(r, "item %zu has %zu values; 2 are needed", i, pair->n);
            mri_put(r, out, pair->v[0], pair->v[1]);
        }
    }
    for (size_t i = 0; i < raw->n_kw && !r->st; i++)
        mri_put(r, out, mri_text(r, raw->name[i]), raw->kw[i]);
    for (size_t i = 0; kind == MRI_V_SPACE && i < out.d->n; i++)
        if (out.d->key[i].kind == MRI_V_STR && out.d->key[i].s->n && *out.d->key[i].s->s == '_')
            return mri_raise(r, "a namespace takes no names that begin with '_'");
    return out;
}

static mri_val g_dict(ARGS)
{
    (void)a;
    return filled(r, MRI_V_DICT, raw);
}

static mri_val g_namespace(ARGS)
{
    (void)a;
    return filled(r, MRI_V_SPACE, raw);
}

static mri_val g_raise(ARGS)
{
    mri_val s = mri_to_str(r, a[0]);
    return mri_raise(r, "%.*s", (int)(s.s->n < 800 ? s.s->n : 800), s.s->s);
}

static mri_val g_strftime(ARGS)
{
    char text[512], format[256];
    mri_val f = mri_to_str(r, a[0]);
    time_t now = r->now < 0 ? time(NULL) : (time_t)r->now;
    struct tm tm;
    if (f.s->n >= sizeof format || memchr(f.s->s, 0, f.s->n))
        return mri_raise(r, "strftime_now: the format is longer than %zu", sizeof format - 1);
    memcpy(format, f.s->s, f.s->n);
    format[f.s->n] = 0;
    localtime_r(&now, &tm);
    size_t n = strftime(text, sizeof text, format, &tm);
    return mri_strn(r, text, n);
}

static const mri_func globals[] = {
    { "dict", NULL, 0, g_dict },
    { "namespace", NULL, 0, g_namespace },
    { "raise_exception", "message", 1, g_raise },
    { "range", "start stop step", 1, g_range },
    { "strftime_now", "format", 1, g_strftime },
};

const mri_func *mri_global_find(const char *name)
{
    return mri_func_in(globals, sizeof globals / sizeof *globals, name);
}

/* ---- dicts -------------------------------------------------------------------------- */
static mri_val d_get(ARGS)
{
    if (a[1].kind == MRI_V_LIST || a[1].kind == MRI_V_DICT)
        return mri_raise(r, "unhashable type: '%s'", mri_kind_name(a[1]));
    const mri_val *v = mri_find(r, a[0], a[1]);
    return v ? *v : GIVEN(a[2]) ? a[2] : mri_none();
}

static mri_val d_keys(ARGS)
{
    mri_val out = mri_list(r, MRI_V_VIEW, a[0].d->n);
    for (size_t i = 0; i < a[0].d->n && !r->st; i++)
        mri_push(r, out, a[0].d->key[i]);
    return out;
}

static mri_val d_values(ARGS)
{
    mri_val out = mri_list(r, MRI_V_VIEW, a[0].d->n);
    for (size_t i = 0; i < a[0].d->n && !r->st; i++)
        mri_push(r, out, a[0].d->val[i]);
    return out;
}

static mri_val d_items(ARGS)
{
    mri_val out = mri_list(r, MRI_V_VIEW, a[0].d->n);
    for (size_t i = 0; i < a[0].d->n && !r->st; i++)
        mri_push(r, out, mri_pair(r, a[0].d->key[i], a[0].d->val[i]));
    return out;
}

static mri_val same(ARGS)
{
    (void)r;
    return a[0]; /* a copy of what never changes */
}

static const mri_func dict_methods[] = {
    { "copy", "self", 1, same }, { "get", "self key default", 2, d_get },
    { "items", "self", 1, d_items }, { "keys", "self", 1, d_keys },
    { "values", "self", 1, d_values },
};

/* ---- lists -------------------------------------------------------------------------- */
static mri_val l_count(ARGS)
{
    int64_t n = 0;
    for (size_t i = 0; i < a[0].l->n && !r->st; i++)
        n += mri_equal(r, a[0].l->v[i], a[1]);
    return mri_int(n);
}

static mri_val l_index(ARGS)
{
    for (size_t i = 0; i < a[0].l->n && !r->st; i++)
        if (mri_equal(r, a[0].l->v[i], a[1]))
            return mri_int((int64_t)i);
    return mri_raise(r, "index: the value is not in the list");
}

static const mri_func list_methods[] = {
    { "copy", "self", 1, same }, { "count", "self value", 2, l_count },
    { "index", "self value", 2, l_index },
};

/* ---- loop --------------------------------------------------------------------------- */
static mri_val loop_cycle(mri_render *r, mri_val *a, const mri_args *raw)
{
    if (!raw->n)
        return mri_raise(r, "cycle: nothing to cycle through");
    return raw->pos[a[0].loop->at % raw->n];
}

static mri_val loop_changed(mri_render *r, mri_val *a, const mri_args *raw)
{
    mri_val now = mri_list(r, MRI_V_TUPLE, raw->n);
    for (size_t i = 0; i < raw->n && !r->st; i++)
        mri_push(r, now, raw->pos[i]);
    mri_vloop *loop = a[0].loop;
    bool changed = loop->changed.kind == MRI_V_ABSENT || !mri_equal(r, loop->changed, now);
    loop->changed = now;
    return mri_bool(changed);
}

static const mri_func loop_methods[] = {
    { "changed", NULL, 1, loop_changed },
    { "cycle", NULL, 1, loop_cycle },
};

/* Methods that change what they belong to: the sandbox hides them. */
static const char *const dict_hidden[] = { "clear", "pop", "popitem", "setdefault", "update" };
static const char *const list_hidden[] = { "append", "clear", "extend", "insert", "pop", "remove",
                                           "reverse", "sort" };

static bool among(const char *const *words, size_t n, const char *word)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(words[i], word))
            return true;
    return false;
}

#define COUNT(a) (sizeof(a) / sizeof *(a))
const mri_func *mri_method_find(mri_val of, const char *name, bool *unsafe)
{
    switch (of.kind) {
    case MRI_V_STR:
        return mri_text_method_find(name);
    case MRI_V_DICT:
        *unsafe = among(dict_hidden, COUNT(dict_hidden), name);
        return mri_func_in(dict_methods, COUNT(dict_methods), name);
    case MRI_V_LIST: case MRI_V_TUPLE: case MRI_V_RANGE:
        *unsafe = of.kind == MRI_V_LIST && among(list_hidden, COUNT(list_hidden), name);
        return mri_func_in(list_methods, COUNT(list_methods), name);
    case MRI_V_LOOP:
        return mri_func_in(loop_methods, COUNT(loop_methods), name);
    default:
        return NULL;
    }
}
