/* SPDX-License-Identifier: Apache-2.0
 *
 * indexed_write.h - writes Megatron's indexed data set, PREFIX.bin and PREFIX.idx, byte for
 * byte as Megatron writes it. The layout is described where it is read:
 * plugins/data/indexed/token_file.h.
 *
 * Invariant: the two files appear under their names only when both are whole and on disk,
 * the .idx last; until then they are PREFIX.bin.partial and PREFIX.idx.partial.
 */
#ifndef MRI_INDEXED_WRITE_H
#define MRI_INDEXED_WRITE_H
#include "core/base/base.h"

typedef enum mri_indexed_dtype { /* the file's codes */
    MRI_INDEXED_U8 = 1,
    MRI_INDEXED_I32 = 4,
    MRI_INDEXED_U16 = 8
} mri_indexed_dtype;

mri_indexed_dtype mri_indexed_dtype_for(int64_t vocab);

typedef struct mri_indexed_writer mri_indexed_writer;

mr_status mri_indexed_create(const char *prefix, mri_indexed_dtype dtype, mri_indexed_writer **out,
                             mr_err *err);
/* a further sequence of the document at hand */
mr_status mri_indexed_sequence(mri_indexed_writer *w, const int32_t *ids, uint64_t n, mr_err *err);
/* the document at hand ends; it may hold no sequence */
void mri_indexed_end_document(mri_indexed_writer *w);
/* Both free the writer (NULL is fine); finish() leaves nothing behind if it fails. */
mr_status mri_indexed_finish(mri_indexed_writer *w, mr_err *err);
void mri_indexed_abandon(mri_indexed_writer *w);

#endif
