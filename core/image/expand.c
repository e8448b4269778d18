/* SPDX-License-Identifier: Apache-2.0
 * expand.c - see expand.h. */
#include "expand.h"
#include "core/base/json.h"
#include <string.h>
#include <stdlib.h>
#include <sys/stat.h>

mri_image_words mri_image_words_usual(const mri_image_rule *rule)
{
    return rule->form == MRI_TILES ? (mri_image_words){ true, "<|image|>", "<|patch|>" }
                                   : (mri_image_words){ false, "<image>", "<image>" };
}

static void copy_word(const mri_json *json, const char *key, char out[64])
{
    const char *word;
    if (mri_json_service.string(json, key, &word) && *word && strlen(word) < 64)
        strcpy(out, word);
}

mr_status mri_image_words_read(const char *dir, const mri_image_rule *rule, mri_image_words *out,
                               mr_err *err)
{
    char *path = mri_format("%s/processor_config.json", dir);
    mri_json *json = NULL;
    struct stat sb;
    mr_status st = 0;
    *out = mri_image_words_usual(rule);
    if (!stat(path, &sb))
        st = mri_json_read(path, 1 << 20, &json, err);
    if (!st && json) {
        copy_word(json, out->grid ? "fake_image_token" : "image_token", out->placeholder);
        copy_word(json, out->grid ? "patch_token" : "image_token", out->token);
    }
    mri_json_free(json);
    free(path);
    return st;
}

static void repeat(mri_str *out, const char *word, int64_t times)
{
    size_t n = strlen(word);
    while (times-- > 0)
        mri_str_addn(out, word, n);
}

void mri_image_write(const mri_image_words *words, const mri_tiles *grid, int64_t tokens,
                     mri_str *out)
{
    if (!words->grid) {
        repeat(out, words->token, tokens * grid->n);
        return;
    }
    mri_str_add(out, "<|image_start|>");
    for (int64_t y = 0; y < grid->rows && grid->n > 1; y++) {
        for (int64_t x = 0; x < grid->cols; x++) {
            repeat(out, words->token, tokens);
            if (x + 1 < grid->cols)
                mri_str_add(out, "<|tile_x_separator|>");
        }
        mri_str_add(out, "<|tile_y_separator|>");
    }
    mri_str_add(out, words->placeholder);
    repeat(out, words->token, tokens);
    mri_str_add(out, "<|image_end|>");
}

static size_t count(const char *text, const char *word)
{
    size_t n = 0, len = strlen(word);
    for (const char *p = text; (p = strstr(p, word)); p += len)
        n++;
    return n;
}

mr_status mri_image_expand(const mri_image_words *words, const char *text, const mri_tiles *grid,
                           size_t n, int64_t tokens, char **out, mr_err *err)
{
    mri_str s = { 0 };
    size_t have = count(text, words->placeholder), len = strlen(words->placeholder);
    *out = NULL;
    if (have != n) {
        mr_fail(err, MR_E_IMAGE_COUNT, MR_BLAME_USER, "the text has %zu placeholder%s %s and there "
                "%s %zu picture%s", have, have == 1 ? "" : "s", words->placeholder,
                n == 1 ? "is" : "are", n, n == 1 ? "" : "s");
        mr_hint(err, "write %s where each picture belongs, in order", words->placeholder);
        return MR_E_IMAGE_COUNT;
    }
    for (size_t i = 0; i < n; i++) {
        const char *at = strstr(text, words->placeholder);
        mri_str_addn(&s, text, (size_t)(at - text));
        mri_image_write(words, &grid[i], tokens, &s);
        text = at + len;
    }
    mri_str_add(&s, text);
    *out = mri_str_take(&s);
    return 0;
}

mr_status mri_image_rows(const int32_t *ids, int64_t n, int32_t token, int64_t features,
                         int32_t *rows, mr_err *err)
{
    int64_t k = 0;
    for (int64_t t = 0; t < n; t++)
        rows[t] = ids[t] == token ? (int32_t)k++ : -1;
    if (k == features)
        return 0;
    mr_fail(err, MR_E_IMAGE_COUNT, MR_BLAME_USER, "the sequence has %lld image tokens (id %d), the "
            "pictures give %lld rows of features", (long long)k, token, (long long)features);
    mr_hint(err, "every tile takes its own image tokens; --text with placeholders writes them");
    return MR_E_IMAGE_COUNT;
}
