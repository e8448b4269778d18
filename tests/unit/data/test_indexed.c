/* SPDX-License-Identifier: Apache-2.0
 * data/indexed, from the outside: samples, borders and weights; sets and blends; the cache;
 * and every way in which a pair of files can be wrong. */
#include "core/store/indexed_write.h"
#include "fixture.h"
#include <dirent.h>
#include <unistd.h>

enum { EOD = 256, VOCAB = 257 };

/* A tokenizer of which only the special ids matter. */
static mr_tokenizer_info info_of = { sizeof info_of, 0, VOCAB, -1, EOD, -1, EOD };

static mr_status fake_info(void *tok, mr_tokenizer_info *out, mr_err *err)
{
    (void)tok;
    (void)err;
    *out = info_of;
    return MR_OK;
}
static const mr_tokenizer_ops fake = { .size = sizeof fake, .info = fake_info };

static mr_data_env env_of(int64_t seq, int64_t seed, int64_t train, int64_t valid)
{
    return (mr_data_env) { .size = sizeof(mr_data_env),
                           .seq = seq,
                           .seed = seed,
                           .train_samples = train,
                           .valid_samples = valid,
                           .tokenizer = &fake };
}

/* make_fixtures.py's token() */
static int32_t token(int64_t document, int64_t at, int64_t length, int64_t eod_every)
{
    if (at == length - 1 || (eod_every && at % eod_every == eod_every - 1))
        return EOD;
    return (int32_t)((document * 31 + at * 7) % 250);
}

static const char *write_set(const char *dir, const char *name, int64_t docs, int64_t low,
                             int64_t span, int64_t eod_every)
{
    char *prefix = mri_format("%s/%s", dir, name);
    int32_t *lengths = fixture_lengths(docs, low, span), ids[4096];
    mri_indexed_writer *w;
    cr_assert_eq(mri_indexed_create(prefix, MRI_INDEXED_U16, &w, NULL), 0);
    for (int64_t d = 0; d < docs; d++) {
        for (int64_t i = 0; i < lengths[d]; i++)
            ids[i] = token(d, i, lengths[d], eod_every);
        cr_assert_eq(mri_indexed_sequence(w, ids, (uint64_t)lengths[d], NULL), 0);
        mri_indexed_end_document(w);
    }
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    return prefix;
}

static data_handle open_indexed(const mr_data_env *env, const char *const *words)
{
    data_handle h;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(data_open(&h, "indexed", env, words, &err), 0, "%s; %s", err.what, err.detail);
    return h;
}

Test(indexed, samples_masks_and_positions_equal_megatrons)
{
    FILE *f = fixture_open("items.txt");
    const char *dir = temp_dir();
    char word[64];
    int cases = 0;
    for (; fixture_word(f, word); cases++) {
        int64_t docs = fixture_int(f), low = fixture_int(f), span = fixture_int(f);
        int64_t seq = fixture_int(f), wanted = fixture_int(f), seed = fixture_int(f);
        int64_t eod_every = fixture_int(f), flags = fixture_int(f);
        info_of.pad = (int32_t)fixture_int(f);
        char *path = mri_format("path=%s", write_set(dir, "set", docs, low, span, eod_every));
        const char *const words[] = { path,
                                      "split=1",
                                      flags & 1 ? "reset_positions=true" : "reset_positions=false",
                                      flags & 2 ? "reset_attention=true" : "reset_attention=false",
                                      flags & 4 ? "eod_mask_loss=true" : "eod_mask_loss=false",
                                      NULL };
        mr_data_env env = env_of(seq, seed, wanted, 0);
        data_handle h = open_indexed(&env, words);
        mr_sample s = sample_new(seq);
        MRI_VEC(int64_t) got = { 0 };
        for (int64_t i = 0; i < wanted; i++) {
            data_read(&h, 0, i, &s);
            const int32_t *rows[] = { s.tokens, s.targets, s.positions, s.seq_start };
            for (int r = 0; r < 4; r++)
                for (int64_t j = 0; j < seq; j++)
                    MRI_PUSH(&got, rows[r][j]);
            for (int64_t j = 0; j < seq; j++)
                MRI_PUSH(&got, (int64_t)s.loss_weight[j]);
        }
        fixture_expect(f, "values", got.v, (int64_t)got.n, mri_format("case %d", cases));
        h.ops->destroy(h.data);
    }
    cr_assert_eq(cases, 32);
    temp_clean(dir);
}

