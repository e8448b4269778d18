/* SPDX-License-Identifier: Apache-2.0
 *
 * normed.h - rows that a fused op normalises on its way in, instead of the op rmsnorm before it:
 * operand x, its weight (may be absent), attributes normed (0: x as it is) and eps. In double, not
 * rounded in between.
 */
#ifndef MRI_NORMED_H
#define MRI_NORMED_H
#include "core/ops/common.h"

#define MRI_NORMED_ATTRS "normed:i=0 eps:f=1e-5"

/* row t of x [.., D], normalised if asked, into out[D] */
static inline void mri_normed_row(const mr_call *c, mri_view x, mri_view weight, int64_t t,
                                  int64_t D, double *out)
{
    bool normed = mr_attr_i(c, "normed", 0);
    double sum = 0, r;
    for (int64_t i = 0; i < D; i++) {
        out[i] = mri_get(x, t * D + i);
        sum += out[i] * out[i];
    }
    r = normed ? 1 / sqrt(sum / (double)D + mr_attr_f(c, "eps", 1e-5)) : 1;
    for (int64_t i = 0; i < D; i++)
        out[i] *= normed && weight.p ? r * mri_get(weight, i) : r;
}

static inline mr_status mri_normed_check(const mr_call *c, const char *op, uint32_t weight,
                                         mr_err *err)
{
    if (mri_in(c, weight) && !mr_attr_i(c, "normed", 0))
        return mri_op_fail(err, op, "a norm's weight is given, but normed is 0");
    return MR_OK;
}

#endif
