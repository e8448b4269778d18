/* SPDX-License-Identifier: Apache-2.0
 *
 * route.c - the router: which K of E experts a token goes to, with what weight, and the order
 * in which the routed rows lie. After Megatron-LM's topk_routing_with_score_function:
 *
 *   sigmoid              s = sigmoid(logits)       choice by s + bias
 *   softmax, pre         s = softmax(logits)       choice by s
 *   softmax, not pre     choice by logits          s = softmax over the K chosen logits
 *
 *   p = scale * s, or with norm scale * s / (sum of the chosen s + 1e-20): where K > 1 as in
 *   Megatron-LM, with norm = 2 also for the only one of K = 1, as in transformers' DeepSeek-V3
 *
 * With groups the E experts stand in equal contiguous groups; a group is worth the sum of its
 * group_best best (0: K / group_topk), and only the group_topk best groups are chosen from (DeepSeek-V3, 2024).
 * The choice is constant for the gradient. Ties go to the lower index.
 */
#include "core/ops/common.h"
#include "core/ops/route.h"
#include <stdlib.h>

double mri_sigmoid(double x)
{
    return 1 / (1 + exp(-x));
}

void mri_softmax(const double *x, int64_t n, double *y)
{
    double max = x[0], sum = 0;
    for (int64_t i = 1; i < n; i++)
        max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += y[i] = exp(x[i] - max);
    for (int64_t i = 0; i < n; i++)
        y[i] /= sum;
}

void mri_topk(const double *score, int64_t n, int64_t k, uint8_t *taken, int64_t *index)
{
    for (int64_t j = 0; j < k; j++) {
        int64_t best = -1;
        for (int64_t i = 0; i < n; i++)
            if (!taken[i] && (best < 0 || score[i] > score[best]))
                best = i;
        taken[best] = 1;
        index[j] = best;
    }
}

/* ---- route_topk ------------------------------------------------------------------------- */
#define ROUTE_ATTRS \
    "k:i score:s=sigmoid|softmax pre_softmax:i=0 norm:i=0 scale:f=1 groups:i=0 " \
    "group_topk:i=0 group_best:i=0"

typedef struct route { /* one use: its sizes, attributes, and room for one token */
    int64_t T, E, K, groups, group_topk, group_best;
    bool sigmoid, pre;
    int64_t norm;
    double scale;
    double *logit, *score, *choice, *worth; /* [E]; worth [groups] */
    uint8_t *taken;                         /* [E]                 */
    int64_t *index;                         /* [E]                 */
    void *room;
} route;

static route route_of(const mr_call *c, const mr_type *logits)
{
    route r = {
        .T = logits->dim[0],
        .E = logits->dim[1],
        .K = mr_attr_i(c, "k", 1),
        .groups = mr_attr_i(c, "groups", 0),
        .group_topk = mr_attr_i(c, "group_topk", 0),
        .group_best = mr_attr_i(c, "group_best", 0),
        .sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid"),
        .pre = mr_attr_i(c, "pre_softmax", 0) != 0,
        .norm = mr_attr_i(c, "norm", 0),
        .scale = mr_attr_f(c, "scale", 1),
    };
    size_t E = (size_t)r.E;
    char *p = r.room = mri_alloc(E * (4 * sizeof(double) + sizeof(int64_t) + 1));
    if (r.groups && !r.group_best)
        r.group_best = r.K / r.group_topk;
    r.logit = (double *)p;
    r.score = r.logit + E;
    r.choice = r.score + E;
    r.worth = r.choice + E;
    r.index = (int64_t *)(r.worth + E);
    r.taken = (uint8_t *)(r.index + E);
    return r;
}

static mr_status route_check(const mr_call *c, const char *op, mr_err *err)
{
    const mr_type *logits = mri_in(c, !strcmp(op, "route_topk.bwd"));
    int64_t E = logits && logits->rank == 2 ? logits->dim[1] : 0;
    int64_t k = mr_attr_i(c, "k", 1), G = mr_attr_i(c, "groups", 0);
    int64_t g = mr_attr_i(c, "group_topk", 0), best = mr_attr_i(c, "group_best", 0);
    bool softmax = !strcmp(mr_attr_s(c, "score", "sigmoid"), "softmax");

    if (k < 1 || k > E)
        return mri_op_fail(err, op, "k is %lld, must be in 1..%lld, the experts", (long long)k,
                           (long long)E);
    if (softmax && k == 1 && !mr_attr_i(c, "pre_softmax", 0))
        return mri_op_fail(err, op, "softmax over the one chosen expert is always 1 and has no "
                                    "gradient; set pre_softmax = 1 or k > 1");
    if ((G == 0) != (g == 0))
        return mri_op_fail(err, op, "groups is %lld and group_topk is %lld: give both or none",
                           (long long)G, (long long)g);
    if (G == 0)
        return MR_OK;
    if (G < 0 || E % G)
        return mri_op_fail(err, op, "groups is %lld, must divide the %lld experts", (long long)G,
                           (long long)E);
    if (best < 0 || best > E / G)
        return mri_op_fail(err, op, "group_best is %lld, must be in 0..%lld, the experts of a "
                                    "group", (long long)best, (long long)(E / G));
    if (g < 1 || g > G || (!best && g > k))
        return mri_op_fail(err, op, "group_topk is %lld, must be in 1..%lld (groups) and at most "
                                    "k, %lld", (long long)g, (long long)G, (long long)k);
    if (k > g * (E / G))
        return mri_op_fail(err, op, "k is %lld, but %lld groups of %lld hold only %lld experts",
                           (long long)k, (long long)g, (long long)(E / G),
                           (long long)(g * (E / G)));
    return MR_OK;
}

