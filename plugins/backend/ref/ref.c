/* SPDX-License-Identifier: Apache-2.0
 *
 * ref.c - backend/ref: every op by the catalogue's own reference loops, which the host lends
 * as the service mrun.ref/1. One thread, f32, bf16 and f64, no workspace: the oracle that
 * other backends are compared with, and the smallest backend there is. Copy it to start yours.
 */
#include "capture.h"
#include <stdlib.h>
#include <time.h>

MR_PLUGIN_NOTE("org.mrun.ref", "0.1.0", "backend/ref");

/* A device is only the way to the host's loops, and a graph while one is recorded. */
struct ref_dev {
    const mr_ref_service *loops;
    struct ref_graph *recording;
};

/* A kernel keeps its own copy of the call: query's is gone when run comes. */
struct ref_kernel {
    const mr_op_def *def;
    mr_call call;
    struct block {
        struct block *next;
        max_align_t data[];
    } *blocks; /* all that the copy points to */
};

/* ---- copying a call ------------------------------------------------------------------- */
static void *keep(struct ref_kernel *k, const void *src, size_t n)
{
    struct block *b = malloc(sizeof *b + (n ? n : 1));
    if (!b)
        return NULL;
    b->next = k->blocks;
    k->blocks = b;
    return src ? memcpy(b->data, src, n) : memset(b->data, 0, n);
}

static const mr_type *const *keep_types(struct ref_kernel *k, const mr_type *const *t, uint32_t n)
{
    const mr_type **copy = keep(k, NULL, n * sizeof *copy);
    for (uint32_t i = 0; copy && i < n; i++) {
        if (!t[i])
            continue;
        mr_type *own = keep(k, t[i], sizeof *own);
        const char *dtype = keep(k, t[i]->dtype, strlen(t[i]->dtype) + 1);
        if (!own || !dtype)
            return NULL;
        own->dtype = dtype;
        copy[i] = own;
    }
    return copy;
}

static const mr_attr *keep_attrs(struct ref_kernel *k, const mr_attr *a, uint32_t n)
{
    mr_attr *copy = keep(k, a, n * sizeof *copy);
    for (uint32_t i = 0; copy && i < n; i++) {
        if (!(copy[i].key = keep(k, a[i].key, strlen(a[i].key) + 1)))
            return NULL;
        if (a[i].type == MR_A_STR && !(copy[i].u.s = keep(k, a[i].u.s, strlen(a[i].u.s) + 1)))
            return NULL;
        if (a[i].type == MR_A_F64S && !(copy[i].u.fs = keep(k, a[i].u.fs, a[i].n * sizeof(double))))
            return NULL;
    }
    return copy;
}

static void release(void *dev, void *kernel)
{
    struct ref_kernel *k = kernel;
    (void)dev;
    for (struct block *b = k->blocks, *next; b; b = next) {
        next = b->next;
        free(b);
    }
    free(k);
}

static int computes_in(const mr_type *t)
{
    return !t || (!t->layout && !t->n_parts &&
                  (mr_is(t, "f32") || mr_is(t, "bf16") || mr_is(t, "f64") || mr_is(t, "i32") ||
                   mr_is(t, "i16") || mr_is(t, "f8e4m3") || mr_is(t, "f8e5m2")));
}

