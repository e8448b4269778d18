/* SPDX-License-Identifier: Apache-2.0
 *
 * saver.h - saving behind training: what is saved is copied once to host memory, and a thread that
 * lives as long as the session writes it while the next steps run.
 *
 * Invariant: one save at a time; its copy is complete when begin() returns, so what training
 * changes afterwards is in no checkpoint. Ranks talk only in begin() and poll(), which all of them
 * call alike.
 */
#ifndef MRI_SAVER_H
#define MRI_SAVER_H
#include "shares.h"

typedef struct mri_saver mri_saver;
mri_saver *mri_saver_create(mri_session *s);

/* Saves the session as it is: now, or (behind) while it goes on. Waits for a save before it. */
mr_status mri_saver_begin(mri_saver *x, const mri_peers *p, const mri_mesh *mesh,
                          enum mri_shares_kind kind, const char *dir, int64_t keep, bool behind,
                          mr_err *err);
/* Is the save behind done on all ranks? Then *step is its step, and the checkpoint is there; else
 * -1. `wait`: until it is. An error of it is returned here, and it is over then. */
mr_status mri_saver_poll(mri_saver *x, bool wait, int64_t *step, mr_err *err);
/* Gives up a save that is under way: at once, without a word to other ranks, which may be dead. The
 * checkpoints before it stay as they were. */
void mri_saver_abort(mri_saver *x);
void mri_saver_free(mri_saver *x); /* NULL is allowed; aborts */

#endif