static mr_status route_topk_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st;
    MR_TRY(route_check(c, "route_topk", err));
    if (mri_in(c, 1) && strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid"))
        return mri_op_fail(err, "route_topk", "a bias needs score = sigmoid");
    MR_TRY(mri_infer(c, out, err, "route_topk",
                     "logits:F[T,E] bias:G[E] -> probs:S[T,K] index:i32[T,K]",
                     MRI_GIVEN({ "K", mr_attr_i(c, "k", 1) })));
out:
    return st;
}

/* marks as taken the experts of all groups but the group_topk best */
static void mask_groups(route *r)
{
    int64_t per = r->E / r->groups;
    memset(r->taken, 0, (size_t)r->E);
    for (int64_t g = 0; g < r->groups; g++) {
        const double *choice = r->choice + g * per;
        int64_t n = r->group_best;
        mri_topk(choice, per, n, r->taken + g * per, r->index);
        r->worth[g] = 0;
        for (int64_t j = 0; j < n; j++)
            r->worth[g] += choice[r->index[j]];
    }
    memset(r->taken, 0, (size_t)r->E);
    mri_topk(r->worth, r->groups, r->group_topk, r->taken, r->index);
    memset(r->taken, 1, (size_t)r->E);
    for (int64_t j = 0; j < r->group_topk; j++)
        memset(r->taken + r->index[j] * per, 0, (size_t)per);
}

/* score[j] of the chosen experts index[j], j < K, before norm and scale */
static void chosen_scores(const route *r, double *score)
{
    if (r->sigmoid) {
        for (int64_t j = 0; j < r->K; j++)
            score[j] = mri_sigmoid(r->logit[r->index[j]]);
    } else if (r->pre) {
        mri_softmax(r->logit, r->E, r->worth);
        for (int64_t j = 0; j < r->K; j++)
            score[j] = r->worth[r->index[j]];
    } else {
        for (int64_t j = 0; j < r->K; j++)
            score[j] = r->logit[r->index[j]];
        mri_softmax(score, r->K, score);
    }
}

static double norm_of(const route *r, const double *score)
{
    double sum = 1e-20;
    if (r->norm <= (r->K == 1))
        return 1;
    for (int64_t j = 0; j < r->K; j++)
        sum += score[j];
    return sum;
}

static mr_status route_topk_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    route r = route_of(c, c->in[0]);
    mri_view logits = mri_in_view(c, in, 0), bias = mri_in_view(c, in, 1);
    mri_view probs = mri_out_view(c, out, 0), index = mri_out_view(c, out, 1);

    for (int64_t t = 0; t < r.T; t++) {
        for (int64_t e = 0; e < r.E; e++)
            r.logit[e] = r.choice[e] = mri_get(logits, t * r.E + e);
        if (r.sigmoid)
            for (int64_t e = 0; e < r.E; e++)
                r.choice[e] = mri_sigmoid(r.logit[e]) + (bias.p ? mri_get(bias, e) : 0);
        else if (r.pre)
            mri_softmax(r.logit, r.E, r.choice);
        if (r.groups)
            mask_groups(&r);
        else
            memset(r.taken, 0, (size_t)r.E);
        mri_topk(r.choice, r.E, r.K, r.taken, r.index);

        chosen_scores(&r, r.score);
        double norm = norm_of(&r, r.score);
        for (int64_t j = 0; j < r.K; j++) {
            mri_put(index, t * r.K + j, (double)r.index[j]);
            mri_put(probs, t * r.K + j, r.scale * (r.score[j] / norm));
        }
    }
    free(r.room);
    return MR_OK;
}

static mr_status route_topk_vjp(const mr_vjp *v, mr_err *err)
{
    (void)err;
    if (v->dout[0] && mri_need(v, 0))
        v->din[0] = mri_emit(v, "route_topk.bwd",
                             MR_IN(v->dout[0], v->in[0], v->out[0], v->out[1]), v->call->attr,
                             v->call->n_attr);
    return MR_OK;
}

