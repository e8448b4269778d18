/*
 * skeleton - a backend for mrun: plain host memory and the host's own reference loops, which
 * arrive as the service "mrun.ref/1". Slow and right: start from here, and replace query()
 * and run() op by op with kernels of your own; an op that you refuse with MR_E_UNSUPPORTED is
 * lowered or refused by the host, and `mrun check` compares what you do with the loops.
 */
#include "mrun/backend.h"
#include <stdlib.h>

typedef struct device {
    const mr_ref_service *ref;
} device;

/* What query() is told lives no longer than the call: a kernel keeps its own copy. */
typedef struct kernel {
    const mr_op_def *def;
    mr_call call;
    mr_type *types;             /* n_in + n_out of them */
    const mr_type **type_ptrs;  /* NULL entry: absent operand */
    mr_attr *attrs;
    char *words; /* dtypes, keys and strings */
    double *numbers;
} kernel;

static mr_status count(const mr_host *host, const void *config, uint32_t *n, mr_err *err)
{
    (void)host;
    (void)config;
    (void)err;
    *n = 1;
    return MR_OK;
}

static mr_status open_device(const mr_host *host, const void *config, uint32_t index, void **dev,
                             mr_err *err)
{
    device *d = malloc(sizeof *d);
    (void)config;
    (void)index;
    if (!d)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for backend/skeleton");
    d->ref = host->ext(host->self, MR_EXT_REF); /* there: `needs` below says so */
    *dev = d;
    return MR_OK;
}

static mr_status info(void *dev, mr_device_info *out, mr_err *err)
{
    (void)dev;
    (void)err;
    out->threads = 1;
    out->name = "reference loops, 1 thread";
    out->memory_bytes = (uint64_t)1 << 33;
    out->peak_flops_f32 = out->peak_flops_bf16 = out->peak_bytes_per_s = 0;
    return MR_OK;
}

static mr_status alloc(void *dev, uint64_t bytes, uint32_t mem, void **p, mr_err *err)
{
    (void)dev;
    (void)mem;
    uint64_t whole = (bytes / 64 + 1) * 64; /* also for 0 bytes */
    *p = bytes < UINT64_MAX / 2 ? aligned_alloc(64, whole) : NULL;
    if (!*p)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %llu bytes",
                       (unsigned long long)bytes);
    memset(*p, 0, whole);
    return MR_OK;
}

static void free_memory(void *dev, void *p, uint64_t bytes)
{
    (void)dev;
    (void)bytes;
    free(p);
}

/* ---- kernels ------------------------------------------------------------------------------- */

static void release(void *dev, void *p)
{
    kernel *k = p;
    (void)dev;
    if (!k)
        return;
    free(k->types);
    free(k->type_ptrs);
    free(k->attrs);
    free(k->words);
    free(k->numbers);
    free(k);
}

static const char *keep_word(char **to, const char *s)
{
    char *start = *to;
    if (!s)
        return NULL;
    strcpy(start, s);
    *to += strlen(s) + 1;
    return start;
}

static void keep_type(kernel *k, uint32_t i, const mr_type *t, char **words)
{
    if (!t)
        return;
    k->types[i] = *t;
    k->types[i].dtype = keep_word(words, t->dtype);
    k->type_ptrs[i] = &k->types[i];
}

