/* SPDX-License-Identifier: Apache-2.0
 *
 * backend_rig.h - opens a built backend plugin as the host would and runs one op on it beside
 * the catalogue's reference loops: same inputs, outputs poisoned, workspace guarded, twice.
 */
#ifndef BACKEND_RIG_H
#define BACKEND_RIG_H
#include "core/ops/catalogue.h"
#include "core/ops/record.h"
#include "core/ops/ref.h"
#include "mrun/backend.h"
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>

typedef struct rig {
    const mr_backend_ops *ops;
    void *dev, *stream;
    mr_host host;
    double tol_f32, tol_bf16; /* of the reference's largest magnitude */
    double at_least;          /* the op at hand has no smaller one */
    bool has_f64;
    bool no_fused; /* it leaves the fused ops to the ops that they stand for */
    int compared; /* values looked at so far */
} rig;

static const void *rig_ext(void *self, const char *id)
{
    (void)self;
    return strcmp(id, MR_EXT_REF) ? NULL : &mri_ref_service;
}

/* the config structs of backend/cpu and backend/cuda, as their option rows lay them out */
typedef struct rig_cpu {
    int64_t threads;
    const char *affinity, *isa, *matmul;
} rig_cpu;

typedef struct rig_cuda {
    int32_t tf32, pad;
    const char *matmul, *cublaslt, *tuning, *attention, *cudnn;
} rig_cuda;

static inline mr_status rig_try_open(rig *r, const char *name, const void *config, mr_err *err)
{
    char *path = mri_format("%s/plugins/backend/%s/%s.so", getenv("MRUN_BUILD"), name, name);
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert(so, "%s", dlerror());
    const mr_plugin *p = dlsym(so, MR_PLUGIN_SYMBOL_NAME);
    cr_assert(p && p->n_units == 1 && !strcmp(p->units[0].kind, "backend"));
    free(path);
    *r = (rig){ .ops = p->units[0].table, .tol_f32 = 1e-5, .tol_bf16 = 2e-2,
                .no_fused = !strcmp(name, "cpu") };
    r->host = (mr_host){ .size = sizeof r->host, .abi_minor = MR_ABI_MINOR, .ext = rig_ext };
    return r->ops->open(&r->host, config, 0, &r->dev, err);
}

static inline void rig_open(rig *r, const char *name, const void *config)
{
    mr_err err = MR_ERR_INIT;
    mr_status st = rig_try_open(r, name, config, &err);
    cr_assert_eq(st, MR_OK, "%s", err.what);
    cr_assert_eq(r->ops->stream_create(r->dev, 0, &r->stream, &err), MR_OK);
}

static inline void rig_close(rig *r)
{
    r->ops->stream_destroy(r->dev, r->stream);
    r->ops->close(r->dev);
}

/* ---- buffers of one run ---------------------------------------------------------------- */
typedef struct rig_bufs {
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
} rig_bufs;

static inline rig_bufs rig_copy(const mr_call *c, const mr_buf *in)
{
    rig_bufs b = { 0 };
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i]) {
            size_t n = mr_bytes(c->in[i]);
            b.in[i].data = aligned_alloc(64, (n + 64) / 64 * 64);
            memcpy(b.in[i].data, in[i].data, n);
        }
    for (uint32_t i = 0; i < c->n_out; i++)
        if (c->out[i]) {
            size_t n = mr_bytes(c->out[i]);
            b.out[i].data = aligned_alloc(64, (n + 64) / 64 * 64);
            memset(b.out[i].data, 0xff, (n + 64) / 64 * 64); /* NaN, or -1 */
        }
    return b;
}

static inline void rig_free(rig_bufs *b)
{
    for (int i = 0; i < MRI_MAX_OPERANDS; i++) {
        free(b->in[i].data);
        free(b->out[i].data);
    }
}

/* ---- comparing ------------------------------------------------------------------------- */
static inline double rig_largest(const mr_type *t, const mr_buf *b)
{
    double max = 0;
    mri_view v = mri_at(t, b);
    for (int64_t j = 0, n = t ? mr_numel(t) : 0; j < n; j++) {
        double x = fabs(mri_get(v, j));
        max = isfinite(x) ? fmax(max, x) : max;
    }
    return max;
}

