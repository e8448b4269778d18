/* SPDX-License-Identifier: Apache-2.0
 *
 * pieces.h - a parameter that a Hugging Face folder holds as several tensors (mr_param.tensors):
 * their names, and the parameter that they make.
 */
#ifndef MRI_PIECES_H
#define MRI_PIECES_H
#include "core/store/store.h"
#include "params.h"

/* the full name of piece `word` (one of tensors' names, of `len` letters) for count `at`; the
 * caller frees */
char *mri_piece_name(const mri_tensor_slot *s, const char *word, size_t len, int64_t at);
/* Joins the pieces of slot s, all there and of one dtype, to a new array of that dtype; `where`
 * names the folder in messages. The caller frees *data. */
mr_status mri_pieces_join(const mri_safetensors *f, const mri_tensor_slot *s, const char *where,
                          void **data, const char **dtype, mr_err *err);

#endif
