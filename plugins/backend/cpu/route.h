/* SPDX-License-Identifier: Apache-2.0
 *
 * route.h - what the router and its losses share, a row of E logits at a time.
 */
#ifndef MRUN_CPU_ROUTE_H
#define MRUN_CPU_ROUTE_H
#include "vec.h"

/* y = sigmoid(x) or softmax(x); returns the softmax's log-sum-exp */
static inline void sigmoid_row(const float *x, int64_t n, float *y)
{
    arr xa = { (void *)(uintptr_t)x, 0 }, ya = { y, 0 };
    for (int64_t i = 0; i < n; i += W) {
        int l = LANES(i, n);
        st(ya, i, l, vsigmoid(ld(xa, i, l)));
    }
}

static inline float softmax_row(const float *x, int64_t n, float *y)
{
    float m = -INFINITY, sum = 0;
    arr xa = { (void *)(uintptr_t)x, 0 }, ya = { y, 0 };
    for (int64_t i = 0; i < n; i++)
        m = x[i] > m ? x[i] : m;
    for (int64_t i = 0; i < n; i += W) {
        int l = LANES(i, n);
        st(ya, i, l, vexp(ld(xa, i, l) - m));
    }
    for (int64_t i = 0; i < n; i++)
        sum += y[i];
    float scale = 1.0f / sum;
    for (int64_t i = 0; i < n; i++)
        y[i] *= scale;
    return m + logf(sum);
}

/* top_k in k passes, where a NaN may be: a best so far that is a NaN stays the best */
static inline void top_k_by_passes(const float *score, int64_t n, int64_t k, uint8_t *taken,
                                   int32_t *index)
{
    for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || score[i] > score[best]))
                best = i;
        taken[best] = 1;
        index[j] = (int32_t)best;
    }
}

/* index[0..k) = the k largest in falling order, ties to the lower index, among those not
 * taken; the chosen become taken. At least k must be free. One pass that inserts: past the
 * first few, hardly any score is above the least that is held, so most blocks are skipped. */
static inline void top_k(const float *score, int64_t n, int64_t k, uint8_t *taken, int32_t *index)
{
    enum { BLOCK = 16 };
    int64_t held = 0;
    int nan = 0;
    float least = 0; /* of those held */
    for (int64_t from = 0; k > 1 && from < n; from += BLOCK) {
        int64_t to = from + BLOCK < n ? from + BLOCK : n;
        if (held == k && to == from + BLOCK) {
            int some = 0;
            for (int l = 0; l < BLOCK; l++)
                some |= !(score[from + l] <= least); /* a NaN too */
            if (!some)
                continue;
        }
        for (int64_t i = from; i < to; i++) {
            float s = score[i];
            nan |= s != s && !taken[i];
            if ((held == k && !(s > least)) || taken[i])
                continue;
            int64_t j = held < k ? held++ : k - 1;
            for (; j > 0 && s > score[index[j - 1]]; j--)
                index[j] = index[j - 1];
            index[j] = (int32_t)i;
            least = score[index[held - 1]];
        }
    }
    if (nan || k == 1) { /* one maximum needs no list */
        top_k_by_passes(score, n, k, taken, index);
        return;
    }
    for (int64_t j = 0; j < k; j++)
        taken[index[j]] = 1;
}

#endif
