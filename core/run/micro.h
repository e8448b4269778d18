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
    int32_t *image_rows; /* NULL: no pictures */
    float *pixels;       /* [tiles, tile_values]; NULL: none are fed */
    int64_t t, images, tile_values;
    void *block;
} mri_micro;

/* The block is as long as mri_exec_fields_bytes() of the exec that it is for. */
mri_micro mri_micro_at(void *block, const mri_exec_options *o);
mri_micro mri_micro_of(const mri_exec *e); /* with a block of its own, zeroed */
mri_micro mri_micro_new(int64_t t);        /* the same of T tokens without pictures */
void mri_micro_free(mri_micro *m);
mri_batch mri_micro_batch(const mri_micro *m, bool decode);

/* Can sequences of `seq` be cut over cp ranks? Refused by name else. */
mr_status mri_micro_check_cut(int64_t seq, int64_t cp, int64_t images, mr_err *err);
/* The rows of `whole`, sequences of seq, that rank `index` of `ranks` has, zig-zag
 * (core/ops/zigzag.h); seq_start stays a row of the whole. Without pictures. */
void mri_micro_cut(const mri_micro *whole, int64_t seq, int64_t ranks, int64_t index,
                   mri_micro *part);
/* From row `from` on: sequences of `seq` zeros that count for nothing, and no picture's. */
void mri_micro_blank(mri_micro *m, int64_t from, int64_t seq);
/* One sequence from the first row on, each token predicting the next; the rest are blanks. */
void mri_micro_sequence(mri_micro *m, const int32_t *ids, int64_t n, int64_t seq);
/* The tokens `id` of rows [from, from + n) take rows *next, *next + 1, ... of the features, which
 * have `room` rows; *next moves on. */
mr_status mri_micro_place_images(mri_micro *m, int64_t from, int64_t n, int32_t id, int64_t *next,
                                 int64_t room, mr_err *err);
/* One sample of a set into row r; choice: 0, or that of the set's choices in its answer's place.
 * *answer: which choice is right, 0: none. */
mr_status mri_micro_read_row(mri_session *s, mri_micro *m, int64_t r, uint32_t set, int64_t sample,
                             int64_t choice, int64_t *answer, mr_err *err);
/* Samples first, first+1, ... of a set, one a row; rows past `limit` (if >= 0) stay blank. Adds
 * the weights of what was read to *weight. Over cp each rank reads all and keeps its rows; the
 * weights are of all rows. */
mr_status mri_micro_read(mri_session *s, mri_micro *m, uint32_t set, int64_t first, int64_t limit,
                         double *weight, mr_err *err);

#endif