Test(indexed, documents_part_even_without_an_end_id)
{
    const char *dir = temp_dir(), *prefix = mri_format("%s/set", dir);
    mri_indexed_writer *w;
    cr_assert_eq(mri_indexed_create(prefix, MRI_INDEXED_I32, &w, NULL), 0);
    for (int32_t d = 0; d < 20; d++) { /* a token says its document and its place there */
        int32_t ids[12];
        for (int32_t i = 0; i < 12; i++)
            ids[i] = d * 12 + i;
        cr_assert_eq(mri_indexed_sequence(w, ids, (uint64_t)(1 + d % 12), NULL), 0);
        mri_indexed_end_document(w);
    }
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    const char *const words[] = { mri_format("path=%s", prefix), "split=1", "reset_positions=true",
                                  "reset_attention=true", NULL };
    mr_data_env env = env_of(10, 1, 60, 0);
    data_handle h = open_indexed(&env, words);
    mr_sample s = sample_new(10);
    for (int64_t k = 0; k < 60; k++) {
        data_read(&h, 0, k, &s);
        for (int j = 0; j < 10; j++) {
            int first = j;
            while (first > 0 && s.tokens[first - 1] / 12 == s.tokens[j] / 12 &&
                   s.tokens[first - 1] + 1 == s.tokens[first])
                first--;
            cr_assert_eq(s.seq_start[j], first, "sample %ld, token %d", (long)k, j);
            cr_assert_eq(s.positions[j], j - first);
        }
    }
    temp_clean(dir);
}

/* The tokens of a whole validation set, each predicted once, whatever the order. */
static void expect_whole(const data_handle *h, uint32_t set, int64_t docs, int64_t low,
                         int64_t span)
{
    mr_data_set info = data_set(h, set);
    mr_sample s = sample_new(h->seq);
    int32_t *lengths = fixture_lengths(docs, low, span);
    int64_t want[VOCAB] = { 0 }, got[VOCAB] = { 0 }, predicted = 0, missing = 0;
    for (int64_t d = 0; d < docs; d++)
        for (int64_t i = 0; i < lengths[d]; i++)
            want[token(d, i, lengths[d], 0)]++;
    for (int64_t k = 0; k < info.samples; k++) {
        data_read(h, set, k, &s);
        for (int64_t j = 0; j < h->seq; j++)
            if (s.loss_weight[j] > 0) {
                got[s.targets[j]]++;
                predicted++;
            }
    }
    for (int v = 0; v < VOCAB; v++) {
        cr_assert_leq(got[v], want[v], "id %d", v);
        missing += want[v] - got[v];
    }
    cr_assert_eq(predicted, info.tokens);
    cr_assert_eq(missing, 1, "only the first token of all is not predicted");
    data_read(h, set, info.samples, &s); /* filling up a batch counts nothing */
    for (int64_t j = 0; j < h->seq; j++)
        cr_assert_eq(s.loss_weight[j], 0);
}

Test(indexed, whole_validation_predicts_each_token_once)
{
    const char *dir = temp_dir();
    char *path = mri_format("path=%s", write_set(dir, "set", 30, 1, 25, 0));
    char *more = mri_format("valid=small=%s other=%s", write_set(dir, "a", 7, 1, 9, 0),
                            write_set(dir, "b", 20, 0, 40, 0));
    const char *const words[] = { path, more, NULL };
    for (int64_t seq = 2; seq < 20; seq++) {
        mr_data_env env = env_of(seq, 5, 10, 0);
        data_handle h = open_indexed(&env, words);
        cr_assert_str_eq(data_set(&h, 0).name, "train"); /* no split asked: all of it */
        cr_assert_str_eq(data_set(&h, 1).name, "valid.small");
        cr_assert_str_eq(data_set(&h, 2).name, "valid.other");
        mr_data_set none = { .size = sizeof none };
        cr_assert_eq(h.ops->set(h.data, 3, &none, NULL), MR_E_ARG);
        expect_whole(&h, 1, 7, 1, 9);
        expect_whole(&h, 2, 20, 0, 40);
        h.ops->destroy(h.data);
    }
    temp_clean(dir);
}

