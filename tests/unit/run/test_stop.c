/* SPDX-License-Identifier: Apache-2.0
 *
 * Words that end a text: found wherever the pieces' borders are, and no part of one is shown
 * before it is known to be none.
 */
#include "core/run/text.h"
#include <criterion/criterion.h>
#include <string.h>

static const char *const words[] = { "END", "\n\nUser:", "aab", "NDX", "pqrs", "qr" };

/* Everything in pieces of `piece` bytes; what is shown up to the end of each is checked too. */
static char *run(const char *text, size_t piece, size_t n_words, const char **hit)
{
    mri_stop_stream s = { words, n_words, { 0 }, NULL };
    mri_str out = { 0 };
    size_t n = strlen(text);
    for (size_t at = 0; at < n; at += piece) {
        mri_stop_next(&s, text + at, n - at < piece ? n - at : piece, &out);
        for (size_t w = 0; w < n_words; w++)
            cr_assert(!out.s || !strstr(out.s, words[w]), "'%s' is shown", words[w]);
        cr_assert(!out.n || !strncmp(out.s, text, out.n), "shown: '%s'", out.s);
    }
    *hit = s.hit;
    mri_stop_end(&s, &out);
    mri_stop_free(&s);
    return mri_str_take(&out);
}

Test(stop, words_are_found_across_pieces)
{
    static const struct {
        const char *text, *shown, *hit;
    } row[] = {
        { "one END two", "one ", "END" }, { "one EN", "one EN", NULL }, { "", "", NULL },
        { "xEENDNDX", "xE", "END" }, { "aaab", "a", "aab" }, { "aa\n\nUser", "aa\n\nUser", NULL },
        { "hi\n\nUser: x END", "hi", "\n\nUser:" }, { "ENDX", "", "END" },
        { "NDENNDX", "NDEN", "NDX" }, { "opqrs", "op", "qr" }, { "\n\n\nUser:", "\n", "\n\nUser:" },
    };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        for (size_t piece = 1; piece < 13; piece++) {
            const char *hit;
            char *shown = run(row[i].text, piece, 6, &hit);
            cr_assert_str_eq(shown, row[i].shown, "'%s' by %zu", row[i].text, piece);
            cr_assert(hit == row[i].hit || (hit && row[i].hit && !strcmp(hit, row[i].hit)),
                      "'%s' by %zu: %s", row[i].text, piece, hit);
        }
}

/* What cannot become a word any more is shown at once. */
Test(stop, no_more_is_held_than_may_become_a_word)
{
    mri_stop_stream s = { words, 6, { 0 }, NULL };
    mri_str out = { 0 };
    mri_stop_next(&s, "abcE", 4, &out);
    cr_assert_str_eq(out.s, "abc");
    mri_stop_next(&s, "N", 1, &out);
    cr_assert_str_eq(out.s, "abc");
    mri_stop_next(&s, "x", 1, &out);
    cr_assert_str_eq(out.s, "abcENx");
    mri_stop_next(&s, "\n\nUse", 5, &out);
    cr_assert_str_eq(out.s, "abcENx");
    mri_stop_end(&s, &out);
    cr_assert_str_eq(out.s, "abcENx\n\nUse");
    mri_stop_free(&s);
    mri_str_free(&out);
}

Test(stop, without_words_all_is_shown)
{
    const char *hit;
    cr_assert_str_eq(run("one END two", 3, 0, &hit), "one END two");
    cr_assert_null(hit);
}
