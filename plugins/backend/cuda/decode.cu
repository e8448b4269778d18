// SPDX-License-Identifier: Apache-2.0
//
// decode.cu - attention of new tokens over the cache of their sequences, for heads whose width is a
// multiple of 8. A block has a token and HEADS query heads of one group, which share every key and
// value that it reads; LANES neighbouring threads have a key, 16 bytes each, and four keys under
// way. So a block is many small workers, each with its own running maximum, sum and values, which
// join at its end. The keys of a row are shared out over `splits` blocks, by the position alone.
//
// Bytes: the seen keys and values once for HEADS heads; floor: bytes / the copy bandwidth (4096
// positions of 8 heads, 128 wide, bf16: 16.8 MB, 3.9 us at 4.27 TB/s). A place outside the cache
// writes nothing and gives NaN, which the run's checks find.

#include "cache.cuh"
#include "pack.cuh"

enum { WIDE = 8, WARPS = THREADS / 32, BLOCKS_PER_SM = 3, MAX_HEADS = 4 };
static constexpr float LOG2_E = 1.44269504088896340736f;

struct decode_args { // by value in a launch, beside attn_args
    cache_view at;
    cache_parts parts;
};

#define SELF const struct cached *k = (const struct cached *)base

template <typename F> DEV float exp2_for(float x)
{
    if (sizeof(F) != 2)
        return exp2f(x);
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// What a worker knows of one head: LANES threads have WIDE values each, and the same max and sum.
struct state {
    float max, sum, acc[WIDE];
};

// both as seen from the larger maximum
template <typename F> DEV void join(state &a, float max, float sum, const float acc[WIDE])
{
    float m = shift_of(fmaxf(a.max, max)), f = exp2_for<F>(a.max - m), g = exp2_for<F>(max - m);
    a.max = fmaxf(a.max, max);
    a.sum = a.sum * f + sum * g;
#pragma unroll
    for (int j = 0; j < WIDE; j++)
        a.acc[j] = a.acc[j] * f + acc[j] * g;
}

// One turn: AHEAD keys of a worker, key number j0 + u * workers. Keys from `end` on do not count,
// one that has no row is NaN.
template <typename F, int LANES, int HEADS, int AHEAD>
DEV void take_keys(state s[HEADS], const float q[HEADS][WIDE], const F *keys, const F *values,
                   const cache_view &at, int slot, int64_t j0, int64_t end, int64_t wk, int64_t wv,
                   bool in_key, bool in_value)
{
    constexpr int WORKERS = THREADS / LANES;
    pack<F, WIDE> k[AHEAD], v[AHEAD];
    float z[AHEAD][HEADS];
    int row[AHEAD];
#pragma unroll
    for (int u = 0; u < AHEAD; u++) {
        int64_t j = j0 + u * WORKERS;
        row[u] = j < end ? row_at(at, slot, (int)j) : -1;
    }
#pragma unroll
    for (int u = 0; u < AHEAD; u++) {
        k[u] = v[u] = pack<F, WIDE>{};
        if (row[u] >= 0 && in_key)
            k[u].load(keys, row[u] * wk);
        if (row[u] >= 0 && in_value)
            v[u].load(values, row[u] * wv);
    }
#pragma unroll
    for (int u = 0; u < AHEAD; u++) {
        float x[WIDE];
        k[u].widen(x);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            z[u][h] = 0;
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                z[u][h] += q[h][j] * x[j];
        }
    }
#pragma unroll
    for (int u = 0; u < AHEAD; u++)
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
#pragma unroll
            for (int d = LANES / 2; d; d >>= 1)
                z[u][h] += __shfl_xor_sync(~0u, z[u][h], d);
            z[u][h] = j0 + u * WORKERS >= end ? -INFINITY : row[u] < 0 ? nanf("") : z[u][h];
        }
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float max = s[h].max;
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            max = fmaxf(max, z[u][h]);
        float m = shift_of(max), keep = exp2_for<F>(s[h].max - m);
        s[h].max = max;
        s[h].sum *= keep;
