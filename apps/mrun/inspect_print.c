/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect_print.c - a view for people: aligned text. Tensors of a model's folder are shown by
 * pattern, those of a checkpoint and of a file each.
 */
#include "core/store/dtype.h"
#include "core/store/shards.h"
#include "inspect.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

inspect_total inspect_total_of(const inspect_view *v, const char *dtype)
{
    inspect_total t = { .dtype = dtype };
    for (size_t i = 0; i < v->groups.n; i++)
        for (size_t k = 0; k < mri_safetensors_count(v->groups.v[i].tensors); k++) {
            const mri_tensor *x = mri_safetensors_at(v->groups.v[i].tensors, k);
            if (dtype && dtype != x->type.dtype) /* both are dtype.c's own words */
                continue;
            t.tensors++;
            t.elements += (uint64_t)mr_numel(&x->type);
            t.bytes += inspect_bytes(x);
        }
    return t;
}

static void print_total(mri_str *out, const inspect_total *t)
{
    char *bytes = mri_bytes_text((double)t->bytes);
    mri_str_fmt(out, "%" PRIu64 " tensor%s, %" PRIu64 " elements, %s\n", t->tensors,
                t->tensors == 1 ? "" : "s", t->elements, bytes);
    free(bytes);
}

typedef struct line { /* of a table of tensors */
    const mr_type *type;
    const char *name;
    uint64_t count, bytes; /* count 0: is not shown */
} line;

static void print_lines(mri_str *out, const line *v, size_t n)
{
    int widest = 0;
    mri_str shape = { 0 };
    for (size_t i = 0; i < n; i++, shape.n = 0) {
        inspect_shape(&shape, v[i].type);
        widest = (int)shape.n > widest ? (int)shape.n : widest;
    }
    for (size_t i = 0; i < n; i++) {
        shape.n = 0;
        inspect_shape(&shape, v[i].type);
        char *bytes = mri_bytes_text((double)v[i].bytes);
        mri_str_fmt(out, "  %-6s  %-*s  %10s  ", v[i].type->dtype, widest, shape.s, bytes);
        if (v[i].count)
            mri_str_fmt(out, "%7" PRIu64 " x ", v[i].count);
        mri_str_fmt(out, "%s\n", v[i].name);
        free(bytes);
    }
    mri_str_free(&shape);
}

static void print_group(mri_str *out, const inspect_group *g)
{
    size_t n = mri_safetensors_count(g->tensors);
    line *v = mri_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++) {
        const mri_tensor *x = mri_safetensors_at(g->tensors, i);
        v[i] = (line){ &x->type, x->name, 0, inspect_bytes(x) };
    }
    mri_str_fmt(out, *g->name ? "\n%s\n" : "\n%s", g->name);
    print_lines(out, v, n);
    free(v);
}

static void print_patterns(mri_str *out, const inspect_list *l)
{
    line *v = mri_alloc(l->n * sizeof *v);
    for (size_t i = 0; i < l->n; i++)
        v[i] = (line){ &l->v[i].first->type, l->v[i].text, l->v[i].count, l->v[i].bytes };
    print_lines(out, v, l->n);
    free(v);
}

static void print_checkpoint(mri_str *out, const inspect_view *v)
{
    const mri_checkpoint_meta *m = mri_checkpoint_info(v->checkpoint);
    mri_str_fmt(out, "step        %" PRId64 "\n", m->step);
    mri_str_fmt(out, "samples     %" PRId64 "\n", m->samples);
    mri_str_fmt(out, "tokens      %" PRId64 "\n", m->tokens);
    for (size_t i = 0; i < m->counters.n; i++) {
        const mr_attr *a = &m->counters.v[i];
        mri_str_add(out, i ? "            " : "counters    ");
        if (a->type == MR_A_I64)
            mri_str_fmt(out, "%s = %" PRId64 "\n", a->key, a->u.i);
        else
            mri_str_fmt(out, "%s = %.9g\n", a->key, a->u.f);
    }
    mri_str_add(out, "checksums   all match\n");
    if (mri_checkpoint_format(v->checkpoint)) {
        const char *layout = mri_checkpoint_layout(v->checkpoint);
        size_t parts = 0;
        uint32_t files = mri_shards_count(mri_checkpoint_shards(v->checkpoint), &parts);
        mri_str_fmt(out, "sharding    %s: %zu parts in %u files of ranks%s%s\n",
                    mri_checkpoint_format(v->checkpoint), parts, files,
                    layout ? "; for " : "", layout ? layout : "");
    }
    for (size_t i = 0; i < v->n_steps; i++)
        mri_str_fmt(out, "%s%" PRId64 "%s", i ? ", " : "all steps   ", v->steps[i],
                    i + 1 == v->n_steps ? "\n" : "");
}

