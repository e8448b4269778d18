// SPDX-License-Identifier: Apache-2.0
//
// route_choose.cuh - a warp chooses the experts of one token and weighs them, from logits in any
// memory: for route.cu, which reads them, and router.cu, which makes them. Choices by a monotone
// function of the logit are made by the logit itself. Rows with NaN, and choices within groups, go
// the slow way of the definition's loops.

#ifndef MRUN_CUDA_ROUTE_CHOOSE_CUH
#define MRUN_CUDA_ROUTE_CHOOSE_CUH
#include "route.cuh"

struct route_args { // what a launch carries
    int tokens, experts, k, groups, group_topk, group_best, is_sigmoid, pre, norm;
    float scale;
};

// A chosen expert's score before norm and scale, in its lane; 0 in others.
DEV float chosen_score(const route_args &a, float logit, bool mine, float lse)
{
    if (a.is_sigmoid)
        return mine ? sigmoid(logit) : 0;
    if (a.pre)
        return mine ? expf(logit - lse) : 0;
    float m = warp_max(mine ? logit : -INFINITY), e = mine ? expf(logit - m) : 0;
    return e / warp_sum(e);
}

DEV float norm_of(const route_args &a, float score)
{
    float sum = warp_sum(score) + 1e-20f;
    return a.norm > (a.k == 1) ? sum : 1;
}

// the experts of all groups but the best, as taken ones
DEV uint32_t mask_groups(const route_args &a, const float *choice, float *worth)
{
    int per = a.experts / a.groups, lane = threadIdx.x % 32;
    for (int g = 0; g < a.groups; g++) {
        uint32_t taken = 0;
        float sum = 0;
        for (int j = 0; j < a.group_best; j++) {
            int e = best_of(choice + g * per, per, taken);
            taken = mark(taken, e);
            sum += choice[g * per + e];
        }
        if (!lane)
            worth[g] = sum;
    }
    __syncwarp();
    uint32_t taken_groups = 0, free_experts = 0;
    for (int j = 0; j < a.group_topk; j++) {
        int g = best_of(worth, a.groups, taken_groups);
        taken_groups = mark(taken_groups, g);
        for (int e = lane, i = 0; e < a.experts; e += 32, i++)
            if (e / per == g)
                free_experts |= 1u << i;
    }
    return ~free_experts;
}

// by what the definition chooses, into shared memory, then its loops
template <int N>
DEV choice choose_slowly(const route_args &a, const float x[N], arr bias, float lse, float *score)
{
    EACH_EXPERT(e, a.experts)
        score[e] = a.is_sigmoid ? sigmoid(x[i]) + (bias.p ? get(bias, e) : 0)
                 : a.pre        ? expf(x[i] - lse)
                                : x[i];
    __syncwarp();
    uint32_t taken = a.groups ? mask_groups(a, score, score + a.experts) : 0;
    return best_k_slowly(score, a.experts, a.k, taken);
}

// Token t's choice, best first, into probs[k] and index[k]. `own`: ROUTE_ROOM + 2 experts words of
// this warp.
template <int N>
DEV void choose(const route_args &a, arr logits, arr bias, int64_t t, float *own, float *probs,
                int32_t *index)
{
    float x[N], b[N], lse = 0;
    uint32_t key[N] = {};
    bool slowly = a.groups != 0;
    load_row<N>(logits, t, a.experts, x);
    if (!a.is_sigmoid && a.pre)
        lse = row_lse<N>(x, a.experts);
    if (bias.p)
        load_row<N>(bias, 0, a.experts, b);
    EACH_EXPERT(e, a.experts) {
        float by = bias.p ? sigmoid(x[i]) + b[i] : x[i];
        slowly |= isnan(by);
        key[i] = order_of(by);
    }
    choice c;
    if (__any_sync(~0u, slowly) || !best_k<N>(key, a.k, (uint32_t *)own, &c))
        c = choose_slowly<N>(a, x, bias, lse, own + ROUTE_ROOM);
    bool mine = c.rank < a.k;
    float logit = mine ? get(logits, t * a.experts + c.index) : 0;
    float score = chosen_score(a, logit, mine, lse), norm = norm_of(a, score);
    if (mine) {
        index[c.rank] = c.index;
        probs[c.rank] = a.scale * (score / norm);
    }
}

// ---- attributes -----------------------------------------------------------------------------
static inline mr_status route_read(const struct kernel *base, const mr_call *c, int64_t tokens,
                                   int64_t experts, route_args *a, mr_err *err)
{
    if (experts > ROUTE_MAX_EXPERTS || mr_attr_i(c, "k", 1) > ROUTE_MAX_CHOSEN)
        return cuda_refuse(base, err, "more than 1024 experts, or 32 of them a token");
    if (tokens > INT32_MAX / ROUTE_MAX_CHOSEN)
        return cuda_refuse(base, err, "more tokens than 32-bit counters hold");
    a->tokens = (int)tokens;
    a->experts = (int)experts;
    a->k = (int)mr_attr_i(c, "k", 1);
    a->groups = (int)mr_attr_i(c, "groups", 0);
    a->group_topk = (int)mr_attr_i(c, "group_topk", 0);
    a->group_best = (int)mr_attr_i(c, "group_best", 0);
    if (a->groups && !a->group_best)
        a->group_best = a->k / a->group_topk;
    a->is_sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid");
    a->pre = mr_attr_i(c, "pre_softmax", 0) != 0;
    a->norm = (int)mr_attr_i(c, "norm", 0);
    a->scale = (float)mr_attr_f(c, "scale", 1);
    return MR_OK;
}

#endif