Test(indexed, splits_share_no_document)
{
    const char *dir = temp_dir(), *prefix = mri_format("%s/set", dir);
    mri_indexed_writer *w;
    cr_assert_eq(mri_indexed_create(prefix, MRI_INDEXED_I32, &w, NULL), 0);
    for (int32_t d = 0; d < 100; d++) { /* a document says its own number */
        int32_t ids[5] = { d, d, d, d, d };
        cr_assert_eq(mri_indexed_sequence(w, ids, 5, NULL), 0);
        mri_indexed_end_document(w);
    }
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    const char *const words[] = { mri_format("path=%s", prefix), "split=80,15,5", NULL };
    mr_data_env env = env_of(4, 1, 200, 3);
    data_handle h = open_indexed(&env, words);
    mr_sample s = sample_new(4);
    bool seen[100] = { false };
    cr_assert_eq(data_set(&h, 0).samples, (80 * 5 - 1) / 4);
    for (int64_t i = 0; i < 200; i++) {
        data_read(&h, 0, i, &s);
        for (int j = 0; j < 4; j++) {
            cr_assert_lt(s.targets[j], 80);
            seen[s.targets[j]] = true;
        }
    }
    for (int d = 0; d < 80; d++)
        cr_assert(seen[d], "document %d is trained on", d);
    cr_assert_eq(data_set(&h, 1).samples, 3);
    for (int64_t i = 0; i < 3; i++) {
        data_read(&h, 1, i, &s);
        for (int j = 0; j < 4; j++)
            cr_assert(s.tokens[j] >= 80 && s.tokens[j] < 95 && s.targets[j] >= 80 &&
                      s.targets[j] < 95);
    }
    temp_clean(dir);
}

/* Two corpora told apart by their ids: 0..99 and 100..199. */
static const char *write_marked(const char *dir, const char *name, int32_t mark, int64_t docs)
{
    char *prefix = mri_format("%s/%s", dir, name);
    mri_indexed_writer *w;
    cr_assert_eq(mri_indexed_create(prefix, MRI_INDEXED_U16, &w, NULL), 0);
    for (int64_t d = 0; d < docs; d++) {
        int32_t ids[9];
        for (int i = 0; i < 9; i++)
            ids[i] = mark + (int32_t)(d * 9 + i) % 100;
        cr_assert_eq(mri_indexed_sequence(w, ids, 9, NULL), 0);
        mri_indexed_end_document(w);
    }
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    return prefix;
}

Test(indexed, a_blend_takes_each_path_by_its_weight)
{
    const char *dir = temp_dir();
    const char *a = write_marked(dir, "a", 0, 40), *b = write_marked(dir, "b", 100, 9);
    const char *const words[] = { mri_format("path=%s %s", a, b), "weights=3 1", "split=1", NULL };
    mr_data_env env = env_of(8, 1, 418, 0);
    data_handle h = open_indexed(&env, words);
    mr_sample s = sample_new(8), alone = sample_new(8);
    const char *const only[] = { mri_format("path=%s", a), "split=1", NULL };
    /* ceil(ceil(418 x 0.75) x 1.005): the surplus takes an eighth epoch */
    mr_data_env env_a = env_of(8, 1, 316, 0);
    data_handle ha = open_indexed(&env_a, only);
    double taken[2] = { 0, 0 };
    for (int64_t k = 0; k < 419; k++) { /* the rule, by its formula */
        double most = k > 1 ? (double)k : 1;
        int want = 0.75 * most - taken[0] >= 0.25 * most - taken[1] ? 0 : 1;
        data_read(&h, 0, k, &s);
        cr_assert_eq(s.tokens[0] / 100, want, "step %ld", (long)k);
        if (want == 0) { /* and a path's samples come in its own order */
            data_read(&ha, 0, (int64_t)taken[0], &alone);
            cr_assert(sample_equal(&s, &alone, 8), "step %ld", (long)k);
        }
        taken[want]++;
    }
    cr_assert(taken[0] == 314 && taken[1] == 105); /* 418 shared out, each share rounded up */
    data_read(&h, 0, 3, &alone);
    data_read(&h, 0, 419 + 3, &s); /* asking beyond goes on from the start */
    cr_assert(sample_equal(&s, &alone, 8));
    temp_clean(dir);
}

