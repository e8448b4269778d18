// SPDX-License-Identifier: Apache-2.0
//
// route.cu - the router: choice and weight of K experts a token, and the gradient. A warp a token,
// its row of logits in registers. Choices by a monotone function of the logit are made by the logit
// itself. Rows with NaN, and choices within groups, go the slow way of the definition's loops.
// Bytes: T E logits read, backward T E written and read only for a softmax over all; floor: bytes /
// the copy bandwidth (16384 x 384 f32 at 4.27 TB/s: 6 us), in practice 3 us a launch.

#include "route_choose.cuh"

struct route {
    struct kernel base;
    route_args a;
};

#define SELF const struct route *k = (const struct route *)base
#define KERNEL __global__ void __launch_bounds__(32 * ROUTE_WARPS)

template <int N>
KERNEL route_topk(arr logits, arr bias, float *probs, int32_t *index, const route_args a)
{
    extern __shared__ float room[];
    int warp = threadIdx.x / 32, t = (int)blockIdx.x * ROUTE_WARPS + warp;
    if (t < a.tokens)
        choose<N>(a, logits, bias, t, room + warp * (ROUTE_ROOM + 2 * a.experts),
                  probs + (int64_t)t * a.k, index + (int64_t)t * a.k);
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
    if (a.norm > (a.k == 1))
        g = a.k == 1 ? 0 : (g - warp_sum(g * score / norm)) / norm; // of one it is always 1
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
    return route_read(base, c, logits->dim[0], logits->dim[1], &((struct route *)base)->a, err);
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
