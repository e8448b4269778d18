/* SPDX-License-Identifier: Apache-2.0
 * data/captions: what a sample's sequence is and which of its tokens count, that every item comes
 * once an epoch and none is in both sets, choices, and what is refused. */
#include "core/run/imager.h"
#include "unit.h"

enum { S = 48, SIDE = 4, TOKENS = 5, IMAGE = 300, ITEMS = 40 };

static const void *service(void *self, const char *id)
{
    (void)self;
    return strcmp(id, MR_EXT_IMAGE) ? NULL : &mri_image_service;
}

static const mr_host host = { .size = sizeof host, .name = "test", .version = "0", .ext = service };

static mr_status open_as(data_handle *h, int64_t seq, const char *const *words, mr_err *err)
{
    const mr_unit *u = unit_load("data", "captions");
    static const char *const ends[] = { "eod=true", NULL };
    tok_handle tok = tok_open("bytes", ends);
    mri_imager *m = mri_alloc(sizeof *m);
    cr_assert_eq(mri_imager_open(NULL, SIDE, TOKENS, IMAGE, tok.ops, tok.tok, m, err), 0);
    mr_data_env env = { .size = sizeof env, .seq = seq, .seed = 7, .tokenizer = tok.ops,
                        .tok = tok.tok, .tiles = 1, .pictures = m };
    *h = (data_handle) { u->table, NULL, seq };
    return h->ops->create(&host, &env, unit_config(u, words), &h->data, err);
}

static mr_sample sample_with_pixels(void)
{
    mr_sample s = sample_new(S);
    s.pixels = mri_alloc(3 * SIDE * SIDE * sizeof *s.pixels);
    s.room = 1;
    return s;
}

/* ITEMS pictures of SIDE x SIDE, picture i all i, its label i % 3 */
static void write_idx(const char *dir, const char **images, const char **labels)
{
    enum { N = SIDE * SIDE };
    uint8_t x[16 + ITEMS * N] = { 0, 0, 8, 3, 0, 0, 0, ITEMS, 0, 0, 0, SIDE, 0, 0, 0, SIDE };
    uint8_t y[8 + ITEMS] = { 0, 0, 8, 1, 0, 0, 0, ITEMS };
    for (int i = 0; i < ITEMS; i++) {
        memset(x + 16 + i * N, i, N);
        y[8 + i] = (uint8_t)(i % 3);
    }
    *images = mri_format("images=%s", temp_write(dir, "x.idx", x, sizeof x));
    *labels = mri_format("labels=%s", temp_write(dir, "y.idx", y, sizeof y));
}

static data_handle open_idx(const char *dir, const char *extra)
{
    const char *images, *labels;
    data_handle h;
    mr_err err = MR_ERR_INIT;
    write_idx(dir, &images, &labels);
    const char *const words[] = { images, labels, "classes=ant,bee,cicada", "prompt=what?",
                                  "valid_fraction=0.25", extra, NULL };
    cr_assert_eq(open_as(&h, S, words, &err), 0, "%s; %s", err.what, err.detail);
    return h;
}

/* Which picture: its byte, from the first value. */
static int picture_of(const mr_sample *s)
{
    return (int)((s->pixels[0] + 1) * 127.5f + 0.5f);
}

Test(captions, a_sample_is_picture_prompt_answer)
{
    static const char *const names[] = { "ant", "bee", "cicada" };
    const char *dir = temp_dir();
    data_handle h = open_idx(dir, NULL);
    mr_sample s = sample_with_pixels();
    for (int64_t i = 0; i < 10; i++) {
        data_read(&h, 0, i, &s);
        const char *name = names[picture_of(&s) % 3];
        size_t at = TOKENS, prompt = strlen("what?"), n = strlen(name);
        cr_assert_eq(s.tiles, 1);
        cr_assert_eq(s.answer, picture_of(&s) % 3 + 1);
        for (int64_t t = 0; t < TOKENS; t++)
            cr_assert_eq(s.tokens[t], IMAGE);
        cr_assert_eq(s.tokens[at], 'w');
        at += prompt; /* of the answer's first byte, which token at - 1 predicts */
        for (size_t t = 0; t < S; t++) {
            bool counts = t + 1 >= at && t + 1 < at + n + 1; /* and the end */
            cr_assert_eq(s.loss_weight[t], counts, "%s, token %zu", name, t);
            cr_assert_eq(s.positions[t], t);
            if (counts && t + 1 < at + n)
                cr_assert_eq(s.targets[t], name[t + 1 - at]);
        }
        for (int64_t k = 1; k < 3 * SIDE * SIDE; k++)
            cr_assert_eq(s.pixels[k], s.pixels[0]);
    }
    h.ops->destroy(h.data);
    temp_clean(dir);
}

Test(captions, every_item_comes_once_and_none_is_in_both_sets)
{
    const char *dir = temp_dir();
    data_handle h = open_idx(dir, NULL);
    mr_data_set train = data_set(&h, 0), valid = data_set(&h, 1);
    mr_sample s = sample_with_pixels(), again = sample_with_pixels();
    int order[2][ITEMS] = { 0 };
    cr_assert_eq(train.samples + valid.samples, ITEMS);
    cr_assert(valid.samples > 3 && valid.samples < 20, "%lld held out", (long long)valid.samples);
    for (int epoch = 0; epoch < 2; epoch++) {
        int seen[ITEMS] = { 0 };
        for (int64_t i = 0; i < train.samples; i++) {
            data_read(&h, 0, epoch * train.samples + i, &s);
            order[epoch][i] = picture_of(&s);
            cr_assert_eq(seen[picture_of(&s)]++, 0);
        }
        for (int64_t i = 0; i < valid.samples; i++) {
            data_read(&h, 1, i, &s);
            cr_assert_eq(seen[picture_of(&s)]++, 0);
        }
    }
    cr_assert_neq(memcmp(order[0], order[1], sizeof order[0]), 0, "epochs differ");
    data_read(&h, 0, 5, &s);
    data_read(&h, 0, 5, &again);
    cr_assert(sample_equal(&s, &again, S));
    data_read(&h, 1, valid.samples, &s);
    for (int64_t t = 0; t < S; t++)
        cr_assert_eq(s.loss_weight[t], 0, "past the last sample nothing counts");
    h.ops->destroy(h.data);
    temp_clean(dir);
}

