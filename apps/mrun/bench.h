/* SPDX-License-Identifier: Apache-2.0
 *
 * bench.h - what the benches share: the clock, medians, the machine's limits and rooflines.
 *
 * A number here is only as good as what stands beside it, so every table carries the limits
 * that were measured in the same run, and quotes ratios to them.
 */
#ifndef MRUN_BENCH_H
#define MRUN_BENCH_H
#include "app.h"
#include "core/run/session.h"

/* ---- time ---------------------------------------------------------------------------------- */
/* Seconds of the wall clock; after bench_use_cpu_time(), of CPU time that this process took. On a
 * busy machine only the latter says what a kernel costs, and only with one thread. */
double bench_now(void);
void bench_use_cpu_time(void);
bool bench_uses_cpu_time(void);
typedef MRI_VEC(double) bench_times;
typedef struct bench_stat {
    double median, min, max;
    size_t n;
} bench_stat;
bench_stat bench_summary(bench_times *t); /* sorts; zeros when there is nothing */

/* ---- limits -------------------------------------------------------------------------------- */
typedef struct bench_peaks { /* 0: not known */
    double f32, bf16, read;  /* flop/s of products, bytes/s read from memory */
} bench_peaks;
/* Measures them now where the device can ("mrun.probe/1"), else what the device says. In CPU time
 * they are those of its best kernels: a large product, one row times a large weight. */
bench_peaks bench_probe(mri_device *d);
/* the peak of a dtype; f32's where that of bf16 is not known (the products then run in f32) */
double bench_peak(const bench_peaks *p, const char *dtype);
/* the least time that a cost takes under these limits; 0: not known */
double bench_floor(const bench_peaks *p, const char *dtype, double flops, double bytes);
/* `when`: "first", "last": where in the run they were taken; a line on stdout */
void bench_print_peaks(const app *a, const mri_device *d, const bench_peaks *p, const char *when);

double bench_ratio(double x, double of); /* 0 where `of` is */

typedef struct bench_unit { /* in which tables give rates: giga on a host, tera on a device */
    const char *flops, *bytes;
    double scale;
} bench_unit;
bench_unit bench_unit_of(const mri_device *d);

/* ---- what is measured ---------------------------------------------------------------------- */
typedef struct bench_shape {
    const char *op, *text; /* the case, in the language of mrun/op.h */
    bool quick;            /* also under --quick */
} bench_shape;
/* Each ended by an op of NULL: for a host's processors, every op; for a device of its own memory,
 * those whose time depends on size. */
extern const bench_shape bench_shapes[], bench_large_shapes[];

int bench_op(app *a, const app_args *args);     /* bench_op.c     */
int bench_step(app *a, const app_args *args);   /* bench_step.c   */
int bench_decode(app *a, const app_args *args); /* bench_decode.c */

#endif
