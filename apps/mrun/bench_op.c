/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_op.c - `mrun bench op [OP...] [--backend NAME] [--against KEY=VALUE[,KEY=VALUE]]
 * [--dtype D] [--size small|large] [--quick]`: every op of the catalogue, forward and backward,
 * beside what the machine can do at most. The shapes are those of bench_shapes.c, or on a device
 * of its own memory those of bench_large.c, and the former's for ops that have none there; --size
 * asks for the other list.
 *
 * How a number is made: operands in several copies that together exceed the caches, used in
 * turn; a warm-up; then the median of repeated timings, each long enough for the clock (how on
 * each kind of device: bench_trial.c). On the host the limits are measured anew before each
 * shape, since memory and neighbours change within a run; else first and last.
 * With --against a second device (the same backend with other options, or another backend) is
 * timed in turn with the first, so that noise falls on both.
 */
#include "bench_trial.h"
#include "core/ops/record.h"
#include "core/ops/ref.h"
#include <stdlib.h>
#include <string.h>

enum { SHAPE_TEXT = 64 };

typedef struct side { /* one of the devices that are compared */
    const char *name;
    mri_profile *profile; /* owns the strings of its config */
    void *config;
    mri_device device;
} side;

typedef struct op_bench {
    app *a;
    const app_args *args;
    side side[2];
    int n_sides;
    const char *dtype;
    bool quick;
    const bench_shape *shapes;
    bench_peaks peaks;
    /* of the shape at work */
    const char *shape_op;
    bool backward;
    int rows;
} op_bench;

/* ---- devices ------------------------------------------------------------------------------- */

typedef struct plugin_key {
    const char *plugin;
} plugin_key;
static const mr_opt backend_opts[] = {
    MR_OPT(plugin_key, MR_T_STR, plugin, "plugin", "cpu", "where kernels run"),
};

static mr_status open_side(op_bench *b, side *s, const char *const *sets, size_t n_sets,
                           mr_err *err)
{
    const mr_unit *u;
    plugin_key key;
    char *section = NULL;
    mr_status st = mri_profile_load(NULL, sets, n_sets, &s->profile, err);
    if (st)
        return st;
    MR_TRY(mri_profile_fill(s->profile, "backend", backend_opts, 1, &key, sizeof key, err));
    MR_TRY(mri_registry_find(b->a->registry, "backend", key.plugin, &u, err));
    section = mri_format("backend.%s", u->name);
    s->name = u->name;
    s->config = mri_alloc(u->config_size);
    MR_TRY(
        mri_profile_fill(s->profile, section, u->opts, u->n_opts, s->config, u->config_size, err));
    MR_TRY(mri_profile_finish(s->profile, NULL, 0, err));
    MR_TRY(mri_device_open(u->table, mri_registry_host(b->a->registry), s->config, 0, &s->device,
                           err));
out:
    free(section);
    return st;
}

static void close_side(side *s)
{
    if (s->device.ops)
        mri_device_close(&s->device);
    free(s->config);
    mri_profile_free(s->profile);
}

/* Both sides get the --set values; the second those of --against on top. */
static mr_status open_sides(op_bench *b, mr_err *err)
{
    MRI_VEC(const char *) sets = { 0 };
    const char *name = app_arg(b->args, "--backend"), *against = app_arg(b->args, "--against");
    char *plugin = name ? mri_format("backend.plugin=%s", name) : NULL;
    char *list = against ? mri_strdup(against) : NULL, *save = NULL;
    mr_status st = 0;
    if (plugin)
        MRI_PUSH(&sets, plugin);
    for (size_t i = 0; i < b->args->sets.n; i++)
        MRI_PUSH(&sets, b->args->sets.v[i]);
    b->n_sides = 1;
    MR_TRY(open_side(b, &b->side[0], sets.v, sets.n, err));
    if (list) {
        for (char *w = strtok_r(list, ",", &save); w; w = strtok_r(NULL, ",", &save))
            MRI_PUSH(&sets, w);
        b->n_sides = 2;
        MR_TRY(open_side(b, &b->side[1], sets.v, sets.n, err));
    }
out:
    free(plugin);
    free(list);
    free(sets.v);
    return st;
}

