/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect_print.c - a view for people (aligned text) and for programs (one JSON object).
 * Both are made from the same totals, so that they cannot disagree.
 */
#include "core/store/dtype.h"
#include "inspect.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct total {
    const char *dtype; /* NULL: of all */
    uint64_t tensors, elements, bytes;
} total;

static void count(total *t, const mri_tensor *x)
{
    uint64_t bytes = 0;
    mri_type_bytes(&x->type, &bytes);
    t->tensors++;
    t->elements += (uint64_t)mr_numel(&x->type);
    t->bytes += bytes;
}

static total total_of(const inspect_group *g, size_t n, const char *dtype)
{
    total t = { .dtype = dtype };
    for (size_t i = 0; i < n; i++)
        for (size_t k = 0; k < mri_safetensors_count(g[i].tensors); k++) {
            const mri_tensor *x = mri_safetensors_at(g[i].tensors, k);
            if (!dtype || !strcmp(dtype, x->type.dtype))
                count(&t, x);
        }
    return t;
}

/* "[512, 64]" serves both outputs */
static void add_shape(mri_str *out, const mr_type *t)
{
    mri_str_add(out, "[");
    for (uint32_t i = 0; i < t->rank; i++)
        mri_str_fmt(out, "%s%" PRId64, i ? ", " : "", t->dim[i]);
    mri_str_add(out, "]");
}

/* ---- text ------------------------------------------------------------------------------- */
static void print_total(mri_str *out, const total *t)
{
    char *bytes = mri_bytes_text((double)t->bytes);
    mri_str_fmt(out, "%" PRIu64 " tensor%s, %" PRIu64 " elements, %s\n", t->tensors,
                t->tensors == 1 ? "" : "s", t->elements, bytes);
    free(bytes);
}

static void print_group(mri_str *out, const inspect_group *g)
{
    int widest = 0;
    size_t n = mri_safetensors_count(g->tensors);
    mri_str shape = { 0 };
    for (size_t i = 0; i < n; i++, shape.n = 0) {
        add_shape(&shape, &mri_safetensors_at(g->tensors, i)->type);
        widest = (int)shape.n > widest ? (int)shape.n : widest;
    }
    if (*g->name)
        mri_str_fmt(out, "\n%s\n", g->name);
    else
        mri_str_add(out, "\n");
    for (size_t i = 0; i < n; i++) {
        const mri_tensor *x = mri_safetensors_at(g->tensors, i);
        total t = { 0 };
        count(&t, x);
        shape.n = 0;
        add_shape(&shape, &x->type);
        char *bytes = mri_bytes_text((double)t.bytes);
        mri_str_fmt(out, "  %-6s  %-*s  %10s  %s\n", x->type.dtype, widest, shape.s, bytes,
                    x->name);
        free(bytes);
    }
    mri_str_free(&shape);
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
    for (size_t i = 0; i < v->n_steps; i++)
        mri_str_fmt(out, "%s%" PRId64 "%s", i ? ", " : "all steps   ", v->steps[i],
                    i + 1 == v->n_steps ? "\n" : "");
}

static void print_text(const inspect_view *v, const char *differences, mri_str *out)
{
    total all = total_of(v->groups.v, v->groups.n, NULL);
    mri_str_fmt(out, "%-10s  %s\n", v->kind, v->path);
    if (v->family)
        mri_str_fmt(out, "family      %s\n", v->family);
    if (v->checkpoint)
        print_checkpoint(out, v);
    for (size_t i = 0; i < v->groups.n; i++)
        print_group(out, &v->groups.v[i]);
    mri_str_add(out, "\n");
    const mri_dtype *d;
    for (size_t i = 0; (d = mri_dtype_at(i)); i++) {
        total t = total_of(v->groups.v, v->groups.n, d->name);
        if (!t.tensors || t.tensors == all.tensors)
            continue;
        mri_str_fmt(out, "%-10s  ", d->name);
        print_total(out, &t);
    }
    mri_str_add(out, "total       ");
    print_total(out, &all);
    if (differences)
        mri_str_fmt(out, "\nprofile     %s\n%s",
                    *differences ? "differs from the run's (checkpoint | run)" : "the run's",
                    differences);
}