Test(indexed, without_weights_each_path_counts_by_its_size)
{
    const char *dir = temp_dir();
    const char *a = write_marked(dir, "a", 0, 40), *b = write_marked(dir, "b", 100, 10);
    const char *const words[] = { mri_format("path=%s %s", a, b), "split=1", NULL };
    mr_data_env env = env_of(8, 1, 0, 0);
    data_handle h = open_indexed(&env, words);
    int64_t n = data_set(&h, 0).samples, taken[2] = { 0, 0 };
    mr_sample s = sample_new(8);
    cr_assert_eq(n, (40 * 9 - 1) / 8 + (10 * 9 - 1) / 8);
    for (int64_t k = 0; k < n; k++) {
        data_read(&h, 0, k, &s);
        taken[s.tokens[0] / 100]++;
    }
    cr_assert(taken[0] == (40 * 9 - 1) / 8 && taken[1] == (10 * 9 - 1) / 8);
    temp_clean(dir);
}

Test(indexed, a_loss_mask_weighs_targets)
{
    const char *dir = temp_dir(), *prefix = write_marked(dir, "a", 0, 40);
    mri_indexed_writer *w;
    cr_assert_eq(mri_indexed_create(mri_format("%s_loss", prefix), MRI_INDEXED_U8, &w, NULL), 0);
    for (int64_t d = 0; d < 40; d++) { /* an id that is a multiple of 3 counts, twice if of 9 */
        int32_t weights[9];
        for (int i = 0; i < 9; i++) {
            int64_t id = (d * 9 + i) % 100;
            weights[i] = id % 9 == 0 ? 2 : id % 3 == 0;
        }
        cr_assert_eq(mri_indexed_sequence(w, weights, 9, NULL), 0);
        mri_indexed_end_document(w);
    }
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    const char *const words[] = { mri_format("path=%s", prefix), "loss_mask=_loss", "split=1",
                                  NULL };
    mr_data_env env = env_of(7, 1, 90, 0);
    data_handle h = open_indexed(&env, words);
    mr_sample s = sample_new(7);
    for (int64_t k = 0; k < 90; k++) {
        data_read(&h, 0, k, &s);
        for (int j = 0; j < 7; j++)
            cr_assert_eq(s.loss_weight[j], s.targets[j] % 9 == 0 ? 2 : s.targets[j] % 3 == 0);
    }
    /* a mask of other lengths, and one that is no mask, are refused */
    mr_err err = MR_ERR_INIT;
    write_marked(dir, "a_loss", 0, 40);
    cr_assert_eq(data_open(&h, "indexed", &env, words, &err), MR_E_DATA_FORMAT);
    cr_assert(strstr(err.what, "u16"), "%s", err.what);
    cr_assert_eq(mri_indexed_create(mri_format("%s_loss", prefix), MRI_INDEXED_U8, &w, NULL), 0);
    mri_indexed_end_document(w);
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    cr_assert_eq(data_open(&h, "indexed", &env, words, &err), MR_E_DATA_FORMAT);
    cr_assert(strstr(err.what, "parallel") && strstr(err.detail, "0 sequences beside 40"));
    temp_clean(dir);
}

/* ---- the cache ----------------------------------------------------------------------- */

static int files_in(const char *dir, char **last)
{
    DIR *d = opendir(dir);
    int n = 0;
    for (struct dirent *e; d && (e = readdir(d));)
        if (e->d_name[0] != '.') {
            *last = mri_format("%s/%s", dir, e->d_name);
            n++;
        }
    if (d)
        closedir(d);
    return n;
}

