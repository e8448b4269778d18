/* SPDX-License-Identifier: Apache-2.0
 *
 * filters_pick.c - map, select, reject, selectattr, rejectattr: what they give is a generator, read
 * once and always true, as Jinja's is (eval.h).
 */
#include "eval.h"
#include <string.h>

/* The name of a filter or test among the arguments, and what is left of them. */
static const char *named(mri_render *r, const mri_args *raw, size_t at, mri_args *rest)
{
    *rest = *raw;
    if (raw->n <= at || raw->pos[at].kind != MRI_V_STR) {
        mri_raise(r, "the name of a filter or a test must be a string");
        return "";
    }
    char *copy = mri_take(r, raw->pos[at].s->n + 1);
    memcpy(copy, raw->pos[at].s->s, raw->pos[at].s->n);
    rest->pos += at + 1;
    rest->n -= at + 1;
    return copy;
}

static mri_val f_map(mri_render *r, mri_val *a, const mri_args *raw)
{
    mri_val out = mri_list(r, MRI_V_ITER, 4), attribute = { 0 }, missing = { 0 };
    mri_args rest = *raw;
    const mri_func *f = NULL;
    if (!mri_truth(a[0])) /* nothing, and undefined */
        return out;
    for (size_t i = 0; i < raw->n_kw && !raw->n; i++) {
        if (!strcmp(raw->name[i], "attribute"))
            attribute = raw->kw[i];
        else if (!strcmp(raw->name[i], "default"))
            missing = raw->kw[i];
    }
    if (attribute.kind == MRI_V_ABSENT) {
        const char *name = named(r, raw, 0, &rest);
        if (!r->st && !(f = mri_filter_find(name)))
            return mri_raise(r, "there is no filter named '%.40s'", name);
    }
    const mri_vlist *l = mri_items(r, a[0]);
    for (size_t i = 0; i < l->n && !r->st; i++)
        mri_push(r, out, f ? mri_invoke(r, f, &l->v[i], &rest)
                           : mri_path(r, l->v[i], attribute, missing));
    return out;
}

static mri_val pick(mri_render *r, mri_val of, const mri_args *raw, bool by_attribute, bool wanted)
{
    mri_val out = mri_list(r, MRI_V_ITER, 4), absent = { 0 };
    mri_args rest = *raw;
    const mri_func *f = NULL;
    if (!mri_truth(of))
        return out;
    if (by_attribute && !raw->n)
        return mri_raise(r, "the name of an attribute is missing");
    if (raw->n > by_attribute) {
        const char *name = named(r, raw, by_attribute, &rest);
        if (!r->st && !(f = mri_test_find(name)))
            return mri_raise(r, "there is no test named '%.40s'", name);
    }
    const mri_vlist *l = mri_items(r, of);
    for (size_t i = 0; i < l->n && !r->st; i++) {
        mri_val v = by_attribute ? mri_path(r, l->v[i], raw->pos[0], absent) : l->v[i];
        if (mri_truth(f ? mri_invoke(r, f, &v, &rest) : v) == wanted)
            mri_push(r, out, l->v[i]);
    }
    return out;
}

static mri_val f_select(mri_render *r, mri_val *a, const mri_args *raw)
{
    return pick(r, a[0], raw, false, true);
}

static mri_val f_reject(mri_render *r, mri_val *a, const mri_args *raw)
{
    return pick(r, a[0], raw, false, false);
}

static mri_val f_selectattr(mri_render *r, mri_val *a, const mri_args *raw)
{
    return pick(r, a[0], raw, true, true);
}

static mri_val f_rejectattr(mri_render *r, mri_val *a, const mri_args *raw)
{
    return pick(r, a[0], raw, true, false);
}

static const mri_func filters[] = {
    { "map", NULL, 1, f_map },
    { "reject", NULL, 1, f_reject },
    { "rejectattr", NULL, 1, f_rejectattr },
    { "select", NULL, 1, f_select },
    { "selectattr", NULL, 1, f_selectattr },
};

const mri_func *mri_pick_filter_find(const char *name)
{
    return mri_func_in(filters, sizeof filters / sizeof *filters, name);
}