static mr_status query(void *dev, const char *op, const mr_call *call, uint32_t flags,
                       void **kernel, mr_kernel_info *info, mr_err *err)
{
    struct ref_dev *d = dev;
    const mr_op_def *def = d->loops->find(op);
    (void)flags; /* plain loops are deterministic */
    if (!def || !MR_CAN(def, ref))
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "backend/ref: the host has no loops "
                       "for op %s", op);
    for (uint32_t i = 0; i < call->n_in + call->n_out; i++) {
        const mr_type *t = i < call->n_in ? call->in[i] : call->out[i - call->n_in];
        if (!computes_in(t))
            return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                           "backend/ref: operand %u of %s is %s; f32, bf16, f64, f8e4m3, "
                           "f8e5m2, i32 and i16 are known", i, op, t->dtype);
    }
    struct ref_kernel *k = calloc(1, sizeof *k);
    if (!k)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a kernel of %s", op);
    k->def = def;
    k->call = (mr_call){ sizeof(mr_call), call->n_in, call->n_out, call->n_attr,
                         keep_types(k, call->in, call->n_in), keep_types(k, call->out, call->n_out),
                         keep_attrs(k, call->attr, call->n_attr) };
    if (!k->call.in || !k->call.out || !k->call.attr) {
        release(dev, k);
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a kernel of %s", op);
    }
    info->flags = MR_K_DETERMINISTIC | MR_K_CAPTURABLE;
    info->workspace = 0;
    info->est_us = 0;
    info->impl = "reference loops";
    *kernel = k;
    return MR_OK;
}

static mr_status run_recorded(struct ref_dev *d, const struct ref_kernel *k, const mr_buf *in,
                              const mr_buf *out, mr_err *err)
{
    uint32_t n_in = k->call.n_in, n_out = k->call.n_out;
    struct ref_call c = { .kernel = (void *)(uintptr_t)k, .n_in = n_in, .n_out = n_out,
                          .bufs = malloc((n_in + n_out + 1) * sizeof *c.bufs) };
    if (!c.bufs)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a recorded call");
    memcpy(c.bufs, in, n_in * sizeof *in);
    memcpy(c.bufs + n_in, out, n_out * sizeof *out);
    return ref_graph_add(d->recording, &c, err);
}

static mr_status run(void *dev, void *kernel, void *stream, const mr_buf *in, const mr_buf *out,
                     void *workspace, mr_err *err)
{
    const struct ref_kernel *k = kernel;
    struct ref_dev *d = dev;
    (void)stream, (void)workspace;
    return d->recording ? run_recorded(d, k, in, out, err) : k->def->ref(&k->call, in, out, err);
}

/* ---- the device ----------------------------------------------------------------------- */
static mr_status count(const mr_host *host, const void *config, uint32_t *n, mr_err *err)
{
    (void)host, (void)config, (void)err;
    *n = 1;
    return MR_OK;
}

static mr_status device_open(const mr_host *host, const void *config, uint32_t index, void **dev,
                             mr_err *err)
{
    const mr_ref_service *loops = host->ext(host->self, MR_EXT_REF);
    struct ref_dev *d;
    (void)config;
    if (index)
        return mr_fail(err, MR_E_DEVICE, MR_BLAME_USER, "backend/ref has device 0 only, not %u",
                       index);
    if (!loops)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST, "the host does not offer %s",
                       MR_EXT_REF);
    if (!(d = calloc(1, sizeof *d)))
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a device");
    d->loops = loops;
    *dev = d;
    return MR_OK;
}

static void device_close(void *dev)
{
    struct ref_dev *d = dev;
    ref_graph_free(d ? d->recording : NULL);
    free(d);
}

static mr_status info(void *dev, mr_device_info *i, mr_err *err)
{
    (void)dev, (void)err;
    *i = (mr_device_info){ .size = i->size, .threads = 1, .name = "reference loops, 1 thread",
                           .memory_bytes = UINT64_MAX };
    return MR_OK;
}

static mr_status alloc(void *dev, uint64_t bytes, uint32_t mem, void **p, mr_err *err)
{
    (void)dev, (void)mem;
    *p = bytes > UINT64_MAX - 64 ? NULL : aligned_alloc(64, (bytes + 64) / 64 * 64);
    if (!*p)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %llu bytes",
                       (unsigned long long)bytes);
    memset(*p, 0, bytes);
    return MR_OK;
}

static void dealloc(void *dev, void *p, uint64_t bytes)
{
    (void)dev, (void)bytes;
    free(p);
}

/* ---- streams: every call is done when it returns --------------------------------------- */
static mr_status stream_create(void *dev, uint32_t priority, void **stream, mr_err *err)
{
    (void)priority, (void)err;
    *stream = dev;
    return MR_OK;
}

