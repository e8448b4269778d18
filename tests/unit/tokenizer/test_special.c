/* SPDX-License-Identifier: Apache-2.0
 * Special tokens: found in text or not, shown or not, and what stands for begin and end. */
#include "rig.h"

static mr_tokenizer_info info_of(tok_handle h)
{
    mr_tokenizer_info info = { .size = sizeof info };
    cr_assert_eq(h.ops->info(h.tok, &info, NULL), 0);
    return info;
}

Test(special, the_files_say_what_begins_and_ends)
{
    mr_tokenizer_info hf = info_of(fixture_tok("hf", "deepseek.json", NULL, NULL));
    cr_assert(hf.vocab == 566 && hf.bos == 560 && hf.eos == 561 && hf.pad == 562 && hf.eod == 561);
    /* nothing puts Kimi's [BOS] in front, so it is none to a caller who would */
    mr_tokenizer_info kimi = info_of(fixture_tok("tiktoken", "ranks.txt", NULL, NULL));
    cr_assert(kimi.vocab == 560 + 256 && kimi.bos == -1 && kimi.eos == 561 && kimi.pad == 563 &&
              kimi.eod == 561);
}

Test(special, the_profile_has_the_last_word)
{
    mr_tokenizer_info i = info_of(fixture_tok("hf", "llama4.json", "bos=none", "eod=<pad>"));
    cr_assert(i.bos == -1 && i.eos == 561 && i.eod == 562);
    i = info_of(
        fixture_tok("tiktoken", "ranks.txt", "bos=<|begin|>", "eos=<|reserved_token_600|>"));
    cr_assert(i.bos == 560 && i.eos == 600 && i.eod == 600);
}

Test(special, words_of_a_stranger_are_words)
{
    static const char text[] = "x<|end|>y";
    static const struct {
        const char *plugin, *file;
    } all[] = { { "hf", "deepseek.json" }, { "tiktoken", "ranks.txt" } };
    for (size_t i = 0; i < 2; i++) {
        tok_handle h = fixture_tok(all[i].plugin, all[i].file, NULL, NULL);
        ids found = ids_of(h, 0, text, sizeof text - 1);
        ids plain = ids_of(h, MR_TOK_PLAIN, text, sizeof text - 1);
        cr_assert(found.n == 3 && found.v[1] == 561);
        for (uint64_t k = 0; k < plain.n; k++)
            cr_assert_lt(plain.v[k], 560);
        /* and encode() is the one or the other as the option says */
        tok_handle off = fixture_tok(all[i].plugin, all[i].file, "special=false", NULL);
        uint64_t n = 0;
        cr_assert_eq(off.ops->encode(off.tok, text, sizeof text - 1, NULL, 0, &n, NULL), 0);
        cr_assert_eq(n, plain.n);
        cr_assert_eq(h.ops->encode(h.tok, text, sizeof text - 1, NULL, 0, &n, NULL), 0);
        cr_assert_eq(n, 3);
    }
}

Test(special, a_reader_sees_none_of_them)
{
    tok_handle h = fixture_tok("hf", "llama4.json", NULL, NULL);
    ids got = ids_of(h, 0, "<|begin|>the<word>fox<|end|>", 28);
    char text[64];
    uint64_t n = 0;
    cr_assert_eq(h.ops->decode_as(h.tok, MR_TOK_PLAIN, got.v, got.n, text, 64, &n, NULL), 0);
    cr_assert(n == 12 && !memcmp(text, "the<word>fox", 12), "%.*s", (int)n, text);
    cr_assert_eq(h.ops->decode_as(h.tok, 0, got.v, got.n, text, 64, &n, NULL), 0);
    cr_assert(n == 28 && !memcmp(text, "<|begin|>the<word>fox<|end|>", 28));
}

Test(special, strangers_among_ids_are_named)
{
    tok_handle h = fixture_tok("hf", "llama4.json", NULL, NULL);
    int32_t bad[] = { 5, 566, 7 };
    mr_err err = MR_ERR_INIT;
    uint64_t n;
    cr_assert_eq(h.ops->decode(h.tok, bad, 3, NULL, 0, &n, &err), MR_E_TOKENIZER);
    cr_assert(strstr(err.what, "566") && strstr(err.detail, "token 1 of 3") &&
              strstr(err.detail, "[0, 566)"));
    bad[1] = -1;
    cr_assert_eq(h.ops->decode(h.tok, bad, 3, NULL, 0, &n, &err), MR_E_TOKENIZER);
}
