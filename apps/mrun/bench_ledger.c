/* SPDX-License-Identifier: Apache-2.0
 * bench_ledger.c - see bench_ledger.h. */
#include "bench_ledger.h"
#include <stdlib.h>
#include <string.h>

void ledger_mark(ledger *l)
{
    l->mark = bench_now();
}

void ledger_stage(ledger *l, const char *name, double flops, double bytes)
{
    ledger_entry e = {
        .stage = name, .start = l->mark, .end = bench_now(), .flops = flops, .bytes = bytes
    };
    MRI_PUSH(&l->entries, e);
    ledger_mark(l);
}

static void describe(const mri_trace_step *t, ledger_entry *e)
{
    size_t at = 0;
    for (uint32_t i = 0, shown = 0; i < t->call->n_in && shown < 2; i++) {
        const mr_type *type = t->call->in[i];
        if (!type)
            continue;
        const char *gap = shown ? " " : "";
        for (uint32_t r = 0; r < type->rank && at + 22 < sizeof e->shape; r++)
            at += (size_t)snprintf(e->shape + at, sizeof e->shape - at, "%s%lld", r ? "x" : gap,
                                   (long long)type->dim[r]);
        shown++;
    }
}

mr_status ledger_trace(void *ctx, const mri_trace_step *t, mr_err *err)
{
    ledger *l = ctx;
    const mri_step *s = &t->frame->plan->steps[t->phase].v[t->step];
    ledger_entry e = { .frame = t->frame,
                       .node = t->node,
                       .phase = t->phase,
                       .start = l->mark,
                       .end = bench_now(),
                       .flops = s->cost.flops,
                       .bytes = s->cost.bytes,
                       .impl = s->ref ? "reference" : s->info.impl };
    (void)err;
    describe(t, &e);
    MRI_PUSH(&l->entries, e);
    ledger_mark(l);
    return 0;
}

double ledger_total(const ledger *l)
{
    double sum = 0;
    for (size_t i = 0; i < l->entries.n; i++)
        sum += l->entries.v[i].end - l->entries.v[i].start;
    return l->steps ? sum / l->steps : 0;
}

/* ---- tables -------------------------------------------------------------------------------- */

typedef struct sum {
    char *name;
    double seconds, flops, bytes, floor;
    size_t calls;
} sum;
typedef MRI_VEC(sum) sums;

static const char *region_of(const ledger_entry *e)
{
    const char *path = e->frame->plan->prog->regions.v[e->node->region].path;
    return path && *path ? path : e->frame->plan->name;
}

static char *name_of(const ledger_entry *e, enum ledger_key key)
{
    if (key == LEDGER_PHASE)
        return mri_strdup(e->frame ? mri_phase_name[e->phase] : e->stage);
    if (!e->frame)
        return mri_format("(%s)", e->stage);
    if (key == LEDGER_REGION)
        return mri_strdup(region_of(e));
    if (key == LEDGER_OP)
        return mri_strdup(e->node->def->id);
    return mri_format("%s %s %s", e->node->def->id, e->shape, e->impl ? e->impl : "");
}

static void add(sums *all, char *name, const ledger_entry *e, double floor)
{
    size_t i = 0;
    while (i < all->n && strcmp(all->v[i].name, name))
        i++;
    if (i == all->n) {
        sum s = { .name = name };
        MRI_PUSH(all, s);
    } else {
        free(name);
    }
    sum *s = &all->v[i];
    s->seconds += e->end - e->start;
    s->flops += e->flops;
    s->bytes += e->bytes;
    s->floor += floor;
    s->calls++;
}

static int by_time(const void *a, const void *b)
{
    double x = ((const sum *)a)->seconds, y = ((const sum *)b)->seconds;
    return (x < y) - (x > y);
}

static const struct {
    const char *title, *json;
    int width;
} keys[] = { { "phase", "phase", 40 },
             { "region", "region", 40 },
             { "op", "op", 40 },
             { "op and operands", "shape", 56 } };

