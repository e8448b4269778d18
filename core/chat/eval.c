/* SPDX-License-Identifier: Apache-2.0
 *
 * eval.c - the value of an expression, and variables (eval.h).
 */
#include "eval.h"
#include "lex.h"
#include <string.h>

mri_scope *mri_scope_new(mri_render *r, mri_scope *parent)
{
    mri_scope *s = mri_take(r, sizeof *s);
    s->parent = parent;
    return s;
}

void mri_assign(mri_render *r, const char *name, uint32_t hash, mri_val v)
{
    mri_scope *s = r->scope;
    mri_spend(r, 8 * s->n);
    for (uint32_t i = 0; i < s->n; i++)
        if (s->v[i].hash == hash && !strcmp(s->v[i].name, name)) {
            s->v[i].val = v;
            return;
        }
    if (s->n == s->cap) {
        uint32_t cap = s->cap ? 2 * s->cap : 4;
        mri_var *more = mri_take(r, cap * sizeof *more);
        if (s->n)
            memcpy(more, s->v, s->n * sizeof *more);
        s->v = more;
        s->cap = cap;
    }
    s->v[s->n++] = (mri_var){ name, hash, v };
}

mri_val mri_lookup(mri_render *r, const char *name, uint32_t hash)
{
    for (const mri_scope *s = r->scope; s; s = s->parent) {
        mri_spend(r, 8 * s->n);
        for (uint32_t i = 0; i < s->n; i++)
            if (s->v[i].hash == hash && !strcmp(s->v[i].name, name))
                return s->v[i].val;
    }
    const mri_func *f = mri_global_find(name);
    if (f)
        return mri_func_val(r, f, NULL);
    return mri_undef(r, name);
}

static mri_val list_of(mri_render *r, mri_kind kind, const mri_node *n)
{
    mri_val out = mri_list(r, kind, 4);
    for (const mri_node *x = n->list; x && !r->st; x = x->next)
        mri_push(r, out, mri_eval(r, x));
    return out;
}

static mri_val dict_of(mri_render *r, const mri_node *n)
{
    mri_val out = mri_dict(r, MRI_V_DICT);
    for (const mri_node *x = n->list; x && !r->st; x = x->next) {
        mri_val key = mri_eval(r, x->a);
        mri_put(r, out, key, mri_eval(r, x->b));
    }
    return out;
}

static mri_val item(mri_render *r, const mri_node *n)
{
    mri_val of = mri_eval(r, n->a), part[3];
    if (n->b->kind != MRI_N_SLICE)
        return mri_getitem(r, of, mri_eval(r, n->b));
    const mri_node *at[3] = { n->b->a, n->b->b, n->b->c };
    for (int i = 0; i < 3; i++)
        part[i] = at[i] ? mri_eval(r, at[i]) : mri_none();
    return mri_slice(r, of, part[0], part[1], part[2]);
}

/* The arguments of a call, *args and **kwargs spread; all in the arena. */
static mri_args arguments(mri_render *r, const mri_node *list)
{
    mri_val pos = mri_list(r, MRI_V_LIST, 4), kw = mri_dict(r, MRI_V_DICT);
    for (const mri_node *x = list; x && !r->st; x = x->next) {
        mri_val v = mri_eval(r, x->a);
        if (x->op == MRI_T_MUL) {
            const mri_vlist *l = mri_items(r, v);
            for (size_t i = 0; i < l->n && !r->st; i++)
                mri_push(r, pos, l->v[i]);
        } else if (x->op == MRI_T_POW) {
            if (v.kind != MRI_V_DICT)
                mri_raise(r, "what stands after ** must be a dict, not %s", mri_kind_name(v));
            for (size_t i = 0; v.kind == MRI_V_DICT && i < v.d->n && !r->st; i++)
                mri_put(r, kw, v.d->key[i], v.d->val[i]);
        } else if (x->name) {
            mri_put(r, kw, mri_text(r, x->name), v);
        } else {
            mri_push(r, pos, v);
        }
    }
    mri_args a = { pos.l->v, pos.l->n, NULL, kw.d->val, kw.d->n };
    const char **names = mri_take(r, (kw.d->n + 1) * sizeof *names);
    for (size_t i = 0; i < kw.d->n && !r->st; i++) {
        mri_val k = kw.d->key[i];
        if (k.kind != MRI_V_STR) {
            mri_raise(r, "keywords must be strings");
            break;
        }
        char *copy = mri_take(r, k.s->n + 1);
        memcpy(copy, k.s->s, k.s->n);
        names[i] = copy;
    }
    a.name = names;
    return a;
}

static mri_val apply(mri_render *r, const mri_node *n)
{
    bool filter = n->kind == MRI_N_FILTER;
    mri_val of = n->a ? mri_eval(r, n->a) : r->piped;
    const mri_func *f = filter ? mri_filter_find(n->name) : mri_test_find(n->name);
    mri_args args = arguments(r, n->list);
    r->line = n->line;
    if (!f)
        return mri_raise(r, "there is no %s named '%.40s'", filter ? "filter" : "test", n->name);
    return mri_invoke(r, f, &of, &args);
}

