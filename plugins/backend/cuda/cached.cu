// SPDX-License-Identifier: Apache-2.0
//
// cached.cu - attention of new tokens over the cache of their sequences, for the head widths that
// decode.cu leaves. First all rows are written to their places, then a block a (token, head) walks
// its slot's keys 128 at a time, 8 keys a warp at once. Few rows would leave most of the chip idle:
// their keys are shared out over `splits` blocks, by the position alone, and a third kernel joins
// the parts. Bytes: the seen keys and values once a head; floor of a decoding step: bytes of the
// slot's cache / the copy bandwidth. A place outside the cache writes nothing and gives NaN, which
// the run's checks find.

#include "cache.cuh"

#define SELF const struct cached *k = (const struct cached *)base

enum { KEYS = 128, BLOCK = 128, KEYS_AT_ONCE = 8 };

template <typename C>
__global__ void __launch_bounds__(BLOCK)
    cache_attend(arr q, const cache_view at, const C *kc, const C *vc, arr o,
                 const cache_parts parts, const attn_args a)
{
    __shared__ float qs[ATTN_MAX_WIDTH], z[KEYS], tops[2][BLOCK / 32];
    __shared__ int rows[KEYS];
    next_may_start();
    previous_done();
    int64_t t = blockIdx.y, h = blockIdx.x, g = h / a.group, out = (t * a.heads + h) * a.cv;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float max = -INFINITY, sum = 0, acc[ATTN_MAX_WIDTH / BLOCK] = {};
    if (own_row(at, t) < 0) {
        for (int i = threadIdx.x; blockIdx.z == 0 && i < a.cv; i += BLOCK)
            put(o, out + i, at.slot[t] == -1 ? 0 : nanf(""));
        return;
    }
    for (int i = threadIdx.x; i < a.c; i += BLOCK)
        qs[i] = get(q, (t * a.heads + h) * a.c + i);
    int b0 = at.slot[t];
    int64_t p = at.positions[t], j0 = a.chunk ? p / a.chunk * a.chunk : 0;
    int64_t share = (p - j0) / gridDim.z / KEYS * KEYS + KEYS; // keys of a split, whole tiles
    j0 += blockIdx.z * share;
    int64_t end = min(j0 + share, p + 1);
    for (; j0 < end; j0 += KEYS) {
        int n = end - j0 < KEYS ? (int)(end - j0) : KEYS;
        __syncthreads();
        if (threadIdx.x < n)
            rows[threadIdx.x] = row_at(at, b0, (int)(j0 + threadIdx.x));
        __syncthreads();
        for (int j = warp * KEYS_AT_ONCE; j < n; j += BLOCK / 32 * KEYS_AT_ONCE) {
            float s[KEYS_AT_ONCE] = {};
            for (int i = lane; i < a.c; i += 32)
#pragma unroll
                for (int b = 0; b < KEYS_AT_ONCE; b++) { // keys past the end: the last one again
                    int64_t row = rows[min(j + b, n - 1)];
                    s[b] += row < 0 ? nanf("") : qs[i] * ld(kc, (row * a.kv + g) * a.c + i);
                }
#pragma unroll
            for (int b = 0; b < KEYS_AT_ONCE; b++) {
                float dot = warp_sum(s[b]);
                if (!lane && j + b < n)
                    z[j + b] = dot * a.scale;
            }
        }
        __syncthreads();
        float mine = threadIdx.x < n ? z[threadIdx.x] : -INFINITY, top = warp_max(mine);
        if (!lane)
            tops[0][warp] = top;
        __syncthreads();
        top = max;
        for (int w = 0; w < BLOCK / 32; w++)
            top = fmaxf(top, tops[0][w]);
        float keep = top == max ? 1 : expf(max - top);
        float e = threadIdx.x < n ? expf(mine - top) : 0, s = warp_sum(e);
        z[threadIdx.x] = e;
        if (!lane)
            tops[1][warp] = s;
        __syncthreads();
        sum *= keep;
        for (int w = 0; w < BLOCK / 32; w++)
            sum += tops[1][w];
        max = top;
#pragma unroll
        for (int c = 0; c < ATTN_MAX_WIDTH / BLOCK; c++) {
            int i = threadIdx.x + c * BLOCK;
            acc[c] *= keep;
            if (i >= a.cv)
                continue;
#pragma unroll 8
            for (int j = 0; j < n; j++) {
                int64_t row = rows[j];
                acc[c] += z[j] * (row < 0 ? 0 : ld(vc, (row * a.kv + g) * a.cv + i));
            }
        }
    }
    int64_t part = (t * a.heads + h) * gridDim.z + blockIdx.z;
    if (gridDim.z > 1 && threadIdx.x == 0)
        parts.stats[part] = float2{ max, sum }; // the same in all threads
#pragma unroll
    for (int c = 0; c < ATTN_MAX_WIDTH / BLOCK; c++) {
        int i = threadIdx.x + c * BLOCK;
        if (i >= a.cv)
            continue;
        if (gridDim.z > 1)
            parts.values[part * a.cv + i] = acc[c];
        else
            put(o, out + i, acc[c] / sum);
    }
}

static mr_status cached_run(RUN_ARGS)
{
    SELF;
    dim3 grid((unsigned)k->a.heads, (unsigned)k->a.tokens, (unsigned)k->splits);
    if (!k->a.tokens)
        return MR_OK;
    cudaError_t e = cache_write_launch(k, in, stream);
    WITH_TYPE(base->in_kind[K_CACHE], e = e ? e : launch_early(
        base, cache_attend<F>, grid, BLOCK, 0, 1, stream, in_arr(base, in, 0), view_in(k, in),
        (const F *)in[K_CACHE].data, (const F *)in[V_CACHE].data, out_arr(base, out, 0),
        parts_in(k, ws), k->a));
    e = e ? e : cache_join_launch<false>(k, in, out, ws, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status cached_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct cached *k = (struct cached *)base;
    mr_status bad = cache_shape(k, c, err);
    if (bad)
        return bad;
    int64_t rows = k->a.tokens * k->a.heads;
    k->splits = cache_splits(k, rows, 4, KEYS);
    base->workspace = parts_bytes(k);
    base->run = cached_run;
    return MR_OK;
}

const struct op_row cuda_cached_rows[] = {
    { "attention.paged", "xxxiiixx>x", sizeof(struct cached), cached_prepare, 0, 0 },
    {},
};