static void print_sum(const app *a, enum ledger_key key, const sum *s, int steps, double total,
                      const bench_peaks *p, const char *dtype)
{
    double flops = s->flops / s->seconds, bytes = s->bytes / s->seconds;
    if (a->json) {
        mri_str name = { 0 };
        mri_str_json(&name, s->name);
        printf(
            "{\"kind\": \"time\", \"by\": \"%s\", \"name\": %s, \"ms\": %.4f, \"share\": %.4f, "
            "\"calls\": %.1f, \"flops_per_s\": %.4g, \"bytes_per_s\": %.4g, \"of_roof\": %.4f}\n",
            keys[key].json, name.s, 1e3 * s->seconds / steps, s->seconds / total,
            (double)s->calls / steps, flops, bytes, s->floor / s->seconds);
        mri_str_free(&name);
        return;
    }
    printf("  %-*.*s %6.0f %9.2f %6.1f %8.2f %6.1f %7.2f %6.1f %6.1f\n", keys[key].width,
           keys[key].width, s->name, (double)s->calls / steps, 1e3 * s->seconds / steps,
           100 * s->seconds / total, flops * 1e-9, 100 * bench_ratio(flops, bench_peak(p, dtype)),
           bytes * 1e-9, 100 * bench_ratio(bytes, p->read), 100 * s->floor / s->seconds);
}

void ledger_print(const ledger *l, const app *a, enum ledger_key key, const bench_peaks *peaks,
                  const char *dtype)
{
    sums all = { 0 };
    double total = 0;
    for (size_t i = 0; i < l->entries.n; i++) {
        const ledger_entry *e = &l->entries.v[i];
        add(&all, name_of(e, key), e, bench_floor(peaks, dtype, e->flops, e->bytes));
        total += e->end - e->start;
    }
    qsort(all.v, all.n, sizeof *all.v, by_time);
    if (!a->json)
        printf("\n  %-*s %6s %9s %6s %8s %6s %7s %6s %6s\n", keys[key].width, keys[key].title,
               "calls", "ms", "%", "GFLOP/s", "%peak", "GB/s", "%read", "%roof");
    for (size_t i = 0; i < all.n; i++) {
        if (all.v[i].seconds > 0)
            print_sum(a, key, &all.v[i], l->steps, total, peaks, dtype);
        free(all.v[i].name);
    }
    free(all.v);
}

/* ---- a trace for chrome://tracing and Perfetto --------------------------------------------- */

mr_status ledger_write_trace(const ledger *l, const char *path, mr_err *err)
{
    mri_str s = { 0 };
    double zero = l->entries.n ? l->entries.v[0].start : 0;
    mri_str_add(&s, "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n");
    for (size_t i = 0; i < l->entries.n; i++) {
        const ledger_entry *e = &l->entries.v[i];
        mri_str_fmt(&s,
                    "%s{\"ph\": \"X\", \"pid\": 1, \"tid\": 1, \"ts\": %.3f, \"dur\": %.3f, "
                    "\"name\": ",
                    i ? ",\n" : "", 1e6 * (e->start - zero), 1e6 * (e->end - e->start));
        mri_str_json(&s, e->frame ? e->node->def->id : e->stage);
        mri_str_add(&s, ", \"cat\": ");
        mri_str_json(&s, e->frame ? region_of(e) : "step");
        mri_str_fmt(&s, ", \"args\": {\"flops\": %.6g, \"bytes\": %.6g", e->flops, e->bytes);
        if (e->frame) {
            char *block = mri_format("%s%s", e->frame->label, e->frame->plan->name);
            mri_str_fmt(&s,
                        ", \"phase\": \"%s\", \"recomputed\": %s, \"operands\": \"%s\", "
                        "\"block\": ",
                        mri_phase_name[e->phase], e->node->recomputed ? "true" : "false", e->shape);
            mri_str_json(&s, block);
            mri_str_add(&s, ", \"kernel\": ");
            mri_str_json(&s, e->impl ? e->impl : "");
            free(block);
        }
        mri_str_add(&s, "}}");
    }
    mri_str_add(&s, "\n]}\n");
    mr_status st = mri_write_file_atomic(path, s.s, s.n, err);
    mri_str_free(&s);
    return st;
}

void ledger_free(ledger *l)
{
    free(l->entries.v);
    memset(l, 0, sizeof *l);
}
