/* SPDX-License-Identifier: Apache-2.0
 * data/text: what is held out, in which order the rest is visited, and that a number is all
 * it takes to find a sample again. */
#include "unit.h"
#include <math.h>

enum { S = 16, N = 1000 };

/* A text of n bytes in which every window of 4 bytes is unique: a counter in base 90. */
static const char *counter_text(const char *dir, size_t n)
{
    char *p = mri_alloc(n + 4);
    for (size_t i = 0; i < n; i += 4) {
        size_t k = i / 4;
        p[i] = '\n';
        p[i + 1] = (char)(33 + k / 90 / 90 % 90);
        p[i + 2] = (char)(33 + k / 90 % 90);
        p[i + 3] = (char)(33 + k % 90);
    }
    return temp_write(dir, "text.txt", p, n);
}

static data_handle open_text(const char *dir, size_t n, int64_t seq, int64_t seed,
                             const char *extra)
{
    char *text = mri_format("path=%s", counter_text(dir, n));
    tok_handle tok = tok_open("bytes", NULL);
    mr_data_env env = {
        .size = sizeof env, .seq = seq, .seed = seed, .tokenizer = tok.ops, .tok = tok.tok
    };
    data_handle h;
    mr_err err = MR_ERR_INIT;
    const char *const words[] = { text, extra, NULL };
    cr_assert_eq(data_open(&h, "text", &env, words, &err), 0, "%s; %s", err.what, err.detail);
    return h;
}

/* Where in the text a sample's window starts: the counter tells. */
static int64_t place(const mr_sample *s)
{
    int64_t i = 0;
    while (s->tokens[i] != '\n')
        i++;
    const int32_t *t = s->tokens + i;
    return 4 * ((t[1] - 33) * 8100 + (t[2] - 33) * 90 + (t[3] - 33)) - i;
}

Test(text, an_epoch_predicts_no_token_twice)
{
    const char *dir = temp_dir();
    for (int shuffled = 0; shuffled < 2; shuffled++) {
        data_handle h = open_text(dir, N, S, 3, shuffled ? "shuffle=true" : "shuffle=false");
        mr_data_set set = data_set(&h, 0);
        mr_sample s = sample_new(S);
        int64_t offset[3];
        cr_assert_eq(set.samples, shuffled ? (950 - S) / S : (950 - 1) / S);
        cr_assert_eq(set.tokens, set.samples * S);
        for (int64_t epoch = 0; epoch < 3; epoch++) {
            char seen[N] = { 0 };
            offset[epoch] = N;
            for (int64_t i = 0; i < set.samples; i++) {
                data_read(&h, 0, epoch * set.samples + i, &s);
                int64_t at = place(&s);
                offset[epoch] = at < offset[epoch] ? at : offset[epoch];
                if (!shuffled)
                    cr_assert_eq(at, i * S);
                for (int64_t j = 0; j < S; j++) {
                    cr_assert_lt(at + j + 1, 950, "the held-out part is not trained on");
                    cr_assert_eq(seen[at + j + 1]++, 0, "token %ld again", (long)(at + j + 1));
                    cr_assert_eq(s.loss_weight[j], 1);
                    cr_assert_eq(s.positions[j], j);
                    cr_assert_eq(s.seq_start[j], 0);
                    if (j + 1 < S)
                        cr_assert_eq(s.targets[j], s.tokens[j + 1]);
                }
            }
        }
        cr_assert_eq(offset[0] != offset[1] || offset[1] != offset[2], shuffled,
                     "windows differ between epochs if shuffled");
        h.ops->destroy(h.data);
    }
    temp_clean(dir);
}

Test(text, the_order_differs_by_epoch_and_seed)
{
    const char *dir = temp_dir();
    data_handle a = open_text(dir, 40000, S, 1, NULL), b = open_text(dir, 40000, S, 2, NULL);
    int64_t n = data_set(&a, 0).samples, same_epoch = 0, same_seed = 0, in_order = 0, last = -1;
    mr_sample s = sample_new(S);
    for (int64_t i = 0; i < n; i++) {
        data_read(&a, 0, i, &s);
        int64_t first = place(&s) / S;
        data_read(&a, 0, n + i, &s);
        same_epoch += place(&s) / S == first;
        data_read(&b, 0, i, &s);
        same_seed += place(&s) / S == first;
        in_order += first == last + 1;
        last = first;
    }
    /* a random pairing agrees about once in all */
    cr_assert_lt(same_epoch, 12);
    cr_assert_lt(same_seed, 12);
    cr_assert_lt(in_order, 12);
    temp_clean(dir);
}