/* `scale`: the largest magnitude that the call made. It bounds the error of an operand that is
 * nothing but cancellation (the gradient of one key's attention by its query is 0). */
static inline void rig_compare(rig *r, const char *what, const mr_type *t, const mr_buf *want,
                               const mr_buf *got, uint32_t i, double scale)
{
    mri_view a = mri_at(t, want), b = mri_at(t, got);
    double max = rig_largest(t, want), tol = mr_is(t, "bf16") ? r->tol_bf16 : r->tol_f32;
    if (max < 1e-6 * scale)
        max = scale;
    tol = mr_is(t, "i32") ? 0 : fmax(tol, r->at_least);
    for (int64_t j = 0, n = mr_numel(t); j < n; j++, r->compared++) {
        double x = mri_get(a, j), y = mri_get(b, j);
        if (x == y || fabs(x - y) <= tol * max) /* not NaN */
            continue;
        cr_assert_fail("%s: operand %u (%s) [%lld] is %.9g, the reference says %.9g (largest %.3g)",
                       what, i, t->dtype, (long long)j, y, x, max);
    }
}

static inline void rig_same_bits(const char *what, const mr_call *c, const rig_bufs *a,
                                 const rig_bufs *b)
{
    for (uint32_t i = 0; i < c->n_in; i++)
        cr_assert(!c->in[i] || !memcmp(a->in[i].data, b->in[i].data, mr_bytes(c->in[i])),
                  "%s: a second run left other bits in input %u", what, i);
    for (uint32_t i = 0; i < c->n_out; i++)
        cr_assert(!c->out[i] || !memcmp(a->out[i].data, b->out[i].data, mr_bytes(c->out[i])),
                  "%s: a second run gave other bits in output %u", what, i);
}

/* ---- memory of a device that the host cannot reach ------------------------------------------ */
typedef struct rig_twin {
    void *host, *dev;
    size_t n;
} rig_twin;

typedef struct rig_twins {
    rig_twin v[2 * MRI_MAX_OPERANDS + 1];
    int n;
} rig_twins;

/* the device's copy of a host buffer; one buffer under two names has one copy */
static inline void *rig_twin_of(rig *r, rig_twins *t, void *host, size_t n)
{
    mr_err err = MR_ERR_INIT;
    for (int i = 0; i < t->n; i++)
        if (t->v[i].host == host)
            return t->v[i].dev;
    rig_twin *w = &t->v[t->n++];
    *w = (rig_twin){ host, NULL, n };
    cr_assert_eq(r->ops->alloc(r->dev, n, MR_MEM_ARENA, &w->dev, &err), MR_OK, "%s", err.what);
    cr_assert_eq(r->ops->copy(r->dev, r->stream, w->dev, host, n, &err), MR_OK, "%s", err.what);
    return w->dev;
}

static inline void rig_twins_fetch(rig *r, const char *what, rig_twins *t)
{
    mr_err err = MR_ERR_INIT;
    for (int i = 0; i < t->n; i++)
        cr_assert_eq(r->ops->copy(r->dev, r->stream, t->v[i].host, t->v[i].dev, t->v[i].n, &err),
                     MR_OK, "%s: %s", what, err.what);
    cr_assert_eq(r->ops->sync(r->dev, r->stream, &err), MR_OK, "%s: %s", what, err.what);
    for (int i = 0; i < t->n; i++)
        r->ops->free(r->dev, t->v[i].dev, t->v[i].n);
}

static inline mr_status rig_launch(rig *r, const char *what, void *kernel, const mr_call *c,
                                   rig_bufs *b, void *ws, size_t ws_bytes, mr_err *err)
{
    rig_bufs d = { 0 };
    rig_twins t = { 0 };
    if (r->ops->ext(r->dev, MR_EXT_HOST_MEMORY))
        return r->ops->run(r->dev, kernel, r->stream, b->in, b->out, ws, err);
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i])
            d.in[i].data = rig_twin_of(r, &t, b->in[i].data, (mr_bytes(c->in[i]) + 64) / 64 * 64);
    for (uint32_t i = 0; i < c->n_out; i++)
        if (c->out[i])
            d.out[i].data = rig_twin_of(r, &t, b->out[i].data, (mr_bytes(c->out[i]) + 64) / 64 * 64);
    mr_status st = r->ops->run(r->dev, kernel, r->stream, d.in, d.out,
                               rig_twin_of(r, &t, ws, ws_bytes), err);
    rig_twins_fetch(r, what, &t);
    return st;
}

