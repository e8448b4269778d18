/* SPDX-License-Identifier: Apache-2.0
 *
 * model_args.h - which model a command means: a profile, a run folder, or --hf DIR.
 */
#ifndef MRUN_MODEL_ARGS_H
#define MRUN_MODEL_ARGS_H
#include "app.h"
#include "core/run/session.h"

/* PROFILE.ini | RUN_DIR (its profile.resolved.ini) | --hf DIR (the family by config.json's
 * model_type), with the --set values and `extra` (n_extra "section.key=value") on top. */
mr_status app_model_config(app *a, const app_args *args, const char *const *extra, size_t n_extra,
                           mri_config **out, mr_err *err);
/* Settings that take back what a profile says of many ranks: for one process, whatever mesh the run
 * had, as a checkpoint is read as whole tensors. */
enum { APP_ALONE = 14 };
extern const char *const app_alone[APP_ALONE];
/* The same as `job` on every rank of its world (ranks.h), which is handed `user` too; returns the
 * exit code. One process that nobody launched as a rank is alone. */
int app_model_run(app *a, const app_args *args, const char *const *extra, size_t n_extra,
                  int (*job)(app *a, mri_config *c, const void *user), const void *user);
/* the weights: those of [model] hf, else the run folder's newest checkpoint */
mr_status app_model_weights(mri_session *s, mr_err *err);

#endif
