/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_ledger.h - where a step's time went: one entry an op run, summed by phase, region, op
 * or shape; and the same entries as a trace for chrome://tracing or Perfetto.
 *
 * An entry's time runs from the entry before it (or from the last mark) to its own end, with
 * the device idle in between. On a CPU that is the op's own time; on an asynchronous device it
 * includes a launch and a wait, so there the sum exceeds the step's time.
 */
#ifndef MRUN_BENCH_LEDGER_H
#define MRUN_BENCH_LEDGER_H
#include "bench.h"

typedef struct ledger_entry {
    const mri_frame *frame; /* NULL: no op but a stage, called `stage` */
    const mri_node *node;
    const char *stage, *impl;
    uint8_t phase;
    double start, end, flops, bytes;
    char shape[48];
} ledger_entry;

typedef struct ledger {
    MRI_VEC(ledger_entry) entries;
    double mark;
    int steps; /* that the entries are of */
} ledger;

void ledger_mark(ledger *l); /* what comes next starts now */
/* A stage of the step that is no traced op: loading, the update. Since the last mark. */
void ledger_stage(ledger *l, const char *name, double flops, double bytes);
mr_status ledger_trace(void *ctx, const mri_trace_step *t, mr_err *err); /* an mri_trace fn */
double ledger_total(const ledger *l); /* seconds a step */

enum ledger_key { LEDGER_PHASE, LEDGER_REGION, LEDGER_OP, LEDGER_SHAPE };
/* A table, the largest first, or one JSON line a row. */
void ledger_print(const ledger *l, const app *a, enum ledger_key key, const bench_peaks *peaks,
                  const char *dtype);
mr_status ledger_write_trace(const ledger *l, const char *path, mr_err *err);
void ledger_free(ledger *l);

#endif