Test(indexed, the_cache_is_used_keyed_and_rebuilt)
{
    const char *dir = temp_dir(), *cache = mri_format("%s/deep/cache", dir);
    char *path = mri_format("path=%s", write_set(dir, "set", 30, 1, 25, 0)), *file = NULL;
    const char *const words[] = { path, "split=1", mri_format("cache=%s", cache), NULL };
    const char *const bare[] = { path, "split=1", NULL };
    mr_data_env env = env_of(8, 1, 100, 0);
    data_handle plain = open_indexed(&env, bare);
    mr_sample x = sample_new(8), y = sample_new(8);
    struct stat first, again;

    /* written; used; rebuilt when cut, when changed inside, when it is something else */
    for (int round = 0; round < 5; round++) {
        data_handle h = open_indexed(&env, words);
        for (int64_t i = 0; i < 400; i++) { /* all that were built, and on */
            data_read(&h, 0, i, &x);
            data_read(&plain, 0, i, &y);
            cr_assert(sample_equal(&x, &y, 8), "round %d, sample %ld", round, (long)i);
        }
        h.ops->destroy(h.data);
        cr_assert_eq(files_in(cache, &file), 1);
        cr_assert_eq(stat(file, &again), 0);
        if (round == 0)
            first = again;
        cr_assert_eq(again.st_size, first.st_size, "round %d", round);
        if (round == 1)
            cr_assert(again.st_ino == first.st_ino, "used, not written again");
        if (round == 1)
            cr_assert_eq(truncate(file, again.st_size - 4), 0);
        if (round == 2) { /* the shuffle's last two change places: only the checksum can tell */
            FILE *f = fopen(file, "r+b");
            uint32_t v[2];
            fseek(f, again.st_size - 16, SEEK_SET);
            cr_assert_eq(fread(v, 4, 2, f), 2);
            fseek(f, again.st_size - 16, SEEK_SET);
            const uint32_t swapped[2] = { v[1], v[0] };
            cr_assert_eq(fwrite(swapped, 4, 2, f), 2);
            fclose(f);
        }
        if (round == 3)
            temp_write(dir, strrchr(file, '/') - 10, "x", 0); /* deep/cache/NAME: empty */
    }

    /* whatever matters makes another file */
    const mr_data_env others[] = { env_of(9, 1, 100, 0), env_of(8, 2, 100, 0),
                                   env_of(8, 1, 900, 0) };
    for (int i = 0; i < 3; i++) {
        open_indexed(&others[i], words);
        cr_assert_eq(files_in(cache, &file), 2 + i);
    }
    write_set(dir, "set", 30, 1, 24, 0);
    open_indexed(&env, words);
    cr_assert_eq(files_in(cache, &file), 5, "other lengths");
    temp_clean(dir);
}

Test(indexed, a_cache_that_cannot_be_written_is_done_without)
{
    const char *dir = temp_dir();
    char *path = mri_format("path=%s", write_set(dir, "set", 30, 1, 25, 0));
    const char *const words[] = { path, "split=1", mri_format("cache=%s/set.bin/x", dir), NULL };
    mr_data_env env = env_of(8, 1, 100, 0);
    data_handle h = open_indexed(&env, words);
    mr_sample s = sample_new(8);
    data_read(&h, 0, 0, &s);
    temp_clean(dir);
}

/* ---- bad input ------------------------------------------------------------------------ */

/* A good pair: 3 sequences of u16 in 2 documents; then one thing is changed. */
typedef struct pair {
    unsigned char idx[34 + 12 * 3 + 8 * 3];
    size_t idx_size, bin_size;
} pair;

static pair good_pair(void)
{
    static const int32_t lengths[] = { 4, 0, 6 };
    static const int64_t offsets[] = { 0, 8, 8 }, boundaries[] = { 0, 2, 3 };
    static const uint64_t counts[] = { 3, 3 }, version = 1;
    pair p = { .idx_size = sizeof p.idx, .bin_size = 20 };
    memcpy(p.idx, "MMIDIDX\0\0", 9);
    memcpy(p.idx + 9, &version, 8);
    p.idx[17] = 8;
    memcpy(p.idx + 18, counts, 16);
    memcpy(p.idx + 34, lengths, 12);
    memcpy(p.idx + 46, offsets, 24);
    memcpy(p.idx + 70, boundaries, 24);
    return p;
}

