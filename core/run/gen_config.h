/* SPDX-License-Identifier: Apache-2.0
 *
 * gen_config.h - how a Hugging Face folder wants to be sampled: its generation_config.json, read
 * as transformers reads it. Invariant: what the file does not say is not set here, but for what
 * transformers takes for granted (do_sample false, also without the file; top_k 50 where it
 * samples).
 */
#ifndef MRI_GEN_CONFIG_H
#define MRI_GEN_CONFIG_H
#include "core/base/base.h"

typedef struct mri_gen_config {
    bool there; /* the folder has the file */
    /* has_* false: not set */
    bool has_temperature, has_top_k, has_top_p, has_min_p, has_repetition, has_max, has_min;
    double temperature, top_p, min_p, repetition; /* temperature 0: it does not sample */
    int64_t top_k, max_tokens, min_tokens;
    MRI_VEC(int32_t) eos; /* of the file, else of config.json */
} mri_gen_config;

mr_status mri_gen_config_read(const char *dir, mri_gen_config *out, mr_err *err);
void mri_gen_config_free(mri_gen_config *g);

#endif
