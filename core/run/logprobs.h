/* SPDX-License-Identifier: Apache-2.0
 *
 * logprobs.h - log-probabilities of ids, from one row of logits as the model gave them (before
 * temperature or any cut).
 */
#ifndef MRI_LOGPROBS_H
#define MRI_LOGPROBS_H
#include <stdint.h>

typedef struct mri_scored {
    int32_t id;
    float logprob;
} mri_scored;

/* log Σ exp(logits), summed in double; NaN if a logit is */
double mri_log_sum_exp(const float *logits, int64_t vocab);
/* The n likeliest ids, the lower one first on ties; n is at most the vocabulary. `lse` as above. */
void mri_likeliest(const float *logits, int64_t vocab, double lse, mri_scored *out, int64_t n);

#endif
