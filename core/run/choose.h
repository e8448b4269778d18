/* SPDX-License-Identifier: Apache-2.0
 *
 * choose.h - which of its set's choices a model answers to a sample: the one whose tokens, behind
 * the sample's picture and prompt, are likeliest. Nothing is generated, so the choice is exact and
 * no answer is malformed.
 */
#ifndef MRI_CHOOSE_H
#define MRI_CHOOSE_H
#include "session.h"

typedef struct mri_pick {
    int64_t answer, choice; /* 1 ..: the right one (0: unknown), and the model's */
    double p, p_answer;     /* their probabilities among the choices             */
} mri_pick;

/* For samples first .. first + n of a set with `choices` > 1. Needs the eval exec. */
mr_status mri_session_choose(mri_session *s, uint32_t set, int64_t first, int64_t n, mri_pick *out,
                             mr_err *err);

#endif
