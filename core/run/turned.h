/* SPDX-License-Identifier: Apache-2.0
 *
 * turned.h - a matrix that files hold transposed, in one tensor or in several (MR_PARAM_TURNED):
 * its elements in the parameter's order, and back.
 *
 * Invariant: the parts, [rows of the part, `rows`] each, are together `cols` rows.
 */
#ifndef MRI_TURNED_H
#define MRI_TURNED_H
#include "core/store/quant.h"

typedef struct mri_turned {
    int64_t rows, cols; /* as the parameter has it */
    uint32_t n;
    mri_stored part[]; /* columns of the matrix, from left to right */
} mri_turned;

/* Elements [first, first + n) of the matrix, row-major: whole rows, or a part of one row. */
mr_status mri_turned_read(const mri_turned *m, int64_t first, int64_t n, float *out, mr_err *err);
/* out [r,c] = in [c,r], whose rows are `ld` elements apart; elements of `width` bytes. */
void mri_turn(void *out, const void *in, int64_t rows, int64_t cols, int64_t ld, size_t width);

#endif
