/* SPDX-License-Identifier: Apache-2.0
 *
 * sample.h - one token from logits. The draw is a pure function of (seed, position), so a
 * generation is the same however it is batched or interrupted.
 */
#ifndef MRI_SAMPLE_H
#define MRI_SAMPLE_H
#include <stdint.h>

typedef struct mri_sampling {
    double temperature; /* 0: the most probable token, lowest id on ties         */
    int64_t top_k;      /* 0: all; else only the k most probable                 */
    double top_p;       /* 1: all; else the smallest set that reaches this mass
                           (nucleus sampling, Holtzman et al. 2020)              */
    uint64_t seed;
} mri_sampling;

int32_t mri_sample(const float *logits, int64_t vocab, const mri_sampling *how, uint64_t position);

#endif