Test(text, resuming_finds_the_identical_samples)
{
    const char *dir = temp_dir();
    data_handle a = open_text(dir, N, S, 9, NULL), b = open_text(dir, N, S, 9, NULL);
    mr_sample x = sample_new(S), y = sample_new(S);
    int64_t far = (int64_t)1 << 50;
    for (int64_t i = 0; i < 200; i++) /* a in order, b from the end */
        data_read(&a, 0, i, &x);
    for (int64_t i = 199; i >= 0; i--) {
        data_read(&a, 0, i, &x);
        data_read(&b, 0, i, &y);
        cr_assert(sample_equal(&x, &y, S));
    }
    data_read(&a, 0, far, &x);
    data_read(&b, 0, far, &y);
    cr_assert(sample_equal(&x, &y, S));
    temp_clean(dir);
}

Test(text, validation_predicts_every_token_but_the_first_once)
{
    const char *dir = temp_dir();
    for (int64_t seq = 1; seq < 60; seq++) {
        data_handle h = open_text(dir, N, seq, 1, NULL);
        mr_data_set set = data_set(&h, 1);
        cr_assert_str_eq(set.name, "valid");
        cr_assert_eq(set.tokens, 49);
        cr_assert_eq(set.samples, (49 + seq - 1) / seq);
        cr_assert_float_eq(set.bytes_per_token, 1, 0);
        mr_sample s = sample_new(seq);
        FILE *f = fopen(mri_format("%s/text.txt", dir), "rb");
        fseek(f, 950, SEEK_SET);
        int before = fgetc(f);
        for (int64_t i = 0; i < set.samples; i++) {
            data_read(&h, 1, i, &s);
            for (int64_t j = 0; j < seq; j++) {
                int c = i * seq + j < 49 ? fgetc(f) : -1;
                cr_assert_eq(s.loss_weight[j], c >= 0);
                cr_assert_eq(s.tokens[j], c >= 0 ? before : 0);
                cr_assert_eq(s.targets[j], c >= 0 ? c : 0);
                before = c;
            }
        }
        cr_assert_eq(fgetc(f), EOF);
        fclose(f);
        data_read(&h, 1, set.samples, &s); /* filling up a batch counts nothing */
        for (int64_t j = 0; j < seq; j++)
            cr_assert_eq(s.loss_weight[j], 0);
        h.ops->destroy(h.data);
    }
    temp_clean(dir);
}

Test(text, a_text_of_one_sequence_is_enough)
{
    const char *dir = temp_dir();
    data_handle h = open_text(dir, S + 1, S, 1, "valid_fraction=0");
    mr_data_set set = data_set(&h, 0);
    cr_assert_eq(set.samples, 1);
    mr_sample s = sample_new(S);
    for (int64_t i = 0; i < 5; i++) {
        data_read(&h, 0, i, &s);
        cr_assert_eq(place(&s), 0);
    }
    mr_data_set none = { .size = sizeof none };
    cr_assert_eq(h.ops->set(h.data, 1, &none, NULL), MR_E_ARG);
    temp_clean(dir);
}

Test(text, the_split_spares_characters)
{
    const char *dir = temp_dir();
    tok_handle tok = tok_open("bytes", NULL);
    mr_data_env env = { .size = sizeof env, .seq = 2, .tokenizer = tok.ops, .tok = tok.tok };
    /* 8 bytes split at floor(8 * 0.5) = 4; the character stands around byte 4, or does not */
    static const struct {
        const char *text;
        int64_t train;
    } cases[] = {
        { "abcdefgh", 4 },
        { "ab\xc3\xa9"
          "defg",
          4 },
        { "abc\xc3\xa9"
          "efg",
          3 },
        { "ab\xe2\x82\xac"
          "fgh",
          2 },
        { "abc\xe2\x82\xac"
          "gh",
          3 },
        { "a\xf0\x9f\x98\x80"
          "fgh",
          1 },
        { "abc\xc3"
          "efgh",
          4 },
        { "abc\xa9\xa9"
          "fgh",
          4 },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = mri_format("path=%s", temp_write(dir, "t", cases[i].text, 8));
        const char *const words[] = { path, "valid_fraction=0.5", "shuffle=false", NULL };
        data_handle h;
        mr_err err = MR_ERR_INIT;
        mr_status st = data_open(&h, "text", &env, words, &err);
        if (cases[i].train < 3) { /* no sequence of 2 fits: the error tells the length */
            cr_assert_eq(st, MR_E_DATA_SHORT);
            cr_assert(strstr(err.what, mri_format("is %ld tokens", (long)cases[i].train)), "%s",
                      err.what);
            continue;
        }
        cr_assert_eq(st, 0, "case %zu: %s", i, err.what);
        cr_assert_eq(data_set(&h, 1).tokens, 8 - cases[i].train - 1, "case %zu", i);
    }
    temp_clean(dir);
}

