/* SPDX-License-Identifier: Apache-2.0
 *
 * pieces.h - which tensors of a folder make a parameter: the one of its name, or several that
 * the folder has in its stead (mr_param.tensors), each plain or quantised, together perhaps a
 * matrix transposed.
 */
#ifndef MRI_PIECES_H
#define MRI_PIECES_H
#include "core/store/quant.h"
#include "params.h"
#include "turned.h"

typedef struct mri_stretch { /* elements [at, at + n) of a parameter */
    const mri_tensor_slot *slot;
    uint64_t at;
    int64_t n;
    mri_stored from;
    mri_turned *turned; /* NULL, or the matrix that is read; `from` is its first part, then */
    char *state; /* NULL, or where on the device an optimizer's state of the parameter lies: it is
                    what is read, in the dtype of `from` */
} mri_stretch;

typedef struct mri_pieces {
    MRI_VEC(mri_stretch) list;
    uint64_t elements; /* of them, that mri_load_box() has read */
} mri_pieces;

void mri_pieces_free(mri_pieces *p);
/* the tensors that a stretch is read from: the i-th, NULL past the last */
const mri_stored *mri_stretch_part(const mri_stretch *s, uint32_t i);

/* the full name of piece `word` (one of tensors' names, of `len` letters) for count `at`; the
 * caller frees */
char *mri_piece_name(const mri_tensor_slot *s, const char *word, size_t len, int64_t at);
/* Appends the pieces of slot s, which fill it exactly; `where` names the folder in messages, q
 * may be NULL. */
mr_status mri_pieces_find(const mri_safetensors *f, const mri_quant *q, const mri_tensor_slot *s,
                          const char *where, mri_pieces *out, mr_err *err);
/* Joins the pieces of slot s, all of one dtype, to a new array of that dtype. The caller frees
 * *data. */
mr_status mri_pieces_join(const mri_safetensors *f, const mri_quant *q, const mri_tensor_slot *s,
                          const char *where, void **data, const char **dtype, mr_err *err);

#endif
