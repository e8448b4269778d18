/* SPDX-License-Identifier: Apache-2.0
 *
 * place.h - an error that shows its place: file and line, the line itself, and a caret run
 * under the word that is wrong.
 *
 * Invariant: what is shown is one short clean line, however long or binary the raw line is:
 * the window moves to the word, control characters become '?', columns count code points.
 */
#ifndef MRI_PLACE_H
#define MRI_PLACE_H
#include "profile.h"

typedef struct mri_span {
    size_t at, n; /* bytes from the start of origin.raw */
} mri_span;

/* `note` (may be NULL) stands right of the carets. The status is `code`. */
MR_PRINTF(6, 7) mr_status mri_place_fail(mr_err *err, mr_status code, const mri_origin *o,
                                         mri_span word, const char *note, const char *fmt, ...);

/* Where the key and the value of an entry stand in its origin's raw text. */
mri_span mri_place_key(const mri_origin *o);
mri_span mri_place_value(const mri_origin *o);

/* "profile.ini:12", "--set" or "default"; the caller frees */
char *mri_place_text(const mri_origin *o);

#endif
