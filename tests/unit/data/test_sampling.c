/* SPDX-License-Identifier: Apache-2.0
 * data/indexed draws, orders, splits and blends as numpy and Megatron do, index for index. */
#include "fixture.h"
#include "plugins/data/indexed/blend.h"
#include "plugins/data/indexed/numpy_random.h"
#include "plugins/data/indexed/sampling.h"

static int64_t *widen(const uint32_t *v, int64_t n)
{
    int64_t *w = mri_alloc((size_t)n * sizeof *w);
    for (int64_t i = 0; i < n; i++)
        w[i] = v[i];
    return w;
}

Test(sampling, shuffles_equal_numpys)
{
    FILE *f = fixture_open("shuffles.txt");
    char word[64];
    int cases = 0;
    for (; fixture_word(f, word); cases++) {
        numpy_random r;
        numpy_random_seed(&r, (uint32_t)fixture_int(f));
        int64_t n = fixture_int(f);
        uint32_t *v = mri_alloc((size_t)n * sizeof *v);
        for (int again = 0; again < 2; again++) {
            for (int64_t i = 0; i < n; i++)
                v[i] = (uint32_t)i;
            numpy_random_shuffle(&r, v, (uint64_t)n);
            fixture_expect(f, again ? "second" : "first", widen(v, n), n,
                           mri_format("case %d", cases));
        }
    }
    cr_assert_eq(cases, 24);
    fclose(f);
}

Test(sampling, indices_equal_megatrons)
{
    FILE *f = fixture_open("samples.txt");
    char word[64];
    int cases = 0;
    for (; fixture_word(f, word); cases++) {
        int64_t docs = fixture_int(f), low = fixture_int(f), span = fixture_int(f);
        int32_t *lengths = fixture_lengths(docs, low, span);
        sampling_request q = { .lengths = (unsigned char *)lengths };
        q.first = fixture_int(f);
        q.last = fixture_int(f);
        q.seq = fixture_int(f);
        q.samples = fixture_int(f);
        q.seed = (uint32_t)fixture_int(f);
        q.partial = (int32_t)fixture_int(f);
        int64_t apart = fixture_int(f);
        const char *where = mri_format("case %d", cases);

        sampling s;
        sampling_plan plan;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(sampling_make_plan(&q, "docs", &plan, &err), 0, "%s: %s", where, err.detail);
        cr_assert_eq(plan.apart < plan.samples, apart, "%s", where);
        sampling_place(&s, &plan, mri_alloc(sampling_bytes(&plan)));
        sampling_build(&s, &q);
        cr_assert(sampling_check(&s, &q), "%s", where);

        int64_t n = 2 * (plan.samples + 1), *starts = mri_alloc((size_t)n * sizeof *starts);
        for (int64_t i = 0; i <= plan.samples; i++) {
            starts[2 * i] = s.starts[i].place;
            starts[2 * i + 1] = s.starts[i].token;
        }
        fixture_expect(f, "documents", widen(s.documents, plan.documents), plan.documents, where);
        fixture_expect(f, "starts", starts, n, where);
        fixture_expect(f, "shuffle", widen(s.shuffle, plan.samples), plan.samples, where);
    }
    cr_assert_eq(cases, 19);
    fclose(f);
}

Test(sampling, what_cannot_be_indexed_is_refused)
{
    int32_t lengths[] = { 4, 4 };
    sampling_request q = { .lengths = (unsigned char *)lengths, .last = 2, .seq = 8 };
    sampling_plan plan;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(sampling_make_plan(&q, "docs", &plan, &err), MR_E_DATA_SHORT);
    cr_assert(strstr(err.detail, "8 tokens; 9 are needed"), "%s", err.detail);
    q.seq = 7;
    cr_assert_eq(sampling_make_plan(&q, "docs", &plan, &err), 0);
    const int64_t large[] = { (int64_t)1 << 32, INT64_MAX / 16, INT64_MAX };
    for (int i = 0; i < 3; i++) {
        q.samples = large[i];
        cr_assert_eq(sampling_make_plan(&q, "docs", &plan, &err), MR_E_UNSUPPORTED);
    }
}

Test(sampling, blends_follow_the_greedy_rule)
{
    FILE *f = fixture_open("blends.txt");
    char word[64];
    int blends = 0, sums = 0, splits = 0;
    while (fixture_word(f, word)) {
        const char *where = mri_format("%s %d", word, blends + sums + splits);
        if (!strcmp(word, "weighted") || !strcmp(word, "exhaustive")) {
            bool weighted = word[0] == 'w';
            uint32_t n = (uint32_t)fixture_int(f);
            int64_t size = weighted ? fixture_int(f) : 0, sizes[64], taken[64];
            double weights[64];
            for (uint32_t i = 0; i < n; i++) {
                if (weighted)
                    weights[i] = fixture_float(f);
                else
                    size += sizes[i] = fixture_int(f);
            }
            uint16_t *which = mri_alloc((size_t)size * sizeof *which);
            int64_t *sample = mri_alloc((size_t)size * 8), *wide = mri_alloc((size_t)size * 8);
            for (int twice = 0; weighted && twice < 2;
                 twice++) { /* as the builder, then the blend */
                double sum = blend_sum(weights, n);
                for (uint32_t i = 0; i < n; i++)
                    weights[i] /= sum;
            }
            if (weighted)
                blend_weighted(weights, n, size, which, sample, taken);
            else
                blend_exhaustive(sizes, n, which, sample, taken);
            for (int64_t k = 0; k < size; k++)
                wide[k] = which[k];
            fixture_expect(f, "which", wide, size, where);
            fixture_expect(f, "sample", sample, size, where);
            blends++;
        } else if (!strcmp(word, "sum")) {
            int64_t n = fixture_int(f);
            double *v = mri_alloc((size_t)n * sizeof *v);
            for (int64_t i = 0; i < n; i++)
                v[i] = 1.0 / (double)(i + 3);
            cr_assert_eq(blend_sum(v, (uint64_t)n), fixture_float(f), "the sum of %ld", (long)n);
            sums++;
        } else {
            cr_assert_str_eq(word, "split");
            char text[64];
            int64_t bounds[SPLITS + 1];
            cr_assert(fixture_word(f, text));
            int64_t n = fixture_int(f);
            cr_assert_eq(blend_split(text, n, bounds, NULL), 0);
            for (int i = 0; i <= SPLITS; i++)
                cr_assert_eq(bounds[i], fixture_int(f), "%s of %ld, bound %d", text, (long)n, i);
            splits++;
        }
    }
    cr_assert(blends == 10 && sums == 12 && splits == 56);
    fclose(f);
}

Test(sampling, odd_splits_are_refused)
{
    static const char *const bad[] = { "",    "a",   "1,2,3,4", "0,0,0", "-1,2",
                                       "1;2", "nan", "inf",     "1,,2" };
    int64_t bounds[SPLITS + 1];
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(blend_split(bad[i], 10, bounds, &err), MR_E_PROFILE_VALUE, "%s", bad[i]);
        cr_assert_not_null(strstr(err.hint, "949,50,1"));
    }
}
