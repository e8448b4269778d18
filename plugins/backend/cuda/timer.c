/* SPDX-License-Identifier: Apache-2.0
 *
 * timer.c - "mrun.timer/1": marks are CUDA events that keep the time, names are NVTX ranges where
 * the toolkit had the header to build with. Both cost about a microsecond or less;
 * without a profiler a range is one test of a pointer.
 */
#include "device.h"
#ifdef CUDA_NVTX
#include <nvtx3/nvToolsExt.h>
#endif

static cudaError_t use(const struct cuda_dev *d)
{
    return cudaSetDevice(d->index);
}

static mr_status mark(void *dev, void *stream, void **m, mr_err *err)
{
    cudaEvent_t ev = *m;
    cudaError_t e = use(dev);
    if (!e && !ev)
        e = cudaEventCreate(&ev);
    if (!e)
        e = cudaEventRecord(ev, stream);
    if (e && ev && !*m)
        cudaEventDestroy(ev);
    else
        *m = ev;
    return e ? cuda_fail(err, e, "marking a time") : MR_OK;
}

static mr_status elapsed_us(void *dev, void *from, void *to, double *us, mr_err *err)
{
    float ms = 0;
    cudaError_t e = use(dev);
    *us = 0;
    if (!e)
        e = cudaEventSynchronize(from);
    if (!e)
        e = cudaEventSynchronize(to);
    if (!e)
        e = cudaEventElapsedTime(&ms, from, to);
    *us = 1e3 * (double)ms;
    return e ? cuda_fail(err, e, "reading the time between two marks") : MR_OK;
}

static void destroy(void *dev, void *m)
{
    if (m && !use(dev))
        cudaEventDestroy(m);
}

static void push(void *dev, const char *name)
{
    (void)dev;
#ifdef CUDA_NVTX
    nvtxRangePushA(name && *name ? name : "-");
#else
    (void)name;
#endif
}

static void pop(void *dev)
{
    (void)dev;
#ifdef CUDA_NVTX
    nvtxRangePop();
#endif
}

const mr_timer cuda_timer = {
    .size = sizeof(mr_timer),
    .mark = mark,
    .elapsed_us = elapsed_us,
    .destroy = destroy,
    .push = push,
    .pop = pop,
};
