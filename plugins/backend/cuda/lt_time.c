/* SPDX-License-Identifier: Apache-2.0
 *
 * lt_time.c - times a few algorithms of one product against each other, on operands of its own
 * that are freed again: once over all of them, then turn by turn over those that were near the
 * best, so that a chip that heats up or slows down does so for each. Takes about 300 runs of the
 * product. The library's first proposal stays unless another is clearly faster.
 */
#include "lt.h"
#include <stdlib.h>

enum { WARM = 1, FIRST_RUNS = 2, TURNS = 5, FINALISTS = 6, MOST_RUNS = 20, MOST = 32 };
static const double NEAR = 1.15;     /* of the best: how slow a finalist may be at first sight */
static const double CLEARLY = 0.99;  /* of the first proposal's time                           */
static const double TURN_US = 1000;  /* of one algorithm in a turn, at least                   */

struct rig {
    cudaStream_t stream;
    cudaEvent_t from, to;
    uint8_t *memory;
    const uint8_t *a, *b, *bias;
    uint8_t *c, *ws;
};

static uint64_t bytes_of(int kind, int64_t x, int64_t y)
{
    uint64_t n = (uint64_t)x * (uint64_t)y * (kind >= CUDA_E4M3 ? 1 : kind == CUDA_BF16 ? 2 : 4);
    return (n + 255) / 256 * 256;
}

/* Words whose halves are bf16 between 1 and 4 in magnitude: numbers that cost what real ones do,
 * where zeros would cost less. */
static int fill(const struct rig *r, uint8_t *to, uint64_t n)
{
    enum { BLOCK = 1 << 20 };
    uint16_t *block = malloc(BLOCK);
    uint32_t x = 1;
    int bad = !block;
    for (size_t i = 0; block && i < BLOCK / 2; i++) {
        x = x * 1664525u + 1013904223u;
        block[i] = (uint16_t)((x >> 16 & 0x80ff) | 0x3f80);
    }
    if (!bad)
        bad = cudaMemcpy(to, block, n < BLOCK ? n : BLOCK, cudaMemcpyHostToDevice) != cudaSuccess;
    for (uint64_t have = BLOCK; !bad && have < n; have *= 2)
        bad = cudaMemcpyAsync(to + have, to, n - have < have ? n - have : have,
                              cudaMemcpyDeviceToDevice, r->stream) != cudaSuccess;
    free(block);
    return bad;
}

static int rig_open(struct rig *r, const struct cuda_lt_shape *s, uint64_t workspace)
{
    uint64_t a = bytes_of(s->kind, s->rows, s->inner), b = bytes_of(s->kind, s->inner, s->cols);
    uint64_t c = bytes_of(s->kind_c, s->rows, s->cols), bias = bytes_of(CUDA_F32, s->cols, 1);
    memset(r, 0, sizeof *r);
    if (cudaStreamCreateWithFlags(&r->stream, cudaStreamNonBlocking) || cudaEventCreate(&r->from) ||
        cudaEventCreate(&r->to) || cudaMalloc((void **)&r->memory, a + b + c + bias + workspace))
        return 1;
    r->a = r->memory;
    r->b = r->a + a;
    r->bias = r->b + b;
    r->c = r->memory + a + b + bias;
    r->ws = r->c + c;
    return fill(r, r->memory, a + b + bias) || cudaMemsetAsync(r->c, 0, c, r->stream);
}

static void rig_close(struct rig *r)
{
    cudaFree(r->memory);
    if (r->from)
        cudaEventDestroy(r->from);
    if (r->to)
        cudaEventDestroy(r->to);
    if (r->stream)
        cudaStreamDestroy(r->stream);
    cudaGetLastError(); /* what failed here must not show elsewhere */
}

/* microseconds a run; below 0: it does not run */
static double time_runs(const struct cuda_lt *lt, const struct cuda_lt_product *p,
                        const struct rig *r, int runs)
{
    float ms = 0;
    if (cudaEventRecord(r->from, r->stream))
        return -1;
    for (int i = 0; i < runs; i++)
        if (cuda_lt_run(lt, p, r->a, r->b, r->c, r->bias, r->ws, r->stream, NULL))
            return -1;
    if (cudaEventRecord(r->to, r->stream) || cudaEventSynchronize(r->to) ||
        cudaEventElapsedTime(&ms, r->from, r->to))
        return -1;
    return 1e3 * (double)ms / runs;
}

struct entrant {
    struct cuda_lt_product p;
    int index;
    double first, best; /* us; below 0: out */
};

static int by_first(const void *a, const void *b)
{
    const struct entrant *x = a, *y = b;
    if ((x->first < 0) != (y->first < 0))
        return x->first < 0 ? 1 : -1;
    return (x->first > y->first) - (x->first < y->first);
}

/* how many go on: the near ones, in order, the library's first among them */
static int finalists(struct entrant *e, int n)
{
    int keep = 0, chosen = 0;
    qsort(e, (size_t)n, sizeof *e, by_first);
    for (int i = 0; i < n && e[i].first >= 0; i++)
        if (e[i].index == 0 || (chosen < FINALISTS && e[i].first <= NEAR * e[0].first)) {
            chosen += e[i].index != 0;
            e[keep++] = e[i];
        }
    return keep;
}

/* the first proposal's advantage: others must beat it clearly */
static double weighed(const struct entrant *e)
{
    return e->best * (e->index ? 1 : CLEARLY);
}

int cuda_lt_fastest(const struct cuda_lt *lt, const struct cuda_lt_shape *s,
                    const struct cuda_lt_product *p, const cublasLtMatmulHeuristicResult_t *found,
                    int n, double *us)
{
    struct entrant e[MOST];
    struct rig r;
    uint64_t workspace = 0;
    int best = -1, left;
    n = n < MOST ? n : MOST;
    for (int i = 0; i < n; i++) {
        e[i] = (struct entrant){ .p = *p, .index = i, .first = -1, .best = -1 };
        cuda_lt_take(&e[i].p, &found[i].algo, found[i].workspaceSize, 0);
        workspace = e[i].p.workspace > workspace ? e[i].p.workspace : workspace;
    }
    if (rig_open(&r, s, workspace + 1))
        goto out;
    for (int i = 0; i < n; i++)
        e[i].first = time_runs(lt, &e[i].p, &r, WARM) < 0
                         ? -1 : time_runs(lt, &e[i].p, &r, FIRST_RUNS);
    left = finalists(e, n);
    for (int turn = 0; turn < TURNS; turn++)
        for (int i = 0; i < left; i++) {
            int runs = (int)(TURN_US / (e[i].first + 1)) + 1;
            double t = time_runs(lt, &e[i].p, &r, runs < MOST_RUNS ? runs : MOST_RUNS);
            if (t >= 0 && (e[i].best < 0 || t < e[i].best))
                e[i].best = t;
        }
    for (int i = 0; i < left; i++)
        if (e[i].best >= 0 && (best < 0 || weighed(&e[i]) < weighed(&e[best])))
            best = i;
    if (best >= 0)
        *us = e[best].best;
    best = best < 0 ? -1 : e[best].index;
out:
    rig_close(&r);
    return best;
}
