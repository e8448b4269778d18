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

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static double probe_f32(void *dev)
{
    enum { N = 768 };
    const struct cpu_dev *d = dev;
    float *m = calloc(3 * (size_t)N * N, sizeof *m);
    double best = 0, end = now() + 0.1;
    if (!m)
        return 0;
    omp_set_num_threads(d->threads);
    for (int i = 0; i < 2 * N * N; i++)
        m[i] = (float)(i % 7) - 3;
    for (int i = 0; i < 3 || now() < end; i++) {
        double t = now();
        if (cpu_sgemm(0, 1, N, N, N, m, N, m + N * N, N, 0, m + 2 * N * N, N, NULL))
            break;
        double rate = 2.0 * N * N * N / (now() - t);
        best = rate > best ? rate : best;
    }
    free(m);
    return best;
}

static double probe_bf16(void *dev)
{
    (void)dev;
    return 0; /* without native bf16 products it is f32's; with them it is not known */
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