static inline uint32_t rig_run(rig *r, const char *what, const mr_op_def *def, const mr_call *c,
                               rig_bufs *b)
{
    enum { GUARD = 256 };
    mr_kernel_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    void *kernel = NULL;
    mr_status st = r->ops->query(r->dev, def->id, c, MR_QUERY_DETERMINISTIC, &kernel, &info, &err);
    cr_assert_eq(st, MR_OK, "%s: %s", what, err.what);
    cr_assert(info.flags & MR_K_DETERMINISTIC);
    cr_assert(info.impl && *info.impl);
    char *ws = aligned_alloc(64, (info.workspace + GUARD + 63) / 64 * 64);
    memset(ws, 0xa5, info.workspace + GUARD);
    st = rig_launch(r, what, kernel, c, b, ws, info.workspace + GUARD, &err);
    cr_assert_eq(st, MR_OK, "%s: %s", what, err.what);
    for (uint64_t i = info.workspace; i < info.workspace + GUARD; i++)
        if ((unsigned char)ws[i] != 0xa5)
            cr_assert_fail("%s: wrote past its workspace", what);
    for (uint32_t i = 0; i < c->n_out; i++) {
        size_t n = c->out[i] ? mr_bytes(c->out[i]) : 0;
        for (size_t j = n; c->out[i] && j < (n + 64) / 64 * 64; j++)
            cr_assert_eq(((unsigned char *)b->out[i].data)[j], 0xff, "%s: wrote past output %u",
                         what, i);
    }
    free(ws);
    r->ops->release(r->dev, kernel);
    return info.flags;
}

/* what a kernel says it can do in place, it does, and with the same bits */
static inline void rig_in_place(rig *r, const char *what, const mr_op_def *def, const mr_call *c,
                                const mr_buf *in, const rig_bufs *want)
{
    if (!c->n_in || !c->n_out || !c->in[0] || !c->out[0] ||
        strcmp(c->in[0]->dtype, c->out[0]->dtype) || mr_bytes(c->in[0]) != mr_bytes(c->out[0]))
        return;
    rig_bufs b = rig_copy(c, in);
    void *own = b.out[0].data;
    memcpy(own, in[0].data, mr_bytes(c->in[0]));
    free(b.in[0].data);
    b.in[0].data = own;
    rig_run(r, what, def, c, &b);
    for (uint32_t i = 0; i < c->n_out; i++)
        cr_assert(!c->out[i] || !memcmp(b.out[i].data, want->out[i].data, mr_bytes(c->out[i])),
                  "%s: other bits in output %u when run in place", what, i);
    b.in[0].data = NULL;
    rig_free(&b);
}

static inline bool rig_has_f64(const mr_call *c)
{
    for (uint32_t i = 0; i < c->n_in + c->n_out; i++)
        if (mr_is(i < c->n_in ? c->in[i] : c->out[i - c->n_in], "f64"))
            return true;
    return false;
}

static inline void rig_refuses(rig *r, const char *what, const char *id, const mr_call *c)
{
    mr_kernel_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    void *kernel = NULL;
    cr_assert_eq(r->ops->query(r->dev, id, c, 0, &kernel, &info, &err), MR_E_UNSUPPORTED, "%s",
                 what);
    cr_assert(err.what[0] && !kernel, "%s: a refusal without a reason, or with a kernel", what);
}

/* What tensor parallelism sends and the few numbers beside it: collectives are the world's, and the
 * rest a backend may leave to the reference loops. */
static inline bool rig_leaves_to_world(rig *r, const char *what, const char *id, const mr_call *c)
{
    mr_kernel_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    void *kernel = NULL;
    if (strncmp(id, "comm.", 5) && strncmp(id, "cross_entropy.merge", 19))
        return false;
    if (!r->ops->query(r->dev, id, c, 0, &kernel, &info, &err)) {
        r->ops->release(r->dev, kernel);
        return false;
    }
    rig_refuses(r, what, id, c);
    return true;
}

/* experts' operands that Hopper's tensor cores take: their kernels must not be refused there */
static inline bool rig_is_wgmma(const mr_call *c)
{
    return mr_is(c->in[0], "bf16") && mr_last(c->in[0]) % 8 == 0 && mr_last(c->in[1]) % 8 == 0;
}

