/* SPDX-License-Identifier: Apache-2.0
 * value.c - see value.h: the arena, the budget, making and reading values. */
#include "value.h"
#include "unicode.h"
#include <stdlib.h>
#include <string.h>

/* ---- memory ------------------------------------------------------------------------- */
typedef struct mri_chunk {
    struct mri_chunk *next;
    size_t used, cap;
    _Alignas(16) char at[];
} mri_chunk;

void *mri_arena_take(mri_arena *a, size_t n)
{
    n = (n + 15) & ~(size_t)15;
    if (n > a->limit || a->total > a->limit - n)
        return NULL;
    if (!a->chunk || a->chunk->cap - a->chunk->used < n) {
        size_t cap = n > 32768 ? n : 65536;
        mri_chunk *c = mri_alloc(sizeof *c + cap);
        c->cap = cap;
        if (n > 32768 && a->chunk) { /* a large block stands alone, behind the current chunk */
            c->next = a->chunk->next;
            a->chunk->next = c;
            c->used = n;
            a->total += n;
            return c->at;
        }
        c->next = a->chunk;
        a->chunk = c;
    }
    void *p = a->chunk->at + a->chunk->used;
    a->chunk->used += n;
    a->total += n;
    return p;
}

void mri_arena_free(mri_arena *a)
{
    for (mri_chunk *c = a->chunk; c;) {
        mri_chunk *next = c->next;
        free(c);
        c = next;
    }
    a->chunk = NULL;
    a->total = 0;
}

/* After an error work goes on for a few instructions only; it must find memory nevertheless. */
void *mri_take(mri_render *r, size_t n)
{
    void *p = r->st ? NULL : mri_arena_take(&r->arena, n);
    if (p)
        return p;
    if (!r->st)
        mri_raise(r, "the template takes more than %d MiB of memory", MRI_CHAT_MEMORY >> 20);
    mri_chunk *c = mri_alloc(sizeof *c + n);
    c->used = c->cap = n;
    if (r->arena.chunk) {
        c->next = r->arena.chunk->next;
        r->arena.chunk->next = c;
    } else {
        r->arena.chunk = c;
    }
    return c->at;
}

bool mri_spend(mri_render *r, size_t bytes)
{
    r->steps += 1 + bytes / 64;
    if (r->steps > MRI_CHAT_STEPS && !r->st)
        mri_raise(r, "the template takes more than %d steps", MRI_CHAT_STEPS);
    return !r->st;
}

mri_val mri_raise(mri_render *r, const char *fmt, ...)
{
    if (!r->st) {
        mri_str b = { 0 };
        va_list ap;
        va_start(ap, fmt);
        mri_str_vfmt(&b, fmt, ap);
        va_end(ap);
        r->st = mr_fail(r->err, MR_E_TEMPLATE, MR_BLAME_USER, "%s:%d: %s", r->name, r->line, b.s);
        mri_str_free(&b);
    }
    return (mri_val){ .kind = MRI_V_UNDEF };
}

/* ---- making ------------------------------------------------------------------------- */
mri_val mri_undef(mri_render *r, const char *what)
{
    size_t n = strlen(what);
    char *copy = mri_take(r, n + 1);
    memcpy(copy, what, n);
    return (mri_val){ .kind = MRI_V_UNDEF, .what = copy };
}

mri_val mri_none(void)
{
    return (mri_val){ .kind = MRI_V_NONE };
}

mri_val mri_bool(bool b)
{
    return (mri_val){ .kind = MRI_V_BOOL, .b = b };
}

mri_val mri_int(int64_t i)
{
    return (mri_val){ .kind = MRI_V_INT, .i = i };
}

mri_val mri_float(double f)
{
    return (mri_val){ .kind = MRI_V_FLOAT, .f = f };
}

static mri_val string(mri_render *r, const char *s, size_t n, size_t chars, mri_buf *buf)
{
    mri_vstr *v = mri_take(r, sizeof *v);
    *v = (mri_vstr){ s, n, chars, buf, false };
    return (mri_val){ .kind = MRI_V_STR, .s = v };
}