Test(indexed, wrong_files_fail_by_name)
{
    static const struct {
        const char *what;     /* the message says so */
        int at;               /* this byte of the .idx ... */
        int64_t value;        /* ... begins this number ... */
        int width;            /* ... of so many bytes */
        int cut_idx, cut_bin; /* bytes taken from the files' ends (negative: added) */
    } zoo[] = {
        { NULL, 0, 'M', 1, 0, 0 },
        { "cut off inside its header", 0, 'M', 1, 61, 0 },
        { "cut off inside its header", 0, 'M', 1, 94, 0 },
        { "not begin with MMIDIDX", 0, 'X', 1, 0, 0 },
        { "not begin with MMIDIDX", 8, 1, 1, 0, 0 },
        { "unknown version", 9, 2, 8, 0, 0 },
        { "dtype holds no tokens", 17, 0, 1, 0, 0 },
        { "dtype holds no tokens", 17, 6, 1, 0, 0 },
        { "dtype holds no tokens", 17, 9, 1, 0, 0 },
        { "counts are wrong", 0, 'M', 1, 1, 0 },
        { "counts are wrong", 18, 6, 8, 0, 0 },
        { "counts are wrong", 18, -1, 8, 0, 0 },
        { "counts are wrong", 18, (int64_t)1 << 60, 8, 0, 0 }, /* x 12 wraps around */
        { "counts are wrong", 26, 4, 8, 0, 0 },
        { "counts are wrong", 26, (int64_t)1 << 61, 8, 0, 0 },
        { "belong to nothing", 26, 2, 8, 0, 0 },
        { "belong to nothing", 0, 'M', 1, -1, 0 },
        { "negative length", 34, -4, 4, 0, 0 },
        { "do not ascend", 46, -8, 8, 0, 0 },
        { "do not ascend", 62, 6, 8, 0, 0 },
        { "do not ascend", 34, 5, 4, 0, 0 },
        { "outside the .bin", 62, 10, 8, 0, 0 },
        { "outside the .bin", 62, INT64_MAX, 8, 0, 0 },
        { "outside the .bin", 42, INT32_MAX, 4, 0, 0 },
        { "outside the .bin", 0, 'M', 1, 0, 1 },
        { "outside the .bin", 0, 'M', 1, 0, 20 },
        { "not belong to this .bin", 0, 'M', 1, 0, -2 },
        { "boundaries do not ascend", 70, 1, 8, 0, 0 },
        { "boundaries do not ascend", 78, 9, 8, 0, 0 },
        { "boundaries do not ascend", 78, -1, 8, 0, 0 },
        { "do not end with its sequences", 86, 2, 8, 0, 0 },
    };
    const char *dir = temp_dir(), *prefix = mri_format("%s/set", dir);
    const char *const words[] = { mri_format("path=%s", prefix), "split=1", NULL };
    mr_data_env env = env_of(4, 1, 3, 0);
    for (size_t i = 0; i < sizeof zoo / sizeof *zoo; i++) {
        pair p = good_pair();
        unsigned char idx[200] = { 0 }, bin[64] = { 0 };
        memcpy(p.idx + zoo[i].at, &zoo[i].value, (size_t)zoo[i].width);
        memcpy(idx, p.idx, sizeof p.idx);
        temp_write(dir, "set.idx", idx, p.idx_size - (size_t)zoo[i].cut_idx);
        temp_write(dir, "set.bin", bin, p.bin_size - (size_t)zoo[i].cut_bin);
        data_handle h;
        mr_err err = MR_ERR_INIT;
        mr_status st = data_open(&h, "indexed", &env, words, &err);
        if (!zoo[i].what) {
            cr_assert_eq(st, 0, "the good pair: %s; %s", err.what, err.detail);
            continue;
        }
        cr_assert_eq(st, MR_E_DATA_FORMAT, "%zu: %s: %s", i, zoo[i].what, err.what);
        cr_assert(strstr(err.what, zoo[i].what), "%zu: %s, not %s", i, err.what, zoo[i].what);
        cr_assert(strstr(err.what, prefix) && err.hint[0]);
    }
    temp_clean(dir);
}

Test(indexed, random_damage_is_refused_or_harmless)
{
    const char *dir = temp_dir(), *prefix = mri_format("%s/set", dir);
    const char *const words[] = { mri_format("path=%s", prefix), "split=1", NULL };
    mr_data_env env = env_of(4, 1, 6, 0);
    mr_sample s = sample_new(4);
    uint64_t random = 1;
    int opened = 0, refused = 0;
    const pair good = good_pair();
    const unsigned char bin[20] = { 0 };
    temp_write(dir, "set.bin", bin, sizeof bin);
    for (int round = 0; round < 1000; round++) {
        unsigned char idx[sizeof good.idx];
        memcpy(idx, good.idx, sizeof idx);
        for (int hits = 0; hits < 1 + round % 3; hits++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            size_t at = random >> 33;
            idx[17 + at % (sizeof idx - 17)] ^= (unsigned char)(1 << (random >> 40) % 3);
        }
        temp_write(dir, "set.idx", idx, sizeof idx);
        data_handle h;
        mr_err err = MR_ERR_INIT;
        if (data_open(&h, "indexed", &env, words, &err)) {
            cr_assert(err.what[0] && (err.code == MR_E_DATA_FORMAT || err.code == MR_E_DATA_SHORT));
            refused++;
            continue;
        }
        for (int64_t i = 0; i < 6; i++)
            h.ops->read(h.data, 0, i, &s, &err);
        h.ops->destroy(h.data);
        opened++;
    }
    cr_assert(refused > 900 && opened > 0, "%d refused, %d opened", refused, opened);
    temp_clean(dir);
}