/* ---- the table ----------------------------------------------------------------------------- */

/* The first three operands' dims say what an op works on. */
static void shape_text(const mr_call *c, char *out)
{
    size_t at = 0;
    out[0] = 0;
    for (uint32_t i = 0, shown = 0; i < c->n_in && shown < 3; i++) {
        if (!c->in[i])
            continue;
        const char *gap = shown ? " " : "";
        for (uint32_t r = 0; r < c->in[i]->rank && at + 24 < SHAPE_TEXT; r++)
            at += (size_t)snprintf(out + at, SHAPE_TEXT - at, "%s%lld", r ? "x" : gap,
                                   (long long)c->in[i]->dim[r]);
        shown++;
    }
    const char *const keys[] = { "heads", "kv_heads", "chunk" };
    for (size_t k = 0; k < 3; k++) {
        int64_t v = mr_attr_i(c, keys[k], 0);
        if (v && at + 16 < SHAPE_TEXT)
            at += (size_t)snprintf(out + at, SHAPE_TEXT - at, " %c%lld", "HGc"[k], (long long)v);
    }
}

static void print_head(const op_bench *b)
{
    if (b->a->json)
        return;
    const bench_unit u = bench_unit_of(&b->side[0].device);
    printf("%-20s %c %-34s %10s %10s %8s %6s %7s %6s %6s  %-14s%s\n", "op", ' ', "operands", "us",
           "best", u.flops, "%peak", u.bytes, "%read", "%roof", "kernel",
           b->n_sides > 1 ? "  against" : "");
}

static void print_row(op_bench *b, const mr_op_def *def, const mr_call *c, trial *t)
{
    char shape[SHAPE_TEXT];
    mr_cost cost = { sizeof cost, 0, 0, 0 };
    if (def->cost)
        def->cost(c, &cost);
    shape_text(c, shape);
    b->rows++;
    if (!t[0].kernel) {
        if (b->a->json)
            printf("{\"kind\": \"op\", \"op\": \"%s\", \"operands\": \"%s\", \"kernel\": null}\n",
                   def->id, shape);
        else
            printf("%-20s %c %-34s no kernel of this backend\n", def->id, b->backward ? 'B' : 'F',
                   shape);
        return;
    }
    bench_stat s = bench_summary(&t[0].times), other = { 0 };
    if (b->n_sides > 1 && t[1].kernel)
        other = bench_summary(&t[1].times);
    double flops = cost.flops / s.median, bytes = cost.bytes / s.median;
    double of_peak = bench_ratio(flops, bench_peak(&b->peaks, b->dtype));
    double of_read = bench_ratio(bytes, b->peaks.read);
    double roof = bench_floor(&b->peaks, b->dtype, cost.flops, cost.bytes) / s.median;
    const char *impl = t[0].info.impl ? t[0].info.impl : "";
    const bench_unit u = bench_unit_of(&b->side[0].device);
    if (b->a->json) {
        printf("{\"kind\": \"op\", \"op\": \"%s\", \"phase\": \"%c\", \"dtype\": \"%s\", "
               "\"operands\": "
               "\"%s\", \"kernel\": \"%s\", \"us\": %.3f, \"min_us\": %.3f, \"max_us\": %.3f, "
               "\"samples\": %zu, \"flops\": %.6g, \"bytes\": %.6g, \"flops_per_s\": %.4g, "
               "\"bytes_per_s\": %.4g, \"of_peak\": %.4f, \"of_read\": %.4f, \"of_roof\": %.4f, "
               "\"peak\": %.4g, \"read\": %.4g",
               def->id, b->backward ? 'B' : 'F', b->dtype, shape, impl, s.median * 1e6, s.min * 1e6,
               s.max * 1e6, s.n, cost.flops, cost.bytes, flops, bytes, of_peak, of_read, roof,
               bench_peak(&b->peaks, b->dtype), b->peaks.read);
        if (other.n)
            printf(", \"against_us\": %.3f", other.median * 1e6);
        puts("}");
        return;
    }
    printf("%-20s %c %-34s %10.1f %10.1f %8.2f %6.1f %7.2f %6.1f %6.1f  %-14s", def->id,
           b->backward ? 'B' : 'F', shape, s.median * 1e6, s.min * 1e6, flops * u.scale,
           100 * of_peak, bytes * u.scale, 100 * of_read, 100 * roof, impl);
    if (other.n) /* above 1: the first side is faster */
        printf("  x%.2f %s", other.median / s.median, t[1].info.impl ? t[1].info.impl : "");
    puts("");
    fflush(stdout);
}

