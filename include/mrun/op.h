/* SPDX-License-Identifier: Apache-2.0
 *
 * op.h - what an op is. The catalogue's ops and a plugin's own ops (unit kind "op", table
 * mr_op_def) are the same struct. With only shape and ref an op runs on every backend;
 * with vjp it trains; with shard it is split over ranks.
 *
 * `sig` names the operands: "x w bias? -> y". A suffix marks
 *   ?   optional (an absent operand has type NULL and data NULL)
 *   !   read and written in place: a state, a main gradient, a scalar. Weight gradients
 *       are such operands (dw! += ...), so accumulation over micro-batches needs no extra
 *       op. Only states, gradients and scalars may be written; SSA values never.
 *
 * `shard` says what may be split (checked against the reference loops by 2-way splits):
 *   "T I, O I, O -> T O | T:map O:map I:sum"
 * operands and outputs in order, one axis name a dim ("." is no axis); then each axis that
 * may be split: map (each part computes its part), sum (operands without the axis are
 * partial sums). "H:map:heads,kv_heads" also divides those integer attributes; "I:sum:-bias"
 * holds only without the optional operand bias, "F:map:+up" only with up. Where the dims hang on
 * a string attribute, a rule for each of its words: "layout=io ? RULE || layout=oi ? RULE", that
 * of the default first. An operand of more
 * dims than its rule: the first name is of its first dim, the others of its last dims.
 *
 * `attrs` declares attributes: "heads:i" must be given, "eps:f=1e-5" has a default, "scale:f?" is
 * worked out by the op if absent; types i f s fs; "score:s=sigmoid|softmax" lists the choices,
 * the default first.
 *
 * `cases` are sample uses for finite differences, shard splits and the cross-backend table,
 * in operand order: "x=F[7,16] w=F[5,16] @eps=1e-5". dtype F is the float that the case is run
 * in (f32, bf16, f64), S that of statistics and accumulators (f32; f64 if F is), or a literal.
 * A fill may follow the dims, without blanks:
 *   (none) normal(0,1)   <N  integers in [0,N)   ramp  0,1,2...   part:N  E+1 offsets of N rows
 *   perm   a permutation    inv:NAME  the inverse permutation of operand NAME    pos  in (0.1,1)
 *   start:N   index of the first token of each N-token sequence      zero   zeros
 *   {1,-1,0.5}   these values
 *   "-" after "=" leaves an optional operand out: "w=-"; of an output, it and those behind it */
#ifndef MRUN_OP_H
#define MRUN_OP_H
#include "program.h"
#ifdef __cplusplus
extern "C" {
#endif

/* One use of an op: its types and attributes, without memory. */
typedef struct mr_call {
    uint32_t size, n_in, n_out, n_attr;
    const mr_type *const *in; /* NULL entry: absent optional operand */
    const mr_type *const *out;
    const mr_attr *attr;
} mr_call;

typedef struct mr_cost {
    uint32_t size, pad;
    double flops; /* multiply and add count as two                             */
    double bytes; /* that must move at least once: operands read, outputs written */
} mr_cost;

/* What vjp() gets: the forward use, and how to emit the backward ops. */
typedef struct mr_vjp mr_vjp;
struct mr_vjp {
    uint32_t size, pad;
    const mr_call *call;
    const mr_val *in, *out; /* forward values; using one keeps it (or recomputes it)  */
    const mr_val *dout;     /* gradient of each output, 0 where none flows            */
    const uint8_t *need;    /* 1 where din[i] is wanted                               */
    mr_val *din;            /* to fill: gradient of each input; leave 0 where acc() was used */
    void *self;
    mr_val (*op)(const mr_vjp *, const char *id, const mr_val *in, uint32_t n_in,
                 const mr_attr *attr, uint32_t n_attr, mr_val *out, uint32_t n_out);
    mr_val (*acc)(const mr_vjp *, uint32_t i); /* the fp32 accumulator of input i: a
                                                  parameter's main gradient; to be written
                                                  as a "!" operand                     */
};

enum {
    MR_OP_NO_VJP = 1, /* gradients stop here by intent (integers, states, updates)    */
    MR_OP_INPLACE0 = 2 /* output 0 may share the memory of input 0 (same type)        */
};

typedef struct mr_op_def {
    uint32_t size, flags;
    const char *id, *doc; /* doc: the equation, and the paper or model that it is from    */
    const char *sig, *attrs; /* attrs: "eps:f=1e-5 heads:i scale:f? inv_freq:fs"          */
    mr_status (*shape)(const mr_call *, mr_type *const *out, mr_err *);      /* [any-thread] */
    mr_status (*vjp)(const mr_vjp *, mr_err *);                              /* [instance]   */
    mr_status (*ref)(const mr_call *, const mr_buf *in, const mr_buf *out, mr_err *); /* [any-thread] */
    void (*cost)(const mr_call *, mr_cost *);                                /* [any-thread] */
    const char *shard;
    const char *const *cases; /* NULL-ended */
} mr_op_def;

/* Host service "mrun.ref/1": the catalogue's definitions, to run or to compare with. */
typedef struct mr_ref_service {
    uint32_t size, pad;
    const mr_op_def *(*find)(const char *op_id); /* NULL: no such op      [any-thread] */
    const mr_op_def *(*at)(uint32_t i);          /* NULL: past the last   [any-thread] */
} mr_ref_service;
#define MR_EXT_REF "mrun.ref/1"

MR_UNUSED static inline const mr_attr *mr_attr_find(const mr_call *c, const char *key)
{
    for (uint32_t i = 0; i < c->n_attr; i++)
        if (!strcmp(c->attr[i].key, key))
            return &c->attr[i];
    return NULL;
}

MR_UNUSED static inline int64_t mr_attr_i(const mr_call *c, const char *key, int64_t def)
{
    const mr_attr *a = mr_attr_find(c, key);
    return a && a->type == MR_A_I64 ? a->u.i : def;
}

MR_UNUSED static inline double mr_attr_f(const mr_call *c, const char *key, double def)
{
    const mr_attr *a = mr_attr_find(c, key);
    return !a ? def : a->type == MR_A_F64 ? a->u.f : a->type == MR_A_I64 ? (double)a->u.i : def;
}

MR_UNUSED static inline const char *mr_attr_s(const mr_call *c, const char *key, const char *def)
{
    const mr_attr *a = mr_attr_find(c, key);
    return a && a->type == MR_A_STR ? a->u.s : def;
}

#ifdef __cplusplus
}
#endif
#endif