static void route_topk_cost(const mr_call *c, mr_cost *cost)
{
    const mr_type *x = c->in[0];
    mri_cost(c, cost, (double)mr_numel(x) * (4 + (double)mr_attr_i(c, "k", 1)), 0);
}

/* ---- route_topk.bwd: everything is made again from the logits and the choice ------------- */
static mr_status route_topk_bwd_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    mr_status st;
    MR_TRY(route_check(c, "route_topk.bwd", err));
    MR_TRY(mri_infer(c, out, err, "route_topk.bwd",
                     "dprobs:G[T,K] logits:F[T,E] probs:S[T,K] index:i32[T,K] -> dlogits:F[T,E]",
                     MRI_GIVEN({ "K", mr_attr_i(c, "k", 1) })));
out:
    return st;
}

/* In place: dscore[j] is dL/dprobs[j] on entry, dL/dscore[j] on return. */
static void norm_backward(const route *r, const double *score, double *dscore)
{
    double norm = norm_of(r, score), dot = 0;
    for (int64_t j = 0; j < r->K; j++)
        dscore[j] *= r->scale;
    if (r->norm <= (r->K == 1))
        return;
    for (int64_t j = 0; j < r->K; j++)
        dot += dscore[j] * score[j] / norm;
    for (int64_t j = 0; j < r->K; j++)
        dscore[j] = r->K == 1 ? 0 : (dscore[j] - dot) / norm; /* of one expert it is always 1 */
}

static mr_status route_topk_bwd_ref(const mr_call *c, const mr_buf *in, const mr_buf *out,
                                    mr_err *err)
{
    mr_status st = MR_OK;
    route r = route_of(c, c->in[1]);
    mri_view dprobs = mri_in_view(c, in, 0), logits = mri_in_view(c, in, 1);
    mri_view index = mri_in_view(c, in, 3), dlogits = mri_out_view(c, out, 0);
    double *dscore = r.choice, *dlogit = mri_alloc((size_t)r.E * sizeof(double));

    for (int64_t t = 0; t < r.T && !st; t++) {
        for (int64_t e = 0; e < r.E; e++) {
            r.logit[e] = mri_get(logits, t * r.E + e);
            dlogit[e] = 0;
        }
        for (int64_t j = 0; j < r.K; j++) {
            dscore[j] = mri_get(dprobs, t * r.K + j);
            r.index[j] = mri_get_i(index, t * r.K + j);
            if (r.index[j] < 0 || r.index[j] >= r.E) {
                st = mri_op_fail(err, "route_topk.bwd", "index[%lld,%lld] is %lld of %lld experts",
                                 (long long)t, (long long)j, (long long)r.index[j],
                                 (long long)r.E);
                goto out;
            }
        }
        chosen_scores(&r, r.score);
        norm_backward(&r, r.score, dscore);

        double dot = 0; /* of the softmax: sum over the chosen of dscore * score */
        for (int64_t j = 0; j < r.K; j++)
            dot += dscore[j] * r.score[j];
        if (!r.sigmoid && r.pre)
            for (int64_t e = 0; e < r.E; e++)
                dlogit[e] = -r.worth[e] * dot; /* worth: the softmax over all, see above */
        for (int64_t j = 0; j < r.K; j++) {
            double s = r.score[j];
            dlogit[r.index[j]] += r.sigmoid ? dscore[j] * s * (1 - s)
                                : r.pre     ? dscore[j] * s
                                            : s * (dscore[j] - dot);
        }
        for (int64_t e = 0; e < r.E; e++)
            mri_put(dlogits, t * r.E + e, dlogit[e]);
    }
out:
    free(dlogit);
    free(r.room);
    return st;
}

/* probs need not be read; of the logits those of the chosen do, unless a softmax is over all */
static void route_topk_bwd_cost(const mr_call *c, mr_cost *cost)
{
    const mr_type *logits = c->in[1], *probs = c->in[2];
    bool all = !strcmp(mr_attr_s(c, "score", "sigmoid"), "softmax") &&
               mr_attr_i(c, "pre_softmax", 0);
    mri_cost(c, cost, 6 * (double)mr_numel(logits), 0);
    cost->bytes -= (double)mr_bytes(probs);
    if (!all)
        cost->bytes -= (double)(mr_numel(logits) - mr_numel(probs)) *
                       (double)mr_dtype_bytes(logits->dtype);
}

