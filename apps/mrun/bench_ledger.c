/* SPDX-License-Identifier: Apache-2.0
 * bench_ledger.c - see bench_ledger.h. */
#include "bench_ledger.h"
#include <stdlib.h>
#include <string.h>

/* Marks are in wall time: a bench in CPU time does without. */
static bool by_marks(const ledger *l)
{
    return l->device->timer && !bench_uses_cpu_time();
}

static double lap(ledger *l) /* seconds of this step so far, by the clock */
{
    l->clock = bench_now();
    return l->clock - l->opened;
}

/* ---- watching a step ----------------------------------------------------------------------- */

mr_status ledger_begin(ledger *l, mri_device *d, mr_err *err)
{
    mr_status st = 0;
    l->device = d;
    l->first = l->entries.n;
    MR_TRY(mri_device_sync(d, err));
    if (by_marks(l))
        MR_TRY(d->timer->mark(d->dev, d->stream, &l->began, err));
    l->opened = bench_now();
    l->clock = l->opened;
out:
    return st;
}

static void describe(const mr_call *c, ledger_entry *e)
{
    size_t at = 0;
    for (uint32_t i = 0, shown = 0; i < c->n_in && shown < 2; i++) {
        const mr_type *type = c->in[i];
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
    double start = l->clock - l->opened;
    ledger_entry e = { .plan = t->frame->plan,
                       .node = t->node,
                       .label = mri_strdup(t->frame->label),
                       .impl = s->ref ? "reference" : s->info.impl,
                       .phase = t->phase,
                       .step = l->steps,
                       .start = start,
                       .end = lap(l),
                       .flops = t->cost->flops,
                       .bytes = t->cost->bytes,
                       .before = t->before,
                       .after = t->after };
    (void)err;
    describe(t->call, &e);
    MRI_PUSH(&l->entries, e);
    return 0;
}

/* Marks become times; they are wanted no more. */
static mr_status settle(ledger *l, ledger_entry *e, mr_err *err)
{
    const mri_device *d = l->device;
    double at = 0, us = 0;
    mr_status st = 0;
    if (e->before && e->after && by_marks(l)) {
        MR_TRY(d->timer->elapsed_us(d->dev, l->began, e->before, &at, err));
        MR_TRY(d->timer->elapsed_us(d->dev, e->before, e->after, &us, err));
        e->start = 1e-6 * at;
        e->end = 1e-6 * (at + us);
    }
out:
    if (e->before)
        d->timer->destroy(d->dev, e->before);
    if (e->after)
        d->timer->destroy(d->dev, e->after);
    e->before = e->after = NULL;
    return st;
}

mr_status ledger_end(ledger *l, mr_err *err)
{
    mri_device *d = l->device;
    void *end = NULL;
    double us = 0, seconds = 0, ops = 0;
    mr_status st = 0;
    if (by_marks(l))
        MR_TRY(d->timer->mark(d->dev, d->stream, &end, err));
    MR_TRY(mri_device_sync(d, err));
    seconds = lap(l);
    if (end)
        MR_TRY(d->timer->elapsed_us(d->dev, l->began, end, &us, err));
    if (end)
        seconds = 1e-6 * us;
    for (size_t i = l->first; i < l->entries.n; i++) {
        MR_TRY(settle(l, &l->entries.v[i], err));
        ops += l->entries.v[i].end - l->entries.v[i].start;
    }
    ledger_entry rest = { .step = l->steps++, .start = ops, .end = seconds > ops ? seconds : ops };
    MRI_PUSH(&l->entries, rest);
    l->seconds += seconds;
out:
    if (end)
        d->timer->destroy(d->dev, end);
    return st;
}

double ledger_total(const ledger *l)
{
    return l->steps ? l->seconds / l->steps : 0;
}

void ledger_free(ledger *l)
{
    for (size_t i = 0; i < l->entries.n; i++) {
        mr_err ignored = MR_ERR_INIT;
        settle(l, &l->entries.v[i], &ignored); /* after a failure marks may be left */
        free(l->entries.v[i].label);
    }
    if (l->began)
        l->device->timer->destroy(l->device->dev, l->began);
    free(l->entries.v);
    memset(l, 0, sizeof *l);
}

/* ---- tables -------------------------------------------------------------------------------- */

typedef struct sum {
    char *name;
    double seconds, flops, bytes, floor;
    size_t calls;
} sum;
typedef MRI_VEC(sum) sums;

static bool of_model(const ledger *l, const ledger_entry *e)
{
    for (size_t i = 0; i < l->train->plans.n; i++)
        if (l->train->plans.v[i] == e->plan)
            return true;
    return false;
}

/* the first prefix that fits; what no row names is element-wise work, and the update's all one */
static const struct {
    const char *prefix, *name;
} classes[] = { { "linear", "dense products" },
                { "grouped_linear", "expert products" },
                { "attention", "attention" },
                { "qkv_attention", "attention" },
                { "", "element-wise" } };

static const char *class_of(const ledger *l, const ledger_entry *e)
{
    size_t i = 0;
    if (!of_model(l, e))
        return "optimizer";
    while (strncmp(e->node->def->id, classes[i].prefix, strlen(classes[i].prefix)))
        i++;
    return classes[i].name;
}

static const char *region_of(const ledger_entry *e)
{
    const char *path = e->plan->prog->regions.v[e->node->region].path;
    return path && *path ? path : e->plan->name;
}

static char *name_of(const ledger *l, const ledger_entry *e, enum ledger_key key)
{
    if (!e->plan)
        return mri_strdup("(between ops)");
    if (key == LEDGER_PHASE)
        return mri_strdup(of_model(l, e) ? mri_phase_name[e->phase] : "update");
    if (key == LEDGER_CLASS)
        return mri_strdup(class_of(l, e));
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
    s->calls += e->plan != NULL;
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
             { "class", "class", 40 },
             { "region", "region", 40 },
             { "op", "op", 40 },
             { "op and operands", "shape", 56 } };

static const double LEAST_FLOOR = 1e-4; /* ms: how often a shorter one fits says nothing */

static void print_sum(const ledger *l, const app *a, enum ledger_key key, const sum *s,
                      const bench_peaks *p, const char *dtype)
{
    const bench_unit u = bench_unit_of(l->device);
    double flops = s->flops / s->seconds, bytes = s->bytes / s->seconds;
    double share = s->seconds / l->seconds, calls = (double)s->calls / l->steps;
    double ms = 1e3 * s->seconds / l->steps, floor_ms = 1e3 * s->floor / l->steps;
    if (a->json) {
        mri_str name = { 0 };
        mri_str_json(&name, s->name);
        printf("{\"kind\": \"time\", \"by\": \"%s\", \"name\": %s, \"ms\": %.4f, \"share\": %.4f, "
               "\"calls\": %.1f, \"flops_per_s\": %.4g, \"bytes_per_s\": %.4g, \"floor_ms\": %.4f, "
               "\"of_roof\": %.4f}\n",
               keys[key].json, name.s, ms, share, calls, flops, bytes, floor_ms, floor_ms / ms);
        mri_str_free(&name);
        return;
    }
    printf("  %-*.*s %6.0f %9.3f %6.1f %8.2f %6.1f %7.2f %6.1f %9.3f %6.2f\n", keys[key].width,
           keys[key].width, s->name, calls, ms, 100 * share, flops * u.scale,
           100 * bench_ratio(flops, bench_peak(p, dtype)), bytes * u.scale,
           100 * bench_ratio(bytes, p->read), floor_ms,
           floor_ms > LEAST_FLOOR ? ms / floor_ms : 0);
}

void ledger_print(const ledger *l, const app *a, enum ledger_key key, const bench_peaks *peaks,
                  const char *dtype)
{
    const bench_unit u = bench_unit_of(l->device);
    sums all = { 0 };
    sum total = { .name = "all" };
    for (size_t i = 0; i < l->entries.n; i++) {
        const ledger_entry *e = &l->entries.v[i];
        double floor = bench_floor(peaks, dtype, e->flops, e->bytes);
        add(&all, name_of(l, e, key), e, floor);
        total.calls += e->plan != NULL;
        total.flops += e->flops;
        total.bytes += e->bytes;
        total.floor += floor;
    }
    total.seconds = l->seconds;
    qsort(all.v, all.n, sizeof *all.v, by_time);
    if (!a->json)
        printf("\n  %-*s %6s %9s %6s %8s %6s %7s %6s %9s %6s\n", keys[key].width, keys[key].title,
               "calls", "ms", "%", u.flops, "%peak", u.bytes, "%read", "floor ms", "x");
    for (size_t i = 0; i < all.n; i++) {
        if (all.v[i].seconds > 0)
            print_sum(l, a, key, &all.v[i], peaks, dtype);
        free(all.v[i].name);
    }
    free(all.v);
    if (key == LEDGER_CLASS)
        print_sum(l, a, key, &total, peaks, dtype);
}

/* ---- a trace for chrome://tracing and Perfetto --------------------------------------------- */

static void trace_args(const ledger *l, const ledger_entry *e, mri_str *s)
{
    mri_str_fmt(s, "{\"phase\": \"%s\", \"block\": ",
                of_model(l, e) ? mri_phase_name[e->phase] : "update");
    mri_str_json(s, e->plan->name);
    mri_str_add(s, ", \"layer\": ");
    mri_str_json(s, e->label);
    mri_str_add(s, ", \"region\": ");
    mri_str_json(s, region_of(e));
    mri_str_add(s, ", \"class\": ");
    mri_str_json(s, class_of(l, e));
    mri_str_add(s, ", \"kernel\": ");
    mri_str_json(s, e->impl ? e->impl : "");
    mri_str_fmt(s, ", \"operands\": \"%s\", \"recomputed\": %s, \"flops\": %.6g, \"bytes\": %.6g}",
                e->shape, e->node->recomputed ? "true" : "false", e->flops, e->bytes);
}

/* The last step's ops, on the one stream that core has. */
mr_status ledger_write_trace(const ledger *l, const char *path, mr_err *err)
{
    mri_str s = { 0 };
    mri_str_add(&s, "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n"
                    "{\"ph\": \"M\", \"pid\": 1, \"name\": \"process_name\", "
                    "\"args\": {\"name\": ");
    mri_str_json(&s, l->device->info.name ? l->device->info.name : "device");
    mri_str_add(&s, "}},\n{\"ph\": \"M\", \"pid\": 1, \"tid\": 1, \"name\": \"thread_name\", "
                    "\"args\": {\"name\": \"compute stream\"}}");
    for (size_t i = l->first; i < l->entries.n; i++) {
        const ledger_entry *e = &l->entries.v[i];
        if (!e->plan)
            continue;
        mri_str_fmt(&s, ",\n{\"ph\": \"X\", \"pid\": 1, \"tid\": 1, \"ts\": %.3f, \"dur\": %.3f, "
                    "\"name\": ", 1e6 * e->start, 1e6 * (e->end - e->start));
        mri_str_json(&s, e->node->def->id);
        mri_str_add(&s, ", \"cat\": ");
        mri_str_json(&s, region_of(e));
        mri_str_add(&s, ", \"args\": ");
        trace_args(l, e, &s);
        mri_str_add(&s, "}");
    }
    mri_str_add(&s, "\n]}\n");
    mr_status st = mri_write_file_atomic(path, s.s, s.n, err);
    mri_str_free(&s);
    return st;
}
