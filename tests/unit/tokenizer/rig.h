/* SPDX-License-Identifier: Apache-2.0
 *
 * rig.h - what the tokenizer tests share: a tokenizer of fixtures/ opened, the lines that
 * make_fixtures.py wrote, ids of a text.
 */
#ifndef TEST_TOKENIZER_RIG_H
#define TEST_TOKENIZER_RIG_H
#include "../data/unit.h"

static inline char *fixture_path(const char *name)
{
    return mri_format("%s/tests/unit/tokenizer/fixtures/%s", getenv("MRUN_SOURCE"), name);
}

/* "hf", "deepseek.json", more options */
static inline tok_handle fixture_tok(const char *plugin, const char *file, const char *one,
                                     const char *two)
{
    const char *words[] = { mri_format("file=%s", fixture_path(file)), one, one ? two : NULL,
                            NULL };
    return tok_open(plugin, words);
}

typedef struct ids {
    int32_t *v;
    uint64_t n;
} ids;

/* Asked for the size first, then with just that room; not a word is written past it. */
static inline ids ids_of(tok_handle h, uint32_t flags, const char *text, uint64_t n)
{
    mr_err err = MR_ERR_INIT;
    ids out = { NULL, 0 };
    uint64_t again = 0;
    cr_assert_eq(h.ops->encode_as(h.tok, flags, text, n, NULL, 0, &out.n, &err), 0, "%s", err.what);
    out.v = mri_alloc((out.n + 1) * sizeof *out.v);
    out.v[out.n] = -77;
    cr_assert_eq(h.ops->encode_as(h.tok, flags, text, n, out.v, out.n, &again, &err), 0, "%s",
                 err.what);
    cr_assert(again == out.n && out.v[out.n] == -77);
    return out;
}

typedef struct fixture_line {
    char *text; /* repeated already */
    uint64_t n, n_ids;
    unsigned long long hash;
    int32_t first[8];
} fixture_line;

static inline bool fixture_next(FILE *f, fixture_line *out)
{
    static char row[1 << 16], hex[1 << 15];
    int at = 0, step;
    unsigned long times, count;
    if (!fgets(row, sizeof row, f))
        return false;
    cr_assert_eq(sscanf(row, "%32767s %lu %lu %llx%n", hex, &times, &count, &out->hash, &at), 4);
    size_t n = hex[0] == '-' ? 0 : strlen(hex) / 2;
    out->n = n * times;
    out->n_ids = count;
    out->text = mri_alloc(out->n + 1);
    for (size_t i = 0; i < out->n; i++) {
        unsigned byte;
        cr_assert_eq(sscanf(hex + 2 * (i % n), "%2x", &byte), 1);
        out->text[i] = (char)byte;
    }
    for (size_t i = 0; i < 8 && i < count; i++, at += step)
        cr_assert_eq(sscanf(row + at, "%d%n", &out->first[i], &step), 1);
    return true;
}

#endif