static mr_status record(void *dev, void *stream, void **event, mr_err *err)
{
    (void)stream, (void)err;
    *event = dev;
    return MR_OK;
}

static mr_status wait_event(void *dev, void *stream, void *event, mr_err *err)
{
    (void)dev, (void)stream, (void)event, (void)err;
    return MR_OK;
}

static mr_status sync_stream(void *dev, void *stream, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    return MR_OK;
}

static void nothing_to_free(void *dev, void *handle)
{
    (void)dev, (void)handle;
}

static mr_status copy(void *dev, void *stream, void *dst, const void *src, uint64_t n, mr_err *err)
{
    struct ref_dev *d = dev;
    (void)stream;
    if (d->recording)
        return ref_graph_add(d->recording, &(struct ref_call){ .dst = dst, .src = src, .n = n },
                             err);
    memmove(dst, src, n);
    return MR_OK;
}

static mr_status fill(void *dev, void *stream, void *dst, uint32_t byte, uint64_t n, mr_err *err)
{
    struct ref_dev *d = dev;
    (void)stream;
    if (d->recording)
        return ref_graph_add(d->recording, &(struct ref_call){ .dst = dst, .byte = byte, .n = n },
                             err);
    memset(dst, (int)byte, n);
    return MR_OK;
}

/* ---- graphs --------------------------------------------------------------------------- */
static mr_status capture_begin(void *dev, void *stream, mr_err *err)
{
    struct ref_dev *d = dev;
    (void)stream;
    if (d->recording)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "a graph is being recorded already");
    d->recording = calloc(1, sizeof *d->recording);
    return d->recording ? MR_OK
                        : mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a graph");
}

static mr_status capture_end(void *dev, void *stream, void **graph, mr_err *err)
{
    struct ref_dev *d = dev;
    (void)stream;
    if (!d->recording)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "no graph is being recorded");
    *graph = d->recording;
    d->recording = NULL;
    return MR_OK;
}

static mr_status capture_launch(void *dev, void *graph, void *stream, mr_err *err)
{
    const struct ref_graph *g = graph;
    mr_status st = MR_OK;
    for (size_t i = 0; i < g->n && !st; i++) {
        const struct ref_call *c = &g->v[i];
        st = c->kernel ? run(dev, c->kernel, stream, c->bufs, c->bufs + c->n_in, NULL, err)
           : c->src    ? copy(dev, stream, c->dst, c->src, c->n, err)
                       : fill(dev, stream, c->dst, c->byte, c->n, err);
    }
    return st;
}

static void capture_destroy(void *dev, void *graph)
{
    (void)dev;
    ref_graph_free(graph);
}

static const mr_capture capture = {
    .size = sizeof capture, .begin = capture_begin, .end = capture_end, .launch = capture_launch,
    .destroy = capture_destroy,
};

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
    if (!strcmp(id, MR_EXT_CAPTURE))
        return &capture;
    if (!strcmp(id, MR_EXT_TIMER))
        return &timer;
    return !strcmp(id, MR_EXT_HOST_MEMORY) ? dev : NULL;
}

static const mr_backend_ops backend = {
    .size = sizeof(mr_backend_ops), .count = count, .open = device_open, .close = device_close,
    .info = info, .alloc = alloc, .free = dealloc, .query = query, .release = release, .run = run,
    .stream_create = stream_create, .stream_destroy = nothing_to_free, .record = record,
    .wait = wait_event, .event_destroy = nothing_to_free, .sync = sync_stream, .copy = copy,
    .fill = fill, .ext = ext,
};

static const mr_unit units[] = { {
    .size = sizeof(mr_unit), .kind = "backend", .name = "ref",
    .doc = "the definition of every op, plain loops on one thread: slow, and the oracle",
    .table = &backend, .needs = (const char *const[]){ MR_EXT_REF, NULL },
} };

extern const mr_plugin MR_PLUGIN_SYMBOL;
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, .id = "org.mrun.ref", .version = "0.1.0", .license = "Apache-2.0",
    .doc = "the reference backend", .units = units, .n_units = 1,
};