Test(text, a_folder_is_its_files_in_sorted_order)
{
    const char *dir = temp_dir();
    tok_handle tok = tok_open("bytes", NULL);
    mr_data_env env = { .size = sizeof env, .seq = 9, .tokenizer = tok.ops, .tok = tok.tok };
    mkdir(mri_format("%s/b", dir), 0755);
    mkdir(mri_format("%s/.git", dir), 0755);
    temp_write(dir, "c.txt", "ghi!", 4);
    temp_write(dir, "a.txt", "abc", 3);
    temp_write(dir, "b/x.txt", "def", 3);
    temp_write(dir, "b/skip.md", "???", 3);
    temp_write(dir, "txt", "???", 3); /* no suffix */
    temp_write(dir, ".hidden.txt", "???", 3);
    temp_write(dir, ".git/z.txt", "???", 3);
    char *path = mri_format("path=%s", dir);
    const char *const words[] = { path, "suffixes=.txt", "valid_fraction=0", "shuffle=false",
                                  NULL };
    data_handle h;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(data_open(&h, "text", &env, words, &err), 0, "%s", err.what);
    mr_sample s = sample_new(9);
    data_read(&h, 0, 0, &s);
    for (int j = 0; j < 9; j++)
        cr_assert_eq(s.tokens[j], "abcdefghi"[j]);
    cr_assert_eq(s.targets[8], '!');
    const char *const none[] = { path, "suffixes=rst,.tex", NULL };
    cr_assert_eq(data_open(&h, "text", &env, none, &err), MR_E_DATA_OPEN);
    cr_assert(strstr(err.what, dir) && strstr(err.hint, "rst"));
    temp_clean(dir);
}

Test(text, the_checksum_is_checked)
{
    const char *dir = temp_dir();
    tok_handle tok = tok_open("bytes", NULL);
    mr_data_env env = { .size = sizeof env, .seq = 2, .tokenizer = tok.ops, .tok = tok.tok };
    /* runs of "a" with lengths around the padding's borders, by sha256sum */
    static const struct {
        size_t n;
        const char *hex;
    } runs[] = {
        { 55, "9f4390f8d30c2dd92ec9f095b65e2b9ae9b0a925a5258e241c9f1e910f734318" },
        { 56, "b35439a4ac6f0948b6d6f9e3c6af0f5f590ce20f1bde7090ef7970686ec6738a" },
        { 64, "ffe054fe7ae0cb6dc65c3af9b61d5209f439851db43d0ba5997337df154668eb" },
        { 119, "31eba51c313a5c08226adf18d4a359cfdfd8d2e816b13f4af952f7ea6584dcfb" },
    };
    char text[128];
    memset(text, 'a', sizeof text);
    data_handle h;
    for (size_t i = 0; i < sizeof runs / sizeof *runs; i++) {
        char *path = mri_format("path=%s", temp_write(dir, "a", text, runs[i].n));
        char *sum = mri_format("sha256=%s", runs[i].hex);
        const char *const right[] = { path, sum, NULL };
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(data_open(&h, "text", &env, right, &err), 0, "%s %s", err.what, err.detail);
        sum[7 + 63] ^= 1;
        const char *const wrong[] = { path, sum, NULL };
        cr_assert_eq(data_open(&h, "text", &env, wrong, &err), MR_E_DATA_FORMAT);
        cr_assert(strstr(err.detail, runs[i].hex) && strstr(err.detail, sum + 7), "names both");
    }
    temp_clean(dir);
}

