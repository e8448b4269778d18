/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_ledger.h - where a step's time went: one entry an op run, summed by phase, class, region,
 * op or shape; and the last step's entries as a trace for chrome://tracing or Perfetto.
 *
 * A step is watched between ledger_begin() and ledger_end(); the device shows its ops to
 * ledger_trace() meanwhile. With a timer an entry's time is the device's own, between two marks,
 * and nothing waits; what of the step is in no entry (copies, clearing, the device waiting for the
 * host) is an entry too, "between ops". Without one, or in CPU time, an entry runs from the end
 * of the one before to its own end.
 */
#ifndef MRUN_BENCH_LEDGER_H
#define MRUN_BENCH_LEDGER_H
#include "bench.h"

typedef struct ledger_entry {
    const mri_plan *plan; /* NULL: no op, but what lies between them */
    const mri_node *node;
    char *label;          /* owned; of the instance: "model.layers.3." */
    const char *impl;
    uint8_t phase;
    int step;
    double start, end; /* seconds since the step began */
    double flops, bytes;
    void *before, *after; /* marks, until the step ends */
    char shape[48];
} ledger_entry;

typedef struct ledger {
    MRI_VEC(ledger_entry) entries;
    const mri_exec *train; /* whose ops are the model's; all others are the update's */
    mri_device *device;
    size_t first;  /* entry of the step at work */
    void *began;   /* its first mark            */
    double clock;  /* its start; then the end of the entry before */
    double opened, seconds; /* of all steps */
    int steps;     /* that were watched */
} ledger;

/* `train` is set by the caller */
mr_status ledger_begin(ledger *l, mri_device *d, mr_err *err);
mr_status ledger_end(ledger *l, mr_err *err); /* waits for the device */
mr_status ledger_trace(void *ctx, const mri_trace_step *t, mr_err *err); /* of a mri_trace that
                                                                            asks for timing */
double ledger_total(const ledger *l); /* seconds a step */

enum ledger_key { LEDGER_PHASE, LEDGER_CLASS, LEDGER_REGION, LEDGER_OP, LEDGER_SHAPE };
/* A table, the largest first, or one JSON line a row. */
void ledger_print(const ledger *l, const app *a, enum ledger_key key, const bench_peaks *peaks,
                  const char *dtype);
mr_status ledger_write_trace(const ledger *l, const char *path, mr_err *err);
void ledger_free(ledger *l);

#endif
