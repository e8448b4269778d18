/* SPDX-License-Identifier: Apache-2.0
 *
 * device.c - the CPU as a device: threads, memory, streams. Kernels run at once on the
 * calling thread and the OpenMP pool, so every stream is in order, an event is reached when it
 * is recorded, and sync has nothing to wait for.
 */
#include "device.h"
#include "gemm.h"
#include <pthread.h>
#include <sched.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define LARGE (1u << 20) /* from here on memory comes in pages, huge ones if the system has them */

/* ---- the machine -------------------------------------------------------------------------- */
static void cpu_model(char *name, size_t n)
{
    char line[256], *s = NULL;
    FILE *f = fopen("/proc/cpuinfo", "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, "model name", 10) && (s = strchr(line, ':')))
            break;
    if (f)
        fclose(f);
    s = s ? s + 1 + strspn(s + 1, " \t") : "CPU";
    snprintf(name, n, "%.*s", (int)strcspn(s, "\n"), s);
}

static uint64_t read_number(const char *path, const char *key)
{
    char line[256];
    uint64_t x = 0;
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f))
        if (!strncmp(line, key, strlen(key))) {
            x = strtoull(line + strlen(key), NULL, 10);
            break;
        }
    if (f)
        fclose(f);
    return x;
}

/* what is free, or what the control group still allows, if less */
static uint64_t memory_for_us(void)
{
    uint64_t free_bytes = read_number("/proc/meminfo", "MemAvailable:") * 1024;
    uint64_t limit = read_number("/sys/fs/cgroup/memory.max", "");
    uint64_t used = read_number("/sys/fs/cgroup/memory.current", "");
    if (limit && limit - used < free_bytes)
        return limit > used ? limit - used : 0;
    return free_bytes;
}

/* Worker i goes to the i-th core that this process may use. The calling thread is the host's
 * and is left alone. */
static void pin_workers(int threads)
{
    cpu_set_t all;
    if (sched_getaffinity(0, sizeof all, &all))
        return;
#pragma omp parallel num_threads(threads)
    {
        int want = omp_get_thread_num(), seen = 0;
        for (int c = 0; want > 0 && c < CPU_SETSIZE; c++)
            if (CPU_ISSET(c, &all) && seen++ == want) {
                cpu_set_t one;
                CPU_ZERO(&one);
                CPU_SET(c, &one);
                pthread_setaffinity_np(pthread_self(), sizeof one, &one);
                break;
            }
    }
}

static mr_status count(const mr_host *host, const void *config, uint32_t *n, mr_err *err)
{
    (void)host, (void)config, (void)err;
    *n = 1;
    return MR_OK;
}

static mr_status device_open(const mr_host *host, const void *config, uint32_t index, void **out,
                             mr_err *err)
{
    const struct cpu_config *c = config;
    char model[96];
    if (index)
        return mr_fail(err, MR_E_DEVICE, MR_BLAME_USER, "backend/cpu has device 0 only, not %u",
                       index);
    const struct isa *isa = cpu_isa_find(c->isa ? c->isa : "auto", err);
    if (!isa)
        return MR_E_UNSUPPORTED;
    struct cpu_dev *d = calloc(1, sizeof *d);
    if (!d)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for the device's descriptor");
    d->host = host;
    d->isa = isa;
    d->threads = c->threads > 0 ? (int)c->threads : omp_get_num_procs();
    d->matmul = !c->matmul || !strcmp(c->matmul, "auto") ? CPU_MATMUL_AUTO
              : !strcmp(c->matmul, "own") ? CPU_MATMUL_OWN : CPU_MATMUL_ONEDNN;
    d->bf16_dot = __builtin_cpu_supports("avx512bf16") != 0;
    d->library = cpu_library_open();
    d->memory = memory_for_us();
    cpu_model(model, sizeof model);
    snprintf(d->name, sizeof d->name, "%s, %d thread%s, %s", model, d->threads,
             d->threads == 1 ? "" : "s", isa->name);
    if (c->affinity && !strcmp(c->affinity, "close"))
        pin_workers(d->threads);
    *out = d;
    return MR_OK;
}

static void device_close(void *dev)
{
    cpu_library_close(((struct cpu_dev *)dev)->library);
    free(dev);
}

