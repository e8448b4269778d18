/* SPDX-License-Identifier: Apache-2.0
 *
 * ranks.h - a job on every rank of its world: this process's one rank, as the launcher says, or
 * all of them as threads (comm/sim).
 */
#ifndef MRUN_RANKS_H
#define MRUN_RANKS_H
#include "app.h"

typedef struct app_start { /* what a rank needs to resolve the profile for itself */
    const char *profile, *hf; /* as in mri_source_config() */
    const char *const *sets;
    size_t n_sets;
    int (*job)(app *a, mri_config *c, const void *user);
    const void *user; /* the job's own; read only, as all ranks have it */
} app_start;

/* Runs start->job with a->world set; without a comm plugin as it is. `c` is the profile as this
 * process has resolved it. Returns the exit code, which is the same on all ranks. */
int app_run_ranks(app *a, mri_config *c, const app_start *start);
/* What the first rank has found out (`bytes` at x), on all: every rank calls it. */
mr_status app_as_first(mri_world *w, void *x, size_t bytes, mr_err *err);

#endif
