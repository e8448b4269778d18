/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_trial.h - one use of an op on one device, ready to be timed: its kernel, and its operands
 * in so many copies that together they exceed the caches.
 */
#ifndef MRUN_BENCH_TRIAL_H
#define MRUN_BENCH_TRIAL_H
#include "bench.h"

enum { TRIAL_MAX_COPIES = 64 };

typedef struct trial_copy {
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
} trial_copy;

typedef struct trial {
    mri_device *device;
    void *kernel; /* NULL: the backend has none */
    mr_kernel_info info;
    void *workspace;
    int n_copies;
    trial_copy copies[TRIAL_MAX_COPIES];
    uint64_t turn; /* the copy that is next */
    void *hold;    /* on a device that keeps its own time: memory to clear before a sample */
    void *mark[2];
    bench_times times;
} trial;

/* A zeroed trial may be closed; one that failed to open must be. `in`: host data. */
mr_status trial_open(trial *t, mri_device *d, const mr_op_def *def, const mr_call *c,
                     const mr_buf *in, mr_err *err);
void trial_close(trial *t, const mr_call *c);
/* One run on the first copy; what it writes comes back to the host's buffers. */
mr_status trial_once(trial *t, const mr_op_def *def, const mr_call *c, const mr_buf *in,
                     const mr_buf *out, mr_err *err);
/* Times n trials in turn, sample by sample, into their `times`. */
mr_status trial_measure(trial *t, int n, bool quick, mr_err *err);
/* The best rate that an f32 case reaches: flop/s, or the bytes/s of its cost; 0: none. */
double trial_best_rate(mri_device *d, const char *op, const char *text, bool bytes);

#endif
