/* SPDX-License-Identifier: Apache-2.0
 *
 * sample.h - one token from logits. The draw is a pure function of what is handed in: logits, the
 * ids before, the seed and the position, so that a generation is the same however it is batched
 * or interrupted.
 *
 * In this order, which is transformers' (docs/generation.md has the equations): bias, repetition
 * penalty, presence and frequency penalty (vLLM's), banned ids, temperature, top-k, top-p, min-p.
 * With temperature 0 the likeliest id is taken after the bans, and nothing is drawn.
 */
#ifndef MRI_SAMPLE_H
#define MRI_SAMPLE_H
#include <stdbool.h>
#include <stdint.h>

typedef struct mri_bias {
    int32_t id;
    float add; /* to its logit */
} mri_bias;

typedef struct mri_sampling {
    double temperature; /* 0: the most probable token, lowest id on ties         */
    int64_t top_k;      /* 0: all; else the k most probable, and those that equal the last */
    double top_p;       /* 1: all; else the smallest set that reaches this mass
                           (nucleus sampling, Holtzman et al. 2020)              */
    uint64_t seed;
    /* 0 in any of these: none */
    double min_p;              /* of the most probable one's probability (Nguyen et al. 2024) */
    double repetition_penalty; /* of ids before, prompt and answer (Keskar et al. 2019); 1: none */
    double presence_penalty;   /* off the logit of ids in the answer, once        */
    double frequency_penalty;  /* ... and once more for each time                 */
    const mri_bias *bias;      /* not copied */
    int64_t n_bias;
} mri_sampling;

typedef struct mri_seen { /* what stands before; {0}: nothing */
    const int32_t *ids;
    int64_t n_prompt, n; /* the answer is ids[n_prompt .. n) */
    const int32_t *banned; /* not to be drawn: the ids that end an answer, while it is too short */
    int64_t n_banned;
} mri_seen;

int32_t mri_sample(const float *logits, int64_t vocab, const mri_sampling *how, uint64_t position);
int32_t mri_sample_after(const float *logits, int64_t vocab, const mri_sampling *how,
                         const mri_seen *seen, uint64_t position);

/* The likeliest id as the model has it is what would be drawn: logits need not be read. */
bool mri_sampling_is_argmax(const mri_sampling *how);

#endif
