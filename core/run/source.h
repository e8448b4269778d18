/* SPDX-License-Identifier: Apache-2.0
 *
 * source.h - which model is meant: a profile, a run folder, a Hugging Face folder; and where
 * its weights are.
 */
#ifndef MRI_SOURCE_H
#define MRI_SOURCE_H
#include "session.h"

/* path: PROFILE.ini, or a run folder or one checkpoint of it (their profile.resolved.ini), or
 * NULL. hf: a Hugging Face folder or NULL; its family is config.json's model_type, its tokenizer
 * the one that reads the files there. At least one of the two is given; the later of `sets` win
 * over both. */
mr_status mri_source_config(mri_registry *reg, const char *path, const char *hf,
                            const char *const *sets, size_t n_sets, mri_config **out, mr_err *err);

/* The settings "tokenizer.plugin=..." and "tokenizer.NAME.dir=..." for a folder's tokenizer files,
 * which the caller frees; false: there are none that a tokenizer's note names. */
bool mri_source_tokenizer(mri_registry *reg, const char *dir, char *sets[2]);

/* Where the weights are: the checkpoint that was named, or the run's newest; *out NULL: the folder
 * of [model] hf, which was named on the command line, or which no run has trained on yet. */
mr_status mri_source_checkpoint(const mri_config *c, mri_checkpoint **out, mr_err *err);
/* loads them */
mr_status mri_source_weights(mri_session *s, mr_err *err);

#endif
