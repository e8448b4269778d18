/* SPDX-License-Identifier: Apache-2.0
 * Text shown while it is made never ends in half a character, and is all there in the end. */
#include "core/run/text.h"
#include "rig.h"

static void whole(const char *s, size_t n)
{
    cr_assert_eq(mri_utf8_unfinished(s, n), 0, "half a character is shown");
}

Test(text_stream, no_half_character_is_shown_id_by_id)
{
    static const char text[] =
        "e\xcc\x81 \xe4\xb8\xad\xe6\x96\x87\xe3\x8d\xbf \xf0\x9f\x91\xa9\xe2\x80"
        "\x8d\xf0\x9f\x94\xac \xf0\x92\x80\x80 the \xc3\xb1\xef\xbf\xbf.";
    const tok_handle hs[] = { fixture_tok("hf", "llama4.json", NULL, NULL),
                              tok_open("bytes", NULL) };
    for (size_t k = 0; k < 2; k++) {
        mri_text_stream s = { hs[k].ops, hs[k].tok, "", 0 };
        mri_str all = { 0 };
        int32_t v[256];
        uint64_t n = 0, held = 0;
        cr_assert_eq(hs[k].ops->encode(hs[k].tok, text, sizeof text - 1, v, 256, &n, NULL), 0);
        for (uint64_t i = 0; i < n; i++) {
            mri_str step = { 0 };
            cr_assert_eq(mri_text_next(&s, &v[i], 1, &step, NULL), 0);
            if (step.n)
                whole(step.s, step.n);
            held += !step.n;
            mri_str_addn(&all, step.s ? step.s : "", step.n);
            mri_str_free(&step);
        }
        cr_assert_gt(held, 5, "the text has characters of several ids");
        mri_text_end(&s, &all);
        cr_assert_str_eq(all.s, text);
        mri_str_free(&all);
    }
}

Test(text_stream, what_is_no_character_is_not_held_for_ever)
{
    static const struct {
        const char *s;
        size_t n, held;
    } cases[] = {
        { "", 0, 0 },         { "a", 1, 0 },
        { "\xc3", 1, 1 },     { "\xc3\xa9", 2, 0 },
        { "\xe4\xb8", 2, 2 }, { "\xf0\x9f\x99", 3, 3 },
        { "\x80", 1, 0 },     { "\x80\x80\x80\x80", 4, 0 },
        { "\xff", 1, 0 },     { "\xc0", 1, 0 },
        { "\xed\xa0", 2, 0 }, { "\xe0\x80", 2, 0 },
        { "\xf4\x90", 2, 0 }, { "\xf0\x8f", 2, 0 },
        { "a\xe4", 2, 1 },    { "\xc3\xa9\x80", 3, 0 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        cr_assert_eq(mri_utf8_unfinished(cases[i].s, cases[i].n), cases[i].held, "case %zu", i);
}

Test(text_stream, a_reply_cut_in_the_middle_still_ends)
{
    tok_handle h = tok_open("bytes", NULL);
    mri_text_stream s = { h.ops, h.tok, "", 0 };
    mri_str all = { 0 };
    const int32_t v[] = { 'a', 0xe4, 0xb8 };
    cr_assert_eq(mri_text_next(&s, v, 3, &all, NULL), 0);
    cr_assert(all.n == 1 && all.s[0] == 'a');
    mri_text_end(&s, &all);
    cr_assert(all.n == 3 && !memcmp(all.s, "a\xe4\xb8", 3));
}
