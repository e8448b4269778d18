/* SPDX-License-Identifier: Apache-2.0
 *
 * text.h - text shown while its tokens are made. A character may be spread over several tokens:
 * its first bytes are held until the rest is there, so that nobody reads half of it. What is no
 * UTF-8 at all passes as it is.
 */
#ifndef MRI_TEXT_H
#define MRI_TEXT_H
#include "core/base/base.h"
#include "mrun/tokenizer.h"

typedef struct mri_text_stream {
    const mr_tokenizer_ops *ops;
    void *tok;
    char held[4];
    uint32_t n_held;
} mri_text_stream; /* { ops, tok } starts one */

/* Appends what the ids complete; special tokens are not shown. */
mr_status mri_text_next(mri_text_stream *s, const int32_t *ids, uint64_t n, mri_str *out,
                        mr_err *err);
void mri_text_end(mri_text_stream *s, mri_str *out); /* appends what was held: no more will come */

/* Text cut at the one of some words that is whole first. What may yet become one of them is held
 * back, so that nobody reads the beginning of a word that ends the text. { words, n } starts it. */
typedef struct mri_stop_stream {
    const char *const *words; /* none of them empty */
    size_t n;
    mri_str held;
    const char *hit; /* the word that ended the text, or NULL */
} mri_stop_stream;

void mri_stop_next(mri_stop_stream *s, const char *text, size_t n, mri_str *out);
void mri_stop_end(mri_stop_stream *s, mri_str *out); /* appends what was held, unless a word hit */
void mri_stop_free(mri_stop_stream *s);

/* Bytes at the end of s that begin a character and do not finish it: 0 to 3. */
size_t mri_utf8_unfinished(const char *s, size_t n);

/* The ids of a text; the caller frees. `begin`: in front of them the id that the tokenizer begins a
 * text with, if it has one. */
mr_status mri_text_ids(const mr_tokenizer_ops *ops, void *tok, const char *text, uint64_t n,
                       bool begin, int32_t **ids, uint64_t *n_ids, mr_err *err);
/* As above, for flags (MR_TOK_PLAIN: no word is special) and without the id that begins. */
mr_status mri_text_ids_as(const mr_tokenizer_ops *ops, void *tok, uint32_t flags, const char *text,
                          uint64_t n, int32_t **ids, uint64_t *n_ids, mr_err *err);
#endif
