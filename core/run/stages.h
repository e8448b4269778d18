/* SPDX-License-Identifier: Apache-2.0
 *
 * stages.h - what a session asks while it opens where its model may lie on several stages of a
 * pipeline. Invariant: without a pipeline nothing changes, and no chunks are named.
 */
#ifndef MRI_STAGES_H
#define MRI_STAGES_H
#include "session.h"

/* Does the training run forwards and backwards of micro-batches zipped? */
bool mri_stages_zipped(const mri_session *s);
/* ... and may it, by the profile and the plan of data parallelism? Refused by name. */
mr_status mri_stages_check_zipped(const mri_session *s, mr_err *err);
/* pieces of every instance, for schedules; the caller frees */
mri_seams *mri_stages_seams(const mri_exec *e);
/* Are weight gradients tasks of their own? (asked once the training exec's model is cut) */
bool mri_stages_split_w(const mri_session *s);
/* Cuts the model to this rank's stage, where there are several. */
mr_status mri_stages_cut(mri_session *s, const char *mode, mri_assembly *a, mr_err *err);
/* The slots that the chunks of an exec of so many instances need for so many micro-batches; NULL
 * where there is one chunk of one slot. The caller frees. */
mr_status mri_stages_chunks(const mri_session *s, bool train, uint32_t instances, uint32_t micros,
                            mri_chunk **out, mr_err *err);
uint32_t mri_stages_n_chunks(const mri_session *s, bool train);

#endif
