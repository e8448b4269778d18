/* SPDX-License-Identifier: Apache-2.0
 *
 * common.h - what every op family file shares: how a family is declared, how a shape
 * function is written in one line, how a vjp emits, how costs are counted.
 *
 * A family file looks like this:
 *
 *     const mr_op_def mri_ops_gelu[] = {
 *         { MRI_OP, .id = "gelu", .doc = "y = x Phi(x); Hendrycks & Gimpel 2016",
 *           .sig = "x -> y", .attrs = "approx:s=none|tanh", .shape = gelu_shape, .vjp = gelu_vjp,
 *           .ref = gelu_ref, .cost = gelu_cost, .shard = "T D -> T D | T:map D:map",
 *           .cases = MRI_CASES("x=F[7,5]", "x=F[1,3] @approx=tanh") },
 *         MRI_OPS_END
 *     };
 *
 * attrs: "key:type" must be given; "key:type=default"; "key:type?" may be left out, the op then
 * works the value out. Types i f s fs; strings list their choices, the default first:
 * "score:s=sigmoid|softmax". mri_op_check_call() validates all that before shape() runs.
 * An absent optional operand is a NULL entry, or lies past n_in / n_out: go through mri_in().
 */
#ifndef MRI_OPS_COMMON_H
#define MRI_OPS_COMMON_H
#include "core/base/base.h"
#include "core/ops/ref.h"
#include "mrun/op.h"
#include <math.h>
#include <stdlib.h>

#define MRI_OP .size = sizeof(mr_op_def)
#define MRI_OPS_END { 0 }
#define MRI_CASES(...) (const char *const[]){ __VA_ARGS__, NULL }

#define MRI_OP_FAMILY(name) extern const mr_op_def mri_ops_##name[];
#include "core/ops/list.h"
#undef MRI_OP_FAMILY

/* ---- operands ------------------------------------------------------------------------ */
static inline const mr_type *mri_in(const mr_call *c, uint32_t i) /* NULL: absent */
{
    return i < c->n_in ? c->in[i] : NULL;
}

static inline const mr_type *mri_out(const mr_call *c, uint32_t i)
{
    return i < c->n_out ? c->out[i] : NULL;
}

static inline mri_view mri_in_view(const mr_call *c, const mr_buf *in, uint32_t i)
{
    return i < c->n_in ? mri_at(c->in[i], &in[i]) : (mri_view){ NULL, 0 };
}

static inline mri_view mri_out_view(const mr_call *c, const mr_buf *out, uint32_t i)
{
    return i < c->n_out ? mri_at(c->out[i], &out[i]) : (mri_view){ NULL, 0 };
}

static inline int64_t mri_get_i(mri_view v, int64_t i) /* an index operand */
{
    return v.kind == 'i' ? ((const int32_t *)v.p)[i] : (int64_t)mri_get(v, i);
}

static inline double mri_round(mri_view v, double x) /* to the precision of v's dtype */
{
    return v.kind == 'f' ? (double)(float)x
         : v.kind == 'b' ? (double)mri_bf16_to_f32(mri_f32_to_bf16((float)x))
                         : x;
}

/* ---- shapes --------------------------------------------------------------------------
 * The typed signature of an op, from which dims and dtypes are inferred and checked:
 *
 *     mri_infer(c, out, err, "linear", "x:F[..,I] w:G[O,I] bias:G[O] -> y:F[..,O]", NULL)
 *
 * dtypes: F G H are float variables (f32 bf16 f64), each bound by its first operand; S is the
 *   dtype of statistics and accumulators: f32, or f64 when F is f64; * is any; else a literal.
 * dims: names are bound at their first use and must agree afterwards; `..` is any leading
 *   dims (also none), equal wherever it stands; numbers and products or sums of bound names
 *   are checked ("E+1", "T*K"); "[*]" is any shape. `given` binds names beforehand.
 * Absent operands are skipped. Fills out[0..n_out). The text of a failure names the op, the
 * operand, what it got, what was expected and why. */
typedef struct mri_given {
    const char *name; /* NULL ends the list */
    int64_t n;
} mri_given;
#define MRI_GIVEN(...) (const mri_given[]){ __VA_ARGS__, { NULL, 0 } }

mr_status mri_infer(const mr_call *c, mr_type *const *out, mr_err *err, const char *op,
                    const char *spec, const mri_given *given);

/* "f32 [7,16]"; "absent" for NULL. Writes into `s` and returns it. */
enum { MRI_TYPE_TEXT = 96 };
const char *mri_type_text(const mr_type *t, char s[MRI_TYPE_TEXT]);

/* A rule between an attribute and a shape failed: "rope: head_dim is 3, must be even". */
MR_PRINTF(3, 4) mr_status mri_op_fail(mr_err *err, const char *op, const char *fmt, ...);

/* The library's own copy of a dtype name: out types must not point into attributes.
 * NULL for an unknown one. */
const char *mri_dtype_name(const char *s);
static inline const char *mri_stat_dtype(const mr_type *x) /* of statistics, accumulators */
{
    return mr_is(x, "f64") ? "f64" : "f32";
}

/* ---- vjp ------------------------------------------------------------------------------
 * Pattern: if (!v->dout[0]) return 0; then each wanted input; parameter-like operands through
 * mri_main_grad(), which gives 0 (pass it on: an absent operand) when it is not wanted. */
static inline mr_val mri_emit(const mr_vjp *v, const char *id, const mr_val *in, uint32_t n_in,
                              const mr_attr *attr, uint32_t n_attr)
{
    mr_val out = 0;
    v->op(v, id, in, n_in, attr, n_attr, &out, 1);
    return out;
}

static inline void mri_emit_n(const mr_vjp *v, mr_val *out, uint32_t n_out, const char *id,
                              const mr_val *in, uint32_t n_in, const mr_attr *attr,
                              uint32_t n_attr)
{
    v->op(v, id, in, n_in, attr, n_attr, out, n_out); /* n_out 0: only writes its ! operands */
}

static inline mr_val mri_main_grad(const mr_vjp *v, uint32_t i)
{
    return i < v->call->n_in && v->in[i] && v->need[i] ? v->acc(v, i) : 0;
}

static inline bool mri_need(const mr_vjp *v, uint32_t i)
{
    return i < v->call->n_in && v->in[i] && v->need[i];
}

static inline mr_val mri_val_in(const mr_vjp *v, uint32_t i) /* 0: absent */
{
    return i < v->call->n_in ? v->in[i] : 0;
}

/* ---- cost -----------------------------------------------------------------------------
 * bytes: every present operand once, those in the bit mask `mutated` (read and written) twice. */
static inline void mri_cost(const mr_call *c, mr_cost *cost, double flops, uint32_t mutated)
{
    cost->flops = flops;
    cost->bytes = 0;
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i])
            cost->bytes += (double)mr_bytes(c->in[i]) * (mutated >> i & 1 ? 2 : 1);
    for (uint32_t i = 0; i < c->n_out; i++)
        if (c->out[i])
            cost->bytes += (double)mr_bytes(c->out[i]);
}

#endif
