/* SPDX-License-Identifier: Apache-2.0
 *
 * device.c - an NVIDIA GPU as a device: memory, streams, events, copies. The runtime library is
 * linked statically and finds the driver when first called, so this plugin loads anywhere;
 * every entry point makes its device the calling thread's current one. A stream handle is a
 * cudaStream_t, an event handle a cudaEvent_t.
 */
#include "device.h"
#include "cudnn.h"
#include "lt.h"
#include <stdlib.h>

/* ---- errors ------------------------------------------------------------------------------- */
mr_status cuda_fail(mr_err *err, cudaError_t e, const char *what)
{
    mr_fail(err, MR_E_DEVICE, MR_BLAME_ENV, "%s: %s (%s)", what, cudaGetErrorString(e),
            cudaGetErrorName(e));
    if (err && MR_HAS(err, native))
        err->native = (int32_t)e;
    cudaGetLastError(); /* a passing error must not show at the next call */
    return MR_E_DEVICE;
}

mr_status cuda_launched(const struct kernel *k, mr_err *err)
{
    cudaError_t e = cudaGetLastError();
    return e ? cuda_fail(err, e, k->impl) : MR_OK;
}

static mr_status no_driver(mr_err *err, cudaError_t e)
{
    int driver = 0, runtime = 0;
    cudaDriverGetVersion(&driver); /* 0: libcuda.so.1 was not found */
    cudaRuntimeGetVersion(&runtime);
    mr_status st = cuda_fail(err, e, "backend/cuda: no usable NVIDIA GPU");
    if (!driver)
        mr_fail(err, st, MR_BLAME_ENV, "backend/cuda: this machine has no NVIDIA driver "
                "(libcuda.so.1)");
    mr_detail(err, "the driver serves CUDA %d.%d (0.0: none is there), this plugin was built with "
              "CUDA %d.%d", driver / 1000, driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    mr_hint(err, "see whether nvidia-smi lists a GPU (CUDA_VISIBLE_DEVICES may hide it), or take "
            "--set backend.plugin=cpu");
    return st;
}

/* ---- opening ------------------------------------------------------------------------------ */
static mr_status count(const mr_host *host, const void *config, uint32_t *n, mr_err *err)
{
    int found = 0;
    cudaError_t e = cudaGetDeviceCount(&found);
    (void)host, (void)config;
    *n = e ? 0 : (uint32_t)found;
    return e ? no_driver(err, e) : MR_OK;
}

static mr_status wrong_chip(mr_err *err, const struct cuda_dev *d, cudaError_t e)
{
    mr_status st = cuda_fail(err, e, "this build has no code for the GPU");
    mr_detail(err, "%s, compute capability %d.%d; the kernels are for " CUDA_ARCH_TEXT, d->name,
              d->cc / 10, d->cc % 10);
    mr_hint(err, "build with -Dgpu_arch=sm_%d", d->cc);
    return st;
}

static mr_status describe(struct cuda_dev *d, mr_err *err)
{
    struct cudaDeviceProp p;
    size_t free_bytes = 0, all = 0;
    int driver = 0;
    cudaError_t e = cudaGetDeviceProperties(&p, d->index);
    if (e || (e = cudaMemGetInfo(&free_bytes, &all)))
        return cuda_fail(err, e, "reading the GPU's properties");
    cudaDriverGetVersion(&driver);
    d->sms = p.multiProcessorCount;
    d->cc = 10 * p.major + p.minor;
    d->memory = free_bytes;
    d->total = all;
    snprintf(d->name, sizeof d->name, "%s, %d SMs, sm_%d, %.1f GiB, driver for CUDA %d.%d", p.name,
             d->sms, d->cc, (double)all / (1 << 30), driver / 1000, driver % 1000 / 10);
    e = cuda_has_code();
    return e ? wrong_chip(err, d, e) : MR_OK;
}

static void device_close(void *dev)
{
    struct cuda_dev *d = dev;
    if (!d)
        return;
    cudaSetDevice(d->index);
    cuda_dnn_close(d->dnn);
    cuda_lt_close(d->lt);
    free(d);
}

static mr_status open_products(struct cuda_dev *d, const struct cuda_config *c, mr_err *err)
{
    const char *who = c && c->matmul ? c->matmul : "auto";
    mr_err why = MR_ERR_INIT;
    if (!strcmp(who, "own"))
        return MR_OK;
    mr_status st = cuda_lt_open(c ? c->cublaslt : NULL, &d->lt, &why);
    if (!st) {
        cuda_lt_tune(d->lt, d, c ? c->tuning : NULL);
        return MR_OK;
    }
    if (!strcmp(who, "cublaslt")) {
        *err = why;
        return st;
    }
    if (d->host && MR_CAN(d->host, log)) {
        char line[600];
        snprintf(line, sizeof line, "%s: matrix products by own, slower kernels. %s", why.what,
                 why.hint);
        d->host->log(d->host->self, MR_LOG_WARN, "backend/cuda", line);
    }
    return MR_OK;
}

/* cuDNN is loaded by the first attention that may be its, now only if the profile insists */
static mr_status open_attention(struct cuda_dev *d, const struct cuda_config *c, mr_err *err)
{
    const char *who = c && c->attention ? c->attention : "auto";
    if (!strcmp(who, "own"))
        return MR_OK;
    return cuda_dnn_open(d->host, c ? c->cudnn : NULL, !strcmp(who, "cudnn"), &d->dnn, err);
}

static mr_status device_open(const mr_host *host, const void *config, uint32_t index, void **out,
                             mr_err *err)
{
    const struct cuda_config *c = config;
    struct cuda_dev *d = NULL;
    uint32_t n = 0;
    cudaError_t e;
    mr_status st;
    *out = NULL;
    MR_TRY(count(host, config, &n, err));
    if (index >= n) {
        st = mr_fail(err, MR_E_DEVICE, MR_BLAME_USER, "backend/cuda: device %u was asked for, "
                     "there are %u", index, n);
        goto out;
    }
    d = calloc(1, sizeof *d);
    if (!d) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for the device's descriptor");
        goto out;
    }
    d->host = host;
    d->index = (int)index;
    d->tf32 = c && c->tf32;
    if ((e = cudaSetDevice(d->index)) || (e = cudaFree(NULL))) { /* makes the context now */
        st = cuda_fail(err, e, "opening the GPU");
        mr_hint(err, "another process may hold it; nvidia-smi tells");
        goto out;
    }
    MR_TRY(describe(d, err));
    MR_TRY(open_products(d, c, err));
    MR_TRY(open_attention(d, c, err));
    *out = d;
out:
    if (st)
        device_close(d);
    return st;
}

