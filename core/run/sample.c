/* SPDX-License-Identifier: Apache-2.0
 *
 * sample.c - see sample.h. Of a vocabulary of 200,000 ids a few are kept: nothing here sorts all of
 * them. top-k is a heap of k values over one pass; top-p parts the candidates around a pivot until
 * the mass is reached, as quickselect does, in linear time. The draw walks the kept ids in rising
 * order, so that what it gives does not depend on how they were found.
 */
#include "sample.h"
#include "core/base/base.h"
#include "core/base/rng.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct choice {
    double p;
    int32_t id;
} choice;

static int32_t greedy(const float *logits, int64_t vocab)
{
    int64_t best = 0;
    for (int64_t i = 1; i < vocab; i++)
        if (logits[i] > logits[best] || isnan(logits[best]))
            best = i;
    return (int32_t)best;
}

/* ---- what changes single logits ------------------------------------------------------------- */

static bool in_vocab(int32_t id, int64_t vocab)
{
    return id >= 0 && id < vocab;
}

static bool repeats(const mri_sampling *how)
{
    return how->repetition_penalty > 0 && how->repetition_penalty != 1;
}

static void penalise(float *v, int64_t vocab, const mri_sampling *how, const mri_seen *seen)
{
    bool counts = how->presence_penalty != 0 || how->frequency_penalty != 0;
    if ((!repeats(how) && !counts) || !seen->n)
        return;
    int32_t *times = mri_alloc((size_t)vocab * sizeof *times); /* in the answer, and 1 if at all */
    for (int64_t i = 0; i < seen->n; i++) {
        int32_t id = seen->ids[i];
        if (in_vocab(id, vocab)) {
            times[id] += !times[id];
            times[id] += i >= seen->n_prompt;
        }
    }
    for (int64_t i = 0; i < seen->n; i++) {
        int32_t id = seen->ids[i];
        if (!in_vocab(id, vocab) || !times[id])
            continue;
        if (repeats(how))
            v[id] = (float)(v[id] < 0 ? v[id] * how->repetition_penalty
                                      : v[id] / how->repetition_penalty);
        if (times[id] > 1)
            v[id] = (float)(v[id] - how->presence_penalty -
                            how->frequency_penalty * (times[id] - 1));
        times[id] = 0; /* done */
    }
    free(times);
}

/* The logits that count: the model's, or a copy that is changed; the caller frees *own. */
static const float *adjusted(const float *logits, int64_t vocab, const mri_sampling *how,
                             const mri_seen *seen, float **own)
{
    *own = NULL;
    if (!how->n_bias && !seen->n_banned && !repeats(how) && how->presence_penalty == 0 &&
        how->frequency_penalty == 0)
        return logits;
    float *v = *own = mri_alloc((size_t)vocab * sizeof *v);
    memcpy(v, logits, (size_t)vocab * sizeof *v);
    for (int64_t i = 0; i < how->n_bias; i++)
        if (in_vocab(how->bias[i].id, vocab))
            v[how->bias[i].id] += how->bias[i].add;
    penalise(v, vocab, how, seen);
    for (int64_t i = 0; i < seen->n_banned; i++)
        if (in_vocab(seen->banned[i], vocab))
            v[seen->banned[i]] = -INFINITY;
    return v;
}

bool mri_sampling_is_argmax(const mri_sampling *how)
{
    return how->temperature <= 0 && !how->n_bias && !repeats(how) && how->presence_penalty == 0 &&
           how->frequency_penalty == 0;
}

/* ---- what is kept ---------------------------------------------------------------------------- */

/* The k-th largest value: a heap of k values whose smallest is on top. */
static float kth_largest(const float *v, int64_t n, int64_t k)
{
    float *heap = mri_alloc((size_t)k * sizeof *heap);
    int64_t have = 0;
    for (int64_t i = 0; i < n; i++) {
        float x = isnan(v[i]) ? -INFINITY : v[i];
        int64_t at;
        if (have < k) { /* rises from the end */
            for (at = have++; at && heap[(at - 1) / 2] > x; at = (at - 1) / 2)
                heap[at] = heap[(at - 1) / 2];
        } else if (x > heap[0]) { /* sinks from the top */
            for (at = 0; 2 * at + 1 < k;) {
                int64_t child = 2 * at + 1;
                child += child + 1 < k && heap[child + 1] < heap[child];
                if (heap[child] >= x)
                    break;
                heap[at] = heap[child];
                at = child;
            }
        } else {
            continue;
        }
        heap[at] = x;
    }
    float least = heap[0];
    free(heap);
    return least;
}

