/* SPDX-License-Identifier: Apache-2.0
 *
 * generate_how.h - how answers are drawn and what ends them: [generate] and the command line over
 * what the model's folder asks for (generation_config.json), over the defaults.
 */
#ifndef MRUN_GENERATE_HOW_H
#define MRUN_GENERATE_HOW_H
#include "app.h"
#include "core/run/complete.h"

typedef struct gen_how {
    mri_completing c;
    MRI_VEC(char *) words;
    MRI_VEC(int32_t) ids;
    MRI_VEC(mri_bias) bias;
} gen_how;

/* words: of the command line, taken as they are, n of them. The session has its tokenizer, or none
 * is wanted. */
mr_status how_read(gen_how *h, const mri_session *s, const char *const *words, size_t n,
                   mr_err *err);
void how_free(gen_how *h);

/* Did someone say so, in the profile or on the command line? */
bool how_was_set(const mri_config *c, const char *key);

#endif