static mr_status info(void *dev, mr_device_info *i, mr_err *err)
{
    const struct cuda_dev *d = dev;
    (void)err;
    if (MR_HAS(i, threads))
        i->threads = (uint32_t)d->sms;
    if (MR_HAS(i, name))
        i->name = d->name;
    if (MR_HAS(i, memory_bytes))
        i->memory_bytes = d->memory;
    if (MR_HAS(i, peak_bytes_per_s))
        i->peak_flops_f32 = i->peak_flops_bf16 = i->peak_bytes_per_s = 0; /* "mrun.probe/1" */
    return MR_OK;
}

static cudaError_t use(const struct cuda_dev *d)
{
    return cudaSetDevice(d->index);
}

/* ---- memory ------------------------------------------------------------------------------- */
static mr_status out_of_memory(mr_err *err, uint64_t bytes, cudaError_t e)
{
    size_t free_bytes = 0, all = 0;
    cudaGetLastError();
    cudaMemGetInfo(&free_bytes, &all);
    mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "the GPU has no memory for %llu bytes (%s)",
            (unsigned long long)bytes, cudaGetErrorName(e));
    mr_detail(err, "%.2f GiB asked for, %.2f of %.2f GiB are free", (double)bytes / (1 << 30),
              (double)free_bytes / (1 << 30), (double)all / (1 << 30));
    mr_hint(err, "make train.micro_batch or train.seq smaller, or recompute more regions");
    return MR_E_NOMEM;
}

static mr_status alloc(void *dev, uint64_t bytes, uint32_t mem, void **p, mr_err *err)
{
    uint64_t n = bytes ? bytes : CUDA_ALIGN; /* a distinct address even for nothing */
    cudaError_t e = use(dev);
    *p = NULL;
    if (!e && mem == MR_MEM_PINNED) {
        if ((e = cudaHostAlloc(p, n, cudaHostAllocPortable)))
            return out_of_memory(err, bytes, e);
        memset(*p, 0, n);
        return MR_OK;
    }
    if (!e && (e = cudaMalloc(p, n)) == cudaErrorMemoryAllocation)
        return out_of_memory(err, bytes, e);
    if (e)
        return cuda_fail(err, e, "taking GPU memory");
    if ((e = cudaMemset(*p, 0, n)) || (e = cudaStreamSynchronize(NULL))) {
        cudaFree(*p); /* our streams do not wait for the one that cleared it */
        *p = NULL;
        return cuda_fail(err, e, "clearing GPU memory");
    }
    return MR_OK;
}