static mr_status info(void *dev, mr_device_info *i, mr_err *err)
{
    const struct cpu_dev *d = dev;
    (void)err;
    if (MR_HAS(i, threads))
        i->threads = (uint32_t)d->threads;
    if (MR_HAS(i, name))
        i->name = d->name;
    if (MR_HAS(i, memory_bytes))
        i->memory_bytes = d->memory;
    if (MR_HAS(i, peak_bytes_per_s))
        i->peak_flops_f32 = i->peak_flops_bf16 = i->peak_bytes_per_s = 0; /* "mrun.probe/1" */
    return MR_OK;
}

/* ---- memory ------------------------------------------------------------------------------- */
static mr_status alloc(void *dev, uint64_t bytes, uint32_t mem, void **p, mr_err *err)
{
    (void)dev, (void)mem;
    if (bytes >= LARGE) {
        void *m = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        *p = m == MAP_FAILED ? NULL : m;
        if (*p)
            madvise(*p, bytes, MADV_HUGEPAGE);
    } else {
        *p = aligned_alloc(CPU_ALIGN, cpu_round(bytes ? bytes : 1));
        if (*p)
            memset(*p, 0, bytes);
    }
    if (*p)
        return MR_OK;
    mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %llu bytes", (unsigned long long)bytes);
    mr_hint(err, "make train.micro_batch or train.seq smaller, or recompute more regions");
    return MR_E_NOMEM;
}

static void dealloc(void *dev, void *p, uint64_t bytes)
{
    (void)dev;
    if (p && bytes >= LARGE)
        munmap(p, bytes);
    else
        free(p);
}

/* ---- streams ------------------------------------------------------------------------------ */
static char in_order; /* what stream and event handles point at: never read, never written */

static mr_status stream_create(void *dev, uint32_t priority, void **stream, mr_err *err)
{
    (void)dev, (void)priority, (void)err;
    *stream = &in_order;
    return MR_OK;
}

static void stream_destroy(void *dev, void *stream)
{
    (void)dev, (void)stream;
}

static mr_status record(void *dev, void *stream, void **event, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    *event = &in_order;
    return MR_OK;
}

static mr_status wait_event(void *dev, void *stream, void *event, mr_err *err)
{
    (void)dev, (void)stream, (void)event, (void)err;
    return MR_OK;
}

static void event_destroy(void *dev, void *event)
{
    (void)dev, (void)event;
}

static mr_status sync_stream(void *dev, void *stream, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    return MR_OK;
}

static mr_status copy(void *dev, void *stream, void *dst, const void *src, uint64_t n, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    memmove(dst, src, n);
    return MR_OK;
}

static mr_status fill(void *dev, void *stream, void *dst, uint32_t byte, uint64_t n, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    memset(dst, (int)byte, n);
    return MR_OK;
}

/* ---- "mrun.timer/1": everything enqueued is done, so a mark is what the clock says ------- */
static mr_status mark(void *dev, void *stream, void **m, mr_err *err)
{
    struct timespec *t = *m ? *m : malloc(sizeof *t);
    (void)dev, (void)stream;
    if (!t)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a mark");
    clock_gettime(CLOCK_MONOTONIC, t);
    *m = t;
    return MR_OK;
}

static mr_status elapsed_us(void *dev, void *from, void *to, double *us, mr_err *err)
{
    const struct timespec *a = from, *b = to;
    (void)dev, (void)err;
    *us = 1e6 * (double)(b->tv_sec - a->tv_sec) + 1e-3 * (double)(b->tv_nsec - a->tv_nsec);
    return MR_OK;
}

static void destroy_mark(void *dev, void *m)
{
    (void)dev;
    free(m);
}

static void push(void *dev, const char *name) /* no profiler is known here */
{
    (void)dev, (void)name;
}

static void pop(void *dev)
{
    (void)dev;
}

static const mr_timer timer = {
    .size = sizeof(mr_timer), .mark = mark, .elapsed_us = elapsed_us, .destroy = destroy_mark,
    .push = push, .pop = pop,
};

static const void *ext(void *dev, const char *id)
{
    if (!strcmp(id, MR_EXT_HOST_MEMORY))
        return dev;
    if (!strcmp(id, MR_EXT_TIMER))
        return &timer;
    return !strcmp(id, MR_EXT_PROBE) ? &cpu_probe : NULL;
}

const mr_backend_ops cpu_backend = {
    .size = sizeof(mr_backend_ops),
    .count = count,
    .open = device_open,
    .close = device_close,
    .info = info,
    .alloc = alloc,
    .free = dealloc,
    .query = cpu_query,
    .release = cpu_release,
    .run = cpu_run,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .record = record,
    .wait = wait_event,
    .event_destroy = event_destroy,
    .sync = sync_stream,
    .copy = copy,
    .fill = fill,
    .ext = ext,
};
