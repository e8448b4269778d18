/* SPDX-License-Identifier: Apache-2.0
 *
 * filters_list.c - filters over lists and dicts that look at their items alone (eval.h); those
 * that ask another filter or test are in filters_pick.c. Each has the name, the parameters and the
 * meaning of Jinja's filter.
 */
#include "eval.h"
#include "lex.h"
#include <stdlib.h>
#include <string.h>

#define ARGS mri_render *r, mri_val *a, MR_UNUSED const mri_args *raw
#define GIVEN(x) ((x).kind != MRI_V_ABSENT && (x).kind != MRI_V_NONE)

mri_val mri_lowered(mri_render *r, mri_val v)
{
    const mri_args none = { 0 };
    return v.kind == MRI_V_STR ? mri_invoke(r, mri_text_method_find("lower"), &v, &none) : v;
}

static mri_val f_length(ARGS)
{
    return mri_int(mri_length(r, a[0]));
}

static mri_val f_first(ARGS)
{
    if (a[0].kind == MRI_V_ITER) /* takes one away */
        return a[0].l->at < a[0].l->n ? a[0].l->v[a[0].l->at++]
                                      : mri_undef(r, "the first item of an empty sequence");
    const mri_vlist *l = mri_items(r, a[0]);
    return l->n ? l->v[0] : mri_undef(r, "the first item of an empty sequence");
}

static mri_val f_last(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    return l->n ? l->v[l->n - 1] : mri_undef(r, "the last item of an empty sequence");
}

static mri_val copy_of(mri_render *r, mri_val v, mri_kind kind)
{
    const mri_vlist *l = mri_items(r, v);
    mri_val out = mri_list(r, kind, l->n);
    for (size_t i = 0; i < l->n && !r->st; i++)
        mri_push(r, out, l->v[i]);
    return out;
}

static mri_val f_list(ARGS)
{
    return copy_of(r, a[0], MRI_V_LIST);
}

static mri_val f_items(ARGS)
{
    mri_val out = mri_list(r, MRI_V_ITER, 4);
    if (a[0].kind == MRI_V_UNDEF)
        return out;
    if (a[0].kind != MRI_V_DICT)
        return mri_raise(r, "items takes a dict, not %s", mri_kind_name(a[0]));
    for (size_t i = 0; i < a[0].d->n && !r->st; i++)
        mri_push(r, out, mri_pair(r, a[0].d->key[i], a[0].d->val[i]));
    return out;
}

static mri_val f_reverse(ARGS)
{
    if (a[0].kind == MRI_V_STR)
        return mri_slice(r, a[0], mri_none(), mri_none(), mri_int(-1));
    const mri_vlist *l = mri_items(r, a[0]);
    mri_val out = mri_list(r, a[0].kind == MRI_V_ITER ? MRI_V_LIST : MRI_V_ITER, l->n);
    for (size_t i = l->n; i-- && !r->st;)
        mri_push(r, out, l->v[i]);
    return out;
}

static mri_val f_join(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    mri_val absent = { 0 };
    mri_str b = { 0 };
    for (size_t i = 0; i < l->n && !r->st; i++) {
        if (i && GIVEN(a[1]))
            mri_show(r, a[1], &b);
        mri_show(r, GIVEN(a[2]) ? mri_path(r, l->v[i], a[2], absent) : l->v[i], &b);
        if (b.n > MRI_CHAT_OUTPUT)
            mri_raise(r, "a text is longer than %d MiB", MRI_CHAT_OUTPUT >> 20);
    }
    return mri_take_str(r, &b);
}

/* ---- order -------------------------------------------------------------------------- */
/* Merges runs of growing length: stable, and n log n comparisons however the keys lie. */
mri_val mri_sorted(mri_render *r, const mri_vlist *items, const mri_val *keys, bool reverse)
{
    size_t n = items->n;
    size_t *from = mri_take(r, (n + 1) * sizeof *from), *to = mri_take(r, (n + 1) * sizeof *to);
    for (size_t i = 0; i < n; i++)
        from[i] = i;
    for (size_t run = 1; run < n && !r->st; run *= 2) {
        for (size_t at = 0; at < n && !r->st; at += 2 * run) {
            size_t i = at, m = at + run < n ? at + run : n, j = m;
            size_t end = at + 2 * run < n ? at + 2 * run : n;
            for (size_t k = at; k < end && !r->st; k++) {
                bool left = j >= end;
                if (!left && i < m) {
                    int c = mri_order(r, keys[from[i]], keys[from[j]]);
                    left = reverse ? c >= 0 : c <= 0;
                }
                to[k] = left ? from[i++] : from[j++];
            }
        }
        size_t *t = from;
        from = to;
        to = t;
    }
    mri_val out = mri_list(r, MRI_V_LIST, n);
    for (size_t i = 0; i < n && !r->st; i++)
        mri_push(r, out, items->v[from[i]]);
    return out;
}

