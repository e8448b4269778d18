/* SPDX-License-Identifier: Apache-2.0
 *
 * option.h - walking option rows. A row is read through mri_opt_read, which copies what the
 * row's own size covers: rows built against an older or newer header are walked right and
 * never read past their end. */
#ifndef MRI_OPTION_H
#define MRI_OPTION_H
#include "profile.h"

/* The i-th row, or NULL. The row's address: a row's `size` is its stride. */
const mr_opt *mri_opt_row(const mr_opt *opts, uint32_t n, uint32_t i);
mr_opt mri_opt_read(const mr_opt *row);
bool mri_opt_has_word(const char *choices, const char *word, size_t n, uint32_t *index);
size_t mri_opt_storage(uint32_t type); /* bytes at the offset; 0: no such type */
bool mri_opt_owns(uint32_t type);      /* is a parsed value one malloc'ed block?  */

/* A path made absolute: relative to base_dir (NULL: the working folder), "~/" and ${ENV}
 * expanded. NULL: `why` says why not. The caller frees either. */
char *mri_path_resolve(const char *text, const char *base_dir, char **why);
/* The folder of an origin's file, for base_dir; NULL: none. The caller frees. */
char *mri_origin_dir(const mri_origin *o);

/* "int 1..64|auto" */
void mri_opt_type_text(const mr_opt *o, mri_str *out);

#endif
