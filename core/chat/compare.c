/* SPDX-License-Identifier: Apache-2.0
 *
 * compare.c - truth, equality, order and membership as Python has them (value.h).
 */
#include "value.h"
#include "loop.h"
#include <string.h>

bool mri_truth(mri_val v)
{
    switch (v.kind) {
    case MRI_V_BOOL:
        return v.b;
    case MRI_V_INT:
        return v.i != 0;
    case MRI_V_FLOAT:
        return v.f != 0;
    case MRI_V_STR:
        return v.s->n != 0;
    case MRI_V_LIST: case MRI_V_TUPLE: case MRI_V_RANGE: case MRI_V_VIEW:
        return v.l->n != 0;
    case MRI_V_DICT:
        return v.d->n != 0;
    case MRI_V_LOOP:
        return v.loop->items->n != 0;
    default:
        return v.kind > MRI_V_NONE;
    }
}

static bool enter(mri_render *r)
{
    if (++r->depth > MRI_CHAT_DEPTH)
        mri_raise(r, "values are nested more than %d deep", MRI_CHAT_DEPTH);
    return mri_spend(r, 0);
}

static bool equal_lists(mri_render *r, const mri_vlist *a, const mri_vlist *b)
{
    bool same = a->n == b->n && enter(r);
    for (size_t i = 0; i < a->n && same; i++)
        same = mri_equal(r, a->v[i], b->v[i]);
    r->depth -= a->n == b->n;
    return same;
}

static bool equal_dicts(mri_render *r, mri_val a, mri_val b)
{
    bool same = a.d->n == b.d->n && enter(r);
    for (size_t i = 0; i < a.d->n && same; i++) {
        const mri_val *other = mri_find(r, b, a.d->key[i]);
        same = other && mri_equal(r, a.d->val[i], *other);
    }
    r->depth -= a.d->n == b.d->n;
    return same;
}

bool mri_equal(mri_render *r, mri_val a, mri_val b)
{
    if (!mri_spend(r, 0))
        return false;
    if (mri_is_num(a) && mri_is_num(b))
        return a.kind == MRI_V_FLOAT || b.kind == MRI_V_FLOAT ? mri_num(a) == mri_num(b)
               : (a.kind == MRI_V_BOOL ? a.b : a.i) == (b.kind == MRI_V_BOOL ? b.b : b.i);
    if (a.kind != b.kind)
        return false;
    switch (a.kind) {
    case MRI_V_STR:
        return a.s->n == b.s->n && mri_spend(r, a.s->n) && !memcmp(a.s->s, b.s->s, a.s->n);
    case MRI_V_LIST: case MRI_V_TUPLE: case MRI_V_RANGE:
        return equal_lists(r, a.l, b.l);
    case MRI_V_VIEW: case MRI_V_ITER:
        return a.l == b.l;
    case MRI_V_DICT:
        return equal_dicts(r, a, b);
    case MRI_V_SPACE:
        return a.d == b.d;
    case MRI_V_MACRO:
        return a.macro == b.macro;
    case MRI_V_LOOP:
        return a.loop == b.loop;
    case MRI_V_FUNC:
        return a.fn->func == b.fn->func && a.fn->self == b.fn->self;
    default:
        return true; /* None; undefined equals undefined */
    }
}

static int order_text(const mri_vstr *a, const mri_vstr *b)
{
    int c = memcmp(a->s, b->s, a->n < b->n ? a->n : b->n); /* UTF-8 sorts as its characters do */
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

static int order_lists(mri_render *r, const mri_vlist *a, const mri_vlist *b)
{
    int c = 0;
    if (enter(r))
        for (size_t i = 0; i < a->n && i < b->n && !c && !r->st; i++)
            if (!mri_equal(r, a->v[i], b->v[i]))
                c = mri_order(r, a->v[i], b->v[i]);
    r->depth--;
    return c ? c : (a->n > b->n) - (a->n < b->n);
}

int mri_order(mri_render *r, mri_val a, mri_val b)
{
    if (!mri_spend(r, 0))
        return 0;
    if (mri_is_num(a) && mri_is_num(b)) {
        if (a.kind == MRI_V_INT && b.kind == MRI_V_INT)
            return (a.i > b.i) - (a.i < b.i);
        return (mri_num(a) > mri_num(b)) - (mri_num(a) < mri_num(b));
    }
    if (a.kind == MRI_V_STR && b.kind == MRI_V_STR)
        return mri_spend(r, a.s->n) ? order_text(a.s, b.s) : 0;
    if (a.kind == b.kind && (a.kind == MRI_V_LIST || a.kind == MRI_V_TUPLE))
        return order_lists(r, a.l, b.l);
    if (a.kind == MRI_V_UNDEF || b.kind == MRI_V_UNDEF)
        mri_raise(r, "%s is undefined", a.kind == MRI_V_UNDEF ? a.what : b.what);
    else
        mri_raise(r, "'<' not supported between instances of '%s' and '%s'", mri_kind_name(a),
                  mri_kind_name(b));
    return 0;
}

bool mri_contains(mri_render *r, mri_val in, mri_val x)
{
    if (in.kind == MRI_V_STR) {
        if (x.kind != MRI_V_STR) {
            mri_raise(r, "'in <string>' requires string as left operand, not %s", mri_kind_name(x));
            return false;
        }
        return mri_spend(r, in.s->n) && memmem(in.s->s, in.s->n, x.s->s, x.s->n) != NULL;
    }
    if (in.kind == MRI_V_DICT) {
        if (x.kind == MRI_V_LIST || x.kind == MRI_V_DICT)
            mri_raise(r, "unhashable type: '%s'", mri_kind_name(x));
        return mri_find(r, in, x) != NULL;
    }
    if (in.kind == MRI_V_ITER) { /* reads up to what it finds */
        while (in.l->at < in.l->n && !r->st)
            if (mri_equal(r, in.l->v[in.l->at++], x))
                return true;
        return false;
    }
    const mri_vlist *l = mri_items(r, in);
    for (size_t i = 0; i < l->n && !r->st; i++)
        if (mri_equal(r, l->v[i], x))
            return true;
    return false;
}

int64_t mri_length(mri_render *r, mri_val v)
{
    switch (v.kind) {
    case MRI_V_STR:
        return (int64_t)v.s->chars;
    case MRI_V_LIST: case MRI_V_TUPLE: case MRI_V_RANGE: case MRI_V_VIEW:
        return (int64_t)v.l->n;
    case MRI_V_DICT:
        return (int64_t)v.d->n;
    case MRI_V_LOOP:
        return (int64_t)v.loop->items->n;
    case MRI_V_UNDEF:
        return 0;
    default:
        break;
    }
    mri_raise(r, "object of type '%s' has no len()", mri_kind_name(v));
    return -1;
}
