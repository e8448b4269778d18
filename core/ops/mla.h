/* SPDX-License-Identifier: Apache-2.0
 *
 * mla.h - the geometry that the ops of multi-head latent attention share (DeepSeek-V2, 2024):
 *   q  of a head  [ nope: N | rope: P ]     kv of a head  [ k nope: N | v: V ]
 *   kr, one for all heads  [ rope: P ]      a head of attention is N + P wide, its value V
 * P is twice the number of frequencies; rope pairs are neighbours, (2i, 2i+1).
 */
#ifndef MRI_MLA_H
#define MRI_MLA_H
#include "core/ops/common.h"

#define MRI_MLA_ATTRS "heads:i nope_dim:i inv_freq:fs factor:f=1"

typedef struct mri_mla {
    int64_t H, N, P, V; /* V: where `kv` or `w` gave a width of all heads, else 0 */
    const double *freq; /* [P/2] */
    double factor;
} mri_mla;

static inline mri_mla mri_mla_of(const mr_call *c, int64_t kv_width)
{
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    mri_mla m = { .H = mr_attr_i(c, "heads", 0), .N = mr_attr_i(c, "nope_dim", 0),
                  .P = f ? 2 * (int64_t)f->n : 0, .freq = f ? f->u.fs : NULL,
                  .factor = mr_attr_f(c, "factor", 1) };
    m.V = m.H > 0 && kv_width > 0 ? kv_width / m.H - m.N : 0;
    return m;
}

static inline mr_status mri_mla_check(const mri_mla *m, bool has_value, const char *op, mr_err *err)
{
    if (m->H < 1 || m->N < 0 || m->P < 2)
        return mri_op_fail(err, op, "heads is %lld, nope_dim %lld and inv_freq has %lld values, "
                           "must be at least 1, 0 and 1", (long long)m->H, (long long)m->N,
                           (long long)m->P / 2);
    if (has_value && m->V < 1)
        return mri_op_fail(err, op, "a head's keys and values leave %lld for the value beside "
                           "nope_dim, %lld", (long long)m->V, (long long)m->N);
    return 0;
}

/* a pair turned by pos inv_freq[i]; turn -1: back */
static inline void mri_mla_turn(const mri_mla *m, double pos, int64_t i, double turn, double *a,
                                double *b)
{
    double angle = turn * pos * m->freq[i];
    double co = cos(angle) * m->factor, si = sin(angle) * m->factor, x = *a;
    *a = x * co - *b * si;
    *b = x * si + *b * co;
}

#endif
