/* SPDX-License-Identifier: Apache-2.0
 * logprobs.c - see logprobs.h. */
#include "logprobs.h"
#include <math.h>

double mri_log_sum_exp(const float *logits, int64_t vocab)
{
    double max = -INFINITY, sum = 0;
    for (int64_t i = 0; i < vocab; i++)
        max = fmax(max, (double)logits[i]);
    if (max == -INFINITY)
        max = 0;
    for (int64_t i = 0; i < vocab; i++)
        sum += exp((double)logits[i] - max);
    return max + log(sum);
}

/* Insertion into a sorted list: of a large vocabulary few ids get past the last of the list. */
void mri_likeliest(const float *logits, int64_t vocab, double lse, mri_scored *out, int64_t n)
{
    int64_t have = 0;
    for (int64_t i = 0; i < vocab && n > 0; i++) {
        if (have == n && !(logits[i] > logits[out[n - 1].id]))
            continue;
        int64_t at = have < n ? have++ : n - 1;
        for (; at > 0 && logits[i] > logits[out[at - 1].id]; at--)
            out[at] = out[at - 1];
        out[at].id = (int32_t)i;
    }
    for (int64_t i = 0; i < have; i++)
        out[i].logprob = (float)((double)logits[out[i].id] - lse);
}
