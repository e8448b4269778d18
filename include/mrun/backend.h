/* SPDX-License-Identifier: Apache-2.0
 *
 * backend.h - unit kind "backend": memory, streams and kernels of one kind of device.
 * Core asks query() once per (op, types, attributes) while it plans, and run() every step.
 * A backend that lacks an op answers MR_E_UNSUPPORTED; core then lowers the op, or stops
 * and names it. No function hides an allocation or a wait: run() only enqueues.
 */
#ifndef MRUN_BACKEND_H
#define MRUN_BACKEND_H
#include "op.h"
#ifdef __cplusplus
extern "C" {
#endif

/* ext() id: answers non-NULL where the host may read and write the device's memory directly
 * (no table behind it). Reference loops then run in place, without staging copies. */
#define MR_EXT_HOST_MEMORY "mrun.host_memory/1"

enum { MR_MEM_WEIGHTS = 0, MR_MEM_ARENA, MR_MEM_PINNED, MR_MEM_COMM };

/* kernel flags */
enum {
    MR_K_CAPTURABLE = 1,    /* may be recorded into a device graph                       */
    MR_K_HOST_SYNC = 2,     /* reads device values on the host: never captured           */
    MR_K_DETERMINISTIC = 4, /* equal inputs give equal bits                              */
    MR_K_INPLACE0 = 8       /* output 0 may be the same memory as input 0                */
};

enum { MR_QUERY_DETERMINISTIC = 1 }; /* query flags: only kernels with MR_K_DETERMINISTIC */

typedef struct mr_kernel_info {
    uint32_t size, flags;
    uint64_t workspace; /* bytes of scratch that run() needs, at most */
    double est_us;      /* predicted microseconds, 0: unknown         */
    const char *impl;   /* "onednn sgemm", "avx2": shown by mrun plan; static string */
} mr_kernel_info;

typedef struct mr_device_info {
    uint32_t size, threads;
    const char *name;       /* "AMD EPYC, 2 threads, avx2"; lives as long as the device */
    uint64_t memory_bytes;  /* that a run may take                                      */
    double peak_flops_f32, peak_flops_bf16, peak_bytes_per_s; /* 0: unknown             */
} mr_device_info;

typedef struct mr_backend_ops {
    uint32_t size, flags;
    mr_status (*count)(const mr_host *, const void *config, uint32_t *n, mr_err *);      /* [main] */
    mr_status (*open)(const mr_host *, const void *config, uint32_t index, void **dev,
                      mr_err *);                                                         /* [main] */
    void (*close)(void *dev);                                                            /* [main] */
    mr_status (*info)(void *dev, mr_device_info *, mr_err *);                      /* [any-thread] */
    mr_status (*alloc)(void *dev, uint64_t bytes, uint32_t mem, void **p, mr_err *); /* zeroed,
                                                            64-byte aligned        [any-thread] */
    void (*free)(void *dev, void *p, uint64_t bytes);                              /* [any-thread] */
    mr_status (*query)(void *dev, const char *op_id, const mr_call *, uint32_t flags, void **kernel,
                       mr_kernel_info *, mr_err *);                                    /* [instance] */
    void (*release)(void *dev, void *kernel);                                          /* [instance] */
    mr_status (*run)(void *dev, void *kernel, void *stream, const mr_buf *in, const mr_buf *out,
                     void *workspace, mr_err *);        /* streams of one device: [instance] each */
    mr_status (*stream_create)(void *dev, uint32_t priority, void **stream, mr_err *);   /* [main] */
    void (*stream_destroy)(void *dev, void *stream);                                     /* [main] */
    mr_status (*record)(void *dev, void *stream, void **event, mr_err *); /* *event NULL: make one  */
    mr_status (*wait)(void *dev, void *stream, void *event, mr_err *);
    void (*event_destroy)(void *dev, void *event);
    mr_status (*sync)(void *dev, void *stream, mr_err *); /* the host waits for the stream          */
    mr_status (*copy)(void *dev, void *stream, void *dst, const void *src, uint64_t n, mr_err *);
    mr_status (*fill)(void *dev, void *stream, void *dst, uint32_t byte, uint64_t n, mr_err *);
    const void *(*ext)(void *dev, const char *id); /* "mrun.native_stream/1" ... or NULL */
    mr_status (*event_sync)(void *dev, void *event, mr_err *err); /* the host waits for the event;
                                                       may be NULL: core waits for the stream  */
} mr_backend_ops;

/* Extension "mrun.capture/1": what a stream is given between begin() and end() is recorded
 * instead of done - run() of kernels with MR_K_CAPTURABLE, copy() and fill() within device
 * memory - and launch() does all of it again, at the same addresses, as one piece of work.
 * end() always ends the recording; after an error of a call in between it says so and gives no
 * graph. Recording changes no memory. All calls [instance], on the thread that runs. */
typedef struct mr_capture {
    uint32_t size, pad;
    mr_status (*begin)(void *dev, void *stream, mr_err *);
    mr_status (*end)(void *dev, void *stream, void **graph, mr_err *);
    mr_status (*launch)(void *dev, void *graph, void *stream, mr_err *);
    void (*destroy)(void *dev, void *graph); /* after its launches are done */
} mr_capture;
#define MR_EXT_CAPTURE "mrun.capture/1"

/* Extension "mrun.probe/1" of a device: its limits, measured when asked for, within a second
 * each. A function answers 0 where the limit is unknown. All calls [instance], no run() beside. */
typedef struct mr_probe {
    uint32_t size, pad;
    double (*flops_f32)(void *dev);  /* of large products, multiply and add count as two */
    double (*flops_bf16)(void *dev);
    double (*read_bytes_per_s)(void *dev); /* of memory far larger than the caches      */
} mr_probe;
#define MR_EXT_PROBE "mrun.probe/1"

/* Extension "mrun.timer/1" of a device: points in time on its streams, and names for its vendor's
 * profiler. A mark is reached when the work enqueued before it is done; marking waits for nothing
 * and is no part of a captured graph. Ranges nest by thread, and cost next to nothing while no
 * profiler is attached. Marks: [instance]; push and pop: [any-thread]. */
typedef struct mr_timer {
    uint32_t size, pad;
    mr_status (*mark)(void *dev, void *stream, void **mark, mr_err *); /* *mark NULL: make one */
    mr_status (*elapsed_us)(void *dev, void *from, void *to, double *us, mr_err *); /* waits for
                                                                       both to be reached  */
    void (*destroy)(void *dev, void *mark);
    void (*push)(void *dev, const char *name); /* the name is read now */
    void (*pop)(void *dev);
} mr_timer;
#define MR_EXT_TIMER "mrun.timer/1"

#ifdef __cplusplus
}
#endif
#endif
