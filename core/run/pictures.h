/* SPDX-License-Identifier: Apache-2.0
 *
 * pictures.h - the pictures of a session: how many tiles its execs have room for, which tokens
 * take their features' place, and the features that decoding reads.
 *
 * Invariant: features lie in memory of their own, so that the execs which take turns in the arena
 * leave them alone from the prompt's first chunk to its last.
 */
#ifndef MRI_PICTURES_H
#define MRI_PICTURES_H
#include "micro.h"

/* Refuses room for pictures in a model that takes none, and sizes without bound. */
mr_status mri_pictures_check(const mri_session *s, const mri_session_options *o, mr_err *err);
/* tiles of the exec for a mode: of its micro-batch */
int64_t mri_pictures_room(const mri_session *s, const mri_session_options *o, const char *mode);
/* Memory for the features; points decode and prefill at it, before they are bound. */
mr_status mri_pictures_alloc(mri_session *s, mr_err *err);
void mri_pictures_free(mri_session *s);
uint64_t mri_pictures_bytes(const mri_session *s);

/* A whole sequence of n tokens in the first rows of `m`: its placeholders and its pixels. */
mr_status mri_pictures_place(const mri_session *s, mri_micro *m, int64_t n, mr_err *err);
/* The row that the next token of the decoded sequence takes, or -1 if it is no placeholder. */
mr_status mri_pictures_next(mri_session *s, int32_t id, int32_t *row, mr_err *err);

#endif