mri_val mri_strn(mri_render *r, const char *s, size_t n)
{
    mri_spend(r, n);
    char *copy = mri_take(r, n);
    if (n)
        memcpy(copy, s, n);
    return string(r, copy, n, mri_utf8_chars(copy, n), NULL);
}

mri_val mri_text(mri_render *r, const char *s)
{
    return mri_strn(r, s, strlen(s));
}

mri_val mri_slice_of(mri_render *r, mri_val s, size_t at, size_t n)
{
    mri_spend(r, n);
    return string(r, s.s->s + at, n,
                  s.s->chars == s.s->n ? n : mri_utf8_chars(s.s->s + at, n), NULL);
}

mri_val mri_take_str(mri_render *r, mri_str *b)
{
    mri_val v = mri_strn(r, b->s ? b->s : "", b->n);
    mri_str_free(b);
    return v;
}

mri_val mri_safe(mri_render *r, mri_val s)
{
    mri_vstr *v = mri_take(r, sizeof *v);
    *v = *s.s;
    v->safe = true;
    return (mri_val){ .kind = MRI_V_STR, .s = v };
}

/* Templates gather their text piece by piece: a string that was made here has room behind it, and
 * the next longer one begins with the same bytes. */
mri_val mri_join2(mri_render *r, mri_val a, mri_val b)
{
    const mri_vstr *x = a.s, *y = b.s;
    if (!x->n || !y->n)
        return x->n ? a : b;
    size_t n = x->n + y->n;
    mri_buf *buf = x->buf;
    mri_spend(r, y->n);
    if (!buf || x->s + x->n != buf->s + buf->used || buf->cap - buf->used < y->n) {
        mri_spend(r, x->n);
        size_t cap = n < 256 ? n : 2 * n;
        buf = mri_take(r, sizeof *buf + cap);
        buf->cap = cap;
        buf->used = x->n;
        memcpy(buf->s, x->s, x->n);
        memcpy(buf->s + x->n, y->s, y->n);
        buf->used = n;
        return string(r, buf->s, n, x->chars + y->chars, buf);
    }
    memcpy(buf->s + buf->used, y->s, y->n);
    buf->used += y->n;
    return string(r, x->s, n, x->chars + y->chars, buf);
}

mri_val mri_list(mri_render *r, mri_kind kind, size_t room)
{
    mri_vlist *l = mri_take(r, sizeof *l);
    l->v = mri_take(r, (room ? room : 1) * sizeof *l->v);
    l->cap = room ? room : 1;
    return (mri_val){ .kind = (uint8_t)kind, .l = l };
}

void mri_push(mri_render *r, mri_val list, mri_val x)
{
    mri_vlist *l = list.l;
    mri_spend(r, 0);
    if (l->n == l->cap) {
        mri_val *more = mri_take(r, 2 * l->cap * sizeof *more);
        memcpy(more, l->v, l->n * sizeof *more);
        l->v = more;
        l->cap *= 2;
    }
    l->v[l->n++] = x;
}

mri_val mri_pair(mri_render *r, mri_val a, mri_val b)
{
    mri_val t = mri_list(r, MRI_V_TUPLE, 2);
    mri_push(r, t, a);
    mri_push(r, t, b);
    return t;
}

mri_val mri_dict(mri_render *r, mri_kind kind)
{
    mri_vdict *d = mri_take(r, sizeof *d);
    return (mri_val){ .kind = (uint8_t)kind, .d = d };
}

void mri_put(mri_render *r, mri_val dict, mri_val key, mri_val x)
{
    mri_vdict *d = dict.d;
    mri_val *old;
    if (key.kind == MRI_V_LIST || key.kind == MRI_V_DICT || key.kind == MRI_V_VIEW) {
        mri_raise(r, "unhashable type: '%s'", mri_kind_name(key));
        return;
    }
    if ((old = mri_find(r, dict, key))) {
        *old = x;
        return;
    }
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 4;
        mri_val *both = mri_take(r, 2 * cap * sizeof *both);
        if (d->n) {
            memcpy(both, d->key, d->n * sizeof *both);
            memcpy(both + cap, d->val, d->n * sizeof *both);
        }
        d->key = both;
        d->val = both + cap;
        d->cap = cap;
    }
    d->key[d->n] = key;
    d->val[d->n++] = x;
}

