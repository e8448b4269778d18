/* SPDX-License-Identifier: Apache-2.0
 *
 * wrapped.h - a backend around another one, put in its place before a session opens: it counts
 * the memory that is taken, and its kernels may be made to write one byte too many.
 */
#ifndef TEST_WRAPPED_H
#define TEST_WRAPPED_H
#include "tiny.h"

typedef struct wrapped_kernel {
    void *inner;
    uint64_t bytes; /* of output 0 */
    bool spoil;
} wrapped_kernel;

static struct {
    const mr_backend_ops *inner;
    mr_backend_ops ops;
    mr_unit unit;
    uint64_t now, peak, total;
    uint64_t limit;        /* memory that the device says it has, 0: what the inner one says */
    const char *spoil;     /* op whose kernels write past output 0 */
} wrapped;

static mr_status w_alloc(void *dev, uint64_t n, uint32_t mem, void **p, mr_err *err)
{
    mr_status st = wrapped.inner->alloc(dev, n, mem, p, err);
    if (!st)
        wrapped.now += n;
    wrapped.peak = wrapped.now > wrapped.peak ? wrapped.now : wrapped.peak;
    return st;
}

static void w_free(void *dev, void *p, uint64_t n)
{
    wrapped.now -= n;
    wrapped.inner->free(dev, p, n);
}

static mr_status w_info(void *dev, mr_device_info *i, mr_err *err)
{
    mr_status st = wrapped.inner->info(dev, i, err);
    if (wrapped.limit)
        i->memory_bytes = wrapped.limit;
    return st;
}

static mr_status w_query(void *dev, const char *op, const mr_call *c, uint32_t flags, void **kernel,
                         mr_kernel_info *info, mr_err *err)
{
    wrapped_kernel *k = mri_alloc(sizeof *k);
    mr_status st = wrapped.inner->query(dev, op, c, flags, &k->inner, info, err);
    if (c->n_out && c->out[0])
        k->bytes = mr_bytes(c->out[0]);
    k->spoil = wrapped.spoil && !strcmp(op, wrapped.spoil);
    *kernel = k;
    if (st)
        free(k);
    return st;
}

static void w_release(void *dev, void *kernel)
{
    wrapped_kernel *k = kernel;
    wrapped.inner->release(dev, k->inner);
    free(k);
}

static mr_status w_run(void *dev, void *kernel, void *stream, const mr_buf *in, const mr_buf *out,
                       void *workspace, mr_err *err)
{
    wrapped_kernel *k = kernel;
    mr_status st = wrapped.inner->run(dev, k->inner, stream, in, out, workspace, err);
    if (k->spoil) /* behind the output's last 64-byte line */
        ((char *)out[0].data)[(k->bytes + MRI_ALIGN - 1) / MRI_ALIGN * MRI_ALIGN] = 1;
    return st;
}

/* The config's backend, behind the wrapper from here on. One a process at a time. */
static inline void wrap(mri_config *c)
{
    mri_choice *choice = (mri_choice *)(uintptr_t)mri_config_choice(c, "backend", 0);
    wrapped.inner = choice->unit->table;
    wrapped.ops = *wrapped.inner;
    wrapped.ops.alloc = w_alloc;
    wrapped.ops.free = w_free;
    wrapped.ops.info = w_info;
    wrapped.ops.query = w_query;
    wrapped.ops.release = w_release;
    wrapped.ops.run = w_run;
    wrapped.unit = *choice->unit;
    wrapped.unit.table = &wrapped.ops;
    choice->unit = &wrapped.unit;
}

/* kit_open with the wrapper; the session's status is returned */
static inline mr_status wrapped_open(kit *k, const char *const *sets, mri_session_options o,
                                     mr_err *err)
{
    size_t n = 0;
    while (sets[n])
        n++;
    k->registry = mri_registry_create(NULL);
    mri_registry_offer(k->registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(k->registry, MR_EXT_JSON, &mri_json_service);
    kit_ok(mri_config_load(k->registry, NULL, sets, n, &k->config, err), err, "config");
    wrap(k->config);
    return mri_session_open(k->registry, k->config, &o, &k->session, err);
}

#endif
