/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.c - `mrun bench op|step|decode`: which bench, and what they share (see bench.h).
 */
#include "bench_trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static clockid_t clock_used = CLOCK_MONOTONIC; /* set once, before anything is measured */

void bench_use_cpu_time(void)
{
    clock_used = CLOCK_PROCESS_CPUTIME_ID;
}

bool bench_uses_cpu_time(void)
{
    return clock_used == CLOCK_PROCESS_CPUTIME_ID;
}

double bench_now(void)
{
    struct timespec t;
    clock_gettime(clock_used, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

bench_stat bench_summary(bench_times *t)
{
    bench_stat s = { .n = t->n };
    if (!t->n)
        return s;
    qsort(t->v, t->n, sizeof *t->v, by_size);
    s.min = t->v[0];
    s.max = t->v[t->n - 1];
    s.median = t->n % 2 ? t->v[t->n / 2] : (t->v[t->n / 2 - 1] + t->v[t->n / 2]) / 2;
    return s;
}

double bench_ratio(double x, double of)
{
    return of > 0 ? x / of : 0;
}

bench_unit bench_unit_of(const mri_device *d)
{
    return d->host_memory ? (bench_unit){ "GFLOP/s", "GB/s", 1e-9 }
                          : (bench_unit){ "TFLOP/s", "TB/s", 1e-12 };
}

/* ---- limits -------------------------------------------------------------------------------- */

bench_peaks bench_probe(mri_device *d)
{
    const mr_device_info *i = &d->info;
    bench_peaks p = { i->peak_flops_f32, i->peak_flops_bf16, i->peak_bytes_per_s };
    if (bench_uses_cpu_time()) {
        p.f32 = trial_best_rate(d, "linear", "x=F[768,768] w=F[768,768]", false);
        p.read = trial_best_rate(d, "linear", "x=F[1,4096] w=F[4096,4096]", true);
        return p;
    }
    const mr_probe *m = MR_CAN(d->ops, ext) ? d->ops->ext(d->dev, MR_EXT_PROBE) : NULL;
    if (!m)
        return p;
    if (MR_CAN(m, flops_f32))
        p.f32 = m->flops_f32(d->dev);
    if (MR_CAN(m, flops_bf16))
        p.bf16 = m->flops_bf16(d->dev);
    if (MR_CAN(m, read_bytes_per_s))
        p.read = m->read_bytes_per_s(d->dev);
    return p;
}

double bench_peak(const bench_peaks *p, const char *dtype)
{
    return !strcmp(dtype, "bf16") && p->bf16 > 0 ? p->bf16 : p->f32;
}

double bench_floor(const bench_peaks *p, const char *dtype, double flops, double bytes)
{
    return fmax(bench_ratio(flops, bench_peak(p, dtype)), bench_ratio(bytes, p->read));
}

void bench_print_peaks(const app *a, const mri_device *d, const bench_peaks *p, const char *when)
{
    if (a->json) {
        mri_str s = { 0 };
        mri_str_fmt(&s, "{\"kind\": \"limits\", \"when\": \"%s\", \"clock\": \"%s\", \"device\": ",
                    when, bench_uses_cpu_time() ? "cpu" : "wall");
        mri_str_json(&s, d->info.name ? d->info.name : "device");
        mri_str_fmt(&s,
                    ", \"threads\": %u, \"flops_f32\": %.4g, \"flops_bf16\": %.4g, "
                    "\"read_bytes_per_s\": %.4g}\n",
                    d->info.threads, p->f32, p->bf16, p->read);
        fputs(s.s, stdout);
        mri_str_free(&s);
        return;
    }
    if (!(p->f32 > 0) && !(p->read > 0)) {
        printf("limits, %-5s: not known to this backend   [%s]\n", when,
               d->info.name ? d->info.name : "device");
        return;
    }
    const bench_unit u = bench_unit_of(d);
    printf("limits, %-5s: f32 %.1f %s, bf16 ", when, p->f32 * u.scale, u.flops);
    if (p->bf16 > 0)
        printf("%.1f %s", p->bf16 * u.scale, u.flops);
    else
        printf("not native (f32's peak is used)");
    printf(", %s %.*f %s   [%s%s]\n", d->host_memory ? "read" : "copy", d->host_memory ? 1 : 2,
           p->read * u.scale, u.bytes, d->info.name ? d->info.name : "device",
           bench_uses_cpu_time() ? "; CPU time" : "");
}

/* ---- the command --------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*run)(app *a, const app_args *args);
} benches[] = { { "op", bench_op }, { "step", bench_step }, { "decode", bench_decode } };
enum { N_BENCHES = sizeof benches / sizeof *benches };

int cmd_bench(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--backend",    "--dtype",  "--against", "--hf",
                                         "--steps",      "--warmup", "--profile", "--prompt-tokens",
                                         "--max-tokens", "--size",   "--batch",   "--context",
                                         "--chunk",      NULL };
    static const char *const flags[] = { "--quick", "--synthetic", "--shapes",       "--brief",
                                         "--cpu-time", "--skip-prefill", NULL };
    app_args args = { 0 };
    int code = app_args_parse(a, argc, argv, takes, flags, &args);
    if (code)
        return code;
    if (app_arg(&args, "--cpu-time"))
        bench_use_cpu_time();
    const char *what = args.positional.n ? args.positional.v[0] : "";
    size_t i = 0;
    while (i < N_BENCHES && strcmp(benches[i].name, what))
        i++;
    if (i == N_BENCHES) {
        code = app_usage(a, "bench '%.40s': op, step or decode", what);
    } else {
        memmove(args.positional.v, args.positional.v + 1,
                --args.positional.n * sizeof *args.positional.v);
        code = benches[i].run(a, &args);
    }
    app_args_free(&args);
    return code;
}
