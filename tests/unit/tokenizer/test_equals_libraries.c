/* SPDX-License-Identifier: Apache-2.0
 * Ids are those that `tokenizers` and `tiktoken` give, for texts of every kind and with special
 * tokens found or not; and the ids are the text again, but where a normalizer changed it. */
#include "rig.h"

static void equal(tok_handle h, const char *cases, bool back)
{
    FILE *f = fopen(fixture_path(cases), "r");
    cr_assert_not_null(f, "%s", cases);
    uint32_t flags = strstr(cases, "-plain") ? MR_TOK_PLAIN : 0;
    fixture_line l;
    int lines = 0;
    for (; fixture_next(f, &l); lines++) {
        ids got = ids_of(h, flags, l.text, l.n);
        for (size_t i = 0; i < 8 && i < l.n_ids && i < got.n; i++)
            cr_assert_eq(got.v[i], l.first[i], "%s, line %d: id %zu is %d, wants %d", cases,
                         lines + 1, i, got.v[i], l.first[i]);
        cr_assert_eq(got.n, l.n_ids, "%s, line %d: %lu ids, wants %lu", cases, lines + 1,
                     (unsigned long)got.n, (unsigned long)l.n_ids);
        if (got.n)
            cr_assert_eq(mri_hash(0, got.v, got.n * 4), l.hash,
                         "%s, line %d: ids differ past the "
                         "first 8",
                         cases, lines + 1);
        uint64_t n = 0;
        char *text = mri_alloc(l.n + 64);
        cr_assert_eq(h.ops->decode(h.tok, got.v, got.n, text, l.n + 64, &n, NULL), 0);
        if (back)
            cr_assert(n == l.n && !memcmp(text, l.text, n), "%s, line %d does not come back", cases,
                      lines + 1);
        free(text);
        free(l.text);
        free(got.v);
    }
    cr_assert_gt(lines, 50);
    fclose(f);
}

/* <rstrip> and <both> take spaces along, which are then no text any more: such a text does not
 * come back whole, so the hf tokenizers are not asked for it here. */
Test(equals, split_by_three_patterns_as_deepseek)
{
    tok_handle h = fixture_tok("hf", "deepseek.json", NULL, NULL);
    equal(h, "deepseek.txt", false);
    equal(h, "deepseek-plain.txt", false);
}

Test(equals, whole_pieces_before_merges_as_llama4)
{
    tok_handle h = fixture_tok("hf", "llama4.json", NULL, NULL);
    equal(h, "llama4.txt", false);
    equal(h, "llama4-plain.txt", false);
}

Test(equals, gpt2s_pattern_on_normalized_text)
{
    tok_handle h = fixture_tok("hf", "nfc.json", NULL, NULL);
    equal(h, "nfc.txt", false);
    equal(h, "nfc-plain.txt", false);
}

Test(equals, rank_files_by_each_pattern)
{
    static const char *const names[] = { "kimi", "llama4", "gpt2" };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        char *pattern = mri_format("pattern=%s", names[i]);
        tok_handle h = fixture_tok("tiktoken", "ranks.txt", pattern, NULL);
        equal(h, mri_format("tiktoken-%s.txt", names[i]), true);
        equal(h, mri_format("tiktoken-%s-plain.txt", names[i]), true);
        h.ops->destroy(h.tok);
    }
}

Test(equals, a_pattern_written_out_is_the_named_one)
{
    tok_handle h = fixture_tok("tiktoken", "ranks.txt",
                               "pattern='s|'t|'re|'ve|'m|'ll|'d| ?[\\p{Letter}]+| ?\\p{N}+|"
                               " ?[^\\s\\p{L}\\p{gc=N}]+|\\s+(?!\\S)|\\s+",
                               NULL);
    equal(h, "tiktoken-gpt2.txt", true);
}
