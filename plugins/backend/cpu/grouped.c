/* SPDX-License-Identifier: Apache-2.0
 *
 * grouped.c - the experts' products: rows offsets[e] .. offsets[e+1] by the weights of
 * expert e. Offsets are read when it runs; nothing is padded, and rows past the last offset
 * yield zeros. The experts' products are cut into strips of columns, one list of strips for
 * all experts, so that many small groups and few large ones both fill the threads.
 */
#include "gemm.h"
#include "mm.h"

enum { K_BLOCK = 1024 };

struct grouped {
    struct kernel base;
    int64_t rows, experts, in, out; /* R, E, I, O */
    int oi;                         /* w is [E,O,I] */
    int exact;                      /* sums in double */
    uint64_t room;
};

#define SELF const struct grouped *k = (const struct grouped *)base
#define NO_BIAS ((arr){ 0 })

static mr_status check_offsets(const struct grouped *k, const int32_t *offsets, mr_err *err)
{
    for (int64_t e = 0, low = 0; e <= k->experts; low = offsets[e++])
        if (offsets[e] < low || offsets[e] > k->rows)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "grouped product: offsets[%lld] is %d, must be in %lld..%lld (rows)",
                           (long long)e, offsets[e], (long long)low, (long long)k->rows);
    return MR_OK;
}

enum { SMALL = 32768 }; /* multiply-adds that are not worth waking the threads */

/* Strips of an expert: a few for each thread over all experts, yet wide enough that rows are
 * not converted again and again. It decides who computes an element, never how. */
static int64_t strip_width(const struct grouped *k, int64_t N)
{
    int64_t w = N * k->experts / (4 * k->base.threads) / 64 * 64;
    return w < 64 ? 64 : w > 512 ? 512 : w;
}

static void part(const struct grouped *k, int64_t M, int64_t N, int64_t K, struct mat A,
                 struct mat B, arr C, int64_t ldc, int acc, void *ws)
{
    if (k->exact)
        mm_exact(M, N, K, A, B, C, ldc, acc, NO_BIAS);
    else
        mm_packed(M, N, K, A, B, C, ldc, acc, NO_BIAS, cpu_room(ws, k->room));
}

/* y[R,N] = x[R,K] B(e): forward and dgrad differ in which side of w is summed over */
static mr_status products(const struct grouped *k, arr x, int64_t K, arr w, int64_t w_rs,
                          int64_t w_cs, const int32_t *offsets, arr y, int64_t N, void *ws,
                          mr_err *err)
{
    int64_t width = strip_width(k, N), strips = (N + width - 1) / width;
    if (check_offsets(k, offsets, err))
        return MR_E_ARG;
#pragma omp parallel for schedule(dynamic, 1) if (k->rows * N * K > SMALL)
    for (int64_t i = 0; i < k->experts * strips; i++) {
        int64_t e = i / strips, j = i % strips * width;
        int64_t lo = offsets[e], hi = offsets[e + 1];
        if (lo == hi)
            continue;
        struct mat B = { arr_at(w, e * k->in * k->out), w_rs, w_cs };
        part(k, hi - lo, N - j < width ? N - j : width, K,
             (struct mat){ arr_at(x, lo * K), K, 1 }, mat_at(B, 0, j), arr_at(y, lo * N + j), N, 0,
             ws);
    }
    zero(y, 0, offsets[0] * N); /* rows that no expert owns */
    zero(y, offsets[k->experts] * N, (k->rows - offsets[k->experts]) * N);
    return MR_OK;
}

static mr_status grouped_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                             void *ws, mr_err *err)
{
    SELF;
    return products(k, in_arr(base, in, 0), k->in, in_arr(base, in, 1), k->oi ? 1 : k->out,
                    k->oi ? k->in : 1, in[2].data, out_arr(base, out, 0), k->out, ws, err);
}

static mr_status dgrad_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    return products(k, in_arr(base, in, 0), k->out, in_arr(base, in, 1), k->oi ? k->in : 1,
                    k->oi ? 1 : k->out, in[2].data, out_arr(base, out, 0), k->in, ws, err);
}

