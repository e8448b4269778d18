/* SPDX-License-Identifier: Apache-2.0
 * A broken rank file, a tokenizer_config.json that does not go with it, a pattern that means
 * something else to PCRE2: one error each, with the line or the key. */
#include "rig.h"

/* the 256 bytes in order, then `more` */
static void write_ranks(const char *dir, int bytes, const char *more)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    mri_str b = { 0 };
    for (int i = 0; i < bytes; i++)
        mri_str_fmt(&b, "%c%c== %d\n", digit[i >> 2], digit[(i & 3) << 4], i);
    mri_str_add(&b, more);
    temp_write(dir, "tiktoken.model", b.s, b.n);
    mri_str_free(&b);
}

static mr_status open_in(const char *dir, const char *one, mr_err *err)
{
    const mr_unit *u = unit_load("tokenizer", "tiktoken");
    const mr_tokenizer_ops *ops = u->table;
    const char *words[] = { mri_format("dir=%s", dir), one, NULL };
    void *tok = NULL;
    mr_status st = ops->create(&unit_host, unit_config(u, words), &tok, err);
    if (!st)
        ops->destroy(tok);
    return st;
}

static void expect(const char *dir, const char *one, mr_status code, const char *what)
{
    mr_err err = MR_ERR_INIT;
    mr_status st = open_in(dir, one, &err);
    cr_assert_eq(st, code, "%s: %d %s", what, st, err.what);
    cr_assert(strstr(err.what, what), "'%s' lacks '%s'", err.what, what);
    cr_assert(strstr(err.what, "tokenizer/tiktoken") && *err.hint, "%s | %s", err.what, err.hint);
}

Test(bad_ranks, each_line_that_is_none)
{
    static const struct {
        int bytes;
        const char *more, *what;
    } cases[] = {
        { 0, "", "it holds no token" },
        { 256, "YWI=\n", "line 257 of the rank file is no token and rank: YWI=" },
        { 256, "YWI= \n", "line 257 of the rank file is no token and rank" },
        { 256, "YWI= x\n", "line 257 of the rank file has the rank x" },
        { 256, "YWI= -1\n", "has the rank -1" },
        { 256, "YWI= 256.5\n", "has the rank 256.5" },
        { 256, "YWI= 99999999999999999999999\n", "ranks are whole numbers below 16777215" },
        { 256, "YW?= 256\n", "line 257 of the rank file has a token that is no base64: YW?=" },
        { 256, "YWI 256\n", "no base64" },
        { 256, "YW=I 256\n", "no base64" },
        { 256, "YWJ= 256\n", "no base64" }, /* bits are left over */
        { 256, " 256\n", "no base64" },
        { 256, "YWI= 255\n", "two tokens of the rank file have the rank 255" },
        { 256, "YWI= 16000000\n", "reaches rank 16000000 with 257 tokens: some ranks are missing" },
        { 255, "YWI= 255\n", "the byte 0xff has no rank" },
        { 256, "YWI= 256\nYWIg", "line 258" }, /* cut */
    };
    const char *dir = temp_dir();
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        write_ranks(dir, cases[i].bytes, cases[i].more);
        expect(dir, "pattern=gpt2", MR_E_STORE_FORMAT, cases[i].what);
    }
    write_ranks(dir, 256, "YWI= 256\r\n\nYWJj 257");
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(open_in(dir, "pattern=gpt2", &err), 0, "%s", err.what);
    temp_clean(dir);
}

Test(bad_ranks, names_that_do_not_go_with_the_ranks)
{
    static const struct {
        const char *decoder, *what;
    } cases[] = {
        { "{\"x\":{\"content\":\"<s>\"}}", "\"x\" is no id that it may have" },
        { "{\"-1\":{\"content\":\"<s>\"}}", "\"-1\" is no id" },
        { "{\"256x\":{\"content\":\"<s>\"}}", "\"256x\" is no id" },
        { "{\"9999999\":{\"content\":\"<s>\"}}", "\"9999999\" is no id" },
        { "{\"7\":{\"content\":\"<s>\"}}", "\"7\" is the id of another token" },
        { "{\"256\":\"<s>\"}", "\"256\" has no \"content\"" },
        { "{\"256\":{\"content\":\"\"}}", "\"256\" has no \"content\"" },
    };
    const char *dir = temp_dir();
    write_ranks(dir, 256, "");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *json = mri_format("{\"added_tokens_decoder\":%s}", cases[i].decoder);
        temp_write(dir, "tokenizer_config.json", json, strlen(json));
        expect(dir, "pattern=gpt2", MR_E_STORE_FORMAT, cases[i].what);
    }
    temp_write(dir, "tokenizer_config.json", "{\"a\"", 4);
    expect(dir, "pattern=gpt2", MR_E_STORE_FORMAT, "tokenizer_config.json:1:");
    temp_clean(dir);
}

Test(bad_ranks, patterns_that_would_mean_something_else)
{
    static const struct {
        const char *pattern, *what;
    } cases[] = {
        { "pattern=a(b", "does not compile" },
        { "pattern=a\\", "ends in a backslash" },
        { "pattern=\\K", "the escape \\K" },
        { "pattern=[\\W]", "\\W inside a class" },
        { "pattern=[^a&&b]", "&& in a negated or a nested class" },
        { "pattern=[a&&b]", "&& without a class behind it" },
        { "pattern=[a&&[b]&&[c]]", "more than one class behind &&" },
        { "pattern=[a[^b]]", "a negated class inside a class" },
        { "pattern=[[[[[[a]]]]]]", "nested deeper than 4" },
        { "pattern=\\p{L", "a property without its }" },
        { "pattern=\\p", "\\p without a property" },
        { "pattern=\\u{110000000}", "\\u without its digits" },
        { "pattern=(?s:.)", "the flag s" },
        { "pattern=[[:alpha]", "[: without its :]" },
    };
    const char *dir = temp_dir();
    write_ranks(dir, 256, "");
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++)
        expect(dir, cases[i].pattern, MR_E_TOKENIZER, cases[i].what);
    expect(dir, NULL, MR_E_PROFILE_MISSING, "no pattern is given");
    temp_clean(dir);
}

/* An expression of one's own may need more of PCRE2's stack than it gets. */
Test(bad_ranks, a_pattern_that_gives_up_on_a_text_is_an_error)
{
    enum { BYTES = 1 << 23 };
    const char *dir = temp_dir();
    write_ranks(dir, 256, "");
    const char *words[] = { mri_format("dir=%s", dir), "pattern=(?:(?=[^1])[a-z])*!|[^!]", NULL };
    tok_handle h = tok_open("tiktoken", words);
    char *text = mri_alloc(BYTES);
    memset(text, 'a', BYTES);
    mr_err err = MR_ERR_INIT;
    uint64_t n = 0;
    cr_assert_eq(h.ops->encode(h.tok, text, BYTES, NULL, 0, &n, &err), MR_E_TOKENIZER);
    cr_assert(strstr(err.what, "the pattern fails on the text"), "%s", err.what);
    cr_assert(strstr(err.detail, "8388608 bytes") && *err.hint, "%s", err.detail);
    /* and the working set that it used is as good as new */
    cr_assert_eq(h.ops->encode(h.tok, "ab!", 3, NULL, 0, &n, &err), 0, "%s", err.what);
    cr_assert_eq(n, 3);
    h.ops->destroy(h.tok);
    free(text);
    temp_clean(dir);
}

Test(bad_ranks, no_folder_no_file)
{
    const char *dir = temp_dir();
    expect(dir, "pattern=gpt2", MR_E_STORE_IO, "tokenizer.model");
    temp_clean(dir);
}
