/* SPDX-License-Identifier: Apache-2.0
 *
 * masters.h - the operands master and weights of the ops that write parameters (adamw, sgd,
 * draw), for their reference loops:
 *   master f32, no weights     the masters are the weights, or another op derives them
 *   master f32, weights bf16   weights = masters, rounded to nearest even; never read
 *   master i16, weights bf16   both together are the masters (mri_split() in ref.h)
 *   weights bf16 alone         draw only: what a run without training keeps
 */
#ifndef MRI_OPS_MASTERS_H
#define MRI_OPS_MASTERS_H
#include "core/ops/common.h"

typedef struct mri_masters_view {
    float *whole;      /* f32, or */
    int16_t *rest;     /* i16     */
    uint16_t *weights; /* bf16 or NULL */
} mri_masters_view;

/* `weights`: that operand's number; master is operand 0 */
static inline mri_masters_view mri_masters_at(const mr_call *c, const mr_buf *in, uint32_t weights)
{
    void *master = mri_in(c, 0) ? in[0].data : NULL;
    bool split = mr_is(mri_in(c, 0), "i16");
    return (mri_masters_view){ split ? NULL : master, split ? master : NULL,
                               mri_in(c, weights) ? in[weights].data : NULL };
}

static inline float mri_master_get(const mri_masters_view *m, int64_t i)
{
    return m->whole ? m->whole[i] : mri_join(m->weights[i], m->rest[i]);
}

static inline void mri_master_put(const mri_masters_view *m, int64_t i, float x)
{
    if (m->rest) {
        mri_split(x, &m->weights[i], &m->rest[i]);
        return;
    }
    if (m->whole)
        m->whole[i] = x;
    if (m->weights)
        m->weights[i] = mri_f32_to_bf16(x);
}

/* Infers the types of an op whose operands are master, those of `spec`, weights. */
static inline mr_status mri_masters_infer(const mr_call *c, mr_type *const *out, mr_err *err,
                                          const char *op, const char *spec, uint32_t weights)
{
    char text[256];
    bool split = mr_is(mri_in(c, 0), "i16");
    if (split && !mri_in(c, weights))
        return mri_op_fail(err, op, "master is i16, the half that bf16 weights leave, and there "
                           "are no weights");
    snprintf(text, sizeof text, "master:%s[N] %s weights:bf16[N] ->", split ? "i16" : "f32", spec);
    return mri_infer(c, out, err, op, text, NULL);
}

#endif
