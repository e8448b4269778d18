// SPDX-License-Identifier: Apache-2.0
//
// route.cu - the router: choice and weight of K experts a token, and the gradient. A warp a token,
// its row of logits in registers. Choices by a monotone function of the logit are made by the logit
// itself. Rows with NaN, and choices within groups, go the slow way of the definition's loops.
// Bytes: T E logits read, backward T E written and read only for a softmax over all; floor: bytes /
// the copy bandwidth (16384 x 384 f32 at 4.27 TB/s: 6 us), in practice 3 us a launch.

#include "route.cuh"

struct route_args { // what a launch carries
    int tokens, experts, k, groups, group_topk, group_best, is_sigmoid, pre, norm;
    float scale;
};

struct route {
    struct kernel base;
    route_args a;
};

#define SELF const struct route *k = (const struct route *)base
#define KERNEL __global__ void __launch_bounds__(32 * ROUTE_WARPS)

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
    return a.norm && a.k > 1 ? sum : 1;
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

template <int N>
KERNEL route_topk(arr logits, arr bias, float *probs, int32_t *index, const route_args a)
{
    extern __shared__ float room[];
    int warp = threadIdx.x / 32, t = (int)blockIdx.x * ROUTE_WARPS + warp;
    float x[N], b[N], lse = 0, *own = room + warp * (ROUTE_ROOM + 2 * a.experts);
    uint32_t key[N] = {};
    bool slowly = a.groups != 0;
    if (t >= a.tokens)
        return;
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
    float logit = mine ? get(logits, (int64_t)t * a.experts + c.index) : 0;
    float score = chosen_score(a, logit, mine, lse), norm = norm_of(a, score);
    if (mine) {
        index[(int64_t)t * a.k + c.rank] = c.index;
        probs[(int64_t)t * a.k + c.rank] = a.scale * (score / norm);
    }
}

template <int N>
KERNEL route_topk_bwd(arr dprobs, arr logits, const int32_t *index, arr dlogits, const route_args a)
{
    extern __shared__ float room[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, t = (int)blockIdx.x * ROUTE_WARPS + warp;
    float *d = room + warp * a.experts, x[N], lse = 0;
    bool softmax_of_all = !a.is_sigmoid && a.pre;
    if (t >= a.tokens)
        return;
    if (softmax_of_all) {
        load_row<N>(logits, t, a.experts, x);
        lse = row_lse<N>(x, a.experts);
    }
    bool mine = lane < a.k;
    int e = mine ? index[(int64_t)t * a.k + lane] : 0;
    bool bad = mine && (e < 0 || e >= a.experts);
    float lost = __any_sync(~0u, bad) ? nanf("") : 0; // an index of no expert: NaN, to be found
    e = bad ? 0 : e;
    float logit = mine ? get(logits, (int64_t)t * a.experts + e) : 0;
    float score = chosen_score(a, logit, mine, lse), norm = norm_of(a, score);
    float g = mine ? get(dprobs, (int64_t)t * a.k + lane) * a.scale : 0;
    if (a.norm && a.k > 1)
        g = (g - warp_sum(g * score / norm)) / norm;
    g = mine ? g : 0;
    float dot = warp_sum(g * score);
    EACH_EXPERT(j, a.experts)
        d[j] = lost + (softmax_of_all ? -expf(x[i] - lse) * dot : 0);
    __syncwarp();
    float add = a.is_sigmoid ? g * score * (1 - score) : a.pre ? g * score : score * (g - dot);
    float sum = 0;
    bool repeated = false;
    for (int j = 0; j < a.k; j++) { // in order: an index may come twice, its first lane adds all
        bool same = __shfl_sync(~0u, e, j) == e;
        float other = __shfl_sync(~0u, add, j);
        sum += same ? other : 0;
        repeated |= same && j < lane;
    }
    if (mine && !repeated)
        d[e] += sum;
    __syncwarp();
    EACH_EXPERT(j, a.experts)
        put(dlogits, (int64_t)t * a.experts + j, d[j]);
}

// ---- from types to kernels ------------------------------------------------------------------
static size_t topk_room(const struct route *k)
{
    return ROUTE_WARPS * (ROUTE_ROOM + 2 * (size_t)k->a.experts) * sizeof(float);
}

static mr_status topk_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->a.tokens)
        WITH_N(k->a.experts, (
            route_topk<N><<<(unsigned)cuda_ceil(k->a.tokens, ROUTE_WARPS), 32 * ROUTE_WARPS,
                            topk_room(k), stream>>>(in_arr(base, in, 0), in_arr(base, in, 1),
                                                    (float *)out[0].data, (int32_t *)out[1].data,
                                                    k->a)));
    return cuda_launched(base, err);
}

static mr_status topk_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->a.tokens)
        WITH_N(k->a.experts, (
            route_topk_bwd<N><<<(unsigned)cuda_ceil(k->a.tokens, ROUTE_WARPS), 32 * ROUTE_WARPS,
                                ROUTE_WARPS * (size_t)k->a.experts * sizeof(float), stream>>>(
                in_arr(base, in, 0), in_arr(base, in, 1), (const int32_t *)in[3].data,
                out_arr(base, out, 0), k->a)));
    return cuda_launched(base, err);
}

static mr_status prepare(struct kernel *base, const mr_call *c, const mr_type *logits, mr_err *err)
{
    route_args *a = &((struct route *)base)->a;
    if (logits->dim[1] > ROUTE_MAX_EXPERTS || mr_attr_i(c, "k", 1) > ROUTE_MAX_CHOSEN)
        return cuda_refuse(base, err, "more than 1024 experts, or 32 of them a token");
    if (logits->dim[0] > INT32_MAX / ROUTE_MAX_CHOSEN)
        return cuda_refuse(base, err, "more tokens than 32-bit counters hold");
    a->tokens = (int)logits->dim[0];
    a->experts = (int)logits->dim[1];
    a->k = (int)mr_attr_i(c, "k", 1);
    a->groups = (int)mr_attr_i(c, "groups", 0);
    a->group_topk = (int)mr_attr_i(c, "group_topk", 0);
    a->group_best = (int)mr_attr_i(c, "group_best", 0);
    if (a->groups && !a->group_best)
        a->group_best = a->k / a->group_topk;
    a->is_sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid");
    a->pre = mr_attr_i(c, "pre_softmax", 0) != 0;
    a->norm = mr_attr_i(c, "norm", 0) != 0;
    a->scale = (float)mr_attr_f(c, "scale", 1);
    return MR_OK;
}

static mr_status topk_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = topk_run;
    return prepare(base, c, c->in[0], err);
}

static mr_status topk_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = topk_bwd_run;
    return prepare(base, c, c->in[1], err);
}

// shared memory stays below 48 KiB: 4 warps of 64 + 2 * 1024 floats
const struct op_row cuda_route_rows[] = {
    { "route_topk", "xX>fi", sizeof(struct route), topk_prepare, 0, 0 },
    { "route_topk.bwd", "xxfi>x", sizeof(struct route), topk_bwd_prepare, 0, 0 },
    {},
};
