/* SPDX-License-Identifier: Apache-2.0
 *
 * fixture.h - reads what make_fixtures.py wrote: words in text files; an array as its length,
 * hash and first eight values. Our array is judged by the hash; the eight make a failure
 * readable.
 */
#ifndef TEST_FIXTURE_H
#define TEST_FIXTURE_H
#include "unit.h"

static inline FILE *fixture_open(const char *name)
{
    char *path = mri_format("%s/tests/unit/data/fixtures/%s", getenv("MRUN_SOURCE"), name);
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f, "%s", path);
    return f;
}

static inline bool fixture_word(FILE *f, char word[64]) /* false at the end */
{
    return fscanf(f, "%63s", word) == 1;
}

static inline int64_t fixture_int(FILE *f)
{
    long long x;
    cr_assert_eq(fscanf(f, "%lld", &x), 1);
    return x;
}

static inline double fixture_float(FILE *f)
{
    char word[64];
    cr_assert(fixture_word(f, word));
    return strtod(word, NULL);
}

static inline void fixture_expect(FILE *f, const char *name, const int64_t *v, int64_t n,
                                  const char *where)
{
    char word[64];
    unsigned long long want;
    cr_assert(fixture_word(f, word) && !strcmp(word, name), "%s: %s is not %s", where, word, name);
    cr_assert_eq(fixture_int(f), n, "%s: length of %s is %ld", where, name, (long)n);
    cr_assert_eq(fscanf(f, "%llx", &want), 1);
    for (int i = 0; i < 8; i++) {
        int64_t x = fixture_int(f);
        if (i < n)
            cr_assert_eq(v[i], x, "%s: %s[%d] is %ld, wants %ld", where, name, i, (long)v[i],
                         (long)x);
    }
    cr_assert_eq(mri_hash(0, v, (size_t)n * 8), want, "%s: %s differs past its first 8", where,
                 name);
}

/* make_fixtures.py's lengths_of() */
static inline int32_t *fixture_lengths(int64_t n, int64_t low, int64_t span)
{
    int32_t *v = mri_alloc((size_t)n * sizeof *v);
    for (int64_t i = 0; i < n; i++)
        v[i] = (int32_t)(low + (i * 7919 + 13 * i * i) % span);
    return v;
}

#endif