/* ---- shapes -------------------------------------------------------------------------------- */

/* Asked for by its own name, or by the forward op's that brought it here. */
static bool wanted(const op_bench *b, const char *id)
{
    const app_args *args = b->args;
    for (size_t i = 0; i < args->positional.n; i++)
        if (!strcmp(args->positional.v[i], id) || !strcmp(args->positional.v[i], b->shape_op))
            return true;
    return !args->positional.n;
}

static mr_status bench_call(void *self, const mr_op_def *def, const mr_call *c, const mr_buf *in,
                            const mr_buf *out, mr_err *err)
{
    op_bench *b = self;
    trial t[2] = { { 0 } };
    int n = b->n_sides;
    mr_status st = 0;
    for (int k = 0; k < n; k++)
        MR_TRY(trial_open(&t[k], &b->side[k].device, def, c, in, err));
    if (!t[0].kernel) {
        MR_TRY(def->ref(c, in, out, err));
    } else {
        MR_TRY(trial_once(&t[0], def, c, in, out, err));
    }
    if (!wanted(b, def->id))
        goto out;
    if (t[0].kernel)
        MR_TRY(trial_measure(t, n > 1 && t[1].kernel ? 2 : 1, b->quick, err));
    print_row(b, def, c, t);
out:
    for (int k = 0; k < n; k++)
        trial_close(&t[k], c);
    return st;
}

/* the numbers repeat, large gradients by copying */
static void fill_gradient(const mri_record_value *v)
{
    enum { PERIOD = 13 << 12 };
    mri_view to = mri_at(&v->type, &v->buf);
    int64_t n = mr_numel(&v->type);
    size_t width = mr_dtype_bytes(v->type.dtype);
    for (int64_t i = 0; i < n && i < PERIOD; i++)
        mri_put(to, i, (double)(i % 13) / 13 - 0.46);
    for (int64_t i = PERIOD; i < n; i += PERIOD)
        memcpy((char *)v->buf.data + (size_t)i * width, v->buf.data,
               (size_t)(n - i < PERIOD ? n - i : PERIOD) * width);
}

/* Gradients of all operands; of the first alone where the op refuses others (weights of losses). */
static mr_status record(const mr_op_def *def, const mri_case *c, mri_record **r, mr_err *err)
{
    mr_err refused = MR_ERR_INIT;
    if (mri_record_vjp(def, c, MRI_OUT0, MRI_ALL, r, &refused) == 0)
        return 0;
    return mri_record_vjp(def, c, MRI_OUT0, 1, r, err);
}

static mr_status bench_one(op_bench *b, const mr_op_def *def, const char *text, mr_err *err)
{
    mri_case c = { 0 };
    mri_record *r = NULL;
    mr_status st = 0;
    MR_TRY(mri_case_make_large(def, text, b->dtype, 1, &c, err));
    if (!b->quick && !bench_uses_cpu_time() && b->side[0].device.host_memory)
        b->peaks = bench_probe(&b->side[0].device);
    b->shape_op = def->id;
    b->backward = false;
    MR_TRY(bench_call(b, def, &c.call, c.in, c.out, err));
    if (!def->vjp || (def->flags & MR_OP_NO_VJP))
        goto out;
    b->backward = true;
    MR_TRY(record(def, &c, &r, err));
    if (mri_record_dout(r, 0))
        fill_gradient(mri_record_dout(r, 0));
    MR_TRY(mri_record_run(r, bench_call, b, err));
out:
    mri_record_free(r);
    mri_case_free(&c);
    return st;
}