/* ---- JSON ------------------------------------------------------------------------------- */
static void json_total(mri_str *out, const total *t)
{
    mri_str_fmt(out,
                "{\"tensors\": %" PRIu64 ", \"elements\": %" PRIu64 ", \"bytes\": %" PRIu64 "}",
                t->tensors, t->elements, t->bytes);
}

static void json_group(mri_str *out, const inspect_group *g)
{
    mri_str_add(out, "{\"name\": ");
    mri_str_json(out, g->name);
    mri_str_add(out, ", \"tensors\": [");
    for (size_t i = 0; i < mri_safetensors_count(g->tensors); i++) {
        const mri_tensor *x = mri_safetensors_at(g->tensors, i);
        total t = { 0 };
        count(&t, x);
        mri_str_add(out, i ? ",\n  {\"name\": " : "\n  {\"name\": ");
        mri_str_json(out, x->name);
        mri_str_fmt(out, ", \"dtype\": \"%s\", \"shape\": ", x->type.dtype);
        add_shape(out, &x->type);
        mri_str_fmt(out, ", \"bytes\": %" PRIu64 "}", t.bytes);
    }
    mri_str_add(out, "]}");
}

static void json_checkpoint(mri_str *out, const inspect_view *v)
{
    const mri_checkpoint_meta *m = mri_checkpoint_info(v->checkpoint);
    mri_str_fmt(out, ", \"step\": %" PRId64 ", \"samples\": %" PRId64 ", \"tokens\": %" PRId64
                     ",\n \"counters\": {",
                m->step, m->samples, m->tokens);
    for (size_t i = 0; i < m->counters.n; i++) {
        const mr_attr *a = &m->counters.v[i];
        mri_str_add(out, i ? ", " : "");
        mri_str_json(out, a->key);
        if (a->type == MR_A_I64)
            mri_str_fmt(out, ": %" PRId64, a->u.i);
        else if (isfinite(a->u.f))
            mri_str_fmt(out, ": %.17g", a->u.f);
        else
            mri_str_add(out, ": null"); /* JSON has no NaN */
    }
    mri_str_add(out, "}, \"steps\": [");
    for (size_t i = 0; i < v->n_steps; i++)
        mri_str_fmt(out, "%s%" PRId64, i ? ", " : "", v->steps[i]);
    mri_str_add(out, "]");
}

static void json_differences(mri_str *out, const char *lines)
{
    mri_str_add(out, ",\n \"profile_differences\": [");
    for (int i = 0; *lines; i++) {
        size_t n = strcspn(lines, "\n");
        char *line = mri_strndup(lines, n);
        mri_str_add(out, i ? ", " : "");
        mri_str_json(out, line);
        free(line);
        lines += n + (lines[n] == '\n');
    }
    mri_str_add(out, "]");
}

static void print_json(const inspect_view *v, const char *differences, mri_str *out)
{
    total all = total_of(v->groups.v, v->groups.n, NULL);
    mri_str_fmt(out, "{\"kind\": \"%s\", \"path\": ", v->kind);
    mri_str_json(out, v->path);
    if (v->family) {
        mri_str_add(out, ", \"family\": ");
        mri_str_json(out, v->family);
    }
    if (v->checkpoint)
        json_checkpoint(out, v);
    mri_str_add(out, ",\n \"groups\": [");
    for (size_t i = 0; i < v->groups.n; i++) {
        mri_str_add(out, i ? ",\n " : "");
        json_group(out, &v->groups.v[i]);
    }
    mri_str_add(out, "],\n \"total\": ");
    json_total(out, &all);
    if (differences)
        json_differences(out, differences);
    mri_str_add(out, "}\n");
}

void inspect_print(const inspect_view *v, const char *differences, bool json, mri_str *out)
{
    if (json)
        print_json(v, differences, out);
    else
        print_text(v, differences, out);
}
