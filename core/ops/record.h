/* SPDX-License-Identifier: Apache-2.0
 *
 * record.h - the backward of one sample case as concrete calls, for gradient tests and for
 * comparing backends:
 *
 *     run the forward on c->in, c->out;
 *     mri_record_vjp(def, c, MRI_OUT0, MRI_ALL, &r, err)   records what vjp() emits
 *     fill mri_record_dout(r, 0)                           the gradient that flows in
 *     mri_record_run(r, NULL, NULL, err)                   by the reference, or by yours
 *     read mri_record_din(r, i)                            din, or the accumulator of acc()
 *
 * Forward values are borrowed from the case, which must outlive the record; all else is owned.
 */
#ifndef MRI_RECORD_H
#define MRI_RECORD_H
#include "core/ops/catalogue.h"

typedef struct mri_record_value {
    mr_type type;
    mr_buf buf; /* zeros at first */
    bool borrowed;
} mri_record_value;

typedef struct mri_record_step { /* one emitted op; call and buffers are ready to run */
    const mr_op_def *def;
    mr_call call;
    const mr_type *in_type[MRI_MAX_OPERANDS], *out_type[MRI_MAX_OPERANDS];
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
    mr_attr attr[MRI_MAX_ATTRS]; /* strings and arrays are copies */
} mri_record_step;

typedef struct mri_record {
    const mr_op_def *def;
    const mri_case *c;
    MRI_VEC(mri_record_value *) value; /* by mr_val; [0] is no value */
    MRI_VEC(mri_record_step *) step;   /* in the order emitted       */
    mr_val in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];   /* forward values            */
    mr_val dout[MRI_MAX_OPERANDS], din[MRI_MAX_OPERANDS]; /* 0: none                   */
    mr_val acc[MRI_MAX_OPERANDS];                         /* accumulator of an input   */
    mr_err err;                                           /* the first failure of vjp  */
} mri_record;

/* Bit masks: outputs that a gradient flows into (only float ones count), inputs whose gradient
 * is wanted. Every differentiable op of the catalogue differentiates its output 0. */
#define MRI_OUT0 1u
#define MRI_ALL 0xffffu
mr_status mri_record_vjp(const mr_op_def *def, const mri_case *c, uint32_t douts, uint32_t needs,
                         mri_record **out, mr_err *err);
void mri_record_free(mri_record *r); /* NULL is fine */

/* the values that a caller fills and reads; NULL where there is none */
const mri_record_value *mri_record_dout(const mri_record *r, uint32_t i);
const mri_record_value *mri_record_din(const mri_record *r, uint32_t i);

/* Runs the steps in order, each by `run`, or by its reference loops if NULL. Accumulators are
 * set to zero first, so that a record can be run again. */
typedef mr_status (*mri_record_fn)(void *self, const mr_op_def *def, const mr_call *call,
                                   const mr_buf *in, const mr_buf *out, mr_err *err);
mr_status mri_record_run(mri_record *r, mri_record_fn run, void *self, mr_err *err);

#endif
