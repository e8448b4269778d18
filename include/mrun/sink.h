/* SPDX-License-Identifier: Apache-2.0
 *
 * sink.h - unit kind "sink": where a run's figures go. A sink gets events in order; a
 * failing sink is reported once and dropped, it never stops a run.
 */
#ifndef MRUN_SINK_H
#define MRUN_SINK_H
#include "plugin.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct mr_metric { /* frozen */
    const char *name;      /* "loss", "val_loss", "grad_norm", "lr", "ms", "tokens_per_s" ... */
    double value;
} mr_metric;

typedef struct mr_event {
    uint32_t size, n_metrics;
    const char *type; /* "start" "step" "eval" "checkpoint" "end" "note"                     */
    int64_t step, steps; /* of the run so far, and in all                                    */
    double time;      /* seconds since the epoch                                             */
    const mr_metric *metrics;
    const char *text; /* a line for people, or NULL                                          */
} mr_event;

typedef struct mr_sink_env {
    uint32_t size, resumed;
    const char *run_dir;
    int64_t from_step; /* events after this step may be in old files: drop them (resume)     */
} mr_sink_env;

typedef struct mr_sink_ops {
    uint32_t size, flags;
    mr_status (*create)(const mr_host *, const mr_sink_env *, const void *config, void **sink,
                        mr_err *);                                                   /* [main] */
    void (*destroy)(void *sink);                                                     /* [main] */
    mr_status (*event)(void *sink, const mr_event *, mr_err *);                  /* [instance] */
} mr_sink_ops;

#ifdef __cplusplus
}
#endif
#endif
