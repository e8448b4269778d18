// SPDX-License-Identifier: Apache-2.0
//
// route.cu - the router: choice and weight of K experts a token, the gradient, and the plan, a
// stable counting sort. A warp a token. The sort counts a chunk of rows a block, adds the counts
// up in chunk order, then each block places its rows warp by warp, in order: no atomic decides
// where a row lies. Bytes: T E logits once; floor: bytes / 3.35 TB/s, in practice some 5 us a
// launch.

#include "route.cuh"

struct route {
    struct kernel base;
    int tokens, experts, k, groups, group_topk;
    int is_sigmoid, pre, norm;
    float scale;
};

struct route_args { // what a launch carries
    int tokens, experts, k, groups, group_topk, is_sigmoid, pre, norm;
    float scale;
};

#define SELF const struct route *k = (const struct route *)base

// The chosen experts' scores before norm and scale: lane j has that of index j, others 0.
DEV float chosen_score(const route_args &a, const float *logit, int index, bool mine, float lse)
{
    float x = mine ? logit[index] : -INFINITY;
    if (a.is_sigmoid)
        return mine ? sigmoid(x) : 0;
    if (a.pre)
        return mine ? expf(x - lse) : 0;
    float m = warp_max(x), e = mine ? expf(x - m) : 0;
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
        for (int j = 0; j < a.k / a.group_topk; j++) {
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

__global__ void __launch_bounds__(32 * ROUTE_WARPS)
    route_topk(arr logits, arr bias, float *probs, int32_t *index, const route_args a)
{
    extern __shared__ float room[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int t = blockIdx.x * ROUTE_WARPS + warp;
    float *logit = room + warp * 3 * a.experts, *choice = logit + a.experts;
    float lse = 0;
    if (t >= a.tokens)
        return;
    for (int e = lane; e < a.experts; e += 32)
        logit[e] = choice[e] = get(logits, (int64_t)t * a.experts + e);
    __syncwarp();
    if (!a.is_sigmoid && a.pre)
        lse = row_lse(logit, a.experts);
    for (int e = lane; e < a.experts; e += 32)
        if (a.is_sigmoid)
            choice[e] = sigmoid(logit[e]) + (bias.p ? get(bias, e) : 0);
        else if (a.pre)
            choice[e] = expf(logit[e] - lse);
    __syncwarp();
    uint32_t taken = a.groups ? mask_groups(a, choice, choice + a.experts) : 0;
    int mine = 0;
    for (int j = 0; j < a.k; j++) {
        int e = best_of(choice, a.experts, taken);
        taken = mark(taken, e);
        mine = lane == j ? e : mine;
    }
    float score = chosen_score(a, logit, mine, lane < a.k, lse);
    float norm = norm_of(a, score);
    if (lane < a.k) {
        index[(int64_t)t * a.k + lane] = mine;
        probs[(int64_t)t * a.k + lane] = a.scale * (score / norm);
    }
}

__global__ void __launch_bounds__(32 * ROUTE_WARPS)
    route_topk_bwd(arr dprobs, arr logits, const int32_t *index, arr dlogits, const route_args a)
{
    extern __shared__ float room[];
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int t = blockIdx.x * ROUTE_WARPS + warp;
    float *logit = room + warp * 3 * a.experts, *d = logit + a.experts;
    float lse = 0;
    if (t >= a.tokens)
        return;
    for (int e = lane; e < a.experts; e += 32)
        logit[e] = get(logits, (int64_t)t * a.experts + e);
    __syncwarp();
    if (!a.is_sigmoid && a.pre)
        lse = row_lse(logit, a.experts);
    bool mine = lane < a.k;
    int e = mine ? index[(int64_t)t * a.k + lane] : 0;
    bool bad = mine && (e < 0 || e >= a.experts);
    float lost = __any_sync(~0u, bad) ? nanf("") : 0; // an index of no expert: NaN, to be found
    e = bad ? 0 : e;
    float score = chosen_score(a, logit, e, mine, lse), norm = norm_of(a, score);
    float g = mine ? get(dprobs, (int64_t)t * a.k + lane) * a.scale : 0;
    if (a.norm && a.k > 1)
        g = (g - warp_sum(g * score / norm)) / norm;
    g = mine ? g : 0;
    float dot = warp_sum(g * score);
    for (int i = lane; i < a.experts; i += 32)
        d[i] = lost + (!a.is_sigmoid && a.pre ? -expf(logit[i] - lse) * dot : 0);
    __syncwarp();
    float add = a.is_sigmoid ? g * score * (1 - score) : a.pre ? g * score : score * (g - dot);
    for (int j = 0; j < a.k; j++) { // one after the other: an index may come twice
        if (lane == j)
            d[e] += add;
        __syncwarp();
    }
    for (int i = lane; i < a.experts; i += 32)
        put(dlogits, (int64_t)t * a.experts + i, d[i]);
}

static route_args args_of(const struct route *k)
{
    return route_args{ k->tokens, k->experts, k->k,    k->groups, k->group_topk,
                       k->is_sigmoid, k->pre, k->norm, k->scale };
}

static size_t room_of(const struct route *k)
{
    return (size_t)ROUTE_WARPS * 3 * (size_t)k->experts * sizeof(float);
}

static mr_status topk_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        route_topk<<<(unsigned)cuda_ceil(k->tokens, ROUTE_WARPS), 32 * ROUTE_WARPS, room_of(k),
                     stream>>>(in_arr(base, in, 0), in_arr(base, in, 1), (float *)out[0].data,
                               (int32_t *)out[1].data, args_of(k));
    return cuda_launched(base, err);
}

static mr_status topk_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        route_topk_bwd<<<(unsigned)cuda_ceil(k->tokens, ROUTE_WARPS), 32 * ROUTE_WARPS, room_of(k),
                         stream>>>(in_arr(base, in, 0), in_arr(base, in, 1),
                                   (const int32_t *)in[3].data, out_arr(base, out, 0), args_of(k));
    return cuda_launched(base, err);
}

// ---- route_plan ---------------------------------------------------------------------------
enum { CHUNK = 1024 };

struct plan {
    struct kernel base;
    int rows, experts, chunks;
};

__global__ void __launch_bounds__(CHUNK)
    plan_count(const int32_t *index, int32_t *counts, int rows, int experts)
{
    extern __shared__ int32_t n[];
    int i = blockIdx.x * CHUNK + threadIdx.x;
    for (int e = threadIdx.x; e < experts; e += CHUNK)
        n[e] = 0;
    __syncthreads();
    if (i < rows && index[i] >= 0 && index[i] < experts)
        atomicAdd(&n[index[i]], 1);
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += CHUNK)
        counts[(int64_t)blockIdx.x * experts + e] = n[e];
}

