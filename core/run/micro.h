/* SPDX-License-Identifier: Apache-2.0
 *
 * micro.h - one micro-batch on the host: up to B samples of S tokens, flattened to T = B*S, in
 * one block of memory laid out as the fields of an exec are, so that one copy uploads it.
 */
#ifndef MRI_MICRO_H
#define MRI_MICRO_H
#include "session.h"

typedef struct mri_micro { /* arrays of T in the block */
    int32_t *tokens, *positions, *seq_start, *targets, *slot;
    float *weight;
    int64_t t;
    void *block;
} mri_micro;

uint64_t mri_micro_bytes(int64_t t); /* of the block; equals mri_exec_field_bytes() of T tokens */
mri_micro mri_micro_at(void *block, int64_t t);
mri_micro mri_micro_new(int64_t t); /* with a block of its own, zeroed */
void mri_micro_free(mri_micro *m);
mri_batch mri_micro_batch(const mri_micro *m, bool decode);

/* From row `from` on: sequences of `seq` zeros that count for nothing. */
void mri_micro_blank(mri_micro *m, int64_t from, int64_t seq);
/* One sequence from the first row on, each token predicting the next; the rest are blanks. */
void mri_micro_sequence(mri_micro *m, const int32_t *ids, int64_t n, int64_t seq);
/* Samples first, first+1, ... of a set, one a row; rows past `limit` (if >= 0) stay blank. Adds
 * the weights of what was read to *weight. */
mr_status mri_micro_read(mri_session *s, mri_micro *m, uint32_t set, int64_t first, int64_t limit,
                         double *weight, mr_err *err);

#endif