/* dw[e] += x_e^T dy_e, or dy_e^T x_e where w is [E,O,I] */
static mr_status wgrad_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                           mr_err *err)
{
    SELF;
    arr a = in_arr(base, in, k->oi ? 1 : 0), b = in_arr(base, in, k->oi ? 0 : 1);
    arr dw = in_arr(base, in, 3);
    const int32_t *offsets = in[2].data;
    int64_t M = k->oi ? k->out : k->in, N = k->oi ? k->in : k->out;
    int64_t width = strip_width(k, N), strips = (N + width - 1) / width;
    if (check_offsets(k, offsets, err))
        return MR_E_ARG;
#pragma omp parallel for schedule(dynamic, 1) if (k->rows * M * N > SMALL)
    for (int64_t i = 0; i < k->experts * strips; i++) {
        int64_t e = i / strips, j = i % strips * width, hi = offsets[e + 1];
        for (int64_t r = offsets[e]; r < hi; r += K_BLOCK)
            part(k, M, N - j < width ? N - j : width, hi - r < K_BLOCK ? hi - r : K_BLOCK,
                 (struct mat){ arr_at(a, r * M), 1, M }, (struct mat){ arr_at(b, r * N + j), N, 1 },
                 arr_at(dw, e * M * N + j), N, 1, ws);
    }
    (void)out;
    return MR_OK;
}

/* ---- from types to kernels ---------------------------------------------------------------- */
static mr_status prepare(struct kernel *base, const mr_call *c, const mr_type *w, uint32_t x,
                         uint32_t offsets, mr_err *err)
{
    struct grouped *k = (struct grouped *)base;
    k->oi = !strcmp(mr_attr_s(c, "layout", "io"), "oi");
    if (w->rank != 3 || mr_numel(c->in[offsets]) != w->dim[0] + 1)
        return mr_fail(err, MR_E_OP_SHAPE, MR_BLAME_USER,
                       "grouped weights need rank 3 and E + 1 offsets; these have rank %u and "
                       "%lld offsets", w->rank, (long long)mr_numel(c->in[offsets]));
    k->experts = w->dim[0];
    k->in = w->dim[k->oi ? 2 : 1];
    k->out = w->dim[k->oi ? 1 : 2];
    k->rows = mr_rows(c->in[x]);
    return MR_OK;
}

/* Whichever side is summed over, R I O is the size. */
static void need_room(struct grouped *k, int64_t depth, int f32)
{
    k->exact = f32 && k->base.dev->matmul == CPU_MATMUL_AUTO &&
               exact_pays(k->rows, k->in, k->out, depth);
    if (k->exact) {
        k->base.impl = "f64 sums";
        return;
    }
    k->room = mm_room(depth);
    k->base.workspace = k->room * (uint64_t)k->base.threads;
}

static mr_status grouped_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct grouped *k = (struct grouped *)base;
    mr_status st = prepare(base, c, c->in[1], 0, 2, err);
    base->run = grouped_run;
    need_room(k, k->in, !base->in_bf[0] && !base->in_bf[1] && !base->out_bf[0]);
    return st;
}

static mr_status dgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct grouped *k = (struct grouped *)base;
    mr_status st = prepare(base, c, c->in[1], 0, 2, err);
    base->run = dgrad_run;
    need_room(k, k->out, !base->in_bf[0] && !base->in_bf[1] && !base->out_bf[0]);
    return st;
}

static mr_status wgrad_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct grouped *k = (struct grouped *)base;
    mr_status st = prepare(base, c, c->in[3], 0, 2, err);
    base->run = wgrad_run;
    need_room(k, k->rows < K_BLOCK ? k->rows : K_BLOCK, !base->in_bf[0] && !base->in_bf[1]);
    return st;
}

const struct op_row ISA_NAME(grouped_rows)[] = {
    { "grouped_linear", "xxi>x", sizeof(struct grouped), grouped_prepare },
    { "grouped_linear.dgrad", "xxi>x", sizeof(struct grouped), dgrad_prepare },
    { "grouped_linear.wgrad", "xxif>", sizeof(struct grouped), wgrad_prepare },
    { 0 },
};
