/* SPDX-License-Identifier: Apache-2.0
 *
 * device.h - one open device of a backend, its compute stream, and launching a plan's
 * phase on it.
 *
 * Invariant: mri_launch() allocates nothing and waits for nothing, unless a trace asks to
 * see every step (debugging) or a step runs by reference loops on a device whose memory the
 * host cannot reach (`fallback = host`).
 */
#ifndef MRI_DEVICE_H
#define MRI_DEVICE_H
#include "core/plan/plan.h"

struct mri_world;

typedef struct mri_device {
    const mr_backend_ops *ops;
    void *dev, *stream;
    bool host_memory; /* the host may touch its pointers */
    const mr_capture *capture; /* NULL: it records no graphs */
    mr_device_info info;
    const mr_timer *timer;         /* NULL: the backend has none                            */
    const struct mri_trace *watch; /* of every launch that has no trace of its own, or NULL */
    struct mri_world *world;       /* whose collectives steps run; NULL: this rank alone    */
    struct mri_counts *counts;     /* exchange.h: rows of experts that the host knows of    */
} mri_device;

mr_status mri_device_open(const mr_backend_ops *ops, const mr_host *host, const void *config,
                          uint32_t index, mri_device *out, mr_err *err);
void mri_device_close(mri_device *d);
mr_status mri_device_sync(mri_device *d, mr_err *err);
double mri_device_clock(void); /* the host's: seconds, only forward */
/* the host waits for an event that mr_backend_ops.record() gave */
mr_status mri_device_wait(mri_device *d, void *event, mr_err *err);
/* blocking copies between host and device memory */
mr_status mri_device_read(mri_device *d, void *host, const void *device, uint64_t n, mr_err *err);
mr_status mri_device_write(mri_device *d, void *device, const void *host, uint64_t n, mr_err *err);

enum { MRI_SOLE = 1, MRI_SOLE_ALWAYS /* and every micro-batch is the first */ };

/* What a launch binds: pointer tables in the order of the plan's ports. */
typedef struct mri_frame {
    const mri_plan *plan;
    const char *label; /* "model.layers.3." */
    uint32_t instance;
    void **param, **grad, **state, **scalar, **input, **output;
    const uint8_t *sole; /* by param: MRI_SOLE where no other instance adds to its gradient; or
                            NULL */
    bool first; /* sole gradients are written, not added to */
    void *sumsq; /* where their squares are added up by kernels that do (mri_step.first_sums) */
    char *saved, *scratch, *keep;
} mri_frame;

/* Called after each step with everything visible to the host: `in`/`out` are host pointers
 * (copies where the device's memory is not the host's). Return non-zero to stop. */
typedef struct mri_trace_step {
    const mri_frame *frame;
    uint8_t phase;
    uint32_t step;
    const mri_node *node;
    const mr_call *call;
    const mr_buf *in, *out;
    bool guards_intact;
    int32_t guard_operand; /* output whose guard bytes were overwritten, if not */
    const mr_cost *cost;   /* of what ran */
    void *before, *after;  /* timing: marks of the device's timer around the step, now the
                            * callee's to destroy; NULL without a timer */
    double began;          /* timing: when it did, by mri_device_clock()     */
} mri_trace_step;

typedef struct mri_trace {
    mr_status (*fn)(void *ctx, const mri_trace_step *step, mr_err *err);
    void *ctx;
    bool guard;  /* the plan has guard bytes: write and check them   */
    bool poison; /* fill buffers with NaN bytes after their last use */
    bool timing; /* marks instead of copies: `in`/`out` are the device's, and nothing is waited
                  * for, unless the device has no timer: then the step is done when shown */
} mri_trace;

struct mri_flight; /* flight.h: collectives that were submitted and are not waited for yet */

/* Steps [from, to) of a phase, whose collectives under way are in *flight; behind the last step
 * none is. */
mr_status mri_launch_part(mri_device *d, const mri_frame *f, uint8_t phase, uint32_t from,
                          uint32_t to, struct mri_flight *flight, const mri_trace *trace,
                          mr_err *err);
mr_status mri_launch(mri_device *d, const mri_frame *f, uint8_t phase, const mri_trace *trace,
                     mr_err *err);

#endif
