/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect_json.c - a view for programs: one JSON object, with every tensor.
 */
#include "core/store/shards.h"
#include "inspect.h"
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void json_total(mri_str *out, const inspect_total *t)
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
        mri_str_add(out, i ? ",\n  {\"name\": " : "\n  {\"name\": ");
        mri_str_json(out, x->name);
        mri_str_fmt(out, ", \"dtype\": \"%s\", \"shape\": ", x->type.dtype);
        inspect_shape(out, &x->type);
        mri_str_fmt(out, ", \"bytes\": %" PRIu64 "}", inspect_bytes(x));
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
    mri_str_add(out, "}");
    if (mri_checkpoint_format(v->checkpoint)) {
        size_t parts = 0;
        uint32_t files = mri_shards_count(mri_checkpoint_shards(v->checkpoint), &parts);
        mri_str_add(out, ", \"sharding\": ");
        mri_str_json(out, mri_checkpoint_format(v->checkpoint));
        mri_str_fmt(out, ", \"parts\": %zu, \"files\": %u", parts, files);
    }
    mri_str_add(out, ", \"steps\": [");
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

static void json_strings(mri_str *out, const char *key, const char *const *v, size_t n)
{
    mri_str_fmt(out, ",\n \"%s\": [", key);
    for (size_t i = 0; i < n; i++) {
        mri_str_add(out, i ? ", " : "");
        mri_str_json(out, v[i]);
    }
    mri_str_add(out, "]");
}

static void json_patterns(mri_str *out, const char *key, const inspect_list *l)
{
    mri_str_fmt(out, ",\n \"%s\": [", key);
    for (size_t i = 0; i < l->n; i++) {
        const inspect_names *x = &l->v[i];
        mri_str_add(out, i ? ",\n  {\"names\": " : "\n  {\"names\": ");
        mri_str_json(out, x->text);
        mri_str_fmt(out, ", \"count\": %" PRIu64 ", \"dtype\": \"%s\", \"shape\": ", x->count,
                    x->first->type.dtype);
        inspect_shape(out, &x->first->type);
        mri_str_fmt(out, ", \"bytes\": %" PRIu64 "}", x->bytes);
    }
    mri_str_add(out, "]");
}

static void json_model(mri_str *out, const inspect_model *m)
{
    if (m->plugin) {
        mri_str_add(out, ",\n \"plugin\": ");
        mri_str_json(out, m->plugin);
    }
    if (m->problem.code) {
        mri_str_fmt(out, ",\n \"problem\": {\"code\": \"E%04d\", \"what\": ", -m->problem.code);
        mri_str_json(out, m->problem.what);
        mri_str_add(out, ", \"hint\": ");
        mri_str_json(out, m->problem.hint);
        mri_str_add(out, "}");
        return;
    }
    mri_str_fmt(out, ",\n \"parameters\": %" PRIu64, m->parameters);
    json_strings(out, "missing", (const char *const *)m->misfits.v, m->misfits.n);
    json_patterns(out, "not_read", &m->extra);
    mri_str_add(out, ",\n \"memory\": [");
    for (size_t i = 0; i < m->n_memory; i++)
        mri_str_fmt(out,
                    "%s{\"recipe\": \"%s\", \"generate\": %" PRIu64 ", \"train\": %" PRIu64
                    ", \"cache_a_token\": %" PRIu64 "}", i ? ", " : "", m->memory[i].recipe,
                    m->memory[i].generate, m->memory[i].train, m->memory[i].cache);
    mri_str_add(out, "]");
}

static void json_folder(mri_str *out, const inspect_view *v)
{
    inspect_list l = { 0 };
    if (v->scheme.code) {
        mri_str_add(out, ",\n \"quantisation\": {\"problem\": ");
        mri_str_json(out, v->scheme.what);
        mri_str_add(out, "}");
    }
    if (v->quant) {
        mri_str_add(out, ",\n \"quantisation\": {\"method\": ");
        mri_str_json(out, v->quant->method);
        mri_str_add(out, ", \"scheme\": ");
        mri_str_json(out, v->quant->name);
        mri_str_add(out, "}");
    }
    json_strings(out, "beside", v->beside.v, v->beside.n);
    if (v->set)
        inspect_collapse(v->set, NULL, &l);
    json_patterns(out, "patterns", &l);
    inspect_list_free(&l);
    if (v->model)
        json_model(out, v->model);
}

void inspect_json(const inspect_view *v, const inspect_how *how, mri_str *out)
{
    inspect_total all = inspect_total_of(v, NULL);
    mri_str_fmt(out, "{\"kind\": \"%s\", \"path\": ", v->kind);
    mri_str_json(out, v->path);
    if (v->family) {
        mri_str_add(out, ", \"family\": ");
        mri_str_json(out, v->family);
    }
    if (v->checkpoint)
        json_checkpoint(out, v);
    if (!strcmp(v->kind, "folder"))
        json_folder(out, v);
    mri_str_add(out, ",\n \"groups\": [");
    for (size_t i = 0; i < v->groups.n; i++) {
        mri_str_add(out, i ? ",\n " : "");
        json_group(out, &v->groups.v[i]);
    }
    mri_str_add(out, "],\n \"total\": ");
    json_total(out, &all);
    if (how->differences)
        json_differences(out, how->differences);
    mri_str_add(out, "}\n");
}
