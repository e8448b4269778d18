/* SPDX-License-Identifier: Apache-2.0
 *
 * toy.c - a whole backend in one file. A backend gives memory, streams and kernels: core asks
 * query() once for each op and its types while it plans, and run() every step. This one has a
 * kernel of its own for fp32 `linear`; every other op runs by the reference loops that the host
 * offers (mrun.ref/1). When it closes it logs how often each op ran.
 *
 * One thread, no queue: run() has finished when it returns, so streams and events are names.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <unistd.h>
#include <mrun/backend.h>

enum { MAX_OPERANDS = 32, MAX_ATTRS = 24, MAX_OPS = 128, ALIGN = 64 };

typedef struct tally { /* of one op id */
    const char *id;
    uint64_t calls;
} tally;

typedef struct toy {
    const mr_host *host;
    const mr_ref_service *ref;
    tally ops[MAX_OPS];
    uint32_t n_ops;
} toy;

/* An op with its types: what query() was asked, kept for run(). */
typedef struct kernel {
    const mr_op_def *def;
    tally *count;
    bool own; /* our product instead of the reference loops */
    mr_call call;
    mr_type type[2 * MAX_OPERANDS];
    const mr_type *operand[2 * MAX_OPERANDS];
    mr_attr attr[MAX_ATTRS];
} kernel;

/* ---- the device --------------------------------------------------------------------------- */
static mr_status count(const mr_host *host, const void *cfg, uint32_t *n, mr_err *err)
{
    (void)host, (void)cfg, (void)err;
    *n = 1;
    return 0;
}

static mr_status open_device(const mr_host *host, const void *cfg, uint32_t index, void **dev,
                             mr_err *err)
{
    (void)cfg, (void)index; /* no options, one device */
    toy *t = calloc(1, sizeof *t);
    if (!t)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "toy: no memory for the device");
    t->host = host;
    t->ref = host->ext(host->self, MR_EXT_REF); /* there: the unit says that it needs it */
    *dev = t;
    return 0;
}

static void close_device(void *dev)
{
    toy *t = dev;
    char line[96];
    for (uint32_t i = 0; i < t->n_ops; i++) {
        snprintf(line, sizeof line, "%llu calls of %s",
                 (unsigned long long)t->ops[i].calls, t->ops[i].id);
        t->host->log(t->host->self, MR_LOG_INFO, "backend/toy", line);
    }
    free(t);
}

static mr_status info(void *dev, mr_device_info *out, mr_err *err)
{
    (void)dev, (void)err;
    out->name = "toy, one thread";
    out->threads = 1;
    out->memory_bytes = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGE_SIZE);
    return 0;
}

static mr_status alloc(void *dev, uint64_t bytes, uint32_t mem, void **p, mr_err *err)
{
    (void)dev, (void)mem;
    if (bytes > SIZE_MAX - ALIGN || !(*p = aligned_alloc(ALIGN, (bytes / ALIGN + 1) * ALIGN)))
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "toy: no memory for %llu bytes",
                       (unsigned long long)bytes);
    memset(*p, 0, bytes);
    return 0;
}

static void release_memory(void *dev, void *p, uint64_t bytes)
{
    (void)dev, (void)bytes;
    free(p);
}

/* ---- kernels -------------------------------------------------------------------------------- */
static tally *tally_of(toy *t, const char *id)
{
    for (uint32_t i = 0; i < t->n_ops; i++)
        if (!strcmp(t->ops[i].id, id))
            return &t->ops[i];
    if (t->n_ops == MAX_OPS)
        return NULL;
    t->ops[t->n_ops].id = id;
    return &t->ops[t->n_ops++];
}

/* The caller's types need not outlive query(): copy them. Strings are the program's and do. */
static void keep_call(kernel *k, const mr_call *c)
{
    k->call = *c;
    for (uint32_t i = 0; i < c->n_in + c->n_out; i++) {
        const mr_type *t = i < c->n_in ? c->in[i] : c->out[i - c->n_in];
        if (t)
            k->operand[i] = memcpy(&k->type[i], t, t->size < sizeof *t ? t->size : sizeof *t);
    }
    for (uint32_t i = 0; i < c->n_attr; i++)
        k->attr[i] = c->attr[i]; /* frozen: no size to heed */
    k->call.size = sizeof k->call;
    k->call.in = k->operand;
    k->call.out = k->operand + c->n_in;
    k->call.attr = k->attr;
}

