/* SPDX-License-Identifier: Apache-2.0
 *
 * probe.c - what this machine can do at most, measured when it is asked for, a tenth of a
 * second each: the denominators of a roofline. Products are the library's at a size that it
 * likes; the read is of memory far larger than the caches.
 */
#include "device.h"
#include "gemm.h"
#include <stdlib.h>
#include <time.h>

static double seconds(clockid_t clock)
{
    struct timespec t;
    clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double now(void)
{
    return seconds(CLOCK_MONOTONIC);
}

enum { N = 768 };

/* calls product(self) for a tenth of a second, at least thrice; the best rate. Timed by the
 * processor time of all threads: a limit is the machine's, also when others use its cores. */
static double best_rate(int (*product)(void *self), void *self, int threads)
{
    double best = 0, end = now() + 0.1;
    for (int i = 0; i < 3 || now() < end; i++) {
        double t = seconds(CLOCK_PROCESS_CPUTIME_ID);
        if (product(self))
            return 0;
        double rate = 2.0 * N * N * N * threads / (seconds(CLOCK_PROCESS_CPUTIME_ID) - t);
        best = rate > best ? rate : best;
    }
    return best;
}

static int product_f32(void *self)
{
    float *m = self;
    return cpu_sgemm(0, 1, N, N, N, m, N, m + N * N, N, 0, m + 2 * N * N, N, NULL);
}

static double probe_f32(void *dev)
{
    float *m = calloc(3 * (size_t)N * N, sizeof *m);
    if (!m)
        return 0;
    omp_set_num_threads(((const struct cpu_dev *)dev)->threads);
    for (int i = 0; i < 2 * N * N; i++)
        m[i] = (float)(i % 7) - 3;
    double rate = best_rate(product_f32, m, ((const struct cpu_dev *)dev)->threads);
    free(m);
    return rate;
}

struct bf16_product {
    struct cpu_matmul *plan;
    uint16_t *m;
    void *scratch;
};

static int product_bf16(void *self)
{
    struct bf16_product *p = self;
    return cpu_matmul_run(p->plan, p->m, p->m + N * N, NULL, p->m + 2 * N * N, p->scratch, NULL);
}

/* Without native bf16 products, bf16 is converted and multiplied as f32. */
static double probe_bf16(void *dev)
{
    const struct cpu_dev *d = dev;
    const struct cpu_product shape = { .m = N, .n = N, .k = N, .a_rs = N, .a_cs = 1, .b_rs = 1,
                                       .b_cs = N, .in_bf = 1, .c_bf = 1 };
    struct bf16_product p = { NULL, NULL, NULL };
    uint64_t scratch = 0;
    double rate = 0;
    if (!d->bf16_dot)
        return probe_f32(dev);
    omp_set_num_threads(d->threads);
    p.plan = cpu_matmul_make(d->library, &shape, &scratch);
    p.m = aligned_alloc(CPU_ALIGN, 3 * (size_t)N * N * sizeof *p.m);
    p.scratch = aligned_alloc(CPU_ALIGN, cpu_round(scratch + 1));
    if (p.plan && p.m && p.scratch) {
        for (int i = 0; i < 2 * N * N; i++)
            p.m[i] = (uint16_t)(0x3f80 + i % 7);
        rate = best_rate(product_bf16, &p, d->threads);
    }
    free(p.scratch);
    free(p.m);
    cpu_matmul_free(p.plan);
    return rate;
}

static double probe_read(void *dev)
{
    const size_t n = (size_t)128 << 20;
    const struct cpu_dev *d = dev;
    int threads = d->threads;
    double best = 0, end;
    uint64_t total = 0;
    uint64_t *m = malloc(n);
    if (!m)
        return 0;
    memset(m, 1, n);
    end = now() + 0.1;
    for (int i = 0; i < 3 || now() < end; i++) {
        double t = now();
#pragma omp parallel for schedule(static, 1) num_threads(threads) reduction(+ : total)
        for (int p = 0; p < threads; p++) {
            uint64_t s[8] = { 0 };
            int64_t lo, hi;
            cpu_range((int64_t)(n / 8), 64, p, threads, &lo, &hi);
            for (int64_t j = lo; j + 8 <= hi; j += 8)
                for (int l = 0; l < 8; l++)
                    s[l] += m[j + l];
            for (int l = 0; l < 8; l++)
                total += s[l];
        }
        double rate = (double)n / (now() - t);
        best = rate > best ? rate : best;
    }
    free(m);
    return total ? best : 0; /* `total` keeps the loop alive */
}

const mr_probe cpu_probe = {
    .size = sizeof(mr_probe),
    .flops_f32 = probe_f32,
    .flops_bf16 = probe_bf16,
    .read_bytes_per_s = probe_read,
};