/* Ops of a program over many ranks that a backend may leave to the reference loops: they are
 * few numbers, or talk to other ranks, or wait for a kernel. */
static inline bool rig_lacks(rig *r, const char *what, const char *id, const mr_call *c)
{
    static const char *const loops[] = {
        "ep_counts", "ep_plan", "ep_window", "ep_send", "ep_return", "ep_blocks", "ep_room",
        "route_drop", "route_drop.bwd", "route_pad", "route_load", "balance_bias", "moe_counts",
        "moe_balance_loss", "moe_balance_loss.bwd", "attention.cp", "attention.cp.bwd",
        "attention.part", "attention.part.bwd", "attention.merge", "attention.ring",
        "mla_attention.ring", "comm.copy", "comm.reduce", "comm.gather", "comm.reduce_scatter",
        "comm.slice", "comm.shift", "comm.exchange", "comm.pack", "comm.unpack" };
    for (size_t i = 0; i < sizeof loops / sizeof *loops; i++) {
        mr_kernel_info info = { .size = sizeof info };
        mr_err err = MR_ERR_INIT;
        void *kernel = NULL;
        if (strcmp(id, loops[i]))
            continue;
        if (r->ops->query(r->dev, id, c, 0, &kernel, &info, &err)) {
            rig_refuses(r, what, id, c);
            return true;
        }
        r->ops->release(r->dev, kernel);
    }
    return false;
}

/* A backend may leave a fused op, or some uses of it, to the ops that it stands for. */
static inline bool rig_leaves(rig *r, const char *what, const char *id, const mr_call *c)
{
    if (rig_leaves_to_world(r, what, id, c))
        return true;
    static const char *const fused[] = {
        "add_rmsnorm", "add_rmsnorm.bwd",  "add_layernorm", "add_layernorm.bwd", "rope_norm",
        "rope_norm.bwd", "linear_add",     "linear_add.dgrad", "unpermute_add", "permute.bwd",
        "linear_gelu", "linear_gelu.dgrad", "linear.wgrad.first", "grouped_linear.wgrad.first",
        "linears", "linear_swiglu", "experts_swiglu", "experts_add", "router",
        "rope_attention.paged", "qkv_attention", "qkv_attention.bwd" };
    static const char *const f8[] = { "amax", "quantize", "linear.fp8", "linear.fp8.wgrad",
                                      "linear.fp8.wgrad.first" }; /* no CPU computes in them */
    const size_t few_rows = sizeof fused / sizeof *fused - 8; /* from there on: few shapes, bf16 */
    for (size_t i = 0; i < sizeof fused / sizeof *fused; i++)
        if (!strcmp(id, fused[i]) &&
            (r->no_fused || i >= few_rows || strstr(id, "gelu") ||
             !strcmp(id, "grouped_linear.wgrad.first"))) {
            mr_kernel_info info = { .size = sizeof info };
            mr_err err = MR_ERR_INIT;
            void *kernel = NULL;
            if (!r->ops->query(r->dev, id, c, 0, &kernel, &info, &err)) {
                r->ops->release(r->dev, kernel);
                return false;
            }
            if (!r->no_fused && strstr(id, ".first") && rig_is_wgmma(c))
                cr_assert(strstr(err.what, "Hopper") || strstr(err.what, "sm_90a"), "%s: %s", what,
                          err.what);
            rig_refuses(r, what, id, c);
            return true;
        }
    for (size_t i = 0; r->no_fused && i < sizeof f8 / sizeof *f8; i++)
        if (!strcmp(id, f8[i])) {
            rig_refuses(r, what, id, c);
            return true;
        }
    return rig_lacks(r, what, id, c);
}

/* Hopper's tensor cores add products of 8-bit floats with 14 bits (DeepSeek-V3, section 3.3.2). */
static const double rig_f8_sums = 1.0 / 4096;
/* bf16 attention multiplies by probabilities, and their gradients, in bf16; a part's sums are f32 */
static const double rig_bf16_inside = 1.0 / 256;

static inline double rig_at_least(const char *id, const mr_call *c)
{
    if (!strncmp(id, "linear.fp8", 10))
        return rig_f8_sums;
    return !strncmp(id, "attention.part", 14) && mr_is(c->in[0], "bf16") ? rig_bf16_inside : 0;
}