mri_val mri_func_val(mri_render *r, const mri_func *f, const mri_val *self)
{
    mri_bound *b = mri_take(r, sizeof *b);
    b->func = f;
    if (self) {
        mri_val *copy = mri_take(r, sizeof *copy);
        *copy = *self;
        b->self = copy;
    }
    return (mri_val){ .kind = MRI_V_FUNC, .fn = b };
}

/* ---- reading ------------------------------------------------------------------------ */
const char *mri_kind_name(mri_val v)
{
    static const char *const names[] = { "missing", "Undefined", "NoneType", "bool", "int", "float",
                                         "str", "list", "tuple", "range", "dict view", "generator",
                                         "dict", "Namespace", "Macro", "function", "LoopContext" };
    return names[v.kind];
}

bool mri_is_num(mri_val v)
{
    return v.kind == MRI_V_BOOL || v.kind == MRI_V_INT || v.kind == MRI_V_FLOAT;
}

double mri_num(mri_val v)
{
    return v.kind == MRI_V_FLOAT ? v.f : v.kind == MRI_V_BOOL ? v.b : (double)v.i;
}

bool mri_is_list(mri_val v)
{
    return v.kind >= MRI_V_LIST && v.kind <= MRI_V_ITER;
}

bool mri_str_is(mri_val v, const char *s)
{
    return v.kind == MRI_V_STR && v.s->n == strlen(s) && !memcmp(v.s->s, s, v.s->n);
}

mri_val *mri_find(mri_render *r, mri_val dict, mri_val key)
{
    const mri_vdict *d = dict.d;
    mri_spend(r, d->n * 4);
    for (size_t i = 0; i < d->n; i++) {
        if (key.kind == MRI_V_STR && d->key[i].kind == MRI_V_STR) {
            if (key.s->n == d->key[i].s->n && !memcmp(key.s->s, d->key[i].s->s, key.s->n))
                return &d->val[i];
        } else if (mri_equal(r, d->key[i], key)) {
            return &d->val[i];
        }
    }
    return NULL;
}

mri_val *mri_find_s(mri_render *r, mri_val dict, const char *key)
{
    mri_vstr s = { .s = key, .n = strlen(key) };
    return mri_find(r, dict, (mri_val){ .kind = MRI_V_STR, .s = &s });
}

mri_vlist *mri_items(mri_render *r, mri_val v)
{
    mri_val out;
    switch (v.kind) {
    case MRI_V_LIST: case MRI_V_TUPLE: case MRI_V_RANGE: case MRI_V_VIEW:
        return v.l;
    case MRI_V_ITER:
        out = mri_list(r, MRI_V_LIST, v.l->n - v.l->at);
        for (; v.l->at < v.l->n && !r->st; v.l->at++)
            mri_push(r, out, v.l->v[v.l->at]);
        return out.l;
    case MRI_V_DICT:
        out = mri_list(r, MRI_V_LIST, v.d->n);
        for (size_t i = 0; i < v.d->n; i++)
            mri_push(r, out, v.d->key[i]);
        return out.l;
    case MRI_V_STR:
        out = mri_list(r, MRI_V_LIST, v.s->chars);
        for (size_t i = 0, n; i < v.s->n && !r->st; i += n) {
            n = mri_utf8_len(v.s->s + i, v.s->n - i);
            mri_push(r, out, mri_slice_of(r, v, i, n));
        }
        return out.l;
    case MRI_V_UNDEF:
        return mri_list(r, MRI_V_LIST, 0).l;
    default:
        break;
    }
    mri_raise(r, "'%s' object is not iterable", mri_kind_name(v));
    return mri_list(r, MRI_V_LIST, 0).l;
}