/* What items are compared by: themselves, or one or more of their attributes; letter case does
 * not count unless it is asked for. */
static mri_val *keys_of(mri_render *r, const mri_vlist *l, mri_val attribute, mri_val exact,
                        mri_val otherwise)
{
    bool lower = exact.kind == MRI_V_ABSENT || !mri_truth(exact);
    mri_val *keys = mri_take(r, (l->n + 1) * sizeof *keys);
    for (size_t i = 0; i < l->n && !r->st; i++) {
        mri_val k = l->v[i];
        if (GIVEN(attribute))
            k = mri_path(r, k, attribute, otherwise);
        keys[i] = lower ? mri_lowered(r, k) : k;
    }
    return keys;
}

static mri_val f_sort(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    bool reverse = GIVEN(a[1]) && mri_truth(a[1]);
    mri_val absent = { 0 };
    /* Lists of one key or more, as Jinja has it: equal keys need no order. */
    mri_val *keys = mri_take(r, (l->n + 1) * sizeof *keys);
    for (size_t i = 0; i < l->n; i++)
        keys[i] = mri_list(r, MRI_V_LIST, 2);
    if (a[3].kind != MRI_V_STR) {
        const mri_val *one = keys_of(r, l, a[3], a[2], absent);
        for (size_t i = 0; i < l->n && !r->st; i++)
            mri_push(r, keys[i], one[i]);
        return mri_sorted(r, l, keys, reverse);
    }
    for (size_t at = 0; at <= a[3].s->n && !r->st;) { /* "age,name": by both */
        const char *comma = memchr(a[3].s->s + at, ',', a[3].s->n - at);
        size_t n = comma ? (size_t)(comma - a[3].s->s) - at : a[3].s->n - at;
        const mri_val *part = keys_of(r, l, mri_slice_of(r, a[3], at, n), a[2], absent);
        for (size_t i = 0; i < l->n && !r->st; i++)
            mri_push(r, keys[i], part[i]);
        at += n + 1;
    }
    return mri_sorted(r, l, keys, reverse);
}

static mri_val f_dictsort(ARGS)
{
    bool value = a[2].kind != MRI_V_ABSENT && mri_str_is(a[2], "value");
    mri_val absent = { 0 }, pairs;
    if (a[0].kind != MRI_V_DICT)
        return mri_raise(r, "dictsort takes a dict, not %s", mri_kind_name(a[0]));
    if (a[2].kind != MRI_V_ABSENT && !value && !mri_str_is(a[2], "key"))
        return mri_raise(r, "dictsort sorts by 'key' or by 'value'");
    pairs = f_items(r, a, raw);
    return mri_sorted(r, pairs.l, keys_of(r, pairs.l, mri_int(value), a[1], absent),
                      GIVEN(a[3]) && mri_truth(a[3]));
}

static mri_val f_unique(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    mri_val absent = { 0 }, out = mri_list(r, MRI_V_ITER, l->n), seen = mri_dict(r, MRI_V_DICT);
    const mri_val *keys = keys_of(r, l, a[2], a[1], absent);
    for (size_t i = 0; i < l->n && !r->st; i++) {
        size_t before = seen.d->n;
        mri_put(r, seen, keys[i], mri_none());
        if (seen.d->n > before)
            mri_push(r, out, l->v[i]);
    }
    return out;
}

static mri_val extreme(mri_render *r, mri_val *a, int sign)
{
    const mri_vlist *l = mri_items(r, a[0]);
    mri_val absent = { 0 };
    const mri_val *keys = keys_of(r, l, a[2], a[1], absent);
    size_t best = 0;
    for (size_t i = 1; i < l->n && !r->st; i++)
        if (sign * mri_order(r, keys[i], keys[best]) > 0)
            best = i;
    return l->n ? l->v[best] : mri_undef(r, "an item of an empty sequence");
}

static mri_val f_min(ARGS)
{
    return extreme(r, a, -1);
}

