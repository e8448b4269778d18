/* SPDX-License-Identifier: Apache-2.0
 * sample.c - see sample.h. */
#include "sample.h"
#include "core/base/base.h"
#include "core/base/rng.h"
#include <math.h>
#include <stdlib.h>

typedef struct choice {
    double p;
    int32_t id;
} choice;

/* falling probability, then rising id: a total order, so that ties are stable */
static int by_probability(const void *x, const void *y)
{
    const choice *a = x, *b = y;
    return a->p != b->p ? (a->p < b->p ? 1 : -1) : (a->id > b->id) - (a->id < b->id);
}

static int32_t greedy(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best])
            best = i;
    return (int32_t)best;
}

int32_t mri_sample(const float *logits, int64_t vocab, const mri_sampling *how, uint64_t position)
{
    int32_t best = greedy(logits, vocab);
    if (how->temperature <= 0)
        return best;
    choice *c = mri_alloc((size_t)vocab * sizeof *c);
    double sum = 0, kept = 0;
    for (int64_t i = 0; i < vocab; i++) {
        c[i].p = exp(((double)logits[i] - logits[best]) / how->temperature);
        c[i].id = (int32_t)i;
        sum += c[i].p;
    }
    qsort(c, (size_t)vocab, sizeof *c, by_probability);
    int64_t n = 0, limit = how->top_k > 0 && how->top_k < vocab ? how->top_k : vocab;
    while (n < limit && (n == 0 || how->top_p >= 1 || kept < how->top_p * sum))
        kept += c[n++].p;
    double at = mri_rng_uniform(mri_rng_named(how->seed, "sample"), position) * kept;
    int64_t i = 0;
    while (i + 1 < n && at >= c[i].p)
        at -= c[i++].p;
    int32_t id = c[i].id;
    free(c);
    return id;
}