// counts become each chunk's first row of each expert, offsets the experts' first rows
__global__ void __launch_bounds__(CHUNK)
    plan_scan(int32_t *counts, int32_t *offsets, int chunks, int experts)
{
    for (int e = threadIdx.x; e < experts; e += CHUNK) {
        int sum = 0;
        for (int c = 0; c < chunks; c++) {
            int n = counts[(int64_t)c * experts + e];
            counts[(int64_t)c * experts + e] = sum;
            sum += n;
        }
        offsets[e + 1] = sum;
    }
    __syncthreads();
    if (threadIdx.x < 32) { // warp 0 makes running sums of 32 experts at a time
        int carry = 0;
        for (int e0 = 0; e0 < experts; e0 += 32) {
            int e = e0 + (int)threadIdx.x, x = e < experts ? offsets[e + 1] : 0;
            for (int d = 1; d < 32; d <<= 1) {
                int y = __shfl_up_sync(~0u, x, d);
                x += (int)threadIdx.x >= d ? y : 0;
            }
            if (e < experts)
                offsets[e + 1] = carry + x;
            carry += __shfl_sync(~0u, x, 31);
        }
        if (threadIdx.x == 0)
            offsets[0] = 0;
    }
}

__global__ void __launch_bounds__(CHUNK)
    plan_place(const int32_t *index, const int32_t *first, const int32_t *offsets,
               int32_t *rows_out, int32_t *slots, int rows, int experts)
{
    extern __shared__ int32_t next[];
    int i = blockIdx.x * CHUNK + threadIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    for (int e = threadIdx.x; e < experts; e += CHUNK)
        next[e] = offsets[e] + first[(int64_t)blockIdx.x * experts + e];
    int e = i < rows ? index[i] : -1;
    bool known = e >= 0 && e < experts;
    unsigned peers = __match_any_sync(~0u, known ? e : -1);
    int rank = __popc(peers & ((1u << lane) - 1)), slot = -1;
    for (int w = 0; w < CHUNK / 32; w++) {
        __syncthreads();
        if (w != warp || !known)
            continue;
        slot = next[e] + rank;
        __syncwarp(peers);
        if (!rank)
            next[e] += __popc(peers);
    }
    if (i < rows)
        slots[i] = slot;
    if (known)
        rows_out[slot] = i;
}