static mri_val f_max(ARGS)
{
    return extreme(r, a, 1);
}

static mri_val f_groupby(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    mri_val sorted = mri_sorted(r, l, keys_of(r, l, a[1], a[3], a[2]), false);
    mri_val out = mri_list(r, MRI_V_LIST, 4), group = mri_none();
    const mri_val *keys = keys_of(r, sorted.l, a[1], a[3], a[2]);
    for (size_t i = 0; i < sorted.l->n && !r->st; i++) {
        if (!i || !mri_equal(r, keys[i], keys[i - 1])) {
            group = mri_list(r, MRI_V_LIST, 4);
            mri_val pair = mri_pair(r, mri_path(r, sorted.l->v[i], a[1], a[2]), group);
            mri_push(r, out, pair);
        }
        mri_push(r, group, sorted.l->v[i]);
    }
    return out;
}

/* ---- sums and parts ----------------------------------------------------------------- */
static mri_val f_sum(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    mri_val absent = { 0 }, sum = a[2].kind == MRI_V_ABSENT ? mri_int(0) : a[2];
    for (size_t i = 0; i < l->n && !r->st; i++)
        sum = mri_binary(r, MRI_T_ADD, sum,
                         GIVEN(a[1]) ? mri_path(r, l->v[i], a[1], absent) : l->v[i]);
    return sum;
}

static mri_val f_batch(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    int64_t size = mri_to_int(r, a[1], "batch's size");
    mri_val out = mri_list(r, MRI_V_ITER, 4), row = mri_none();
    if (size < 1)
        return mri_raise(r, "batch's size must be 1 or more");
    for (size_t i = 0; i < l->n && !r->st; i++) {
        if (i % (size_t)size == 0)
            mri_push(r, out, row = mri_list(r, MRI_V_LIST, 4));
        mri_push(r, row, l->v[i]);
    }
    for (size_t i = l->n; GIVEN(a[2]) && i % (size_t)size && !r->st; i++)
        mri_push(r, row, a[2]);
    return out;
}

static mri_val f_slice(ARGS)
{
    const mri_vlist *l = mri_items(r, a[0]);
    int64_t slices = mri_to_int(r, a[1], "slice's number");
    mri_val out = mri_list(r, MRI_V_ITER, 4);
    size_t at = 0;
    if (slices < 1)
        return mri_raise(r, "slice's number must be 1 or more");
    for (size_t k = 0, n = (size_t)slices; k < n && !r->st; k++) {
        size_t each = l->n / n + (k < l->n % n);
        mri_val row = mri_list(r, MRI_V_LIST, each + 1);
        for (size_t i = 0; i < each && !r->st; i++)
            mri_push(r, row, l->v[at++]);
        if (GIVEN(a[2]) && k >= l->n % n)
            mri_push(r, row, a[2]);
        mri_push(r, out, row);
    }
    return out;
}

static mri_val f_attr(ARGS)
{
    if (a[1].kind != MRI_V_STR)
        return mri_raise(r, "attr takes a name");
    if (a[0].kind == MRI_V_DICT && mri_find(r, a[0], a[1])) /* attributes proper, not keys */
        return mri_undef(r, "an attribute");
    return mri_getitem(r, a[0], a[1]);
}

static const mri_func filters[] = {
    { "attr", "obj name", 2, f_attr },
    { "batch", "value linecount fill_with", 2, f_batch },
    { "count", "value", 1, f_length },
    { "dictsort", "value case_sensitive by reverse", 1, f_dictsort },
    { "first", "seq", 1, f_first },
    { "groupby", "value attribute default case_sensitive", 2, f_groupby },
    { "items", "value", 1, f_items },
    { "join", "value d attribute", 1, f_join },
    { "last", "seq", 1, f_last },
    { "length", "value", 1, f_length },
    { "list", "value", 1, f_list },
    { "max", "value case_sensitive attribute", 1, f_max },
    { "min", "value case_sensitive attribute", 1, f_min },
    { "reverse", "value", 1, f_reverse },
    { "slice", "value slices fill_with", 2, f_slice },
    { "sort", "value reverse case_sensitive attribute", 1, f_sort },
    { "sum", "iterable attribute start", 1, f_sum },
    { "unique", "value case_sensitive attribute", 1, f_unique },
};

const mri_func *mri_list_filter_find(const char *name)
{
    return mri_func_in(filters, sizeof filters / sizeof *filters, name);
}