static mr_status query(void *dev, const char *op_id, const mr_call *call, uint32_t flags,
                       void **out, mr_kernel_info *ki, mr_err *err)
{
    toy *t = dev;
    const mr_op_def *def = t->ref->find(op_id);
    tally *counted = def ? tally_of(t, def->id) : NULL;
    (void)flags; /* all our kernels are deterministic */
    if (!counted || call->n_in > MAX_OPERANDS || call->n_out > MAX_OPERANDS ||
        call->n_attr > MAX_ATTRS)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_PLUGIN, "toy: no kernel for %s", op_id);
    kernel *k = calloc(1, sizeof *k);
    if (!k)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "toy: no memory for a kernel");
    k->def = def;
    k->count = counted;
    k->own = !strcmp(op_id, "linear") && mr_is(call->in[0], "f32") &&
             mr_is(call->in[1], "f32") && mr_is(call->out[0], "f32");
    keep_call(k, call);
    ki->flags = MR_K_DETERMINISTIC;
    ki->impl = k->own ? "toy product" : "reference loops";
    *out = k;
    return 0;
}

static void release_kernel(void *dev, void *k)
{
    (void)dev;
    free(k);
}

/* y [T,O] = x [T,I] w[O,I]^T + bias [O] */
static void product(const mr_call *c, const mr_buf *in, const mr_buf *out)
{
    const float *x = in[0].data, *w = in[1].data, *bias = c->n_in > 2 ? in[2].data : NULL;
    int64_t T = mr_rows(c->in[0]), I = mr_last(c->in[0]), O = mr_last(c->out[0]);
    float *y = out[0].data;
    for (int64_t t = 0; t < T; t++)
        for (int64_t o = 0; o < O; o++) {
            float sum = 0;
            for (int64_t i = 0; i < I; i++)
                sum += x[t * I + i] * w[o * I + i];
            y[t * O + o] = bias ? sum + bias[o] : sum;
        }
}

static mr_status run(void *dev, void *kernel_, void *stream, const mr_buf *in, const mr_buf *out,
                     void *workspace, mr_err *err)
{
    kernel *k = kernel_;
    (void)dev, (void)stream, (void)workspace;
    k->count->calls++;
    if (!k->own)
        return k->def->ref(&k->call, in, out, err);
    product(&k->call, in, out);
    return 0;
}

/* ---- streams: names only --------------------------------------------------------------------- */
static mr_status stream_create(void *dev, uint32_t priority, void **stream, mr_err *err)
{
    (void)priority, (void)err;
    *stream = dev;
    return 0;
}

static void nothing(void *dev, void *what)
{
    (void)dev, (void)what;
}

static mr_status record(void *dev, void *stream, void **event, mr_err *err)
{
    (void)stream, (void)err;
    *event = dev;
    return 0;
}

static mr_status wait_event(void *dev, void *stream, void *event, mr_err *err)
{
    (void)dev, (void)stream, (void)event, (void)err;
    return 0;
}

static mr_status sync_stream(void *dev, void *stream, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    return 0;
}

static mr_status copy(void *dev, void *stream, void *dst, const void *src, uint64_t n, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    memmove(dst, src, n);
    return 0;
}

static mr_status fill(void *dev, void *stream, void *dst, uint32_t byte, uint64_t n, mr_err *err)
{
    (void)dev, (void)stream, (void)err;
    memset(dst, (int)byte, n);
    return 0;
}

static const void *ext(void *dev, const char *id)
{
    return strcmp(id, MR_EXT_HOST_MEMORY) ? NULL : dev; /* our memory is the host's */
}

static const char *const needs[] = { MR_EXT_REF, NULL };
static const mr_backend_ops table = {
    .size = sizeof table, .count = count, .open = open_device, .close = close_device,
    .info = info, .alloc = alloc, .free = release_memory, .query = query,
    .release = release_kernel, .run = run, .stream_create = stream_create,
    .stream_destroy = nothing, .record = record, .wait = wait_event, .event_destroy = nothing,
    .sync = sync_stream, .copy = copy, .fill = fill, .ext = ext,
};
static const mr_unit unit = { sizeof unit, 0, "backend", "toy", "reference loops, counted",
                              NULL, 0, 0, &table, needs };

MR_PLUGIN_NOTE("org.example.toy", "1.0.0", "backend/toy");
MR_EXPORT const mr_plugin mrun_plugin_v1 = {
    MR_PLUGIN_HEADER, "org.example.toy", "1.0.0", "Apache-2.0", "a backend to learn from",
    &unit, 1, 0, NULL, NULL,
};