/* One call by the reference and twice by the backend; inputs stay as they are. */
static inline void rig_check(rig *r, const char *what, const mr_op_def *def, const mr_call *c,
                             const mr_buf *in)
{
    mr_err err = MR_ERR_INIT;
    mri_sig sig;
    cr_assert_eq(mri_sig_parse(def->sig, &sig, &err), MR_OK);
    r->at_least = rig_at_least(def->id, c);
    if (rig_leaves(r, what, def->id, c))
        return;
    if (rig_has_f64(c) && !r->has_f64) {
        rig_refuses(r, what, def->id, c);
        return;
    }
    rig_bufs want = rig_copy(c, in), got = rig_copy(c, in), again = rig_copy(c, in);
    cr_assert_eq(def->ref(c, want.in, want.out, &err), MR_OK, "%s: %s", what, err.what);
    uint32_t flags = rig_run(r, what, def, c, &got);
    rig_run(r, what, def, c, &again);
    rig_same_bits(what, c, &got, &again);
    if (flags & MR_K_INPLACE0)
        rig_in_place(r, what, def, c, in, &got);
    double scale = 0;
    for (uint32_t i = 0; i < c->n_out; i++)
        scale = fmax(scale, rig_largest(c->out[i], &want.out[i]));
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i]) {
            if (sig.in[i].mutated)
                rig_compare(r, what, c->in[i], &want.in[i], &got.in[i], i, 0);
            else
                cr_assert(!memcmp(in[i].data, got.in[i].data, mr_bytes(c->in[i])),
                          "%s: wrote its input %u", what, i);
        }
    for (uint32_t i = 0; i < c->n_out; i++)
        if (c->out[i])
            rig_compare(r, what, c->out[i], &want.out[i], &got.out[i], c->n_in + i,
                        scale);
    rig_free(&want);
    rig_free(&got);
    rig_free(&again);
}

typedef struct rig_step {
    rig *r;
    const char *what;
} rig_step;

static mr_status rig_backward_step(void *self, const mr_op_def *def, const mr_call *call,
                                   const mr_buf *in, const mr_buf *out, mr_err *err)
{
    rig_step *s = self;
    char *what = mri_format("%s, its %s", s->what, def->id);
    rig_check(s->r, what, def, call, in);
    free(what);
    return def->ref(call, in, out, err);
}

/* A case text of an op, forward and every backward op that its vjp emits. */
static inline void rig_case(rig *r, const char *id, const char *text, const char *dtype)
{
    const mr_op_def *def = mri_op_find(id);
    char *what = mri_format("%s %s (%s)", id, text, dtype);
    mr_err err = MR_ERR_INIT;
    mri_case c;
    mri_record *rec = NULL;
    cr_assert(def, "no op %s", id);
    cr_assert_eq(mri_case_make(def, text, dtype, 7, &c, &err), MR_OK, "%s: %s", what, err.what);
    rig_check(r, what, def, &c.call, c.in);
    if (def->vjp && !(def->flags & MR_OP_NO_VJP)) {
        rig_step step = { r, what };
        cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), MR_OK);
        /* cross_entropy's weight is a float that has no gradient, and is refused one */
        uint32_t needs = strncmp(id, "cross_entropy", 13) ? MRI_ALL : 1;
        cr_assert_eq(mri_record_vjp(def, &c, MRI_OUT0, needs, &rec, &err), MR_OK, "%s: %s", what,
                     err.what);
        const mri_record_value *d = mri_record_dout(rec, 0);
        mri_view v = mri_at(&d->type, &d->buf);
        for (int64_t i = 0; i < mr_numel(&d->type); i++)
            mri_put(v, i, sin(1.7 * (double)i + 0.3));
        cr_assert_eq(mri_record_run(rec, rig_backward_step, &step, &err), MR_OK, "%s: %s", what,
                     err.what);
        mri_record_free(rec);
    }
    mri_case_free(&c);
    free(what);
}

/* every op of the catalogue, every case of it */
static inline void rig_catalogue(rig *r, const char *dtype)
{
    const mr_op_def *def;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        for (const char *const *text = def->cases; text && *text; text++)
            rig_case(r, def->id, *text, dtype);
}

#endif
