/* SPDX-License-Identifier: Apache-2.0
 *
 * dtype.h - element types of safetensors files: the format's names beside ours.
 * Rows stand in the order of growing alignment, as in the format's own library, whose writer
 * sorts tensors by it: a later row is written earlier in a file.
 */
#ifndef MRI_DTYPE_H
#define MRI_DTYPE_H
#include "core/base/base.h"
#include "mrun/program.h"

typedef struct mri_dtype {
    const char *file, *name; /* "BF16", "bf16" */
    uint32_t bits;
} mri_dtype;

const mri_dtype *mri_dtype_of_file(const char *file); /* NULL: unknown */
const mri_dtype *mri_dtype_of_name(const char *name);
const mri_dtype *mri_dtype_at(size_t i); /* i-th row; NULL past the last */
char *mri_dtype_list(void); /* "BOOL F4 ...", for messages; the caller frees */

/* Bytes of a dense value of the type; false: unknown dtype, negative dim, over 2^63 bytes, or
 * not a whole number of bytes. */
bool mri_type_bytes(const mr_type *t, uint64_t *bytes);

#endif