static void dealloc(void *dev, void *p, uint64_t bytes)
{
    struct cudaPointerAttributes a;
    (void)bytes;
    if (!p || use(dev))
        return;
    if (!cudaPointerGetAttributes(&a, p) && a.type == cudaMemoryTypeHost)
        cudaFreeHost(p);
    else
        cudaFree(p);
    cudaGetLastError();
}

/* ---- streams ------------------------------------------------------------------------------ */
static mr_status stream_create(void *dev, uint32_t priority, void **stream, mr_err *err)
{
    cudaStream_t s = NULL;
    int least = 0, greatest = 0;
    cudaError_t e = use(dev);
    if (!e && !(e = cudaDeviceGetStreamPriorityRange(&least, &greatest)))
        e = cudaStreamCreateWithPriority(&s, cudaStreamNonBlocking, priority ? greatest : least);
    *stream = s;
    return e ? cuda_fail(err, e, "making a stream") : MR_OK;
}

static void stream_destroy(void *dev, void *stream)
{
    if (stream && !use(dev))
        cudaStreamDestroy(stream);
}

static mr_status record(void *dev, void *stream, void **event, mr_err *err)
{
    cudaEvent_t ev = *event;
    cudaError_t e = use(dev);
    if (!e && !ev)
        e = cudaEventCreateWithFlags(&ev, cudaEventDisableTiming);
    if (!e)
        e = cudaEventRecord(ev, stream);
    *event = ev;
    return e ? cuda_fail(err, e, "recording an event") : MR_OK;
}

static mr_status wait_event(void *dev, void *stream, void *event, mr_err *err)
{
    cudaError_t e = use(dev);
    if (!e)
        e = cudaStreamWaitEvent(stream, event, 0);
    return e ? cuda_fail(err, e, "waiting for an event") : MR_OK;
}

static void event_destroy(void *dev, void *event)
{
    if (event && !use(dev))
        cudaEventDestroy(event);
}

static mr_status sync_stream(void *dev, void *stream, mr_err *err)
{
    cudaError_t e = use(dev);
    if (!e)
        e = cudaStreamSynchronize(stream);
    if (!e)
        return MR_OK;
    cuda_fail(err, e, "the GPU stopped while work was under way");
    mr_hint(err, "a kernel failed earlier in this stream; [debug] mode = step names the op");
    return MR_E_DEVICE;
}

/* The direction is told by the addresses. From pageable host memory the bytes are taken before
 * the call returns, so the caller may reuse it; pinned memory is read later. */
static mr_status copy(void *dev, void *stream, void *dst, const void *src, uint64_t n, mr_err *err)
{
    cudaError_t e = use(dev);
    if (!e && n)
        e = cudaMemcpyAsync(dst, src, n, cudaMemcpyDefault, stream);
    return e ? cuda_fail(err, e, "copying") : MR_OK;
}

static mr_status fill(void *dev, void *stream, void *dst, uint32_t byte, uint64_t n, mr_err *err)
{
    cudaError_t e = use(dev);
    if (!e && n)
        e = cudaMemsetAsync(dst, (int)byte, n, stream);
    return e ? cuda_fail(err, e, "filling") : MR_OK;
}

static mr_status event_sync(void *dev, void *event, mr_err *err)
{
    cudaError_t e = use(dev);
    if (!e)
        e = cudaEventSynchronize(event);
    if (!e)
        return MR_OK;
    cuda_fail(err, e, "the GPU stopped while work was under way");
    mr_hint(err, "a kernel failed earlier in this stream; [debug] mode = step names the op");
    return MR_E_DEVICE;
}

static const void *ext(void *dev, const char *id)
{
    if (!strcmp(id, MR_EXT_CAPTURE))
        return &cuda_capture;
    if (!strcmp(id, "mrun.native_stream/1")) /* handles are cudaStream_t and cudaEvent_t */
        return dev;
    if (!strcmp(id, MR_EXT_TIMER))
        return &cuda_timer;
    return !strcmp(id, MR_EXT_PROBE) ? &cuda_probe : NULL;
}

const mr_backend_ops cuda_backend = {
    .size = sizeof(mr_backend_ops),
    .count = count,
    .open = device_open,
    .close = device_close,
    .info = info,
    .alloc = alloc,
    .free = dealloc,
    .query = cuda_query,
    .release = cuda_release,
    .run = cuda_run,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .record = record,
    .wait = wait_event,
    .event_destroy = event_destroy,
    .sync = sync_stream,
    .copy = copy,
    .fill = fill,
    .ext = ext,
    .event_sync = event_sync,
};
