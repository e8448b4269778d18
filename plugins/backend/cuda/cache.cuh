// SPDX-License-Identifier: Apache-2.0
//
// cache.cuh - what the kernels over the cache of keys and values share: where a token's row lies,
// the launch before them, which writes the new rows, and the launch behind them, which joins the
// parts of a row whose keys were shared out over `splits` blocks, in their order.
//
// A place outside the cache is no row; who needs one gets NaN, which the run's checks find.

#ifndef MRUN_CUDA_CACHE_CUH
#define MRUN_CUDA_CACHE_CUH
#include "attn.cuh"
#include "early.cuh"
#include "pages.cuh"
#include "vec.cuh"

// operands
enum { Q, K, V_NEW, POSITIONS, SLOT, PAGES, K_CACHE, V_CACHE };

struct cached : attn {
    cache_view at; // but for operands
    int clustered; // the splits of a row are a cluster, which joins its parts itself
};

static inline cache_view view_in(const struct cached *k, const mr_buf *in)
{
    cache_view at = k->at;
    at.positions = (const int32_t *)in[POSITIONS].data;
    at.slot = (const int32_t *)in[SLOT].data;
    at.pages = (const int32_t *)in[PAGES].data;
    return at;
}

// ---- before: a block a token ------------------------------------------------------------------
template <int V>
static __global__ void cache_write(arr k, arr v, const cache_view at, arr kc, arr vc, int64_t wk,
                                   int64_t wv)
{
    next_may_start();
    previous_done();
    int64_t t = blockIdx.x, row = own_row(at, t);
    if (row < 0)
        return;
    for (int64_t c = threadIdx.x; c < (wk + wv) / V; c += blockDim.x) {
        int64_t i = c * V;
        bool key = i < wk;
        float x[V];
        i -= key ? 0 : wk;
        getv<V>(key ? k : v, t * (key ? wk : wv) + i, x);
        arr to = key ? kc : vc;
        if (to.kind == CUDA_BF16)
            stv<V>((bf16 *)to.p, row * (key ? wk : wv) + i, x);
        else
            stv<V>((float *)to.p, row * (key ? wk : wv) + i, x);
    }
}

static inline cudaError_t cache_write_launch(const struct cached *k, const mr_buf *in,
                                             cudaStream_t stream)
{
    int64_t wk = (int64_t)k->a.kv * k->a.c, wv = (int64_t)k->a.kv * k->a.cv;
    cudaError_t e = cudaSuccess;
    WITH_V(wk % WIDE_V == 0 && wv % WIDE_V == 0 &&
           aligned16(in[K].data, in[V_NEW].data, in[K_CACHE].data, in[V_CACHE].data), (
        e = launch_early(&k->base, cache_write<V>, dim3((unsigned)k->a.tokens), THREADS, 0, 1,
                         stream, in_arr(&k->base, in, K), in_arr(&k->base, in, V_NEW),
                         view_in(k, in), in_arr(&k->base, in, K_CACHE),
                         in_arr(&k->base, in, V_CACHE), wk, wv)));
    return e;
}

// ---- behind: the parts of a row -----------------------------------------------------------------
enum { MAX_SPLITS = 256, JOIN_THREADS = 512, AT_ONCE = 8 };

// In the workspace: of each token, head and split the maximum and the sum of exponentials, and the
// weighted values, not yet divided. A split without keys has a maximum of -inf and sums of 0.
struct cache_parts {
    float2 *stats; // [T, H, splits]
    float *values; // [T, H, splits, cv]
};

static inline uint64_t parts_bytes(const struct attn *k)
{
    uint64_t parts = (uint64_t)k->a.tokens * (uint64_t)k->a.heads * (uint64_t)k->splits;
    return k->splits < 2 ? 0
                         : cuda_round(parts * sizeof(float2)) +
                               parts * (uint64_t)k->a.cv * sizeof(float);
}

static inline cache_parts parts_in(const struct attn *k, void *ws)
{
    uint64_t parts = (uint64_t)k->a.tokens * (uint64_t)k->a.heads * (uint64_t)k->splits;
    return cache_parts{ (float2 *)ws, (float *)((char *)ws + cuda_round(parts * sizeof(float2))) };
}

DEV float shift_of(float max) // what exponents are measured against: no maximum yet, no shift
{
    return max == -INFINITY ? 0 : max;
}

