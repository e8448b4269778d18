/* SPDX-License-Identifier: Apache-2.0
 *
 * probe.c - what this GPU can do at most in steady work, measured when it is asked for: the
 * denominators of a roofline. Products are cuBLASLt's, of random-looking numbers (zeros would draw
 * less power and run faster); bytes are those of a device-to-device copy, read and written. Rates
 * are medians over a quarter of a second after a tenth of one: a cool chip is faster for a moment
 * than it can stay.
 */
#include "device.h"
#include "lt.h"
#include "mm.h"
#include <stdlib.h>

enum { N = 8192, N_F32 = 4096, MOST_ROUNDS = 4096 };
#define WARM 0.1 /* seconds */
#define LASTS 0.25

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

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

/* What one call of work(self) does, over the median of its times; 0: something failed. */
static double steady_rate(struct timer *t, int (*work)(const void *self, cudaStream_t),
                          const void *self, double amount)
{
    double *took = malloc(MOST_ROUNDS * sizeof *took), spent = 0, rate = 0;
    int n = 0;
    while (took && n < MOST_ROUNDS && spent < WARM + LASTS) {
        if (cudaEventRecord(t->from, t->stream) || work(self, t->stream) ||
            cudaEventRecord(t->to, t->stream))
            break;
        double s = seconds(t);
        if (s <= 0)
            break;
        if (spent >= WARM)
            took[n++] = s;
        spent += s;
    }
    if (n) {
        qsort(took, (size_t)n, sizeof *took, by_size);
        rate = amount / took[n / 2];
    }
    free(took);
    return rate;
}

struct product {
    const struct cuda_lt *lt;
    struct cuda_lt_product p;
    uint8_t *a, *b, *c, *ws;
};

static int multiply(const void *self, cudaStream_t stream)
{
    const struct product *x = self;
    return cuda_lt_run(x->lt, &x->p, x->a, x->b, x->c, NULL, x->ws, stream, NULL) != MR_OK;
}

static double product_rate(const struct cuda_dev *d, int kind, int64_t n)
{
    struct cuda_lt_shape s = { n, n, n, 0, 1, kind, kind, 0, d->tf32, 0, 0 };
    struct product x = { .lt = d->lt };
    struct timer t;
    size_t bytes = (size_t)n * (size_t)n * (kind == CUDA_BF16 ? 2 : 4);
    double rate = 0;
    memset(&t, 0, sizeof t);
    if (!d->lt || cuda_lt_plan(d->lt, &s, &x.p, NULL) || timer_open(&t, d))
        goto out;
    if (cudaMalloc((void **)&x.a, 3 * bytes + x.p.workspace) || fill_random(x.a, 2 * bytes))
        goto out;
    x.b = x.a + bytes;
    x.c = x.b + bytes;
    x.ws = x.c + bytes;
    rate = steady_rate(&t, multiply, &x, 2.0 * (double)n * (double)n * (double)n);
out:
    cudaFree(x.a);
    timer_close(&t);
    return rate;
}

static double probe_f32(void *dev)
{
    return product_rate(dev, CUDA_F32, N_F32);
}

static double probe_bf16(void *dev)
{
    return product_rate(dev, CUDA_BF16, N);
}

struct copying {
    uint8_t *memory; /* two halves */
    size_t half;
};

static int copy_half(const void *self, cudaStream_t stream)
{
    const struct copying *c = self;
    return cudaMemcpyAsync(c->memory + c->half, c->memory, c->half, cudaMemcpyDeviceToDevice,
                           stream) != cudaSuccess;
}

static double probe_bytes(void *dev)
{
    const size_t least = (size_t)128 << 20; /* still far more than the caches hold */
    struct copying c = { NULL, (size_t)2 << 30 };
    struct timer t;
    double rate = 0;
    memset(&t, 0, sizeof t);
    if (timer_open(&t, dev))
        goto out;
    while (cudaMalloc((void **)&c.memory, 2 * c.half) && c.half > least)
        c.half /= 2; /* a run may have taken nearly all */
    if (c.memory)
        rate = steady_rate(&t, copy_half, &c, 2.0 * (double)c.half);
out:
    cudaFree(c.memory);
    timer_close(&t);
    return rate;
}

const mr_probe cuda_probe = {
    .size = sizeof(mr_probe),
    .flops_f32 = probe_f32,
    .flops_bf16 = probe_bf16,
    .read_bytes_per_s = probe_bytes,
};
