/* SPDX-License-Identifier: Apache-2.0
 *
 * sample.c - see sample.h. Of a vocabulary of 200,000 ids a few are kept: nothing here sorts all of
 * them. top-k is a heap of k values over one pass; top-p finds by the masses of buckets how far down
 * it reaches, and parts what is in reach around a pivot, as quickselect does. The draw walks the kept ids in rising
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
    float most = -INFINITY; /* a NaN is never more */
    for (int64_t i = 0; i < vocab; i++)
        if (logits[i] > most) {
            most = logits[i];
            best = i;
        }
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
    float *heap = mri_grow(NULL, (size_t)k * sizeof *heap);
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

/* Keeps the smallest set whose mass reaches `mass`, in the order of the ids. */
static int64_t cut_top_p(choice *c, int64_t n, double mass)
{
    choice *work = mri_grow(NULL, (size_t)n * sizeof *work), last;
    int64_t kept = 0;
    memcpy(work, c, (size_t)n * sizeof *work);
    last = nucleus(work, n, mass);
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

/* ---- the weights of a whole vocabulary ------------------------------------------------------- */

typedef double lanes __attribute__((vector_size(16)));
typedef int64_t bits __attribute__((vector_size(16)));
enum { LANES = 2, BUCKETS = 2048, A_NAT = 64 /* buckets */ };

/* exp(x) of x <= 0, to 1e-15; 0 below -700 and of NaN. 2^n by the exponent's bits, the rest, at most
 * ln 2 / 2 on either side, by its series. */
static lanes exp_lanes(lanes x)
{
    static const double series[] = { 1 / 39916800., 1 / 3628800., 1 / 362880., 1 / 40320., 1 / 5040.,
                                     1 / 720., 1 / 120., 1 / 24., 1 / 6., 1 / 2., 1, 1 };
    const lanes shift = { 0x1.8p52, 0x1.8p52 };
    bits ok = x >= -700;
    x = (lanes)((bits)x & ok);
    lanes t = x * 0x1.71547652b82fep0 + shift, n = t - shift;
    lanes r = (x - n * 0x1.62e42fefa0000p-1) - n * 0x1.cf79abc9e3b3ap-40;
    lanes p = r * (1 / 479001600.) + series[0];
    for (size_t i = 1; i < sizeof series / sizeof *series; i++)
        p = p * r + series[i];
    return (lanes)(((bits)p + ((bits)t << 52)) & ok);
}

/* p[i] = exp((v[i] - max) / t), with a zero behind an odd number; returns their sum. */
static double weigh(const float *v, int64_t n, double max, double t, double *p)
{
    lanes sum = { 0 };
    for (int64_t i = 0; i < n; i += LANES) {
        lanes x = { v[i], i + 1 < n ? v[i + 1] : -INFINITY };
        x = exp_lanes((x - max) / t);
        memcpy(p + i, &x, sizeof x);
        sum += x;
    }
    return sum[0] + sum[1];
}

static int64_t bucket(double p_log)
{
    double b = -p_log * A_NAT;
    return b < BUCKETS - 1 ? (int64_t)b : BUCKETS - 1;
}

/* Of all ids, those that top-p may keep: the masses of buckets of like probability say how far down
 * it reaches, so that few are looked at one by one. */
static choice *nucleus_of_all(const float *v, int64_t vocab, double max, const mri_sampling *how,
                              int64_t *n)
{
    double *p = mri_grow(NULL, (size_t)(vocab + LANES) * sizeof *p), mass[BUCKETS] = { 0 };
    int64_t count[BUCKETS] = { 0 }, last = 0, room = 0;
    double want = how->top_p * weigh(v, vocab, max, how->temperature, p), reached = 0;
    for (int64_t i = 0; i < vocab; i++) {
        if (p[i] > 0) {
            int64_t b = bucket(((double)v[i] - max) / how->temperature);
            mass[b] += p[i];
            count[b]++;
        }
    }
    for (; last < BUCKETS; last++) {
        reached += mass[last];
        room += count[last];
        if (reached >= want && room)
            break;
    }
    choice *c = mri_grow(NULL, (size_t)(room + 1) * sizeof *c);
    *n = 0;
    for (int64_t i = 0; i < vocab; i++)
        if (p[i] > 0 && bucket(((double)v[i] - max) / how->temperature) <= last)
            c[(*n)++] = (choice){ p[i], (int32_t)i };
    free(p);
    if (*n)
        *n = cut_top_p(c, *n, want);
    return c;
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

/* Nothing is cut: the weights as they lie. */
static int32_t draw_of_all(const float *v, int64_t vocab, double max, const mri_sampling *how,
                           uint64_t position, int32_t best)
{
    double *p = mri_grow(NULL, (size_t)(vocab + LANES) * sizeof *p);
    double at = weigh(v, vocab, max, how->temperature, p) *
                mri_rng_uniform(mri_rng_named(how->seed, "sample"), position);
    int32_t id = best;
    for (int64_t i = 0; i < vocab; i++) {
        if (p[i] > 0)
            id = (int32_t)i;
        if (at < p[i])
            break;
        at -= p[i];
    }
    free(p);
    return id;
}

/* The ids whose logits are `least` and more, which are not many. */
static choice *chosen(const float *v, int64_t vocab, float least, double max, double t, int64_t *n)
{
    MRI_VEC(choice) c = { 0 };
    for (int64_t i = 0; i < vocab; i++) {
        if (!(v[i] >= least))
            continue;
        double p = exp(((double)v[i] - max) / t);
        MRI_PUSH(&c, ((choice){ isnan(p) ? 0 : p, (int32_t)i }));
    }
    *n = (int64_t)c.n;
    return c.v;
}

static int32_t sample(const float *v, int64_t vocab, const mri_sampling *how, uint64_t position)
{
    int32_t best = greedy(v, vocab);
    double max = v[best], t = how->temperature, sum = 0;
    bool top_k = how->top_k > 0 && how->top_k < vocab, top_p = how->top_p < 1;
    choice *c = NULL;
    int64_t n = 0;
    if (t <= 0 || !isfinite(max))
        return best;
    if (top_k) {
        c = chosen(v, vocab, kth_largest(v, vocab, how->top_k), max, t, &n);
        for (int64_t i = 0; i < n; i++)
            sum += c[i].p;
        if (top_p)
            n = cut_top_p(c, n, how->top_p * sum);
    } else if (top_p) {
        c = nucleus_of_all(v, vocab, max, how, &n);
    } else if (how->min_p > 0) { /* a little below, against rounding; the cut itself follows */
        c = chosen(v, vocab, (float)(max + t * log(how->min_p) - 1e-3 * (t + fabs(max))), max, t,
                   &n);
    } else {
        return draw_of_all(v, vocab, max, how, position, best);
    }
    if (how->min_p > 0)
        n = cut_min_p(c, n, how->min_p); /* the likeliest one's p is 1 */
    best = draw(c, n, how, position, best);
    free(c);
    return best;
}

int32_t mri_sample_after(const float *logits, int64_t vocab, const mri_sampling *how,
                         const mri_seen *seen, uint64_t position)
{
    float *own;
    int32_t id = sample(adjusted(logits, vocab, how, seen, &own), vocab, how, position);
    free(own);
    return id;
}

int32_t mri_sample(const float *logits, int64_t vocab, const mri_sampling *how, uint64_t position)
{
    return mri_sample_after(logits, vocab, how, &(mri_seen){ 0 }, position);
}
