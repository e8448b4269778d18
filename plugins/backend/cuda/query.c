/* SPDX-License-Identifier: Apache-2.0
 *
 * query.c - from an op's name and types to a kernel. Rows are tried in the order of the
 * tables: the first that takes the call serves it. What none takes - an op, f64, a layout - is
 * answered with MR_E_UNSUPPORTED and the last row's reason.
 */
#include "device.h"
#include <ctype.h>
#include <stdlib.h>

#define ROWS(name) cuda_##name##_rows,
static const struct op_row *const tables[] = { CUDA_TABLES(ROWS) };
#undef ROWS

mr_status cuda_refuse(const struct kernel *k, mr_err *err, const char *why)
{
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "backend/cuda: %s: %s", k->op, why);
    mr_hint(err, "[backend] fallback = host runs it by the slow reference loops");
    return MR_E_UNSUPPORTED;
}

static mr_status unsupported(mr_err *err, const char *op, const char *what, uint32_t i,
                             const mr_type *t)
{
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "backend/cuda: %s: %s %u is %s%s", op, what, i,
            t ? t->dtype : "absent", t && t->layout ? ", not dense" : "");
    mr_hint(err, "the CUDA backend computes in f32 and bf16; backend/ref also in f64");
    return MR_E_UNSUPPORTED;
}

/* does type t do for letter c of a row's signature? */
static int suits(const mr_type *t, char c)
{
    if (!t)
        return isupper((unsigned char)c);
    if (t->layout || t->n_parts)
        return 0;
    switch (tolower((unsigned char)c)) {
    case 'x': return mr_is(t, "f32") || mr_is(t, "bf16");
    case 'f': return mr_is(t, "f32");
    case 'b': return mr_is(t, "bf16");
    case 'm': return mr_is(t, "f32") || mr_is(t, "i16");
    case 'i': return mr_is(t, "i32");
    case 'q': return mr_is(t, "f8e4m3") || mr_is(t, "f8e5m2");
    case 'n': return mr_is(t, "f32") || mr_is(t, "bf16") || mr_is(t, "i32");
    }
    return 0;
}

/* walks one side of the signature; *sig is left at its end */
static mr_status check_side(const char *op, const char **sig, const char *what,
                            const mr_type *const *t, uint32_t n, uint8_t *kind, mr_err *err)
{
    uint32_t i = 0;
    for (; **sig && **sig != '>'; i++, (*sig)++) {
        const mr_type *type = i < n ? t[i] : NULL;
        if (!suits(type, **sig))
            return unsupported(err, op, what, i, type);
        kind[i] = mr_is(type, "bf16") ? CUDA_BF16 : mr_is(type, "i32") ? CUDA_I32
                : mr_is(type, "i16") ? CUDA_I16 : mr_is(type, "f8e4m3") ? CUDA_E4M3
                : mr_is(type, "f8e5m2") ? CUDA_E5M2 : CUDA_F32;
    }
    if (i < n)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                       "backend/cuda: %s has %u operands where %u are known", op, n, i);
    return MR_OK;
}

static mr_status try_row(const struct cuda_dev *d, const struct op_row *row, const mr_call *call,
                         uint32_t asked, struct kernel **out, mr_err *err)
{
    struct kernel *k = calloc(1, row->size);
    const char *sig = row->sig;
    mr_status st;
    if (!k)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a kernel of %s", row->id);
    k->dev = d;
    k->op = row->id;
    k->impl = row->id;
    k->asked = asked;
    k->flags = CUDA_PLAIN | row->flags;
    k->n_in = call->n_in;
    k->n_out = call->n_out;
    for (uint32_t i = 0; i < call->n_in && i < CUDA_MAX_OPERANDS; i++)
        k->present |= call->in[i] ? 1u << i : 0;
    MR_TRY(check_side(row->id, &sig, "input", call->in, call->n_in, k->in_kind, err));
    sig++;
    MR_TRY(check_side(row->id, &sig, "output", call->out, call->n_out, k->out_kind, err));
    MR_TRY(row->prepare(k, call, err));
    *out = k;
out:
    if (st)
        cuda_release(NULL, k);
    return st;
}

mr_status cuda_query(void *dev, const char *op, const mr_call *call, uint32_t flags, void **out,
                     mr_kernel_info *info, mr_err *err)
{
    const struct cuda_dev *d = dev;
    struct kernel *k = NULL;
    mr_status st = mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "backend/cuda has no op %s", op);
    for (size_t t = 0; t < sizeof tables / sizeof tables[0] && !k; t++)
        for (const struct op_row *r = tables[t]; r->id && !k; r++)
            if (!strcmp(r->id, op) && (st = try_row(d, r, call, flags, &k, err)) &&
                st != MR_E_UNSUPPORTED)
                return st;
    if (!k)
        return st;
    if (MR_HAS(info, flags))
        info->flags = k->flags;
    if (MR_HAS(info, workspace))
        info->workspace = k->workspace;
    if (MR_HAS(info, est_us))
        info->est_us = k->est_us;
    if (MR_HAS(info, impl))
        info->impl = k->impl;
    *out = k;
    return MR_OK;
}

void cuda_release(void *dev, void *kernel)
{
    struct kernel *k = kernel;
    (void)dev;
    if (k && k->release)
        k->release(k);
    free(k);
}

mr_status cuda_run(void *dev, void *kernel, void *stream, const mr_buf *in, const mr_buf *out,
                   void *workspace, mr_err *err)
{
    const struct kernel *k = kernel;
    mr_buf i[CUDA_MAX_OPERANDS] = { 0 }, o[CUDA_MAX_OPERANDS] = { 0 };
    cudaError_t e = cudaSetDevice(((const struct cuda_dev *)dev)->index);
    if (e)
        return cuda_fail(err, e, k->op);
    for (uint32_t n = 0; n < k->n_in; n++)
        if (k->present >> n & 1)
            i[n] = in[n];
    memcpy(o, out, k->n_out * sizeof *o);
    return k->run(k, i, o, workspace, stream, err);
}
