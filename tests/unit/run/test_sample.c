/* SPDX-License-Identifier: Apache-2.0
 *
 * Sampling: what the filters leave is what transformers' processors and vLLM's penalties leave
 * (sample_cases.h), each id is drawn on exactly its share of the unit interval, a large vocabulary
 * is cut as a sorted one would be, and the odd cases have an answer.
 */
#include "core/base/rng.h"
#include "core/run/sample.h"
#include "core/base/base.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include "sample_cases.h"

enum { N_CASES = sizeof cases / sizeof *cases, V = sizeof cases[0].p / sizeof cases[0].p[0] };

static mri_sampling how_of(size_t i)
{
    const double *h = cases[i].how;
    return (mri_sampling){ h[0], (int64_t)h[1], h[2], 3, h[3], h[4], h[5], h[6], NULL, 0 };
}

static double at(const mri_sampling *how, uint64_t position) /* the number that a draw goes by */
{
    return mri_rng_uniform(mri_rng_named(how->seed, "sample"), position);
}

/* Positions whose number falls near the borders of the shares, and all over: the id that is drawn
 * is the one whose share, in the order of the ids, holds the number. */
Test(sample, draws_fall_where_the_libraries_probabilities_say)
{
    for (size_t i = 0; i < N_CASES; i++) {
        mri_sampling how = how_of(i);
        mri_seen seen = { cases[i].ids, 4, 10, NULL, 0 };
        int hit[V] = { 0 };
        for (uint64_t position = 0; position < 4000; position++) {
            double u = at(&how, position), lo = 0;
            int32_t id = mri_sample_after(cases[i].logits, V, &how, &seen, position);
            cr_assert(id >= 0 && id < V);
            cr_assert_gt(cases[i].p[id], 0, "case %zu draws %d, which is cut", i, id);
            for (int32_t k = 0; k < id; k++)
                lo += cases[i].p[k];
            cr_assert(u >= lo - 1e-6 && u <= lo + cases[i].p[id] + 1e-6,
                      "case %zu: %.9g draws %d, whose share is %.9g to %.9g", i, u, id, lo,
                      lo + cases[i].p[id]);
            hit[id]++;
        }
        for (int k = 0; k < V; k++)
            cr_assert(cases[i].p[k] < 0.005 || hit[k], "case %zu never draws %d", i, k);
    }
}

/* The same cases with a filter turned off are not the same: the comparison can fail. */
Test(sample, filters_matter)
{
    size_t differ = 0;
    for (size_t i = 1; i < N_CASES; i++) {
        mri_sampling plain = { 1, 0, 1, 3 }, how = how_of(i);
        mri_seen seen = { cases[i].ids, 4, 10, NULL, 0 };
        size_t n = 0;
        for (uint64_t position = 0; position < 400; position++)
            n += mri_sample(cases[i].logits, V, &plain, position) !=
                 mri_sample_after(cases[i].logits, V, &how, &seen, position);
        differ += n > 0;
    }
    cr_assert_eq(differ, N_CASES - 1);
}

static int falling(const void *x, const void *y)
{
    float a = *(const float *)x, b = *(const float *)y;
    return (a < b) - (a > b);
}

/* Against a full sort, 200,000 ids, many of them equal (as bf16 logits are). */
Test(sample, a_large_vocabulary_is_cut_as_if_it_were_sorted)
{
    enum { BIG = 200000 };
    float *logits = mri_alloc(BIG * sizeof *logits), *sorted = mri_alloc(BIG * sizeof *sorted);
    for (uint64_t i = 0; i < BIG; i++) {
        double x = mri_rng_normal((mri_rng){ 5, 1 }, i) * 3;
        sorted[i] = logits[i] = (float)(floor(x * 64) / 64);
    }
    qsort(sorted, BIG, sizeof *sorted, falling);
    static const int64_t ks[] = { 1, 7, 50, 1000, 150000 };
    for (size_t t = 0; t < 5; t++) {
        mri_sampling how = { 20, ks[t], 1, 9 };
        for (uint64_t p = 0; p < 12; p++)
            cr_assert_geq(logits[mri_sample(logits, BIG, &how, p)], sorted[ks[t] - 1]);
    }
    static const double ps[] = { 0.001, 0.3, 0.9, 0.999 };
    for (size_t t = 0; t < 4; t++) {
        double sum = 0, mass = 0;
        for (size_t i = 0; i < BIG; i++)
            sum += exp((double)sorted[i] - sorted[0]);
        size_t n = 0;
        while (n < BIG && mass < ps[t] * sum)
            mass += exp((double)sorted[n++] - sorted[0]);
        mri_sampling how = { 1, 0, ps[t], 9 };
        for (uint64_t p = 0; p < 12; p++)
            cr_assert_geq(logits[mri_sample(logits, BIG, &how, p)], sorted[n - 1]);
    }
    free(logits);
    free(sorted);
}

Test(sample, bias_and_bans_come_before_the_likeliest_is_taken)
{
    const float logits[6] = { 0, 3, 2, 3, -1, 1 };
    const mri_bias bias[] = { { 4, 10 }, { 1, -INFINITY }, { 99, 50 }, { -1, 50 } };
    const int32_t banned[] = { 4, 3, 77 };
    mri_sampling how = { 0, 0, 1, 1 };
    cr_assert_eq(mri_sample(logits, 6, &how, 0), 1, "the lowest of those that tie");
    cr_assert(mri_sampling_is_argmax(&how));
    how.bias = bias;
    how.n_bias = 4;
    cr_assert(!mri_sampling_is_argmax(&how));
    cr_assert_eq(mri_sample(logits, 6, &how, 0), 4);
    mri_seen seen = { NULL, 0, 0, banned, 3 };
    cr_assert_eq(mri_sample_after(logits, 6, &how, &seen, 0), 2);
    how.temperature = 1;
    for (uint64_t p = 0; p < 200; p++) {
        int32_t id = mri_sample_after(logits, 6, &how, &seen, p);
        cr_assert(id != 4 && id != 3 && id != 1, "%d", id);
    }
}

Test(sample, odd_logits_have_an_answer)
{
    float logits[4] = { -INFINITY, -INFINITY, -INFINITY, -INFINITY };
    mri_sampling how = { 1, 2, 0.9, 1, 0.1, 1.5, 1, 1, NULL, 0 };
    const int32_t ids[] = { 0, 1, -7, 900 };
    mri_seen seen = { ids, 2, 4, NULL, 0 };
    cr_assert_eq(mri_sample_after(logits, 4, &how, &seen, 0), 0);
    logits[2] = NAN;
    logits[3] = 1;
    for (uint64_t p = 0; p < 50; p++)
        cr_assert_eq(mri_sample_after(logits, 4, &how, &seen, p), 3);
    float one[1] = { 5 };
    how.top_p = 0;
    cr_assert_eq(mri_sample(one, 1, &how, 1), 0);
}

/* A draw depends on its seed and position alone, not on what was drawn before. */
Test(sample, a_draw_is_a_function_of_seed_and_position)
{
    mri_sampling a = { 1, 0, 1, 11 }, b = a;
    int same = 0, n = 400;
    b.seed = 12;
    for (int p = 0; p < n; p++) {
        int32_t x = mri_sample(cases[0].logits, V, &a, (uint64_t)p);
        cr_assert_eq(x, mri_sample(cases[0].logits, V, &a, (uint64_t)p));
        same += x == mri_sample(cases[0].logits, V, &b, (uint64_t)p);
    }
    cr_assert_lt(same, n / 2 + n / 4, "two seeds agree on %d of %d", same, n);
}
