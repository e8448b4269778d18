/* SPDX-License-Identifier: Apache-2.0
 * rewrite.c - see rewrite.h. */
#include "rewrite.h"
#include <stdlib.h>
#include <string.h>

static void copy_named(mri_rewrite *w, mr_val v)
{
    const mri_value *old = mri_val(w->from, v);
    mr_val id = mri_prog_value(w->to, old->kind, old->name, &old->type);
    mri_value *copy = mri_val(w->to, id);
    mr_param *p = &copy->param;
    copy->trainable = old->trainable;
    copy->joined = old->joined;
    copy->flags = old->flags;
    copy->of = old->of ? *mri_rewrite_at(w, old->of) : 0;
    copy->place = old->place;
    *p = old->param;
    p->init = mri_prog_string(w->to, p->init);
    p->placement = mri_prog_string(w->to, p->placement);
    p->tensors = mri_prog_string(w->to, p->tensors);
    if (old->kind == MRI_PARAM)
        p->type.dtype = copy->type.dtype;
    *mri_rewrite_at(w, v) = id;
}

void mri_rewrite_begin(mri_rewrite *w, mr_prog *from)
{
    mr_prog *to = mri_prog_new(from->name, from->model_dtype);
    *w = (mri_rewrite){ from, to, mri_alloc((from->values.n + 1) * sizeof(mr_val)) };
    to->phase = from->phase;
    to->decode = from->decode;
    to->caches = from->caches;
    to->exact = from->exact;
    to->border = from->border;
    for (size_t i = 1; i < from->regions.n; i++) {
        mri_region r = from->regions.v[i];
        r.name = mri_prog_string(to, r.name);
        r.path = mri_prog_string(to, r.path);
        MRI_PUSH(&to->regions, r);
    }
    for (mr_val v = 1; v <= from->values.n; v++)
        if (mri_val(from, v)->kind != MRI_TEMP)
            copy_named(w, v);
}

mr_val mri_rewrite_op(mri_rewrite *w, const mri_node *n, const char *id, const mr_val *in,
                      uint32_t n_in, const mr_attr *attr, uint32_t n_attr, mr_val *out,
                      uint32_t n_out)
{
    mr_val first[MRI_MAX_OPERANDS] = { 0 };
    MRI_PUSH(&w->to->open, n->region);
    mr_status st = mri_prog_node(w->to, id, in, n_in, attr, n_attr, first, n_out, n->file, n->line);
    w->to->open.n--;
    if (out)
        memcpy(out, first, n_out * sizeof *out);
    return st ? 0 : first[0];
}

void mri_rewrite_node(mri_rewrite *w, const mri_node *n, const mr_val *in)
{
    mr_val out[MRI_MAX_OPERANDS] = { 0 };
    mri_rewrite_op(w, n, n->def->id, in, n->n_in, n->attr, n->n_attr, out, n->n_out);
    for (uint32_t i = 0; i < n->n_out; i++)
        if (n->out[i])
            *mri_rewrite_at(w, n->out[i]) = out[i];
}

static void copy_ports(mri_rewrite *w, const mri_ports *from, mri_ports *to)
{
    for (size_t i = 0; i < from->n; i++) {
        mri_port p = { mri_prog_string(w->to, from->v[i].name),
                       *mri_rewrite_at(w, from->v[i].value) };
        MRI_PUSH(to, p);
    }
}

mr_status mri_rewrite_end(mri_rewrite *w, mr_prog **p, mr_err *err)
{
    mr_status st = w->to->failed;
    if (!st) {
        copy_ports(w, &w->from->outputs, &w->to->outputs);
        copy_ports(w, &w->from->losses, &w->to->losses);
        *p = w->to;
    } else {
        *err = w->to->err;
    }
    mri_prog_free(st ? w->to : w->from);
    free(w->map);
    return st;
}