Test(captions, a_choice_takes_the_answers_place)
{
    const char *dir = temp_dir();
    data_handle h = open_idx(dir, NULL);
    mr_sample own = sample_with_pixels(), s = sample_with_pixels();
    cr_assert_eq(data_set(&h, 1).choices, 3);
    data_read(&h, 1, 2, &own);
    for (s.choice = 1; s.choice <= 3; s.choice++) {
        data_read(&h, 1, 2, &s);
        cr_assert_eq(sample_equal(&own, &s, S), s.choice == own.answer);
        cr_assert_eq(s.answer, own.answer);
        cr_assert_eq(s.targets[TOKENS + 5 - 1], "abc"[s.choice - 1]);
    }
    h.ops->destroy(h.data);
    temp_clean(dir);
}

static const char *write_lines(const char *dir, const char *text)
{
    return mri_format("path=%s", temp_write(dir, "x.jsonl", text, strlen(text)));
}

Test(captions, lines_name_pictures_beside_their_file)
{
    const char *dir = temp_dir();
    char *copy = mri_format("cp %s/tests/unit/image/fixtures/rgb.png %s/a.png",
                            getenv("MRUN_SOURCE"), dir);
    cr_assert_eq(system(copy), 0);
    const char *const words[] = {
        write_lines(dir, "{\"image\":\"a.png\",\"text\":\"red\"}\n\n"
                         "{\"image\":\"a.png\",\"prompt\":\"so\",\"answer\":\"blue\"}"),
        "valid_fraction=0", "shuffle=false", NULL
    };
    data_handle h;
    mr_err err = MR_ERR_INIT;
    mr_sample s = sample_with_pixels();
    cr_assert_eq(open_as(&h, S, words, &err), 0, "%s", err.what);
    cr_assert_eq(data_set(&h, 0).samples, 2);
    cr_assert_eq(data_set(&h, 0).choices, 0);
    data_read(&h, 0, 0, &s);
    cr_assert_eq(s.targets[TOKENS - 1], 'r');
    cr_assert_eq(s.loss_weight[TOKENS - 1], 1);
    data_read(&h, 0, 1, &s);
    cr_assert_eq(s.targets[TOKENS - 1], 's');
    cr_assert_eq(s.loss_weight[TOKENS - 1], 0);
    cr_assert_eq(s.loss_weight[TOKENS + 1], 1);
    cr_assert_eq(s.answer, 0);
    h.ops->destroy(h.data);
    temp_clean(dir);
}

Test(captions, what_is_wrong_is_named)
{
    static const struct {
        const char *lines, *says;
        mr_status st;
    } rows[] = { { "{\"image\":\"a.png\"}", "item 1 has no text", MR_E_DATA_FORMAT },
                 { "{\"text\":\"a\"}", "item 1 has no image", MR_E_DATA_FORMAT },
                 { "{\"image\":\"a\",\"text\":\"b\"}\n{", "item 2", MR_E_DATA_FORMAT },
                 { "{\"image\":\"a\",\"answer\":\"moth\"}", "'moth' is none", MR_E_DATA_FORMAT },
                 { " \n\n", "no lines", MR_E_DATA_SHORT } };
    const char *dir = temp_dir();
    data_handle h;
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        const char *const words[] = { write_lines(dir, rows[i].lines), "classes=ant,bee", NULL };
        cr_assert_eq(open_as(&h, S, words, &err), rows[i].st, "%s: %s", rows[i].lines, err.what);
        cr_assert(strstr(err.what, rows[i].says), "%s", err.what);
    }
    const char *images, *labels;
    mr_err err = MR_ERR_INIT;
    write_idx(dir, &images, &labels);
    const char *const few[] = { images, labels, "classes=ant,bee", NULL };
    cr_assert_eq(open_as(&h, S, few, &err), MR_E_DATA_FORMAT);
    cr_assert(strstr(err.what, "label 2 is 2"), "%s", err.what);
    const char *swapped = mri_format("images=%s", labels + strlen("labels="));
    const char *const wrong[] = { swapped, labels, "classes=ant,bee,cicada", NULL };
    cr_assert_eq(open_as(&h, S, wrong, &err), MR_E_DATA_FORMAT);
    const char *const nothing[] = { "classes=a", NULL };
    cr_assert_eq(open_as(&h, S, nothing, &err), MR_E_PROFILE_CONFLICT);
    const char *const right[] = { images, labels, "classes=ant,bee,cicada", "prompt=a_long_one",
                                  NULL };
    mr_sample s = sample_with_pixels();
    cr_assert_eq(open_as(&h, 12, right, &err), 0);
    cr_assert_eq(h.ops->read(h.data, 0, 0, &s, &err), MR_E_DATA_FORMAT);
    cr_assert(strstr(err.what, "a sequence holds 12"), "%s", err.what);
    temp_clean(dir);
}
