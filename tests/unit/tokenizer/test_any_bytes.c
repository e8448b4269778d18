/* SPDX-License-Identifier: Apache-2.0
 * Any bytes come back from their ids: what is no UTF-8 is split off and touches nothing else.
 * No input is more than n log n: a quadratic step would take hours here. */
#include "rig.h"

static uint32_t state = 12345;

static uint32_t next(uint32_t below)
{
    state = state * 1664525 + 1013904223;
    return (state >> 8) % below;
}

static void comes_back(tok_handle h, const char *text, uint64_t n, const char *what)
{
    ids got = ids_of(h, MR_TOK_PLAIN, text, n);
    char *back = mri_alloc(n + 1);
    uint64_t m = 0;
    cr_assert_eq(h.ops->decode(h.tok, got.v, got.n, back, n, &m, NULL), 0);
    cr_assert(m == n && !memcmp(back, text, n), "%s does not come back", what);
    free(back);
    free(got.v);
}

Test(any_bytes, random_bytes_and_broken_characters_come_back)
{
    static const char *const parts[] = { "the ",
                                         "\xff",
                                         "\xc3",
                                         "\xe2\x82",
                                         "\xf0\x9f\x98",
                                         "\x80",
                                         "\xed\xa0\x80",
                                         "\xc0\xaf",
                                         "\xf4\x90\x80\x80",
                                         "\xc3\xa9",
                                         "\xe4\xb8\xad",
                                         "\xf0\x9f\x99\x82",
                                         "  ",
                                         "\n",
                                         "A",
                                         "12" };
    const tok_handle hs[] = { fixture_tok("hf", "deepseek.json", NULL, NULL),
                              fixture_tok("hf", "llama4.json", NULL, NULL),
                              fixture_tok("tiktoken", "ranks.txt", "pattern=kimi", NULL) };
    for (int round = 0; round < 600; round++) {
        char text[256];
        uint64_t n = 0;
        while (n < 200 && next(40)) {
            const char *p = parts[next(sizeof parts / sizeof *parts)];
            if (next(3)) {
                memcpy(text + n, p, strlen(p));
                n += strlen(p);
            } else {
                text[n++] = (char)next(256);
            }
        }
        for (size_t i = 0; i < sizeof hs / sizeof *hs; i++)
            comes_back(hs[i], text, n, mri_format("round %d, tokenizer %zu", round, i));
    }
}

Test(any_bytes, a_broken_byte_leaves_its_neighbours_alone)
{
    tok_handle h = fixture_tok("tiktoken", "ranks.txt", "pattern=llama4", NULL);
    ids whole = ids_of(h, 0, " the\xff the", 9), left = ids_of(h, 0, " the", 4),
        bad = ids_of(h, 0, "\xff", 1);
    cr_assert_eq(bad.n, 1);
    cr_assert_eq(whole.n, 2 * left.n + 1);
    cr_assert_eq(memcmp(whole.v, left.v, left.n * 4), 0);
    cr_assert_eq(whole.v[left.n], bad.v[0]);
    cr_assert_eq(memcmp(whole.v + left.n + 1, left.v, left.n * 4), 0);
}

Test(any_bytes, a_long_run_of_anything_is_no_slower_by_the_byte)
{
    static const char *const runs[] = { " ",    "a",   "A",         "aA",       "\xe4\xb8\xad",
                                        "\n",   " \n", "e\xcc\x81", "\xcc\x81", "\xff",
                                        "\xc3", "!",   "1",         "<",        "<|begin",
                                        " \t" };
    const tok_handle hs[] = { fixture_tok("hf", "deepseek.json", NULL, NULL),
                              fixture_tok("hf", "nfc.json", NULL, NULL),
                              fixture_tok("tiktoken", "ranks.txt", "pattern=kimi", NULL) };
    enum { BYTES = 400000 };
    char *text = mri_alloc(BYTES + 8);
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        uint64_t n = 0, len = strlen(runs[i]);
        for (; n + len <= BYTES; n += len)
            memcpy(text + n, runs[i], len);
        for (size_t k = 0; k < sizeof hs / sizeof *hs; k++) {
            uint64_t got = 0;
            mr_err err = MR_ERR_INIT;
            cr_assert_eq(hs[k].ops->encode(hs[k].tok, text, n, NULL, 0, &got, &err), 0, "%s",
                         err.what);
            cr_assert(got > 0 && got <= n);
        }
    }
    free(text);
}