static bool has_shape(const bench_shape *list, const char *op)
{
    for (const bench_shape *s = list; s->op; s++)
        if (!strcmp(s->op, op))
            return true;
    return false;
}

/* An op that has no shape of its own, as "linear.wgrad", is reached through its family. */
static bool may_reach(const op_bench *b, const char *op)
{
    size_t n = strcspn(op, ".");
    for (size_t i = 0; i < b->args->positional.n; i++) {
        const char *w = b->args->positional.v[i];
        if (!strcmp(w, op) || (!has_shape(bench_shapes, w) && strcspn(w, ".") == n && !strncmp(w, op, n)))
            return true;
    }
    return !b->args->positional.n;
}

static mr_status bench_all(op_bench *b, mr_err *err)
{
    mr_status st = 0;
    for (const bench_shape *s = b->shapes; s->op && !st; s++)
        if (may_reach(b, s->op) && (!b->quick || s->quick))
            st = bench_one(b, mri_op_find(s->op), s->text, err);
    for (const bench_shape *s = bench_shapes; s->op && !st; s++)
        if (!has_shape(b->shapes, s->op) && may_reach(b, s->op) && (!b->quick || s->quick))
            st = bench_one(b, mri_op_find(s->op), s->text, err);
    /* a plugin's own op has no shape here: its last sample case has to do */
    for (size_t i = 0; i < b->args->positional.n && !b->rows && !st; i++) {
        const mr_op_def *def = mri_op_find(b->args->positional.v[i]);
        const char *text = NULL;
        for (const char *const *t = def->cases; t && *t; t++)
            text = *t;
        if (text)
            st = bench_one(b, def, text, err);
    }
    return st;
}

static int check_names(app *a, const app_args *args)
{
    for (size_t i = 0; i < args->positional.n; i++) {
        const char *id = args->positional.v[i], *near = mri_op_nearest(id);
        if (mri_op_find(id))
            continue;
        return near ? app_usage(a, "there is no op '%.60s', did you mean '%s'?", id, near)
                    : app_usage(a, "there is no op '%.60s'", id);
    }
    return 0;
}

int bench_op(app *a, const app_args *args)
{
    const char *dtype = app_arg(args, "--dtype"), *size = app_arg(args, "--size");
    op_bench b = { .a = a,
                   .args = args,
                   .dtype = dtype ? dtype : "f32",
                   .quick = app_arg(args, "--quick") != NULL };
    mr_err err = MR_ERR_INIT;
    mr_status st = 0;
    int code = check_names(a, args);
    if (!code && strcmp(b.dtype, "f32") && strcmp(b.dtype, "bf16"))
        code = app_usage(a, "--dtype %.40s: f32 or bf16", b.dtype);
    if (!code && size && strcmp(size, "small") && strcmp(size, "large"))
        code = app_usage(a, "--size %.40s: small or large", size);
    if (code)
        return code;
    MR_TRY(open_sides(&b, &err));
    b.shapes = (size ? !strcmp(size, "small") : b.side[0].device.host_memory) ? bench_shapes
                                                                             : bench_large_shapes;
    b.peaks = bench_probe(&b.side[0].device);
    bench_print_peaks(a, &b.side[0].device, &b.peaks, "first");
    print_head(&b);
    MR_TRY(bench_all(&b, &err));
    b.peaks = bench_probe(&b.side[0].device);
    bench_print_peaks(a, &b.side[0].device, &b.peaks, "last");
out:
    for (int k = 0; k < b.n_sides; k++)
        close_side(&b.side[k]);
    return st ? app_fail(a, &err) : EXIT_OK;
}
