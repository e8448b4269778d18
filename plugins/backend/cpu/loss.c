/* SPDX-License-Identifier: Apache-2.0
 *
 * loss.c - cross entropy. A row of V logits is read once, in chunks that stay in the cache:
 * the running maximum and sum are rescaled from chunk to chunk (Milakov & Gimelshein 2018).
 * The gradient is one more pass and may overwrite the logits. Of a part of the vocabulary the same
 * passes give and take a token's (lse, target's logit).
 */
#include "vec.h"

enum { CHUNK = 2048 };

struct loss {
    struct kernel base;
    int64_t rows, vocab, first; /* first: id of a part's first logit */
    int parts;
};

static float log_sum_exp(arr x, int64_t n)
{
    float m = -INFINITY, sum = 0;
    for (int64_t lo = 0; lo < n; lo += CHUNK) {
        int64_t hi = lo + CHUNK < n ? lo + CHUNK : n, i = lo;
        vf top = vset(-INFINITY), s[2] = { 0 };
        for (; i + W <= hi; i += W)
            top = vmax(ld(x, i, W), top);
        float now = vhmax(top);
        for (; i < hi; i++)
            now = get(x, i) > now ? get(x, i) : now;
        if (now > m) {
            sum *= expf(m - now);
            m = now;
        }
        float base = m == -INFINITY ? 0 : m; /* NaN, which no maximum is, gets into the sum */
        for (i = lo; i + 2 * W <= hi; i += 2 * W) {
            s[0] += vexp_neg(ld(x, i, W) - base);
            s[1] += vexp_neg(ld(x, i + W, W) - base);
        }
        sum += vsum(s[0] + s[1]);
        for (; i < hi; i += W) {
            int l = LANES(i, hi);
            vf e = vexp_neg(ld(x, i, l) - base);
            sum += vsum(vsel((vi)(viota() < l), e, (vf){ 0 }));
        }
    }
    return m + logf(sum);
}

static mr_status loss_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    const struct loss *k = (const struct loss *)base;
    const int32_t *target = in[1].data;
    const float *weight = in[2].data;
    float *total = out[0].data, *nll = out[1].data, *lse = out[2].data;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            arr x = arr_at(in_arr(base, in, 0), t * k->vocab);
            lse[t] = log_sum_exp(x, k->vocab);
            int counted = target[t] >= 0 && target[t] < k->vocab;
            nll[t] = counted ? lse[t] - get(x, target[t]) : 0;
        }
    }
    double sum = 0;
    for (int64_t t = 0; t < k->rows; t++)
        if (target[t] >= 0 && target[t] < k->vocab)
            sum += (double)weight[t] * nll[t];
    *total = (float)sum;
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status loss_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, mr_err *err)
{
    const struct loss *k = (const struct loss *)base;
    const float *dloss = in[1].data, *weight = in[3].data, *lse = in[4].data;
    const int32_t *target = in[2].data;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            arr x = arr_at(in_arr(base, in, 0), t * k->vocab);
            arr dx = arr_at(out_arr(base, out, 0), t * k->vocab);
            int counted = target[t] >= 0 && target[t] < k->vocab;
            float scale = counted ? *dloss * weight[t] : 0;
            if (scale == 0) { /* also keeps an unused row's NaN from spreading */
                zero(dx, 0, k->vocab);
                continue;
            }
            float at = get(x, target[t]); /* before dx may overwrite it */
            for (int64_t i = 0; i < k->vocab; i += W) {
                int l = LANES(i, k->vocab);
                st(dx, i, l, scale * vexp_neg(ld(x, i, l) - lse[t]));
            }
            put(dx, target[t], scale * (expf(at - lse[t]) - 1.0f));
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status part_run(const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws,
                          mr_err *err)
{
    const struct loss *k = (const struct loss *)base;
    const int32_t *target = in[1].data;
    float *stats = out[0].data;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            arr x = arr_at(in_arr(base, in, 0), t * k->vocab);
            int64_t y = target[t] - k->first;
            stats[2 * t] = log_sum_exp(x, k->vocab);
            stats[2 * t + 1] = y >= 0 && y < k->vocab ? get(x, y) : 0;
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status part_bwd_run(const struct kernel *base, const mr_buf *in, const mr_buf *out,
                              void *ws, mr_err *err)
{
    const struct loss *k = (const struct loss *)base;
    const float *d = in[1].data, *stats = in[3].data;
    const int32_t *target = in[2].data;
#pragma omp parallel for schedule(static, 1) if (k->parts > 1)
    for (int p = 0; p < k->parts; p++) {
        int64_t lo, hi;
        cpu_range(k->rows, 1, p, k->parts, &lo, &hi);
        for (int64_t t = lo; t < hi; t++) {
            arr x = arr_at(in_arr(base, in, 0), t * k->vocab);
            arr dx = arr_at(out_arr(base, out, 0), t * k->vocab);
            int64_t y = target[t] - k->first;
            float scale = d[2 * t], lse = stats[2 * t];
            int here = y >= 0 && y < k->vocab;
            if (scale == 0) { /* also keeps an unused row's NaN from spreading */
                zero(dx, 0, k->vocab);
                if (here)
                    put(dx, y, d[2 * t + 1]);
                continue;
            }
            float at = here ? get(x, y) : 0; /* before dx may overwrite it */
            for (int64_t i = 0; i < k->vocab; i += W) {
                int l = LANES(i, k->vocab);
                st(dx, i, l, scale * vexp_neg(ld(x, i, l) - lse));
            }
            if (here)
                put(dx, y, scale * expf(at - lse) + d[2 * t + 1]);
        }
    }
    (void)ws, (void)err;
    return MR_OK;
}

static mr_status prepare(struct kernel *base, const mr_call *c, kernel_run *run)
{
    struct loss *k = (struct loss *)base;
    k->rows = mr_rows(c->in[0]);
    k->vocab = mr_last(c->in[0]);
    k->parts = cpu_parts(base, k->rows * k->vocab, 8192);
    base->run = run;
    return MR_OK;
}

static mr_status loss_prepare(struct kernel *k, const mr_call *c, mr_err *err)
{
    (void)err;
    return prepare(k, c, loss_run);
}

static mr_status loss_bwd_prepare(struct kernel *k, const mr_call *c, mr_err *err)
{
    (void)err;
    k->flags |= MR_K_INPLACE0;
    return prepare(k, c, loss_bwd_run);
}

static mr_status part_prepare(struct kernel *k, const mr_call *c, mr_err *err)
{
    (void)err;
    ((struct loss *)k)->first = mr_attr_i(c, "first", 0);
    if (c->n_in == 2)
        return prepare(k, c, part_run);
    k->flags |= MR_K_INPLACE0;
    return prepare(k, c, part_bwd_run);
}

const struct op_row ISA_NAME(loss_rows)[] = {
    { "cross_entropy", "xif>fff", sizeof(struct loss), loss_prepare },
    { "cross_entropy.bwd", "xfiff>x", sizeof(struct loss), loss_bwd_prepare },
    { "cross_entropy.part", "xi>f", sizeof(struct loss), part_prepare },
    { "cross_entropy.part.bwd", "xfif>x", sizeof(struct loss), part_prepare },
    { 0 },
};
