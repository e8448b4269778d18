/* SPDX-License-Identifier: Apache-2.0
 * test_expand.c - what stands for pictures in a text equals transformers' processors: the words
 * of every grid, and the rows of features that image tokens take. */
#include "image_kit.h"

/* A text as the fixtures' tokenizer reads it: words are one id, other bytes one each. */
static int64_t count_of(const char *text, const char *word)
{
    int64_t n = 0;
    for (const char *p = text; (p = strstr(p, word)); p += strlen(word))
        n++;
    return n;
}

typedef struct grid {
    int64_t rows, cols;
    const char *want; /* P: two image tokens; the rest are the words' letters */
} grid;

/* The letters of a text: words become S E P x y I. */
static char *letters(const char *text)
{
    static const struct {
        const char *word, *letter;
    } words[] = { { "<|image_start|>", "S" }, { "<|image_end|>", "E" },
                  { "<|patch|><|patch|>", "P" }, { "<|tile_x_separator|>", "x" },
                  { "<|tile_y_separator|>", "y" }, { "<|image|>", "I" } };
    mri_str out = { 0 };
    while (*text) {
        size_t i = 0;
        for (; i < sizeof words / sizeof *words; i++)
            if (!strncmp(text, words[i].word, strlen(words[i].word)))
                break;
        if (i < sizeof words / sizeof *words) {
            mri_str_add(&out, words[i].letter);
            text += strlen(words[i].word);
        } else {
            mri_str_addn(&out, text++, 1);
        }
    }
    return mri_str_take(&out);
}

Test(expand, every_grid_is_written_as_llama_4_reads_it)
{
    static const grid rows[] = { { 1, 1, "a SIPE b" },
                                 { 1, 2, "a SPxPyIPE b" },
                                 { 2, 1, "a SPyPyIPE b" },
                                 { 2, 3, "a SPxPxPyPxPxPyIPE b" } };
    mri_image_rule rule = mri_image_rule_usual("llama4_vision_model", 336);
    mri_image_words words = mri_image_words_usual(&rule);
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        int64_t n = rows[i].rows * rows[i].cols;
        mri_tiles t = { rows[i].rows, rows[i].cols, n + (n > 1), 336, NULL };
        char *text, *have;
        OK(mri_image_expand(&words, "a <|image|> b", &t, 1, 2, &text, &err));
        have = letters(text);
        cr_assert_str_eq(have, rows[i].want);
        free(have);
        free(text);
    }
}

Test(expand, pictures_and_placeholders_must_match)
{
    mri_image_rule rule = mri_image_rule_usual("clip_vision_model", 28);
    mri_image_words words = mri_image_words_usual(&rule);
    mri_tiles t[2] = { { 1, 1, 1, 28, NULL }, { 1, 1, 1, 28, NULL } };
    mr_err err = MR_ERR_INIT;
    char *text;
    OK(mri_image_expand(&words, "x<image>y<image>", t, 2, 5, &text, &err));
    cr_assert_eq(count_of(text, "<image>"), 10);
    cr_assert_eq(strlen(text), 2 + 10 * strlen("<image>"));
    free(text);
    cr_assert_eq(mri_image_expand(&words, "x<image>", t, 2, 5, &text, &err), MR_E_IMAGE_COUNT);
    cr_assert(strstr(err.what, "1 placeholder <image>") && strstr(err.what, "2 pictures"), "%s",
              err.what);
    cr_assert_eq(mri_image_expand(&words, "x", t, 1, 5, &text, &err), MR_E_IMAGE_COUNT);
    cr_assert_eq(mri_image_expand(&words, "<image>", t, 0, 5, &text, &err), MR_E_IMAGE_COUNT);
    cr_assert_null(text);
}

Test(expand, rows_count_the_image_tokens)
{
    static const int32_t ids[] = { 4, 9, 9, 4, 9 }, want[] = { -1, 0, 1, -1, 2 };
    mr_err err = MR_ERR_INIT;
    int32_t rows[5];
    OK(mri_image_rows(ids, 5, 9, 3, rows, &err));
    cr_assert_arr_eq(rows, want, sizeof want);
    cr_assert_eq(mri_image_rows(ids, 5, 9, 2, rows, &err), MR_E_IMAGE_COUNT);
    cr_assert_eq(mri_image_rows(ids, 5, 9, 4, rows, &err), MR_E_IMAGE_COUNT);
    cr_assert(strstr(err.what, "3 image tokens") && strstr(err.what, "4 rows"), "%s", err.what);
}

/* The words and counts of the fixtures' texts; their ids are held in test_images. */
Test(expand, tokens_of_transformers_processors_are_as_many)
{
    static const char *const families[] = { "llama4", "llava" };
    for (int k = 0; k < 2; k++) {
        mr_err err = MR_ERR_INIT;
        char *name = mri_format("chain/%s", families[k]), *dir = kit_path(name);
        char *file = mri_format("%s/cases.json", name);
        char *vocabulary = mri_format("%s/tokenizer.json", name);
        json_t *cases = kit_json(file), *tokenizer = kit_json(vocabulary), *c;
        mri_image_rule rule;
        mri_image_words words;
        int32_t token = -1;
        size_t i, j;
        OK(mri_image_rule_read(dir, 28, &rule, &err));
        OK(mri_image_words_read(dir, &rule, &words, &err));
        json_array_foreach (json_object_get(tokenizer, "added_tokens"), j, c)
            if (!strcmp(json_string_value(json_object_get(c, "content")), words.token))
                token = (int32_t)json_integer_value(json_object_get(c, "id"));
        cr_assert_geq(token, 0);
        json_array_foreach (cases, i, c) {
            const json_t *ids = json_object_get(c, "ids"), *sizes = json_object_get(c, "sizes"), *s;
            mri_tiles t[8];
            int64_t tiles = 0, patches = 0, tokens = k ? 4 : 1; /* 2 x 2 patches; four are one */
            char *text;
            json_array_foreach (sizes, j, s) {
                t[j] = mri_image_layout(&rule, json_integer_value(json_array_get(s, 0)),
                                           json_integer_value(json_array_get(s, 1)));
                tiles += t[j].n;
            }
            cr_assert_eq(tiles, json_integer_value(json_object_get(c, "tiles")));
            OK(mri_image_expand(&words, json_string_value(json_object_get(c, "text")), t,
                                json_array_size(sizes), tokens, &text, &err));
            json_array_foreach (ids, j, s)
                patches += json_integer_value(s) == token;
            cr_assert_eq(count_of(text, words.token), patches, "%s", text);
            cr_assert_eq(patches, tiles * tokens);
            free(text);
        }
        json_decref(cases);
        json_decref(tokenizer);
        free(name);
        free(dir);
        free(file);
        free(vocabulary);
    }
}
