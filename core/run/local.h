/* SPDX-License-Identifier: Apache-2.0
 *
 * local.h - fast checkpoints beside the rare ones that any mesh reads: each rank writes its own
 * memory to a disk of its own, and asks nobody.
 *
 * Invariant: a rank's local checkpoint is whole by itself; a step counts only if every rank has it,
 * and the newest such step wins over an older checkpoint of all.
 */
#ifndef MRI_LOCAL_H
#define MRI_LOCAL_H
#include "shares.h"

/* Saves below DIR/rank-RRRRR-of-WWWWW, and keeps the one before: a rank may die before it has the
 * new one. */
mr_status mri_local_save(mri_session *s, const mri_peers *p, const mri_mesh *mesh, const char *dir,
                         mr_err *err);
/* The newest step above `above` that all ranks have whole; *out NULL: there is none. */
mr_status mri_local_open(const mri_peers *p, const char *dir, int64_t above, mri_checkpoint **out,
                         mr_err *err);

#endif
