/* SPDX-License-Identifier: Apache-2.0
 *
 * probe.c - what this GPU can do at most, measured when it is asked for: the denominators of a
 * roofline. Products are cuBLASLt's, of random-looking numbers (zeros would draw less power and
 * run faster); bytes are those of a device-to-device copy, read and written.
 */
#include "device.h"
#include "lt.h"
#include "mm.h"
#include <stdlib.h>

enum { N = 8192, N_F32 = 4096, ROUNDS = 5 };

struct timer {
    cudaStream_t stream;
    cudaEvent_t from, to;
};

static int timer_open(struct timer *t, const struct cuda_dev *d)
{
    memset(t, 0, sizeof *t);
    return cudaSetDevice(d->index) || cudaStreamCreate(&t->stream) || cudaEventCreate(&t->from) ||
           cudaEventCreate(&t->to);
}

static void timer_close(struct timer *t)
{
    if (t->from)
        cudaEventDestroy(t->from);
    if (t->to)
        cudaEventDestroy(t->to);
    if (t->stream)
        cudaStreamDestroy(t->stream);
    cudaGetLastError();
}

static double seconds(const struct timer *t) /* 0: something failed */
{
    float ms = 0;
    if (cudaEventSynchronize(t->to) || cudaEventElapsedTime(&ms, t->from, t->to))
        return 0;
    return 1e-3 * ms;
}

/* bytes whose halves are bf16, and words f32, between 1 and 4 in magnitude */
static int fill_random(uint8_t *dst, size_t n)
{
    uint16_t *host = malloc(1 << 20);
    uint32_t x = 1;
    int bad = !host;
    for (size_t i = 0; !bad && i < (1 << 19); i++) {
        x = x * 1664525u + 1013904223u;
        host[i] = (uint16_t)((x >> 16 & 0x80ff) | 0x3f80);
    }
    for (size_t at = 0; !bad && at < n; at += 1 << 20)
        bad = cudaMemcpy(dst + at, host, n - at < (1 << 20) ? n - at : 1 << 20,
                         cudaMemcpyHostToDevice) != cudaSuccess;
    free(host);
    return bad;
}

static double product_rate(const struct cuda_dev *d, int kind, int64_t n)
{
    struct cuda_lt_shape s = { n, n, n, 0, 1, kind, kind, 0, d->tf32, 0 };
    struct cuda_lt_product p;
    struct timer t;
    size_t bytes = (size_t)n * (size_t)n * (kind == CUDA_BF16 ? 2 : 4);
    void *m = NULL, *ws = NULL;
    double best = 0;
    if (!d->lt || cuda_lt_plan(d->lt, &s, &p, NULL) || timer_open(&t, d))
        return 0;
    if (cudaMalloc(&m, 3 * bytes) || cudaMalloc(&ws, p.workspace + 1) || fill_random(m, 2 * bytes))
        goto out;
    for (int i = 0; i < ROUNDS; i++) {
        uint8_t *a = m;
        cudaEventRecord(t.from, t.stream);
        if (cuda_lt_run(d->lt, &p, a, a + bytes, a + 2 * bytes, NULL, ws, t.stream, NULL))
            break;
        cudaEventRecord(t.to, t.stream);
        double took = seconds(&t);
        double rate = took > 0 ? 2.0 * (double)n * (double)n * (double)n / took : 0;
        best = rate > best ? rate : best;
    }
out:
    cudaFree(m);
    cudaFree(ws);
    timer_close(&t);
    return best;
}

static double probe_f32(void *dev)
{
    return product_rate(dev, CUDA_F32, N_F32);
}

static double probe_bf16(void *dev)
{
    return product_rate(dev, CUDA_BF16, N);
}

static double probe_bytes(void *dev)
{
    const size_t n = (size_t)2 << 30;
    struct timer t;
    uint8_t *m = NULL;
    double best = 0;
    if (timer_open(&t, dev) || cudaMalloc((void **)&m, 2 * n))
        goto out;
    for (int i = 0; i < ROUNDS; i++) {
        cudaEventRecord(t.from, t.stream);
        cudaMemcpyAsync(m + n, m, n, cudaMemcpyDeviceToDevice, t.stream);
        cudaEventRecord(t.to, t.stream);
        double took = seconds(&t);
        double rate = took > 0 ? 2 * (double)n / took : 0;
        best = rate > best ? rate : best;
    }
out:
    cudaFree(m);
    timer_close(&t);
    return best;
}

const mr_probe cuda_probe = {
    .size = sizeof(mr_probe),
    .flops_f32 = probe_f32,
    .flops_bf16 = probe_bf16,
    .read_bytes_per_s = probe_bytes,
};