static kernel *keep_call(const mr_op_def *def, const mr_call *c)
{
    uint32_t n = c->n_in + c->n_out;
    size_t words = 1, numbers = 1;
    kernel *k = calloc(1, sizeof *k);
    for (uint32_t i = 0; i < n; i++) {
        const mr_type *t = i < c->n_in ? c->in[i] : c->out[i - c->n_in];
        words += t ? strlen(t->dtype) + 1 : 0;
    }
    for (uint32_t i = 0; i < c->n_attr; i++) {
        words += strlen(c->attr[i].key) + 1;
        words += c->attr[i].type == MR_A_STR ? strlen(c->attr[i].u.s) + 1 : 0;
        numbers += c->attr[i].type == MR_A_F64S ? c->attr[i].n : 0;
    }
    if (!k)
        return NULL;
    k->def = def;
    k->call = *c;
    k->types = calloc(n + 1, sizeof *k->types);
    k->type_ptrs = calloc(n + 1, sizeof *k->type_ptrs);
    k->attrs = calloc(c->n_attr + 1, sizeof *k->attrs);
    k->words = malloc(words);
    k->numbers = malloc(numbers * sizeof *k->numbers);
    if (!k->types || !k->type_ptrs || !k->attrs || !k->words || !k->numbers) {
        release(NULL, k);
        return NULL;
    }
    char *word = k->words;
    double *number = k->numbers;
    for (uint32_t i = 0; i < n; i++)
        keep_type(k, i, i < c->n_in ? c->in[i] : c->out[i - c->n_in], &word);
    for (uint32_t i = 0; i < c->n_attr; i++) {
        mr_attr *a = &k->attrs[i];
        *a = c->attr[i];
        a->key = keep_word(&word, a->key);
        if (a->type == MR_A_STR)
            a->u.s = keep_word(&word, a->u.s);
        if (a->type == MR_A_F64S) {
            memcpy(number, a->u.fs, a->n * sizeof *number);
            a->u.fs = number;
            number += a->n;
        }
    }
    k->call.in = k->type_ptrs;
    k->call.out = k->type_ptrs + c->n_in;
    k->call.attr = k->attrs;
    return k;
}

static mr_status query(void *dev, const char *op_id, const mr_call *call, uint32_t flags,
                       void **kernel_out, mr_kernel_info *out, mr_err *err)
{
    const device *d = dev;
    const mr_op_def *def = d->ref->find(op_id);
    (void)flags; /* what it gives is always deterministic */
    if (!def)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_UNKNOWN, "backend/skeleton has no %s",
                       op_id);
    *kernel_out = keep_call(def, call);
    if (!*kernel_out)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a kernel of %s", op_id);
    out->flags = MR_K_DETERMINISTIC;
    out->workspace = 0;
    out->est_us = 0;
    out->impl = "reference loops";
    return MR_OK;
}

static mr_status run(void *dev, void *p, void *stream, const mr_buf *in, const mr_buf *out,
                     void *workspace, mr_err *err)
{
    const kernel *k = p;
    (void)dev;
    (void)stream;
    (void)workspace;
    return k->def->ref(&k->call, in, out, err);
}

/* ---- streams: everything is done when a call returns --------------------------------------- */

static mr_status stream_create(void *dev, uint32_t priority, void **stream, mr_err *err)
{
    (void)priority;
    (void)err;
    *stream = dev;
    return MR_OK;
}

static void stream_destroy(void *dev, void *stream)
{
    (void)dev;
    (void)stream;
}

static mr_status record(void *dev, void *stream, void **event, mr_err *err)
{
    (void)stream;
    (void)err;
    *event = dev;
    return MR_OK;
}

static mr_status wait(void *dev, void *stream, void *event, mr_err *err)
{
    (void)dev;
    (void)stream;
    (void)event;
    (void)err;
    return MR_OK;
}

static void event_destroy(void *dev, void *event)
{
    (void)dev;
    (void)event;
}

static mr_status sync(void *dev, void *stream, mr_err *err)
{
    (void)dev;
    (void)stream;
    (void)err;
    return MR_OK;
}

static mr_status copy(void *dev, void *stream, void *dst, const void *src, uint64_t n, mr_err *err)
{
    (void)dev;
    (void)stream;
    (void)err;
    memmove(dst, src, n);
    return MR_OK;
}

static mr_status fill(void *dev, void *stream, void *dst, uint32_t byte, uint64_t n, mr_err *err)
{
    (void)dev;
    (void)stream;
    (void)err;
    memset(dst, (int)byte, n);
    return MR_OK;
}

static const mr_backend_ops table = {
    .size = sizeof table,
    .count = count,
    .open = open_device,
    .close = free,
    .info = info,
    .alloc = alloc,
    .free = free_memory,
    .query = query,
    .release = release,
    .run = run,
    .stream_create = stream_create,
    .stream_destroy = stream_destroy,
    .record = record,
    .wait = wait,
    .event_destroy = event_destroy,
    .sync = sync,
    .copy = copy,
    .fill = fill,
};

static const char *const needs[] = { MR_EXT_REF, NULL };

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "backend",
    .name = "skeleton",
    .doc = "the reference loops as a backend",
    .table = &table,
    .needs = needs,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "backend/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "a backend",
    .units = &unit,
    .n_units = 1,
};