/* ---- route_plan: a stable counting sort of the routed rows by expert ---------------------- */
static mr_status route_plan_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    const mr_type *index = mri_in(c, 0);
    int64_t E = mr_attr_i(c, "experts", 0);
    if (E < 1 || E >= INT32_MAX)
        return mri_op_fail(err, "route_plan", "experts is %lld, must be 1 or more", (long long)E);
    if (index && index->rank == 2 && index->dim[1] > 0 &&
        index->dim[0] > INT32_MAX / index->dim[1])
        return mri_op_fail(err, "route_plan", "%lld tokens x %lld experts each exceed the 2^31 - 1 "
                                              "rows that an i32 counts",
                           (long long)index->dim[0], (long long)index->dim[1]);
    return mri_infer(c, out, err, "route_plan",
                     "index:i32[T,K] -> rows:i32[T*K] slots:i32[T*K] offsets:i32[E+1]",
                     MRI_GIVEN({ "E", E }));
}

static mr_status route_plan_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    int64_t R = mr_numel(c->in[0]), E = mr_attr_i(c, "experts", 0);
    const int32_t *index = in[0].data;
    int32_t *rows = out[0].data, *slots = out[1].data, *offsets = out[2].data;

    memset(offsets, 0, (size_t)(E + 1) * sizeof *offsets);
    for (int64_t i = 0; i < R; i++) {
        if (index[i] < 0 || index[i] >= E)
            return mri_op_fail(err, "route_plan", "routed row %lld has expert %d of %lld",
                               (long long)i, index[i], (long long)E);
        offsets[index[i] + 1]++;
    }
    for (int64_t e = 0; e < E; e++)
        offsets[e + 1] += offsets[e];
    int32_t *next = mri_alloc((size_t)E * sizeof *next); /* the next free row of each expert */
    memcpy(next, offsets, (size_t)E * sizeof *next);
    for (int32_t i = 0; i < R; i++) {
        int32_t r = next[index[i]]++;
        rows[r] = i;
        slots[i] = r;
    }
    free(next);
    return MR_OK;
}

static void route_plan_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

const mr_op_def mri_ops_route[] = {
    { MRI_OP, .id = "route_topk",
      .doc = "the K experts of each token and their weights: choice by score + bias, weight "
             "without bias; Megatron-LM, DeepSeek-V3 (groups, bias), Llama 4 (k=1, sigmoid)",
      .sig = "logits bias? -> probs index", .attrs = ROUTE_ATTRS, .shape = route_topk_shape,
      .vjp = route_topk_vjp, .ref = route_topk_ref, .cost = route_topk_cost,
      .shard = "T E, E -> T K, T K | T:map",
      .cases = MRI_CASES("logits=F[7,5] bias=- @k=1",
                         "logits=F[6,8] bias=S[8] @k=3 @norm=1 @scale=2.5",
                         "logits=F[6,8] bias=S[8] @k=2 @groups=4 @group_topk=2 @norm=1",
                         "logits=F[9,12] bias=S[12] @k=3 @groups=3 @group_topk=1 @group_best=2 "
                         "@norm=1 @scale=2.5",
                         "logits=F[6,8] bias=S[8] @k=1 @norm=2 @scale=2.5",
                         "logits=F[5,6] bias=- @k=2 @score=softmax",
                         "logits=F[5,6] bias=- @k=2 @score=softmax @pre_softmax=1 @scale=1.5",
                         "logits=F[5,6] bias=- @k=3 @score=softmax @pre_softmax=1 @norm=1") },
    { MRI_OP, .id = "route_topk.bwd", .flags = MR_OP_NO_VJP,
      .doc = "gradient of route_topk by the logits, the choice being constant; scores are made "
             "again from the logits, so probs need not be read",
      .sig = "dprobs logits probs index -> dlogits", .attrs = ROUTE_ATTRS,
      .shape = route_topk_bwd_shape, .ref = route_topk_bwd_ref, .cost = route_topk_bwd_cost,
      .shard = "T K, T E, T K, T K -> T E | T:map",
      .cases = MRI_CASES(
          "dprobs=S[7,1] logits=F[7,5] probs=S[7,1] index=i32[7,1]<5 @k=1",
          "dprobs=S[4,2] logits=F[4,8] probs=S[4,2] index=i32[4,2]perm @k=2 @norm=1 @scale=2.5",
          "dprobs=S[4,2] logits=F[4,8] probs=S[4,2] index=i32[4,2]perm @k=2 @score=softmax",
          "dprobs=S[4,2] logits=F[4,8] probs=S[4,2] index=i32[4,2]perm @k=2 @score=softmax "
          "@pre_softmax=1 @norm=1") },
    { MRI_OP, .id = "route_plan", .flags = MR_OP_NO_VJP,
      .doc = "stable sort of the routed rows by expert: rows[r] = t K + k, slots its inverse, "
             "expert e owns rows offsets[e] to offsets[e+1]",
      .sig = "index -> rows slots offsets", .attrs = "experts:i", .shape = route_plan_shape,
      .ref = route_plan_ref, .cost = route_plan_cost,
      .cases = MRI_CASES("index=i32[9,1]<4 @experts=4", "index=i32[5,3]<7 @experts=9") },
    MRI_OPS_END
};