static mri_val concat(mri_render *r, const mri_node *n)
{
    mri_val out = mri_to_str(r, mri_eval(r, n->list));
    for (const mri_node *x = n->list->next; x && !r->st; x = x->next)
        out = mri_join2(r, out, mri_to_str(r, mri_eval(r, x)));
    return out;
}

static bool holds(mri_render *r, uint8_t op, mri_val a, mri_val b)
{
    switch (op) {
    case MRI_T_EQ:
        return mri_equal(r, a, b);
    case MRI_T_NE:
        return !mri_equal(r, a, b);
    case MRI_T_IN:
        return mri_contains(r, b, a);
    case MRI_T_NOT_IN:
        return !mri_contains(r, b, a);
    default:
        break;
    }
    if ((a.kind == MRI_V_FLOAT && a.f != a.f) || (b.kind == MRI_V_FLOAT && b.f != b.f))
        return false;
    int c = mri_order(r, a, b);
    return op == MRI_T_LT ? c < 0 : op == MRI_T_LE ? c <= 0 : op == MRI_T_GT ? c > 0 : c >= 0;
}

static mri_val compare(mri_render *r, const mri_node *n)
{
    mri_val a = mri_eval(r, n->a);
    for (const mri_node *x = n->list; x && !r->st; x = x->next) {
        mri_val b = mri_eval(r, x->a);
        r->line = n->line;
        if (!holds(r, x->op, a, b))
            return mri_bool(false);
        a = b;
    }
    return mri_bool(true);
}

static mri_val sign(mri_render *r, const mri_node *n)
{
    mri_val v = mri_eval(r, n->a);
    if (!mri_is_num(v))
        return mri_raise(r, "a number is needed behind '%c', not %s",
                         n->kind == MRI_N_NEG ? '-' : '+', mri_kind_name(v));
    if (v.kind == MRI_V_FLOAT)
        return mri_float(n->kind == MRI_N_NEG ? -v.f : v.f);
    int64_t i = v.kind == MRI_V_BOOL ? v.b : v.i;
    return n->kind == MRI_N_POS ? mri_int(i) : mri_binary(r, MRI_T_SUB, mri_int(0), mri_int(i));
}

static mri_val condition(mri_render *r, const mri_node *n)
{
    if (mri_truth(mri_eval(r, n->a)))
        return mri_eval(r, n->b);
    return n->c ? mri_eval(r, n->c)
                : mri_undef(r, "the inline if-expression evaluated to false and has no else: it");
}

static mri_val call(mri_render *r, const mri_node *n)
{
    mri_val fn = mri_eval(r, n->a);
    mri_args args = arguments(r, n->list);
    r->line = n->line;
    return mri_call(r, fn, &args);
}

static mri_val value_of(mri_render *r, const mri_node *n)
{
    mri_val v;
    switch (n->kind) {
    case MRI_N_CONST:
        return n->value;
    case MRI_N_NAME:
        return mri_lookup(r, n->name, n->hash);
    case MRI_N_TUPLE:
        return list_of(r, MRI_V_TUPLE, n);
    case MRI_N_LIST:
        return list_of(r, MRI_V_LIST, n);
    case MRI_N_DICT:
        return dict_of(r, n);
    case MRI_N_ATTR:
        v = mri_eval(r, n->a);
        r->line = n->line;
        return mri_getattr(r, v, n->attr);
    case MRI_N_ITEM:
        return item(r, n);
    case MRI_N_CALL:
        return call(r, n);
    case MRI_N_FILTER:
    case MRI_N_TEST:
        return apply(r, n);
    case MRI_N_NOT:
        return mri_bool(!mri_truth(mri_eval(r, n->a)));
    case MRI_N_NEG:
    case MRI_N_POS:
        return sign(r, n);
    case MRI_N_AND:
        v = mri_eval(r, n->a);
        return mri_truth(v) ? mri_eval(r, n->b) : v;
    case MRI_N_OR:
        v = mri_eval(r, n->a);
        return mri_truth(v) ? v : mri_eval(r, n->b);
    case MRI_N_BINARY:
        v = mri_eval(r, n->a);
        return mri_binary(r, n->op, v, mri_eval(r, n->b));
    case MRI_N_COND:
        return condition(r, n);
    case MRI_N_CONCAT:
        return concat(r, n);
    case MRI_N_COMPARE:
        return compare(r, n);
    default:
        return mri_raise(r, "this is no expression");
    }
}

mri_val mri_eval(mri_render *r, const mri_node *n)
{
    mri_val v = { .kind = MRI_V_UNDEF };
    if (!mri_spend(r, 0))
        return v;
    if (++r->depth > MRI_CHAT_DEPTH)
        mri_raise(r, "calls and expressions are nested more than %d deep", MRI_CHAT_DEPTH);
    else
        v = value_of(r, n);
    r->depth--;
    return v;
}
