/* SPDX-License-Identifier: Apache-2.0
 *
 * query.c - from an op's name and types to a kernel of the chosen instruction set. What the
 * rows do not cover - an op, f64, a layout - is answered with MR_E_UNSUPPORTED and a reason.
 */
#include "device.h"
#include <ctype.h>
#include <stdlib.h>

extern const struct isa cpu_isa_v2;
#ifdef HAVE_AVX2
extern const struct isa cpu_isa_avx2;
#endif
#ifdef HAVE_AVX512
extern const struct isa cpu_isa_avx512;
#endif

static int have_v2(void)
{
    return 1;
}

#ifdef HAVE_AVX2
static int have_avx2(void)
{
    return __builtin_cpu_supports("x86-64-v3") != 0;
}
#endif

#ifdef HAVE_AVX512
static int have_avx512(void)
{
    return __builtin_cpu_supports("x86-64-v4") != 0;
}
#endif

static const struct {
    const struct isa *isa;
    int (*have)(void);
} isas[] = { /* the best first */
#ifdef HAVE_AVX512
    { &cpu_isa_avx512, have_avx512 },
#endif
#ifdef HAVE_AVX2
    { &cpu_isa_avx2, have_avx2 },
#endif
    { &cpu_isa_v2, have_v2 },
};

const struct isa *cpu_isa_find(const char *name, mr_err *err)
{
    int any = !strcmp(name, "auto");
    for (size_t i = 0; i < sizeof isas / sizeof isas[0]; i++)
        if ((any || !strcmp(name, isas[i].isa->name)) && isas[i].have())
            return isas[i].isa;
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
            "[backend.cpu] isa = %s: this CPU, or this build, lacks it", name);
    mr_hint(err, "leave isa = auto");
    return NULL;
}

static const struct op_row *find(const struct isa *isa, const char *op)
{
    for (int g = 0; isa->rows[g]; g++)
        for (const struct op_row *r = isa->rows[g]; r->id; r++)
            if (!strcmp(r->id, op))
                return r;
    return NULL;
}

static mr_status unsupported(mr_err *err, const char *op, const char *what, uint32_t i,
                             const mr_type *t)
{
    mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "backend/cpu: %s: %s %u is %s%s", op, what, i,
            t ? t->dtype : "absent", t && t->layout ? ", not dense" : "");
    mr_hint(err, "the CPU backend computes in f32 and bf16; backend/ref also in f64");
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
    case 'n': return mr_is(t, "f32") || mr_is(t, "bf16") || mr_is(t, "i32");
    }
    return 0;
}

/* walks one side of the signature; *sig is left at its end */
static mr_status check_side(const char *op, const char **sig, const char *what,
                            const mr_type *const *t, uint32_t n, uint8_t *bf, mr_err *err)
{
    uint32_t i = 0;
    for (; **sig && **sig != '>'; i++, (*sig)++) {
        const mr_type *type = i < n ? t[i] : NULL;
        if (!suits(type, **sig))
            return unsupported(err, op, what, i, type);
        bf[i] = mr_is(type, "bf16");
    }
    if (i < n)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                       "backend/cpu: %s has %u operands where %u are known", op, n, i);
    return MR_OK;
}

mr_status cpu_query(void *dev, const char *op, const mr_call *call, uint32_t flags, void **out,
                    mr_kernel_info *info, mr_err *err)
{
    const struct cpu_dev *d = dev;
    const struct op_row *row = find(d->isa, op);
    mr_status st = MR_OK;
    (void)flags; /* every kernel is deterministic */
    if (!row)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "backend/cpu has no op %s", op);
    struct kernel *k = calloc(1, row->size);
    if (!k)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a kernel of %s", op);
    omp_set_num_threads(d->threads); /* the library plans for as many */
    const char *sig = row->sig;
    k->dev = d;
    k->threads = d->threads;
    k->flags = MR_K_DETERMINISTIC;
    k->impl = d->isa->name;
    MR_TRY(check_side(op, &sig, "input", call->in, call->n_in, k->in_bf, err));
    sig++;
    MR_TRY(check_side(op, &sig, "output", call->out, call->n_out, k->out_bf, err));
    MR_TRY(row->prepare(k, call, err));
    if (MR_HAS(info, flags))
        info->flags = k->flags;
    if (MR_HAS(info, workspace))
        info->workspace = k->workspace;
    if (MR_HAS(info, est_us))
        info->est_us = 0;
    if (MR_HAS(info, impl))
        info->impl = k->impl;
    *out = k;
out:
    if (st)
        cpu_release(dev, k);
    return st;
}

void cpu_release(void *dev, void *kernel)
{
    struct kernel *k = kernel;
    (void)dev;
    if (k && k->release)
        k->release(k);
    free(k);
}

mr_status cpu_run(void *dev, void *kernel, void *stream, const mr_buf *in, const mr_buf *out,
                  void *workspace, mr_err *err)
{
    const struct kernel *k = kernel;
    (void)stream;
    omp_set_num_threads(((const struct cpu_dev *)dev)->threads); /* the library's too */
    return k->run(k, in, out, workspace, err);
}
