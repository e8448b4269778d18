/* SPDX-License-Identifier: Apache-2.0
 *
 * cross_entropy.c - loss = Σ_t weight[t] nll[t], nll = lse - logits[target], lse the logarithm of
 * the sum of exponentials of a row. A target outside [0,V) has nll 0 and weight 0 (padding).
 *     dlogits = dloss weight (softmax(logits) - onehot(target)),  softmax from lse.
 * Only `loss` carries a gradient; nll and lse are for reports and for the backward.
 */
#include "core/ops/common.h"

static mr_status loss_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "cross_entropy",
                     "logits:F[T,V] targets:i32[T] weight:G[T] -> loss:S[1] nll:S[T] lse:S[T]",
                     NULL);
}

static mr_status loss_vjp(const mr_vjp *v, mr_err *err)
{
    if (v->dout[1] || v->dout[2])
        return mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN,
                       "cross_entropy: a gradient flows into %s, only loss carries one",
                       v->dout[1] ? "nll" : "lse");
    if (v->dout[0] && mri_need(v, 2))
        return mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN,
                       "cross_entropy: weight is no differentiable operand");
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "cross_entropy.bwd",
                             MR_IN(v->in[0], v->dout[0], v->in[1], v->in[2], v->out[2]), MR_NOAT);
    return 0;
}

static mr_status loss_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), target = mri_in_view(c, in, 1);
    mri_view weight = mri_in_view(c, in, 2), loss = mri_out_view(c, out, 0);
    mri_view nll = mri_out_view(c, out, 1), lse = mri_out_view(c, out, 2);
    int64_t T = c->in[0]->dim[0], V = c->in[0]->dim[1];
    double total = 0;
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        double max = -INFINITY, sum = 0, n = 0;
        int64_t y = mri_get_i(target, t);
        for (int64_t i = 0; i < V; i++)
            max = fmax(max, mri_get(x, t * V + i));
        for (int64_t i = 0; i < V; i++)
            sum += exp(mri_get(x, t * V + i) - max);
        mri_put(lse, t, max + log(sum));
        if (y >= 0 && y < V) {
            n = max + log(sum) - mri_get(x, t * V + y);
            total += mri_get(weight, t) * n;
        }
        mri_put(nll, t, n);
    }
    mri_put(loss, 0, total);
    return 0;
}

static void loss_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4.0 * (double)mr_numel(c->in[0]), 0);
}

static mr_status bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    return mri_infer(c, out, err, "cross_entropy.bwd",
                     "logits:F[T,V] dloss:S[1] targets:i32[T] weight:G[T] lse:S[T] -> "
                     "dlogits:F[T,V]", NULL);
}

static mr_status bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), dloss = mri_in_view(c, in, 1);
    mri_view target = mri_in_view(c, in, 2), weight = mri_in_view(c, in, 3);
    mri_view lse = mri_in_view(c, in, 4), dx = mri_out_view(c, out, 0);
    int64_t T = c->in[0]->dim[0], V = c->in[0]->dim[1];
    (void)err;
    for (int64_t t = 0; t < T; t++) {
        int64_t y = mri_get_i(target, t);
        double s = y >= 0 && y < V ? mri_get(dloss, 0) * mri_get(weight, t) : 0;
        for (int64_t i = 0; i < V; i++) /* a weight of 0 gives 0 even where logits overflow */
            mri_put(dx, t * V + i,
                    s == 0 ? 0 : s * (exp(mri_get(x, t * V + i) - mri_get(lse, t)) - (i == y)));
    }
    return 0;
}

static void bwd_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 4.0 * (double)mr_numel(c->in[0]), 0);
}

const mr_op_def mri_ops_cross_entropy[] = {
    { MRI_OP, .id = "cross_entropy", .doc = "loss = Σ weight (lse(logits) - logits[target])",
      .sig = "logits targets weight -> loss nll lse", .shape = loss_shape, .vjp = loss_vjp,
      .ref = loss_ref, .cost = loss_cost, .shard = "T ., T, T -> ., T, T | T:sum",
      .cases = MRI_CASES("logits=F[8,6] targets=i32[8]<6 weight=S[8]pos",
                         "logits=F[1,1] targets=i32[1]zero weight=S[1]pos",
                         "logits=F[4,33] targets=i32[4]{-1,32,33,7} weight=S[4]{1,0.5,1,0}",
                         "logits=F[67,129] targets=i32[67]<129 weight=S[67]pos") },
    { MRI_OP, .flags = MR_OP_NO_VJP | MR_OP_INPLACE0, .id = "cross_entropy.bwd",
      .doc = "dlogits = dloss weight (exp(logits - lse) - onehot(target))",
      .sig = "logits dloss targets weight lse -> dlogits", .shape = bwd_shape, .ref = bwd_ref,
      .cost = bwd_cost, .shard = "T ., ., T, T, T -> T . | T:map" },
    MRI_OPS_END
};
