/* SPDX-License-Identifier: Apache-2.0
 *
 * answers.h - what a model that sees answers to held-out pictures: the share of right answers,
 * and a page of pictures with them.
 */
#ifndef MRUN_ANSWERS_H
#define MRUN_ANSWERS_H
#include "app.h"
#include "core/run/choose.h"

typedef struct answers {
    uint32_t set;
    mr_data_set info;
    int64_t n, right;
    mri_pick *pick;  /* of each sample */
    char **name;     /* of each choice */
    double accuracy; /* right / n */
} answers; /* {0} is none */

/* The first n samples of the first validation set with choices (n 0, or more than there are: all).
 * out->n 0: no set has any. */
mr_status answers_find(mri_session *s, int64_t n, answers *out, mr_err *err);
/* The same for one set, without the names. */
mr_status answers_choose(mri_session *s, uint32_t set, int64_t n, answers *out, mr_err *err);
/* A page that fetches nothing: shares, who is taken for whom, pictures. */
mr_status answers_page(mri_session *s, const answers *a, mri_str *html, mr_err *err);
void answers_free(answers *a);

#endif
