/* SPDX-License-Identifier: Apache-2.0
 *
 * train_run.h - one training run: what its loop (train.c) and its judge of bad steps (train_bad.c)
 * share. Invariant: all ranks make these calls alike, and come to the same verdict.
 */
#ifndef MRUN_TRAIN_RUN_H
#define MRUN_TRAIN_RUN_H
#include "core/run/step.h"
#include "elsewhere.h"
#include "rerun.h"
#include "sinks.h"

typedef struct train_run {
    app *a;
    mri_config *c;
    mri_session *s;
    app_sinks sinks;
    char *checkpoints;
    double peak_flops, step_flops, clock; /* clock: when the last step ended */
    uint64_t memory;
    int64_t saved_at;
    int stop, save_now; /* signals, as all ranks know of them */
    uint64_t spoilt;    /* items of [debug] spoil that have served */
    app_record record;  /* of a step that another machine could not judge */
} train_run;

mr_status train_save(train_run *r, mr_err *err);
/* Tells of a checkpoint that was written behind the steps; `wait`: of the one under way too. */
mr_status train_hear_of_saved(train_run *r, bool wait, mr_err *err);
void train_log_step(train_run *r, const mri_step_result *x, double seconds);

/* It runs again, which tells whose fault it was; a step that is good then is saved. */
mr_status train_bad_step(train_run *r, const mri_step_result *bad, mr_err *err);
/* A start that was to judge what an earlier one could not: *judged, if it ends with that. */
mr_status train_judge(train_run *r, const mri_step_result *x, bool *judged, mr_err *err);

#endif