Test(text, bad_texts_fail_by_name)
{
    const char *dir = temp_dir();
    tok_handle tok = tok_open("bytes", NULL);
    mr_data_env env = { .size = sizeof env, .seq = 100, .tokenizer = tok.ops, .tok = tok.tok };
    static const char zeros[200] = "abc";
    char *text = mri_alloc(200);
    memset(text, 'x', 200);
    const struct {
        const char *path, *extra;
        mr_status st;
        const char *says;
    } cases[] = {
        { mri_format("%s/none", dir), NULL, MR_E_DATA_OPEN, "cannot open" },
        { temp_write(dir, "empty", "", 0), NULL, MR_E_DATA_SHORT, "is empty" },
        { temp_write(dir, "zeros", zeros, 200), NULL, MR_E_DATA_FORMAT, "byte 3 is zero" },
        { temp_write(dir, "zeros", zeros, 200), "binary=true", MR_OK, "" },
        { temp_write(dir, "t105", text, 105), NULL, MR_E_DATA_SHORT, "99 tokens" },
        { temp_write(dir, "t107", text, 107), NULL, MR_OK, "" },
        { temp_write(dir, "t120", text, 120), "valid_fraction=0.001", MR_E_DATA_SHORT,
          "valid part" },
        { "/dev/null", NULL, MR_E_DATA_OPEN, "neither a file nor a folder" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *path = mri_format("path=%s", cases[i].path);
        const char *const words[] = { path, cases[i].extra, NULL };
        data_handle h;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(data_open(&h, "text", &env, words, &err), cases[i].st, "%s: %s", path,
                     err.what);
        cr_assert(strstr(err.what, cases[i].says), "%s", err.what);
        if (cases[i].st)
            cr_assert(strstr(err.what, cases[i].path), "%s", err.what);
        if (!strcmp(cases[i].says, "99 tokens")) /* and 107 bytes do, as the next case shows */
            cr_assert(strstr(err.detail, "takes 107 bytes"), "%s", err.detail);
    }
    temp_clean(dir);
}

/* A tokenizer that is no byte tokenizer, though its vocabulary is as small: "aa" is one id. */
static mr_status pairs_info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)tok;
    (void)err;
    *out = (mr_tokenizer_info) { sizeof *out, 0, 257, -1, -1, -1, -1 };
    return MR_OK;
}

static mr_status pairs_encode(void *tok, const char *text, uint64_t n, int32_t *ids, uint64_t cap,
                              uint64_t *n_ids, mr_err *err)
{
    (void)tok;
    (void)err;
    uint64_t k = 0;
    for (uint64_t i = 0; i < n; i++, k++) {
        bool pair = i + 1 < n && text[i] == 'a' && text[i + 1] == 'a';
        if (k < cap)
            ids[k] = pair ? 256 : (unsigned char)text[i];
        i += pair;
    }
    *n_ids = k;
    return MR_OK;
}

static mr_status pairs_decode(void *tok, const int32_t *ids, uint64_t n, char *text, uint64_t cap,
                              uint64_t *n_text, mr_err *err)
{
    (void)tok;
    (void)text;
    (void)cap;
    (void)err;
    *n_text = 0;
    for (uint64_t i = 0; i < n; i++)
        *n_text += ids[i] == 256 ? 2 : 1;
    return MR_OK;
}

Test(text, other_tokenizers_encode_each_part_once)
{
    static const mr_tokenizer_ops pairs = {
        .size = sizeof pairs, .info = pairs_info, .encode = pairs_encode, .decode = pairs_decode
    };
    const char *dir = temp_dir();
    const char *path = temp_write(dir, "t", "aabaaabaacaacb", 14); /* split inside "aa" at 7 */
    const char *const words[] = { mri_format("path=%s", path), "valid_fraction=0.5",
                                  "shuffle=false", NULL };
    mr_data_env env = { .size = sizeof env, .seq = 4, .tokenizer = &pairs };
    data_handle h;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(data_open(&h, "text", &env, words, &err), 0, "%s; %s", err.what, err.detail);
    static const int32_t train[] = { 256, 'b', 256, 'a', 'b' },
                         valid[] = { 256, 'c', 256, 'c', 'b' };
    mr_sample s = sample_new(4);
    for (int set = 0; set < 2; set++) {
        const int32_t *want = set ? valid : train;
        data_read(&h, (uint32_t)set, 0, &s);
        cr_assert_eq(data_set(&h, (uint32_t)set).samples, 1);
        for (int j = 0; j < 4; j++)
            cr_assert(s.tokens[j] == want[j] && s.targets[j] == want[j + 1], "set %d, %d", set, j);
        /* 7 bytes less the 2 of the first token, over the 4 that are predicted */
        cr_assert_eq(data_set(&h, (uint32_t)set).bytes_per_token, 5.0 / 4);
    }
    h.ops->destroy(h.data);
    temp_clean(dir);
}