static mr_status plan_run(RUN_ARGS)
{
    const struct plan *k = (const struct plan *)base;
    const int32_t *index = (const int32_t *)in[0].data;
    int32_t *rows = (int32_t *)out[0].data, *slots = (int32_t *)out[1].data;
    int32_t *offsets = (int32_t *)out[2].data, *counts = (int32_t *)ws;
    size_t room = (size_t)k->experts * sizeof(int32_t);
    if (k->chunks)
        plan_count<<<k->chunks, CHUNK, room, stream>>>(index, counts, k->rows, k->experts);
    plan_scan<<<1, CHUNK, 0, stream>>>(counts, offsets, k->chunks, k->experts);
    if (k->chunks)
        plan_place<<<k->chunks, CHUNK, room, stream>>>(index, counts, offsets, rows, slots, k->rows,
                                                       k->experts);
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status prepare(struct kernel *base, const mr_call *c, const mr_type *logits, mr_err *err)
{
    struct route *k = (struct route *)base;
    if (logits->dim[1] > ROUTE_MAX_EXPERTS || mr_attr_i(c, "k", 1) > ROUTE_MAX_CHOSEN)
        return cuda_refuse(base, err, "more than 1024 experts, or 32 of them a token");
    if (logits->dim[0] > INT32_MAX / ROUTE_MAX_CHOSEN)
        return cuda_refuse(base, err, "more tokens than 32-bit counters hold");
    k->tokens = (int)logits->dim[0];
    k->experts = (int)logits->dim[1];
    k->k = (int)mr_attr_i(c, "k", 1);
    k->groups = (int)mr_attr_i(c, "groups", 0);
    k->group_topk = (int)mr_attr_i(c, "group_topk", 0);
    int64_t best = mr_attr_i(c, "group_best", 0);
    if (k->groups && best && best != k->k / k->group_topk)
        return cuda_refuse(base, err, "group_best is not k / group_topk");
    k->is_sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid");
    k->pre = mr_attr_i(c, "pre_softmax", 0) != 0;
    k->norm = mr_attr_i(c, "norm", 0) != 0;
    k->scale = (float)mr_attr_f(c, "scale", 1);
    return MR_OK;
}

static mr_status topk_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = topk_run;
    mr_status bad = prepare(base, c, c->in[0], err);
    return bad ? bad : want_shared(base, (const void *)route_topk, room_of((struct route *)base),
                                   err);
}

static mr_status topk_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = topk_bwd_run;
    mr_status bad = prepare(base, c, c->in[1], err);
    return bad ? bad : want_shared(base, (const void *)route_topk_bwd,
                                   room_of((struct route *)base), err);
}

static mr_status plan_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct plan *k = (struct plan *)base;
    int64_t rows = mr_numel(c->in[0]), experts = mr_attr_i(c, "experts", 1);
    if (experts > 12288 || rows > INT32_MAX - CHUNK)
        return cuda_refuse(base, err, "more than 12288 experts, or more rows than 32 bits count");
    k->rows = (int)rows;
    k->experts = (int)experts;
    k->chunks = (int)cuda_ceil(rows, CHUNK);
    base->workspace = (uint64_t)k->chunks * (uint64_t)experts * sizeof(int32_t);
    base->run = plan_run;
    return MR_OK;
}

const struct op_row cuda_route_rows[] = {
    { "route_topk", "xX>fi", sizeof(struct route), topk_prepare, 0, 0 },
    { "route_topk.bwd", "xxfi>x", sizeof(struct route), topk_bwd_prepare, 0, 0 },
    { "route_plan", "i>iii", sizeof(struct plan), plan_prepare, 0, 0 },
    {},
};
