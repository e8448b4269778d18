/* SPDX-License-Identifier: Apache-2.0
 *
 * argmax.c - the greedy choice of a token: of each row of logits the place of the largest, so that
 * the host reads four bytes a row, or none, as the next step may read them where they are.
 *
 *   argmax    i[r] = the lowest v with logits[r, v] the largest of the row
 *
 * NaN counts as lower than all numbers; a row of nothing but NaN gives 0.
 */
#include "core/ops/common.h"

static mr_status argmax_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *x = mri_in(c, 0);
    if (x && x->rank == 2 && (x->dim[1] < 1 || x->dim[1] > INT32_MAX))
        return mri_op_fail(err, "argmax", "rows of %lld values, an i32 counts 1 to 2147483647",
                           (long long)x->dim[1]);
    return mri_infer(c, out, err, "argmax", "logits:F[R,V] -> index:i32[R]", NULL);
}

static mr_status argmax_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0);
    int64_t V = c->in[0]->dim[1];
    int32_t *index = out[0].data;
    (void)err;
    for (int64_t r = 0; r < c->in[0]->dim[0]; r++) {
        int64_t best = -1;
        for (int64_t v = 0; v < V; v++)
            if (!isnan(mri_get(x, r * V + v)) &&
                (best < 0 || mri_get(x, r * V + v) > mri_get(x, r * V + best)))
                best = v;
        index[r] = (int32_t)(best < 0 ? 0 : best);
    }
    return 0;
}

static void argmax_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_argmax[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "argmax",
      .doc = "the lowest place of each row's largest value; NaN is lower than all",
      .sig = "logits -> index", .shape = argmax_shape, .ref = argmax_ref,
      .cost = argmax_cost, .shard = "R . -> R | R:map",
      .cases = MRI_CASES("logits=F[5,17]", "logits=F[1,1]", "logits=F[3,4097]",
                         "logits=F[4,9]zero", "logits=F[2,5]{1,3,3,-2,3,-5,-1,-1,-9,-1}") },
    MRI_OPS_END
};
