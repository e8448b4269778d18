/* SPDX-License-Identifier: Apache-2.0
 * Any bytes survive the byte tokenizer; its special ids are no bytes. */
#include "unit.h"

Test(bytes, every_byte_string_round_trips)
{
    tok_handle h = tok_open("bytes", NULL);
    char text[1000], back[1000];
    int32_t ids[1000];
    uint64_t n = 0, m = 0;
    for (int i = 0; i < 1000; i++)
        text[i] = (char)(i * 7 + i / 256); /* every value, zero included */
    cr_assert_eq(h.ops->encode(h.tok, text, 1000, NULL, 0, &n, NULL), 0);
    cr_assert_eq(n, 1000);
    cr_assert_eq(h.ops->encode(h.tok, text, 1000, ids, 1000, &n, NULL), 0);
    cr_assert_eq(h.ops->decode(h.tok, ids, n, NULL, 0, &m, NULL), 0);
    cr_assert_eq(m, 1000);
    cr_assert_eq(h.ops->decode(h.tok, ids, n, back, 1000, &m, NULL), 0);
    cr_assert_eq(memcmp(text, back, 1000), 0);
    h.ops->destroy(h.tok);
}

Test(bytes, writes_no_more_than_the_room_given)
{
    tok_handle h = tok_open("bytes", NULL);
    int32_t ids[3] = { -7, -7, -7 };
    char text[3] = { '?', '?', '?' };
    uint64_t n = 0;
    cr_assert_eq(h.ops->encode(h.tok, "abc", 3, ids, 2, &n, NULL), 0);
    cr_assert(n == 3 && ids[0] == 'a' && ids[1] == 'b' && ids[2] == -7);
    ids[2] = 'c';
    cr_assert_eq(h.ops->decode(h.tok, ids, 3, text, 2, &n, NULL), 0);
    cr_assert(n == 3 && text[1] == 'b' && text[2] == '?');
}

Test(bytes, specials_follow_the_bytes_when_asked)
{
    static const struct {
        const char *words[3];
        int64_t vocab;
        int32_t bos, eod;
    } cases[] = {
        { { NULL }, 256, -1, -1 },
        { { "bos=true", NULL }, 257, 256, -1 },
        { { "eod=true", NULL }, 257, -1, 256 },
        { { "bos=true", "eod=true", NULL }, 258, 256, 257 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        tok_handle h = tok_open("bytes", cases[i].words);
        mr_tokenizer_info info = { .size = sizeof info };
        cr_assert_eq(h.ops->info(h.tok, &info, NULL), 0);
        cr_assert_eq(info.vocab, cases[i].vocab);
        cr_assert_eq(info.bos, cases[i].bos);
        cr_assert_eq(info.eod, cases[i].eod);
        cr_assert_eq(info.eos, cases[i].eod);
        cr_assert_eq(info.pad, -1);
    }
}

Test(bytes, specials_decode_to_nothing_and_strangers_fail)
{
    const char *const words[] = { "eod=true", NULL };
    tok_handle h = tok_open("bytes", words);
    int32_t ids[] = { 'h', 'i', 256, '!' };
    char text[4];
    uint64_t n = 0;
    cr_assert_eq(h.ops->decode(h.tok, ids, 4, text, 4, &n, NULL), 0);
    cr_assert(n == 3 && !memcmp(text, "hi!", 3));
    mr_err err = MR_ERR_INIT;
    ids[1] = 257;
    cr_assert_eq(h.ops->decode(h.tok, ids, 4, text, 4, &n, &err), MR_E_TOKENIZER);
    cr_assert(strstr(err.what, "257") && strstr(err.detail, "[0, 257)"));
    ids[1] = -1;
    cr_assert_eq(h.ops->decode(h.tok, ids, 4, text, 4, &n, &err), MR_E_TOKENIZER);
}

Test(bytes, an_older_host_gets_the_fields_it_knows)
{
    tok_handle h = tok_open("bytes", NULL);
    mr_tokenizer_info info = { .size = offsetof(mr_tokenizer_info, bos), .bos = 77 };
    cr_assert_eq(h.ops->info(h.tok, &info, NULL), 0);
    cr_assert(info.vocab == 256 && info.bos == 77);
    cr_assert_eq(info.size, offsetof(mr_tokenizer_info, bos));
}
