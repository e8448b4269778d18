/* SPDX-License-Identifier: Apache-2.0
 * test_imager.c - a text and its pictures become exactly the ids that transformers' processors
 * make of them; a tokenizer without the words still serves pictures that are one run of tokens. */
#include "core/run/imager.h"
#include "image_kit.h"
#include "tests/unit/data/unit.h"

static mri_imager open_imager(const char *family, int64_t tokens)
{
    mr_err err = MR_ERR_INIT;
    char *name = mri_format("chain/%s", family), *dir = kit_path(name);
    char *word = mri_format("dir=%s", dir);
    const char *const words[] = { word, NULL };
    tok_handle t = tok_open("hf", words);
    mri_image_rule rule;
    mri_image_words w;
    int32_t id = -1;
    uint64_t n = 0;
    mri_imager m;
    OK(mri_image_rule_read(dir, 28, &rule, &err));
    OK(mri_image_words_read(dir, &rule, &w, &err));
    OK(t.ops->encode(t.tok, w.token, strlen(w.token), &id, 1, &n, &err));
    cr_assert_eq(n, 1);
    OK(mri_imager_open(dir, 28, tokens, id, t.ops, t.tok, &m, &err));
    cr_assert(m.spelled);
    return m;
}

Test(imager, ids_are_those_of_transformers)
{
    static const struct {
        const char *family;
        int64_t tokens;
    } families[] = { { "llama4", 1 }, { "llava", 4 } };
    for (int k = 0; k < 2; k++) {
        mri_imager m = open_imager(families[k].family, families[k].tokens);
        char *name = mri_format("chain/%s/cases.json", families[k].family);
        json_t *cases = kit_json(name), *c, *s;
        size_t i, j;
        cr_assert_geq(json_array_size(cases), 2);
        json_array_foreach (cases, i, c) {
            mr_err err = MR_ERR_INIT;
            const json_t *want = json_object_get(c, "ids");
            mri_tiles grid[8];
            size_t n = 0;
            int32_t *ids = NULL, *rows;
            uint64_t n_ids = 0;
            int64_t tiles = 0;
            json_array_foreach (json_object_get(c, "sizes"), j, s) {
                grid[n] = mri_image_layout(&m.rule, json_integer_value(json_array_get(s, 0)),
                                           json_integer_value(json_array_get(s, 1)));
                tiles += grid[n++].n;
            }
            OK(mri_imager_ids(&m, json_string_value(json_object_get(c, "text")), grid, n, false,
                              &ids, &n_ids, &err));
            cr_assert_eq(n_ids, json_array_size(want), "%s %zu", name, i);
            for (size_t t = 0; t < n_ids; t++)
                cr_assert_eq(ids[t], json_integer_value(json_array_get(want, t)), "%s %zu: id %zu",
                             name, i, t);
            rows = mri_alloc(n_ids * sizeof *rows);
            OK(mri_image_rows(ids, (int64_t)n_ids, m.token, tiles * m.tokens, rows, &err));
            free(rows);
            free(ids);
        }
        json_decref(cases);
    }
}

Test(imager, a_word_in_the_text_that_is_no_picture_is_refused)
{
    mr_err err = MR_ERR_INIT;
    mri_imager m = open_imager("llama4", 1);
    mri_tiles one = { 1, 1, 1, 28, NULL };
    int32_t *ids = NULL;
    uint64_t n = 0;
    cr_assert_eq(mri_imager_ids(&m, "a<|image|>b<|patch|>", &one, 1, false, &ids, &n, &err),
                 MR_E_IMAGE_COUNT);
    cr_assert(strstr(err.what, "2 image tokens"), "%s", err.what);
}

Test(imager, bytes_serve_pictures_of_one_run)
{
    mr_err err = MR_ERR_INIT;
    tok_handle t = tok_open("bytes", NULL);
    mri_tiles one = { 1, 1, 1, 28, NULL };
    int32_t *ids = NULL;
    uint64_t n = 0;
    mri_imager m;
    OK(mri_imager_open(NULL, 28, 3, 300, t.ops, t.tok, &m, &err));
    cr_assert_not(m.spelled);
    OK(mri_imager_ids(&m, "ab<image>c", &one, 1, false, &ids, &n, &err));
    const int32_t want[] = { 'a', 'b', 300, 300, 300, 'c' };
    cr_assert_eq(n, 6);
    cr_assert_arr_eq(ids, want, sizeof want);
    m.words.grid = true;
    cr_assert_eq(mri_imager_ids(&m, "ab<image>c", &one, 1, false, &ids, &n, &err), MR_E_TOKENIZER);
}