/* Falling probability, then rising id: a total order, so that ties have one answer. */
static bool before(const choice *a, const choice *b)
{
    return a->p != b->p ? a->p > b->p : a->id < b->id;
}

/* The last of the smallest set, in that order, whose mass reaches `mass`. Reorders c. */
static choice nucleus(choice *c, int64_t n, double mass)
{
    uint64_t turn = 0;
    while (n > 1) {
        choice pivot = c[(int64_t)(mri_rng_bits((mri_rng){ 0, 0 }, turn++) % (uint64_t)n)];
        double upper = 0; /* mass of those before the pivot */
        int64_t k = 0;
        for (int64_t i = 0; i < n; i++)
            if (before(&c[i], &pivot)) {
                choice t = c[i];
                upper += t.p;
                c[i] = c[k];
                c[k++] = t;
            }
        if (k && upper >= mass) {
            n = k;
            continue;
        }
        if (upper + pivot.p >= mass || k + 1 == n)
            return pivot;
        int64_t m = 0; /* behind it */
        for (int64_t i = k; i < n; i++)
            if (before(&pivot, &c[i]))
                c[m++] = c[i];
        mass -= upper + pivot.p;
        n = m;
    }
    return c[0];
}

static int64_t cut_top_p(choice *c, int64_t n, double top_p)
{
    double sum = 0;
    choice *work = mri_alloc((size_t)n * sizeof *work), last;
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        sum += c[i].p;
    memcpy(work, c, (size_t)n * sizeof *work);
    last = nucleus(work, n, top_p * sum);
    free(work);
    for (int64_t i = 0; i < n; i++)
        if (!before(&last, &c[i]))
            c[kept++] = c[i];
    return kept;
}

static int64_t cut_min_p(choice *c, int64_t n, double least)
{
    int64_t kept = 0;
    for (int64_t i = 0; i < n; i++)
        if (c[i].p >= least)
            c[kept++] = c[i];
    return kept;
}

/* ---- the draw -------------------------------------------------------------------------------- */

static int32_t draw(const choice *c, int64_t n, const mri_sampling *how, uint64_t position,
                    int32_t best)
{
    double kept = 0;
    for (int64_t i = 0; i < n; i++)
        kept += c[i].p;
    double at = mri_rng_uniform(mri_rng_named(how->seed, "sample"), position) * kept;
    int32_t id = best;
    for (int64_t i = 0; i < n; i++) {
        if (c[i].p > 0)
            id = c[i].id;
        if (at < c[i].p)
            break;
        at -= c[i].p;
    }
    return id;
}

int32_t mri_sample_after(const float *logits, int64_t vocab, const mri_sampling *how,
                         const mri_seen *seen, uint64_t position)
{
    float *own;
    const float *v = adjusted(logits, vocab, how, seen, &own);
    int32_t best = greedy(v, vocab);
    if (how->temperature <= 0) {
        free(own);
        return best;
    }
    bool top_k = how->top_k > 0 && how->top_k < vocab;
    float least = top_k ? kth_largest(v, vocab, how->top_k) : -INFINITY;
    choice *c = mri_alloc((size_t)vocab * sizeof *c);
    int64_t n = 0;
    for (int64_t i = 0; i < vocab; i++) {
        if (!(v[i] >= least))
            continue;
        double p = exp(((double)v[i] - v[best]) / how->temperature);
        c[n++] = (choice){ isnan(p) ? 0 : p, (int32_t)i };
    }
    if (how->top_p < 1)
        n = cut_top_p(c, n, how->top_p);
    if (how->min_p > 0)
        n = cut_min_p(c, n, how->min_p); /* the likeliest one's p is 1 here */
    int32_t id = draw(c, n, how, position, best);
    free(c);
    free(own);
    return id;
}

int32_t mri_sample(const float *logits, int64_t vocab, const mri_sampling *how, uint64_t position)
{
    return mri_sample_after(logits, vocab, how, &(mri_seen){ 0 }, position);
}
