/* SPDX-License-Identifier: Apache-2.0
 *
 * sinks.h - the run's sinks, opened from the profile and fed together. A sink that fails is
 * reported once and dropped.
 */
#ifndef MRUN_SINKS_H
#define MRUN_SINKS_H
#include "app.h"
#include "core/run/session.h"
#include "mrun/sink.h"

typedef struct app_sink {
    const mr_sink_ops *ops;
    void *sink;
    const char *name;
} app_sink;

typedef struct app_sinks {
    MRI_VEC(app_sink) all;
    int64_t steps;
} app_sinks;

mr_status app_sinks_open(app_sinks *s, app *a, const mri_config *c, int64_t from_step, mr_err *err);
void app_sinks_event(app_sinks *s, const char *type, int64_t step, const mr_metric *m, uint32_t n,
                     const char *text);
void app_sinks_close(app_sinks *s);

/* generate.c: a sample on stdout, for the end of a training run */
mr_status app_print_sample(mri_session *s, const char *prompt, int64_t tokens, mr_err *err);

#endif
