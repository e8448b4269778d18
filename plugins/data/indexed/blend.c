/* SPDX-License-Identifier: Apache-2.0
 * blend.c - the greedy choice, and numbers rounded where and as numpy and Python round. */
#include "blend.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* numpy adds pairwise: halves down to 128 numbers, those in 8 columns. */
double blend_sum(const double *v, uint64_t n)
{
    double c[8], sum = 0;
    uint64_t i;
    if (n > 128) {
        uint64_t half = n / 2 - n / 2 % 8;
        return blend_sum(v, half) + blend_sum(v + half, n - half);
    }
    if (n < 8) {
        for (i = 0; i < n; i++)
            sum += v[i];
        return sum;
    }
    memcpy(c, v, sizeof c);
    for (i = 8; i < n - n % 8; i++)
        c[i % 8] += v[i];
    sum = ((c[0] + c[1]) + (c[2] + c[3])) + ((c[4] + c[5]) + (c[6] + c[7]));
    for (; i < n; i++)
        sum += v[i];
    return sum;
}

static uint32_t most_behind(const double *weights, uint32_t n, int64_t step, const int64_t *taken,
                            const int64_t *sizes)
{
    double k = step > 1 ? (double)step : 1, worst = -INFINITY;
    uint32_t best = 0;
    for (uint32_t i = 0; i < n; i++) {
        double behind = weights[i] * k - (double)taken[i];
        if (behind > worst && (!sizes || taken[i] < sizes[i])) {
            worst = behind;
            best = i;
        }
    }
    return best;
}

void blend_weighted(const double *weights, uint32_t n, int64_t size, uint16_t *which,
                    int64_t *sample, int64_t *taken)
{
    memset(taken, 0, n * sizeof *taken);
    for (int64_t k = 0; k < size; k++) {
        which[k] = (uint16_t)most_behind(weights, n, k, taken, NULL);
        sample[k] = taken[which[k]]++;
    }
}

void blend_exhaustive(const int64_t *sizes, uint32_t n, uint16_t *which, int64_t *sample,
                      int64_t *taken)
{
    int64_t total = 0;
    double weights[n];
    for (uint32_t i = 0; i < n; i++)
        total += sizes[i];
    for (uint32_t i = 0; i < n; i++)
        weights[i] = (double)sizes[i] / (double)total;
    memset(taken, 0, n * sizeof *taken);
    for (int64_t k = 0; k < total; k++) {
        which[k] = (uint16_t)most_behind(weights, n, k, taken, sizes);
        sample[k] = taken[which[k]]++;
    }
}

mr_status blend_split(const char *text, int64_t documents, int64_t bounds[SPLITS + 1], mr_err *err)
{
    double share[SPLITS] = { 0 }, end = 0;
    const char *at = text;
    int n = 0;
    for (; *at && n < SPLITS; n++) {
        char *stop;
        share[n] = strtod(at, &stop);
        if (stop == at || !(share[n] >= 0) || share[n] > 1e15)
            goto bad;
        at = stop + strspn(stop, " ");
        if (*at == ',')
            at++;
        else if (*at)
            goto bad;
    }
    double sum = share[0] + share[1] + share[2];
    if (*at || !(sum > 0))
        goto bad;
    bounds[0] = 0;
    for (int i = 0; i < SPLITS; i++) {
        end += share[i] / sum;
        bounds[i + 1] = (int64_t)rint(end * (double)documents); /* half to even, as Python */
        if (bounds[i + 1] > documents)
            bounds[i + 1] = documents;
    }
    return MR_OK;
bad:
    mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER, "data.indexed.split = %s: not a split", text);
    mr_hint(err, "give up to %d shares of train, validation and test, as in 949,50,1", SPLITS);
    return MR_E_PROFILE_VALUE;
}
