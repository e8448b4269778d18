/* SPDX-License-Identifier: Apache-2.0
 *
 * router.c - a mixture's whole router for few tokens: from the stream to who computes what,
 *
 *   router    probs, index = route_topk(n wᵀ, bias);  rows, slots, offsets = route_plan(index)
 *
 * with n = rmsnorm(x), or x itself, and logits that are not rounded. What is chosen and how is
 * route.c's; this file only says one after the other.
 */
#include "core/ops/catalogue.h"
#include "core/ops/normed.h"

static mr_status router_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *w = mri_in(c, 2);
    int64_t E = w && w->rank == 2 ? w->dim[0] : 0, K = mr_attr_i(c, "k", 1);
    if (K < 1 || K > E)
        return mri_op_fail(err, "router", "k is %lld, must be from 1 to the experts, %lld",
                           (long long)K, (long long)E);
    mr_status st = mri_normed_check(c, "router", 1, err);
    return st ? st : mri_infer(c, out, err, "router",
                               "x:F[T,D] nw:F[D] w:G[E,D] bias:S[E] -> probs:S[T,K] index:i32[T,K] "
                               "rows:i32[T*K] slots:i32[T*K] offsets:i32[E+1]",
                               MRI_GIVEN({ "K", K }));
}

static mr_status router_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_view x = mri_in_view(c, in, 0), nw = mri_in_view(c, in, 1), w = mri_in_view(c, in, 2);
    int64_t T = c->in[0]->dim[0], D = c->in[0]->dim[1], E = c->in[2]->dim[0];
    double *n = mri_alloc((size_t)(D + T * E) * sizeof *n), *logits = n + D;
    for (int64_t t = 0; t < T; t++) {
        mri_normed_row(c, x, nw, t, D, n);
        for (int64_t e = 0; e < E; e++) {
            double sum = 0;
            for (int64_t i = 0; i < D; i++)
                sum += n[i] * mri_get(w, e * D + i);
            logits[t * E + e] = sum;
        }
    }
    mr_type wide = mr_type2("f64", T, E);
    const mr_type *in0[] = { &wide, mri_in(c, 3) }, *index = c->out[1];
    mr_buf from[] = { { logits, NULL }, c->n_in > 3 ? in[3] : (mr_buf){ NULL, NULL } };
    mr_attr experts = mr_ai("experts", E);
    mr_call choose = { sizeof choose, 2, 2, c->n_attr, in0, c->out, c->attr };
    mr_call plan = { sizeof plan, 1, 3, 1, &index, c->out + 2, &experts };
    mr_status st = MR_OK;
    MR_TRY(mri_op_find("route_topk")->ref(&choose, from, out, err));
    MR_TRY(mri_op_find("route_plan")->ref(&plan, out + 1, out + 2, err));
out:
    free(n);
    return st;
}

static void router_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 2.0 * (double)c->in[0]->dim[0] * (double)mr_numel(c->in[2]), 0);
}

const mr_op_def mri_ops_router[] = {
    { MRI_OP, .flags = MR_OP_NO_VJP, .id = "router",
      .doc = "route_topk and route_plan of the logits n wᵀ, n = rmsnorm(x, nw) if normed, else x",
      .sig = "x nw? w bias? -> probs index rows slots offsets",
      .attrs = "k:i score:s=sigmoid|softmax pre_softmax:i=0 norm:i=0 scale:f=1 groups:i=0 "
               "group_topk:i=0 group_best:i=0 " MRI_NORMED_ATTRS,
      .shape = router_shape, .ref = router_ref, .cost = router_cost,
      .cases = MRI_CASES("x=F[7,16] nw=- w=F[5,16] bias=- @k=1",
                         "x=F[3,24] nw=F[24] w=F[8,24] bias=S[8] @k=3 @norm=1 @scale=2.5 @normed=1",
                         "x=F[1,264] nw=F[264] w=F[40,264] bias=- @k=4 @score=softmax @normed=1",
                         "x=F[6,16] nw=- w=F[8,16] bias=S[8] @k=2 @groups=4 @group_topk=2 @norm=1",
                         "x=F[20,8] nw=- w=F[4,8] bias=- @k=2 @score=softmax @pre_softmax=1") },
    MRI_OPS_END
};