Test(indexed, multimodal_modes_are_stepped_over)
{
    const char *dir = temp_dir(), *prefix = mri_format("%s/set", dir);
    const char *const words[] = { mri_format("path=%s", prefix), "split=1", NULL };
    mr_data_env env = env_of(4, 1, 3, 0);
    pair p = good_pair();
    unsigned char idx[sizeof p.idx + 3] = { 0 }, bin[20] = { 0 };
    memcpy(idx, p.idx, sizeof p.idx);
    temp_write(dir, "set.idx", idx, sizeof idx);
    temp_write(dir, "set.bin", bin, sizeof bin);
    open_indexed(&env, words);
    temp_clean(dir);
}

Test(indexed, an_id_past_the_vocabulary_is_an_error_at_its_place)
{
    const char *dir = temp_dir(), *prefix = mri_format("%s/set", dir);
    mri_indexed_writer *w;
    int32_t ids[] = { 1, 2, VOCAB, 4, 5, 6 };
    cr_assert_eq(mri_indexed_create(prefix, MRI_INDEXED_U16, &w, NULL), 0);
    cr_assert_eq(mri_indexed_sequence(w, ids, 6, NULL), 0);
    mri_indexed_end_document(w);
    cr_assert_eq(mri_indexed_finish(w, NULL), 0);
    const char *const words[] = { mri_format("path=%s", prefix), "split=1", NULL };
    mr_data_env env = env_of(5, 1, 0, 0);
    data_handle h = open_indexed(&env, words);
    mr_sample s = sample_new(5);
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(h.ops->read(h.data, 0, 0, &s, &err), MR_E_DATA_FORMAT);
    cr_assert(strstr(err.what, "257") && strstr(err.detail, "token 2 of sequence 0"), "%s",
              err.detail);
    temp_clean(dir);
}

Test(indexed, wrong_options_fail_by_name)
{
    const char *dir = temp_dir(), *set = write_set(dir, "set", 30, 1, 25, 0);
    const char *path = mri_format("path=%s", set), *same = mri_format("valid=a=%s a=%s", set, set);
    const struct {
        const char *extra, *more;
        int64_t seq, seed;
        mr_status st;
        const char *says;
    } cases[] = {
        { "weights=1 2", NULL, 8, 1, MR_E_PROFILE_CONFLICT, "2 weights for 1 paths" },
        { "weights=0", NULL, 8, 1, MR_E_PROFILE_VALUE, "0 is no weight" },
        { "weights=1x", NULL, 8, 1, MR_E_PROFILE_VALUE, "1x is no weight" },
        { "split=a", NULL, 8, 1, MR_E_PROFILE_VALUE, "split = a" },
        { "valid=nothing", NULL, 8, 1, MR_E_PROFILE_VALUE, "nothing is not NAME=PATH" },
        { same, NULL, 8, 1, MR_E_PROFILE_CONFLICT, "two sets named valid.a" },
        { "valid=a=/nonexistent/b", NULL, 8, 1, MR_E_DATA_OPEN, "/nonexistent/b.idx" },
        { "split=1", "loss_mask=_none", 8, 1, MR_E_DATA_OPEN, "set_none.idx" },
        { "split=1", NULL, 8, -1, MR_E_PROFILE_VALUE, "run.seed = -1" },
        { "split=1", NULL, 8, (int64_t)1 << 32, MR_E_PROFILE_VALUE, "4294967296" },
        { "split=1", NULL, 4000, 1, MR_E_DATA_SHORT, "too short" },
        { "split=999999,1", NULL, 8, 1, MR_E_DATA_SHORT, "0 tokens" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        const char *const words[] = { path, cases[i].extra, cases[i].more, NULL };
        mr_data_env env = env_of(cases[i].seq, cases[i].seed, 10, 0);
        data_handle h;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(data_open(&h, "indexed", &env, words, &err), cases[i].st, "%zu: %s", i,
                     err.what);
        cr_assert(strstr(err.what, cases[i].says), "%zu: %s", i, err.what);
    }
    info_of.eod = -1;
    const char *const words[] = { path, "eod_mask_loss=true", NULL };
    mr_data_env env = env_of(8, 1, 10, 0);
    data_handle h;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(data_open(&h, "indexed", &env, words, &err), MR_E_PROFILE_CONFLICT);
    temp_clean(dir);
}
