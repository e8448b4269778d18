/* SPDX-License-Identifier: Apache-2.0
 * imager.c - see imager.h. */
#include "imager.h"
#include "text.h"
#include <stdlib.h>
#include <string.h>

mr_status mri_imager_open(const char *dir, int64_t side, int64_t tokens, int32_t token,
                          const mr_tokenizer_ops *ops, void *tok, mri_imager *out, mr_err *err)
{
    mr_status st = 0;
    *out = (mri_imager){ .token = token, .ops = ops, .tok = tok };
    if (dir) {
        MR_TRY(mri_image_rule_read(dir, side, &out->rule, err));
        MR_TRY(mri_image_words_read(dir, &out->rule, &out->words, err));
    } else {
        out->rule = mri_image_rule_usual(NULL, side);
        out->words = mri_image_words_usual(&out->rule);
    }
    int32_t id = -1;
    uint64_t n = 0;
    if (ops)
        MR_TRY(ops->encode(tok, out->words.token, strlen(out->words.token), &id, 1, &n, err));
    out->spelled = n == 1 && id == token;
    out->tokens = tokens;
out:
    return st;
}

/* ---- ids ----------------------------------------------------------------------------------- */

typedef MRI_VEC(int32_t) id_list;

static void repeat(id_list *out, int32_t id, int64_t times)
{
    while (times-- > 0)
        MRI_PUSH(out, id);
}

static mr_status add_text(const mri_imager *m, const char *text, size_t len, bool begin,
                          id_list *out, mr_err *err)
{
    int32_t *ids = NULL;
    uint64_t n = 0;
    mr_status st = mri_text_ids(m->ops, m->tok, text, len, begin, &ids, &n, err);
    for (uint64_t i = 0; !st && i < n; i++)
        MRI_PUSH(out, ids[i]);
    free(ids);
    return st;
}

/* A tokenizer that does not know the words still serves a model whose pictures are image tokens
 * and nothing else: their ids are put between the parts of the text. */
static mr_status check_plain(const mri_imager *m, mr_err *err)
{
    if (!m->words.grid)
        return 0;
    mr_fail(err, MR_E_TOKENIZER, MR_BLAME_USER, "the tokenizer does not make the one id %d of %s, "
            "which stands for pictures", m->token, m->words.token);
    mr_hint(err, "use the tokenizer of the model's folder");
    return MR_E_TOKENIZER;
}

static mr_status between_parts(const mri_imager *m, const char *text, const mri_tiles *grid,
                               size_t n, bool begin, id_list *out, mr_err *err)
{
    size_t len = strlen(m->words.placeholder);
    mr_status st = check_plain(m, err);
    for (size_t i = 0; !st && i <= n; i++) {
        const char *at = i < n ? strstr(text, m->words.placeholder) : text + strlen(text);
        st = add_text(m, text, (size_t)(at - text), begin && !i, out, err);
        if (i < n) {
            repeat(out, m->token, m->tokens * grid[i].n);
            text = at + len;
        }
    }
    return st;
}

mr_status mri_imager_ids(const mri_imager *m, const char *text, const mri_tiles *grid, size_t n,
                         bool begin, int32_t **ids, uint64_t *n_ids, mr_err *err)
{
    char *expanded = NULL;
    id_list out = { 0 };
    int64_t rows = 0, have = 0;
    mr_status st = 0;
    MR_TRY(mri_image_expand(&m->words, text, grid, n, m->tokens, &expanded, err));
    if (m->spelled)
        MR_TRY(add_text(m, expanded, strlen(expanded), begin, &out, err));
    else
        MR_TRY(between_parts(m, text, grid, n, begin, &out, err));
    for (size_t i = 0; i < n; i++)
        rows += grid[i].n * m->tokens;
    for (size_t i = 0; i < out.n; i++)
        have += out.v[i] == m->token;
    if (have != rows) {
        st = mr_fail(err, MR_E_IMAGE_COUNT, MR_BLAME_USER, "the text became %lld image tokens (id "
                     "%d), the pictures give %lld rows of features", (long long)have, m->token,
                     (long long)rows);
        mr_hint(err, "write %s once a picture and no other word for it", m->words.placeholder);
        goto out;
    }
    *ids = out.v ? out.v : mri_alloc(1);
    *n_ids = out.n;
    out.v = NULL;
out:
    free(expanded);
    free(out.v);
    return st;
}

/* ---- the service --------------------------------------------------------------------------- */

static mr_status give(const mri_imager *m, const mri_image *image, float *pixels, int64_t room,
                      mr_image_grid *grid, mr_err *err)
{
    mri_tiles t = mri_image_layout(&m->rule, image->width, image->height);
    mr_status st = pixels ? mri_image_prepare_into(&m->rule, image, pixels, room, &t, err) : 0;
    grid->rows = t.rows;
    grid->cols = t.cols;
    grid->tiles = t.n;
    return st;
}

static mr_status give_file(const void *pictures, const char *path, float *pixels, int64_t room,
                           mr_image_grid *grid, mr_err *err)
{
    mri_image image;
    mr_status st = mri_image_load(path, NULL, &image, err);
    if (!st)
        st = give(pictures, &image, pixels, room, grid, err);
    mri_image_free(&image);
    return st;
}

static mr_status give_bytes(const void *pictures, const uint8_t *values, int64_t width,
                            int64_t height, int64_t channels, float *pixels, int64_t room,
                            mr_image_grid *grid, mr_err *err)
{
    mri_image image;
    if (channels != 1 && channels != 3)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN, "a picture of %lld channels, 1 or 3 are "
                       "known", (long long)channels);
    mr_status st = mri_image_new(width, height, &image, err);
    if (st)
        return st;
    for (int64_t i = 0; i < width * height; i++)
        for (int64_t c = 0; c < 3; c++)
            image.rgb[3 * i + c] = values[i * channels + (channels == 3 ? c : 0)];
    st = give(pictures, &image, pixels, room, grid, err);
    mri_image_free(&image);
    return st;
}

static mr_status give_ids(const void *pictures, const mr_image_grid *grid, int32_t *ids,
                          uint64_t cap, uint64_t *n, mr_err *err)
{
    const mri_imager *m = pictures;
    mri_tiles t = { grid->rows, grid->cols, grid->tiles, m->rule.side, NULL };
    id_list out = { 0 };
    mr_status st = 0;
    if (m->spelled) {
        mri_str words = { 0 };
        mri_image_write(&m->words, &t, m->tokens, &words);
        st = add_text(m, words.s, words.n, false, &out, err);
        mri_str_free(&words);
    } else {
        st = check_plain(m, err);
        repeat(&out, m->token, st ? 0 : m->tokens * t.n);
    }
    if (!st && cap)
        memcpy(ids, out.v, (out.n < cap ? out.n : cap) * sizeof *ids);
    *n = out.n;
    free(out.v);
    return st;
}

const mr_image_service mri_image_service = { sizeof(mr_image_service), 0, give_file, give_bytes,
                                             give_ids };
