/* SPDX-License-Identifier: Apache-2.0
 *
 * imager.h - pictures on the way into a session's model: which rule prepares them, which words
 * stand for them, and the ids that a text with pictures becomes. It is also the host service
 * "mrun.image/1", through which data plugins get prepared pictures.
 *
 * Invariant: ids that it makes hold exactly as many image tokens as the pictures' tiles give rows
 * of features; where a tokenizer would make others of the same words, that is an error.
 */
#ifndef MRI_IMAGER_H
#define MRI_IMAGER_H
#include "core/image/expand.h"
#include "mrun/data.h"

typedef struct mri_imager {
    mri_image_rule rule;
    mri_image_words words;
    int64_t tokens; /* a tile; 0: it is not open yet */
    int32_t token;
    bool spelled; /* the tokenizer knows the words: they are encoded as part of the text */
    const mr_tokenizer_ops *ops;
    void *tok;
} mri_imager;

/* dir: the Hugging Face folder with the settings, NULL: the usual ones for tiles of `side`. The
 * tokenizer may be NULL where no text is read. */
mr_status mri_imager_open(const char *dir, int64_t side, int64_t tokens, int32_t token,
                          const mr_tokenizer_ops *ops, void *tok, mri_imager *out, mr_err *err);

/* A text with a placeholder for each of the n pictures, to ids; the caller frees. `begin`: behind
 * the tokenizer's beginning-of-text id, if it has one. */
mr_status mri_imager_ids(const mri_imager *m, const char *text, const mri_tiles *grid, size_t n,
                         bool begin, int32_t **ids, uint64_t *n_ids, mr_err *err);

extern const mr_image_service mri_image_service; /* its `pictures` is an mri_imager */

#endif