static void print_memory(const inspect_model *m, mri_str *out)
{
    mri_str_add(out, "\nmemory          generate         train  cache a token  (no activations)\n");
    for (size_t i = 0; i < m->n_memory; i++) {
        const inspect_memory *r = &m->memory[i];
        char *g = mri_bytes_text((double)r->generate), *t = mri_bytes_text((double)r->train);
        char *c = mri_bytes_text((double)r->cache);
        mri_str_fmt(out, "  %-6s    %12s  %12s   %12s\n", r->recipe, g, t, c);
        free(g);
        free(t);
        free(c);
    }
}

static void print_model(const inspect_view *v, mri_str *out)
{
    const inspect_model *m = v->model;
    if (m->problem.code) {
        mri_str_fmt(out, "\nnot planned %s\n", m->problem.what);
        if (*m->problem.detail)
            mri_str_fmt(out, "            %s\n", m->problem.detail);
        if (*m->problem.hint)
            mri_str_fmt(out, "            %s\n", m->problem.hint);
        return;
    }
    if (v->set && !m->misfits.n)
        mri_str_add(out, "\nmissing     nothing\n");
    else if (v->set)
        mri_str_add(out, "\nmissing or of another shape\n");
    for (size_t i = 0; i < m->misfits.n; i++)
        mri_str_fmt(out, "  %s\n", m->misfits.v[i]);
    if (v->set && !m->extra.n)
        mri_str_add(out, "not read    nothing\n");
    else if (v->set)
        mri_str_add(out, "not read by this family\n");
    print_patterns(out, &m->extra);
    print_memory(m, out);
}

static void print_folder(const inspect_view *v, mri_str *out)
{
    if (v->model && v->model->plugin)
        mri_str_fmt(out, "plugin      model/%s", v->model->plugin);
    if (v->model && v->model->plugin && v->model->tensors)
        mri_str_fmt(out, ", %" PRIu64 " parameters in %" PRIu64 " tensors", v->model->parameters,
                    v->model->tensors);
    if (v->model && v->model->plugin)
        mri_str_add(out, "\n");
    if (v->scheme.code)
        mri_str_fmt(out, "quantised   %s\n            %s\n", v->scheme.what, v->scheme.detail);
    else
        mri_str_fmt(out, "quantised   %s%s%s\n", v->quant ? v->quant->method : "no",
                    v->quant ? ", " : "", v->quant ? v->quant->name : "");
    mri_str_add(out, "beside it   ");
    for (size_t i = 0; i < v->beside.n; i++)
        mri_str_fmt(out, "%s%s", i ? ", " : "", v->beside.v[i]);
    mri_str_add(out, v->beside.n ? "\n" : "no tokenizer\n");
    if (!v->set)
        mri_str_add(out, "weights     none\n");
}

void inspect_print(const inspect_view *v, const inspect_how *how, mri_str *out)
{
    if (how->json) {
        inspect_json(v, how, out);
        return;
    }
    const char *differences = how->differences;
    bool folder = !strcmp(v->kind, "folder");
    inspect_total all = inspect_total_of(v, NULL);
    mri_str_fmt(out, "%-10s  %s\n", v->kind, v->path);
    if (v->family)
        mri_str_fmt(out, "family      %s\n", v->family);
    if (v->checkpoint)
        print_checkpoint(out, v);
    if (folder)
        print_folder(v, out);
    if (folder && v->set && !how->all) {
        inspect_list l = { 0 };
        inspect_collapse(v->set, NULL, &l);
        mri_str_add(out, "\n");
        print_patterns(out, &l);
        inspect_list_free(&l);
    } else {
        for (size_t i = 0; i < v->groups.n; i++)
            print_group(out, &v->groups.v[i]);
    }
    mri_str_add(out, "\n");
    const mri_dtype *d;
    for (size_t i = 0; (d = mri_dtype_at(i)); i++) {
        inspect_total t = inspect_total_of(v, d->name);
        if (!t.tensors || t.tensors == all.tensors)
            continue;
        mri_str_fmt(out, "%-10s  ", d->name);
        print_total(out, &t);
    }
    mri_str_add(out, "total       ");
    print_total(out, &all);
    if (v->model)
        print_model(v, out);
    if (differences)
        mri_str_fmt(out, "\nprofile     %s\n%s",
                    *differences ? "differs from the run's (checkpoint | run)" : "the run's",
                    differences);
}
