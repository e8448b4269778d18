/* SPDX-License-Identifier: Apache-2.0
 *
 * program.h - values, types, attributes, and the builder with which a plugin says what
 * to compute. A program is ONE block (a decoder layer, a head, an optimizer update): a
 * straight line of coarse ops over named values. The plugin never sees a device, a
 * rank, a stream or a gradient; core derives those.
 *
 * Shape letters used in every comment of the project: T tokens (micro-batch x sequence,
 * flattened), D model width, H query heads, G key/value heads, C head width, F feed-
 * forward width, E experts, K experts per token, R = T*K routed rows, V vocabulary.
 */
#ifndef MRUN_PROGRAM_H
#define MRUN_PROGRAM_H
#include "plugin.h"
#include <string.h>
#ifdef __cplusplus
extern "C" {
#endif

#define MR_MAX_RANK 6

typedef struct mr_prog mr_prog; /* a block under construction; the host's        */
typedef uint32_t mr_val;        /* a value of one program; 0 means none          */

/* ---- types -------------------------------------------------------------------------
 * dtype: "f32" "f64" "bf16" "i32" "i64" "u8" ...; "model" stands for the dtype that the
 * profile's precision recipe gives to weights and activations, resolved on entry (also in the
 * attributes dtype and out_dtype; under recipe fp64 an op asked for "f32" there gives f64).
 * dims are upper bounds; ragged values (routed rows) have their counts in a separate
 * operand, on the device. Companions (scales, offsets) of quantised types are parts. */
typedef struct mr_part {
    uint32_t size, rank;
    const char *role, *dtype; /* "scale", "scale_2", "zero_point" ... */
    int64_t dim[MR_MAX_RANK];
} mr_part;

typedef struct mr_type {
    uint32_t size, rank;
    const char *dtype;
    const char *layout; /* NULL: dense, row-major, last dim fastest */
    int64_t dim[MR_MAX_RANK];
    const mr_part *parts;
    uint32_t n_parts, flags;
} mr_type;

/* A value's memory, as a kernel receives it. Frozen. */
typedef struct mr_buf {
    void *data;         /* NULL: an optional operand that is absent */
    void *const *parts; /* companions, in the type's order          */
} mr_buf;

/* ---- attributes: frozen ------------------------------------------------------------- */
enum { MR_A_I64 = 1, MR_A_F64, MR_A_STR, MR_A_F64S };
typedef struct mr_attr {
    const char *key;
    uint32_t type, n; /* n: elements of an array, else 1 */
    union {
        int64_t i;
        double f;
        const char *s;
        const double *fs;
    } u;
} mr_attr;

/* ---- parameters ---------------------------------------------------------------------
 * placement: the logical axes of the dims, "tp:0 fsdp:1 ep:0" (axis:dim; "-" none).
 * init: "normal" (mean 0, deviation `scale`), "constant" (`scale`), "uniform" (+-scale).
 * The draw depends on the run's seed, the parameter's full name and the logical element
 * only, so it is the same on every mesh.
 * tensors: NULL, or the tensors that a Hugging Face folder has in the parameter's stead: names
 * separated by blanks, each to stand after the last dot of the full name; end to end they are the
 * parameter. `#` counts its first dim: "#.gate_proj.weight #.up_proj.weight" of [E, 2F, D] are
 * 2E tensors of [F, D]. With MR_PARAM_TURNED they are, end to end, each matrix transposed: of
 * [E, D, 2F], too, the above are 2E tensors of [F, D]. Where a folder has none yet, a parameter is
 * written as those tensors; with MR_PARAM_WHOLE as one of its own name.
 * stored: the dims that files give the parameter, of as many elements in the same order;
 * stored_rank 0: its own (the weight of a convolution is a matrix in programs). */
enum {
    MR_PARAM_NO_DECAY = 1, MR_PARAM_FROZEN = 2, MR_PARAM_F32 = 4,
    MR_PARAM_TURNED = 8, MR_PARAM_WHOLE = 16
};
typedef struct mr_param {
    uint32_t size, flags;
    mr_type type;
    const char *placement, *init;
    double scale;
    const char *tensors;
    uint32_t stored_rank, pad;
    int64_t stored[MR_MAX_RANK];
} mr_param;

enum {
    MR_STATE_CHECKPOINT = 1,
    MR_STATE_PER_SLOT = 2, /* a row of memory for each running sequence                        */
    MR_STATE_PAGED = 4     /* pages of rows, which running sequences own (model.h, mr_block_env) */
};

/* ---- the builder: a host service that never changes when an op is added --------------
 * Asking again for an input, state or scalar by name gives the same value.
 * A failed call returns 0, records the first error in the program, and makes the later
 * calls no-ops; core reports it when build() returns. All calls [instance]. */
typedef struct mr_builder {
    uint32_t size, pad;
    mr_val (*param)(mr_prog *, const char *name, const mr_param *);
    mr_val (*input)(mr_prog *, const char *name, const mr_type *);
    mr_val (*state)(mr_prog *, const char *name, const mr_type *, uint32_t flags);
    mr_val (*scalar)(mr_prog *, const char *name); /* f32 [1], on the device, set per step */
    mr_val (*op)(mr_prog *, const char *id, const mr_val *in, uint32_t n_in,
                 const mr_attr *attr, uint32_t n_attr, mr_val *out, uint32_t n_out,
                 const char *file, int32_t line); /* returns out[0], or 0 for no outputs */
    void (*region)(mr_prog *, const char *name); /* open a named, nestable region          */
    void (*end)(mr_prog *);                      /* close the innermost                    */
    void (*output)(mr_prog *, const char *name, mr_val);
    void (*loss)(mr_prog *, const char *name, mr_val); /* an f32 [1] to be minimised: its
                                                          gradient is seeded with 1 / tokens */
    const mr_type *(*type)(mr_prog *, mr_val); /* valid until the program is destroyed     */
} mr_builder;

/* ---- conveniences (inline: nothing to link) ----------------------------------------- */
typedef struct mr_net { /* a builder and its program, for terse model code */
    const mr_builder *b;
    mr_prog *p;
} mr_net;

MR_UNUSED static inline mr_type mr_type1(const char *dtype, int64_t a)
{
    mr_type t;
    memset(&t, 0, sizeof t);
    t.size = sizeof t;
    t.rank = 1;
    t.dtype = dtype;
    t.dim[0] = a;
    return t;
}

MR_UNUSED static inline mr_type mr_type2(const char *dtype, int64_t a, int64_t b)
{
    mr_type t = mr_type1(dtype, a);
    t.rank = 2;
    t.dim[1] = b;
    return t;
}

MR_UNUSED static inline mr_type mr_type3(const char *dtype, int64_t a, int64_t b, int64_t c)
{
    mr_type t = mr_type2(dtype, a, b);
    t.rank = 3;
    t.dim[2] = c;
    return t;
}

MR_UNUSED static inline int64_t mr_numel(const mr_type *t)
{
    int64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        n *= t->dim[i];
    return n;
}

/* product of all dims but the last: the rows of a value seen as a matrix */
MR_UNUSED static inline int64_t mr_rows(const mr_type *t)
{
    return t->rank && t->dim[t->rank - 1] ? mr_numel(t) / t->dim[t->rank - 1] : 0;
}

MR_UNUSED static inline int64_t mr_last(const mr_type *t)
{
    return t->rank ? t->dim[t->rank - 1] : 1;
}

/* equal dtype and dims; layouts and companions are not looked at */
MR_UNUSED static inline int mr_same_type(const mr_type *a, const mr_type *b)
{
    return a->rank == b->rank && !strcmp(a->dtype, b->dtype) &&
           !memcmp(a->dim, b->dim, a->rank * sizeof a->dim[0]);
}

MR_UNUSED static inline int mr_is(const mr_type *t, const char *dtype)
{
    return t && t->dtype && !strcmp(t->dtype, dtype);
}

/* bytes of one element, 0 for an unknown dtype */
MR_UNUSED static inline size_t mr_dtype_bytes(const char *d)
{
    if (!strcmp(d, "f32") || !strcmp(d, "i32"))
        return 4;
    if (!strcmp(d, "bf16") || !strcmp(d, "f16") || !strcmp(d, "i16"))
        return 2;
    if (!strcmp(d, "f64") || !strcmp(d, "i64"))
        return 8;
    if (!strcmp(d, "u8") || !strcmp(d, "i8") || !strcmp(d, "f8e4m3") || !strcmp(d, "f8e5m2"))
        return 1;
    return 0;
}

/* bytes of the data component */
MR_UNUSED static inline size_t mr_bytes(const mr_type *t)
{
    return (size_t)mr_numel(t) * mr_dtype_bytes(t->dtype);
}

MR_UNUSED static inline mr_attr mr_ai(const char *key, int64_t v)
{
    mr_attr a;
    a.key = key;
    a.type = MR_A_I64;
    a.n = 1;
    a.u.i = v;
    return a;
}

MR_UNUSED static inline mr_attr mr_af(const char *key, double v)
{
    mr_attr a;
    a.key = key;
    a.type = MR_A_F64;
    a.n = 1;
    a.u.f = v;
    return a;
}

MR_UNUSED static inline mr_attr mr_as(const char *key, const char *v)
{
    mr_attr a;
    a.key = key;
    a.type = MR_A_STR;
    a.n = 1;
    a.u.s = v;
    return a;
}

MR_UNUSED static inline mr_attr mr_afs(const char *key, const double *v, uint32_t n)
{
    mr_attr a;
    a.key = key;
    a.type = MR_A_F64S;
    a.n = n;
    a.u.fs = v;
    return a;
}

#ifndef __cplusplus /* compound literals: C only */
#define MR_IN(...) (const mr_val[]){ __VA_ARGS__ }, \
    (uint32_t)(sizeof((const mr_val[]){ __VA_ARGS__ }) / sizeof(mr_val))
#define MR_AT(...) (const mr_attr[]){ __VA_ARGS__ }, \
    (uint32_t)(sizeof((const mr_attr[]){ __VA_ARGS__ }) / sizeof(mr_attr))
#endif
#define MR_NOAT NULL, 0

/* One op with one output: y = MR_OP(net, "linear", MR_IN(x, w), MR_NOAT);
 * several outputs:        MR_OPN(net, "attention", out, 2, MR_IN(q, k, v), MR_AT(...)); */
MR_UNUSED static inline mr_val mr_op1_(mr_net n, const char *file, int32_t line, const char *id,
                                       const mr_val *in, uint32_t n_in, const mr_attr *at,
                                       uint32_t n_at)
{
    mr_val out = 0;
    return n.b->op(n.p, id, in, n_in, at, n_at, &out, 1, file, line);
}
#define MR_OP(net, id, ...) mr_op1_(net, __FILE__, __LINE__, id, __VA_ARGS__)

MR_UNUSED static inline void mr_opn_(mr_net n, const char *file, int32_t line, const char *id,
                                     mr_val *out, uint32_t n_out, const mr_val *in, uint32_t n_in,
                                     const mr_attr *at, uint32_t n_at)
{
    n.b->op(n.p, id, in, n_in, at, n_at, out, n_out, file, line);
}
#define MR_OPN(net, id, out, n_out, ...) \
    mr_opn_(net, __FILE__, __LINE__, id, out, n_out, __VA_ARGS__)

#ifdef __cplusplus
}
#endif
#endif