#pragma unroll
        for (int j = 0; j < WIDE; j++)
            s[h].acc[j] *= keep;
#pragma unroll
        for (int u = 0; u < AHEAD; u++) {
            z[u][h] = exp2_for<F>(z[u][h] - m);
            s[h].sum += z[u][h];
        }
    }
#pragma unroll
    for (int u = 0; u < AHEAD; u++) {
        float x[WIDE];
        v[u].widen(x);
#pragma unroll
        for (int h = 0; h < HEADS; h++)
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                s[h].acc[j] += z[u][h] * x[j];
    }
}

template <typename F, int LANES, int HEADS>
__global__ void __launch_bounds__(THREADS, HEADS == 1 ? 4 : HEADS == 2 ? 3 : 2)
    decode(arr q, const F *kc, const F *vc, arr o, const decode_args d, const attn_args a)
{
    constexpr int AHEAD = 4, WORKERS = THREADS / LANES, TILE = WORKERS * AHEAD;
    __shared__ float max[WARPS][HEADS], sum[WARPS][HEADS];
    __shared__ float part[WARPS][ATTN_MAX_WIDTH];
    next_may_start();
    previous_done();
    int pieces = (a.group + HEADS - 1) / HEADS, g = blockIdx.x / pieces; // of a group's heads
    int h0 = g * a.group + (int)blockIdx.x % pieces * HEADS;
    int n = min(HEADS, (g + 1) * a.group - h0), splits = gridDim.z, warp = threadIdx.x / 32;
    int lane = threadIdx.x % LANES, worker = threadIdx.x / LANES, col = lane * WIDE;
    int64_t t = blockIdx.y;
    if (own_row(d.at, t) < 0) {
        for (int i = threadIdx.x; blockIdx.z == 0 && i < n * a.cv; i += THREADS)
            put(o, (t * a.heads + h0) * a.cv + i, d.at.slot[t] == -1 ? 0 : nanf(""));
        return;
    }

    float query[HEADS][WIDE];
    state s[HEADS];
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        s[h] = state{ -INFINITY, 0, {} };
#pragma unroll
        for (int j = 0; j < WIDE; j++)
            query[h][j] = h < n && col < a.c ? get(q, (t * a.heads + h0 + h) * a.c + col + j) *
                                                   (a.scale * LOG2_E)
                                             : 0;
    }
    int slot = d.at.slot[t];
    int64_t p = d.at.positions[t], j0 = a.chunk ? p / a.chunk * a.chunk : 0;
    int64_t share = (p - j0) / splits / TILE * TILE + TILE; // keys of a split, whole tiles
    int64_t wk = (int64_t)a.kv * a.c, wv = (int64_t)a.kv * a.cv;
    j0 += blockIdx.z * share;
    int64_t end = min(j0 + share, p + 1);
    const F *keys = kc + g * a.c + col, *values = vc + g * a.cv + col;
    for (; j0 < end; j0 += TILE)
        take_keys<F, LANES, HEADS, AHEAD>(s, query, keys, values, d.at, slot, j0 + worker, end, wk,
                                          wv, col < a.c, col < a.cv);

    // the workers of a warp, then the warps, head after head
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
#pragma unroll
        for (int b = LANES; b < 32; b <<= 1) {
            float m = __shfl_xor_sync(~0u, s[h].max, b), l = __shfl_xor_sync(~0u, s[h].sum, b);
            float acc[WIDE];
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                acc[j] = __shfl_xor_sync(~0u, s[h].acc[j], b);
            join<F>(s[h], m, l, acc);
        }
        if (threadIdx.x % 32 == 0) {
            max[warp][h] = s[h].max;
            sum[warp][h] = s[h].sum;
        }
    }
    __syncthreads();
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        float top = -INFINITY, all = 0;
        for (int w = 0; w < WARPS; w++)
            top = fmaxf(top, max[w][h]);
        float m = shift_of(top);
        for (int w = 0; w < WARPS; w++)
            all += sum[w][h] * exp2f(max[w][h] - m);
        if (threadIdx.x % 32 < LANES && col < a.cv)