// A block a (token, head): what each part weighs, then the columns, the parts shared out over the
// threads that are left. LOG2: exponents are of 2.
template <bool LOG2>
static __global__ void __launch_bounds__(JOIN_THREADS)
    cache_join(const cache_view at, const cache_parts p, arr o, int splits, const attn_args a)
{
    __shared__ float weight[MAX_SPLITS], side[JOIN_THREADS];
    int64_t t = blockIdx.y, row = t * a.heads + blockIdx.x;
    next_may_start();
    previous_done();
    if (own_row(at, t) < 0)
        return; // written already
    if (threadIdx.x < 32) {
        const float2 *stat = p.stats + row * splits;
        float max = -INFINITY, sum = 0;
        for (int s = threadIdx.x; s < splits; s += 32)
            max = fmaxf(max, stat[s].x);
        max = shift_of(warp_max(max));
        for (int s = threadIdx.x; s < splits; s += 32) {
            float2 part = stat[s];
            weight[s] = LOG2 ? exp2f(part.x - max) : expf(part.x - max);
            sum += part.y * weight[s];
        }
        sum = warp_sum(sum);
        for (int s = threadIdx.x; s < splits; s += 32)
            weight[s] /= sum;
    }
    __syncthreads();
    int side_by_side = a.cv < JOIN_THREADS ? JOIN_THREADS / a.cv : 1;
    int lane = a.cv < JOIN_THREADS ? (int)threadIdx.x % a.cv : (int)threadIdx.x;
    int group = a.cv < JOIN_THREADS ? (int)threadIdx.x / a.cv : 0;
    for (int c0 = 0; c0 < a.cv; c0 += JOIN_THREADS) { // once, unless a head is wider than the block
        int c = c0 + lane;
        float v = 0;
        if (c < a.cv && group < side_by_side)
            for (int s0 = group; s0 < splits; s0 += side_by_side * AT_ONCE) {
                float x[AT_ONCE];
#pragma unroll
                for (int u = 0; u < AT_ONCE; u++) {
                    int s = s0 + u * side_by_side;
                    x[u] = s < splits ? p.values[(row * splits + s) * a.cv + c] : 0;
                }
#pragma unroll
                for (int u = 0; u < AT_ONCE; u++) {
                    int s = s0 + u * side_by_side;
                    v += s < splits ? x[u] * weight[s] : 0;
                }
            }
        side[threadIdx.x] = v;
        __syncthreads();
        if (c < a.cv && group == 0) {
            for (int g = 1; g < side_by_side; g++)
                v += side[g * a.cv + lane];
            put(o, row * a.cv + c, v);
        }
        __syncthreads();
    }
}

template <bool LOG2>
static inline cudaError_t cache_join_launch(const struct cached *k, const mr_buf *in,
                                            const mr_buf *out, void *ws, cudaStream_t stream)
{
    if (k->splits < 2 || k->clustered)
        return cudaSuccess;
    return launch_early(&k->base, cache_join<LOG2>,
                        dim3((unsigned)k->a.heads, (unsigned)k->a.tokens), JOIN_THREADS, 0, 1,
                        stream, view_in(k, in), parts_in(k, ws), out_arr(&k->base, out, 0),
                        k->splits, k->a);
}

// ---- from types to kernels ------------------------------------------------------------------
// sizes, and what all refuse
static inline mr_status cache_shape(struct cached *k, const mr_call *c, mr_err *err)
{
    mr_status bad = attn_shape(k, c, c->in[Q], c->in[V_NEW], err);
    if (bad)
        return bad;
    if (k->base.in_kind[K_CACHE] != k->base.in_kind[V_CACHE])
        return cuda_refuse(&k->base, err, "the two caches are of two dtypes");
    if (k->a.tokens > 65535)
        return cuda_refuse(&k->base, err, "more than 65535 new tokens at once");
    bad = view_shape(&k->base, c->in[K_CACHE], c->in[PAGES], &k->at, err);
    k->positions = k->at.most;
    return bad;
}

// Blocks that share the keys of a row of work: `blocks` a multiprocessor, each with `tile` keys at
// least.
static inline int cache_splits(const struct cached *k, int64_t rows, int blocks, int tile)
{
    int64_t seen = k->a.chunk && k->a.chunk < k->positions ? k->a.chunk : k->positions;
    int64_t most = cuda_ceil(seen, tile);
    int64_t want = rows ? (int64_t)blocks * k->base.dev->sms / rows : 1;
    want = want < most ? want : most;
    return want < 1 ? 1 : want > MAX_SPLITS ? MAX_SPLITS : (int)want;
}

#endif
