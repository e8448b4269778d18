// SPDX-License-Identifier: Apache-2.0
//
// router.cu - a mixture's router for up to 8 tokens in one launch: norm, product, choice and plan.
// A block has 16 experts' logits, by thin_product.cuh; the first of the cluster collects them, a
// warp chooses for a token, and the plan is made by counting, as there are 256 pairs at most.
// A norm with a weight stays an op of its own. Bytes: the router's weight; what counts is the chain
// of latencies, about 4 us.

#include "route_choose.cuh"
#include "thin_product.cuh"

enum { WARPS = 8, TOKENS = 8, TILE = 16, MOST_EXPERTS = 128, MOST_PAIRS = 256 };

struct router {
    struct kernel base;
    thin_args p; // but for operands
    route_args a;
    int blocks;
};

struct router_out {
    float *probs;
    int32_t *index, *rows, *slots, *offsets;
};

// The order by expert: how many pairs come before this one, or before this expert.
DEV void plan(const int32_t *index, int pairs, int experts, const router_out &o)
{
    for (int i = threadIdx.x; i < pairs; i += WARPS * 32) {
        int at = 0;
        for (int j = 0; j < pairs; j++)
            at += index[j] < index[i] || (index[j] == index[i] && j < i);
        o.slots[i] = at;
        o.rows[at] = i;
    }
    for (int e = threadIdx.x; e <= experts; e += WARPS * 32) {
        int at = 0;
        for (int j = 0; j < pairs; j++)
            at += index[j] < e;
        o.offsets[e] = at;
    }
}

template <int N>
__global__ void __launch_bounds__(WARPS * 32)
    route(const __grid_constant__ thin_args p, const route_args a, arr bias, const router_out o)
{
    __shared__ float part[WARPS][TILE][TOKENS], squares[WARPS][TOKENS], logits[TILE][TOKENS];
    __shared__ float all[TOKENS * MOST_EXPERTS], room[WARPS][ROUTE_ROOM + 2 * MOST_EXPERTS];
    __shared__ float probs[MOST_PAIRS];
    __shared__ int32_t index[MOST_PAIRS];
    const int g = threadIdx.x % 32 / 4, warp = threadIdx.x / 32, rank = (int)cluster_rank();
    const bool there[1] = { g < p.rows };
    const bf16 *x[1] = { p.x + (there[0] ? (int64_t)g * p.inner : 0) };
    if (int row = rank * TILE + (int)threadIdx.x; threadIdx.x < TILE && row < a.experts)
        into_l2(p.w[0] + (int64_t)row * p.inner, (uint32_t)p.inner * 2);
    next_may_start();
    previous_done();
    thin_sums<false, 1, 1, WARPS, false>(p, p.w[0], nullptr, 0, a.experts, rank * TILE, 0, p.inner,
                                         x, there, part, squares);
    __syncthreads();
    if (threadIdx.x < TILE * TOKENS) {
        int e = threadIdx.x / TOKENS, t = threadIdx.x % TOKENS;
        float sum = 0, q = 0;
        for (int v = 0; v < WARPS; v++) {
            sum += part[v][e][t];
            q += p.normed ? squares[v][t] : 0;
        }
        logits[e][t] = sum * thin_rms(p, q);
    }
    cluster_sync();
    if (rank == 0) {
        for (int i = threadIdx.x; i < a.tokens * a.experts; i += WARPS * 32) {
            int t = i / a.experts, e = i % a.experts;
            all[i] = of_rank(&logits[e % TILE][t], (uint32_t)(e / TILE));
        }
        __syncthreads();
        if (warp < a.tokens)
            choose<N>(a, arr{ all, CUDA_F32 }, bias, warp, room[warp], probs + warp * a.k,
                      index + warp * a.k);
        __syncthreads();
        for (int i = threadIdx.x; i < a.tokens * a.k; i += WARPS * 32) {
            o.probs[i] = probs[i];
            o.index[i] = index[i];
        }
        plan(index, a.tokens * a.k, a.experts, o);
    }
    cluster_sync(); // nobody reads here any more
}

static mr_status router_run(RUN_ARGS)
{
    const struct router *k = (const struct router *)base;
    thin_args p = k->p;
    router_out o = { (float *)out[0].data, (int32_t *)out[1].data, (int32_t *)out[2].data,
                     (int32_t *)out[3].data, (int32_t *)out[4].data };
    arr bias = in_arr(base, in, 3);
    cudaError_t e = cudaSuccess;
    (void)ws;
    p.x = (const bf16 *)in[0].data;
    p.w[0] = (const bf16 *)in[2].data;
    WITH_N(k->a.experts, (e = launch_early(base, route<N>, dim3((unsigned)k->blocks), WARPS * 32, 0,
                                           k->blocks, stream, p, k->a, bias, o)));
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status router_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct router *k = (struct router *)base;
    int64_t tokens = c->in[0]->dim[0], inner = c->in[0]->dim[1], experts = c->in[2]->dim[0];
    mr_status st = route_read(base, c, tokens, experts, &k->a, err);
    if (st)
        return st;
    if (base->in_kind[0] != CUDA_BF16 || base->in_kind[2] != CUDA_BF16)
        return cuda_refuse(base, err, "not bf16");
    if (c->in[1]) // x times it is no bf16 number, and what is chosen hangs on the last bits
        return cuda_refuse(base, err, "a norm's weight would have to be rounded");
    if (tokens < 1 || tokens > TOKENS || inner < 8 || inner % 8 || inner > 1 << 16 ||
        experts > MOST_EXPERTS || tokens * k->a.k > MOST_PAIRS)
        return cuda_refuse(base, err, "more than 8 tokens or 128 experts, or odd sizes");
    k->blocks = (int)cuda_ceil(experts, TILE);
    if (k->blocks > 1 && base->dev->cc < 90)
        return cuda_refuse(base, err, "more than 16 experts need clusters of blocks");
    k->p.rows = (int)tokens;
    k->p.inner = (int)inner;
    k->p.normed = (int)mr_attr_i(c, "normed", 0);
    k->p.eps = (float)mr_attr_f(c, "eps", 1e-5);
    base->run = router_run;
    base->impl = "one launch, few tokens";
    base->est_us = 4;
    return MR_OK;
}

const struct op_row cuda_router_rows[] = {
    { "router", "xXxF>fiiii", sizeof(struct router), router_prepare, 0, 0 },
    {},
};
