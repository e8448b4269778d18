/* SPDX-License-Identifier: Apache-2.0
 *
 * expand.h - what stands for a picture in a text. A text names each picture by one placeholder
 * ("<|image|>", "<image>"); a model reads in its place one image token for every row of features
 * that the tiles give, with marks of the grid between them. Words are written here, ids by the
 * tokenizer, as transformers' processors do it.
 *
 * Invariant: after mri_image_rows() succeeded, row k of the features of all tiles, in order,
 * belongs to the k-th image token of the ids, and none is left over on either side.
 */
#ifndef MRI_IMAGE_EXPAND_H
#define MRI_IMAGE_EXPAND_H
#include "rule.h"

/* How the pictures of a family are written. In Llama 4's way (grid) a picture of several tiles is
 * its rows of tiles with marks behind each column and row, then the placeholder and the tile that
 * shows all; else it is image tokens and nothing more. */
typedef struct mri_image_words {
    bool grid;
    char placeholder[64], token[64]; /* token: the word whose id is the model's image token */
} mri_image_words;
mri_image_words mri_image_words_usual(const mri_image_rule *rule);
/* The words of a folder: processor_config.json and config.json may name others. */
mr_status mri_image_words_read(const char *dir, const mri_image_rule *rule, mri_image_words *out,
                               mr_err *err);

/* `text` with the i-th placeholder written out for grid[i], `tokens` image tokens a tile.
 * MR_E_IMAGE_COUNT if there are more or fewer placeholders than pictures. The caller frees. */
mr_status mri_image_expand(const mri_image_words *words, const char *text, const mri_tiles *grid,
                           size_t n, int64_t tokens, char **out, mr_err *err);
/* One picture's words, appended. */
void mri_image_write(const mri_image_words *words, const mri_tiles *grid, int64_t tokens,
                     mri_str *out);

/* rows[t] = k for the k-th ids[t] that is the image token, else -1. */
mr_status mri_image_rows(const int32_t *ids, int64_t n, int32_t token, int64_t features,
                         int32_t *rows, mr_err *err);

#endif