#pragma unroll
            for (int j = 0; j < WIDE; j++)
                part[warp][col + j] = s[h].acc[j] * exp2f(s[h].max - m);
        __syncthreads();
        if (int i = threadIdx.x; h < n && i < a.cv) {
            float v = 0;
            for (int w = 0; w < WARPS; w++)
                v += part[w][i];
            int64_t at = t * a.heads + h0 + h;
            int64_t one = at * splits + blockIdx.z;
            if (splits == 1) {
                put(o, at * a.cv + i, v / all);
            } else {
                d.parts.values[one * a.cv + i] = v;
                if (i == 0)
                    d.parts.stats[one] = float2{ top, all };
            }
        }
        __syncthreads();
    }
}

// ---- from types to kernels ------------------------------------------------------------------
static int heads_of(const struct cached *k) // of a block
{
    int heads = 1;
    while (heads < k->a.group && heads < MAX_HEADS)
        heads *= 2;
    return heads;
}

static int blocks_of(const struct cached *k) // of a token, but for splits
{
    return k->a.kv * (int)cuda_ceil(k->a.group, heads_of(k));
}

template <typename F, int LANES, int HEADS>
static cudaError_t start(const struct cached *k, const mr_buf *in, const mr_buf *out, void *ws,
                         cudaStream_t stream)
{
    dim3 grid((unsigned)blocks_of(k), (unsigned)k->a.tokens, (unsigned)k->splits);
    decode_args d = { view_in(k, in), parts_in(k, ws) };
    return launch_early(&k->base, decode<F, LANES, HEADS>, grid, THREADS, 0, 1, stream,
                        in_arr(&k->base, in, 0), (const F *)in[K_CACHE].data,
                        (const F *)in[V_CACHE].data, out_arr(&k->base, out, 0), d, k->a);
}

template <typename F, int LANES>
static cudaError_t launch(const struct cached *k, const mr_buf *in, const mr_buf *out, void *ws,
                          cudaStream_t stream)
{
    int heads = heads_of(k);
    return heads == 1 ? start<F, LANES, 1>(k, in, out, ws, stream)
         : heads == 2 ? start<F, LANES, 2>(k, in, out, ws, stream)
                      : start<F, LANES, 4>(k, in, out, ws, stream);
}

static mr_status decode_run(RUN_ARGS)
{
    SELF;
    int width = k->a.c > k->a.cv ? k->a.c : k->a.cv;
    if (!k->a.tokens)
        return MR_OK;
    cudaError_t e = cache_write_launch(k, in, stream);
    WITH_TYPE(base->in_kind[K_CACHE], {
        e = e                  ? e
          : width <= 8 * WIDE  ? launch<F, 8>(k, in, out, ws, stream)
          : width <= 16 * WIDE ? launch<F, 16>(k, in, out, ws, stream)
                               : launch<F, 32>(k, in, out, ws, stream);
    });
    e = e ? e : cache_join_launch<true>(k, in, out, ws, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status decode_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct cached *k = (struct cached *)base;
    mr_status bad = cache_shape(k, c, err);
    if (bad)
        return bad;
    if (k->a.c % WIDE || k->a.cv % WIDE)
        return cuda_refuse(base, err, "a head's width is no multiple of 8");
    k->splits = cache_splits(k, k->a.tokens * blocks_of(k), BLOCKS_PER_SM, 64);
    base->workspace = parts_bytes(k);
    base->run = decode_run;
    return MR_OK;
}

const struct op_row cuda_decode_rows[] = {
    { "attention.paged", "xxxiiixx>x", sizeof(struct cached), decode_prepare, 0, 0 },
    {},
};
