/* SPDX-License-Identifier: Apache-2.0
 *
 * run_folder.h - whose a run folder is. It belongs to the profile that made it
 * (profile.resolved.ini); another profile is refused with the keys that differ, unless
 * run.fork = true takes the old run's weights for a new run there. Claiming comes last before
 * the first step, so that a start that fails claims nothing.
 */
#ifndef MRUN_RUN_FOLDER_H
#define MRUN_RUN_FOLDER_H
#include "core/run/session.h"

mr_status run_folder_make(const char *path, mr_err *err); /* with its parents; may exist */
/* Refuses a folder that another profile made; *fork says that its weights are to be taken. */
mr_status run_folder_check(const mri_config *c, bool *fork, mr_err *err);
mr_status run_folder_claim(const mri_config *c, mr_err *err);
/* Weights of the newest checkpoint into the session, as step 0 of a run of its own; what the old
 * run saved and logged stays beside it. *saved_at = 0 if that step 0 is on disk. */
mr_status run_folder_fork(mri_session *s, const char *checkpoints, int64_t *saved_at, mr_err *err);

#endif
