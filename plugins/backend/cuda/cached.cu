// SPDX-License-Identifier: Apache-2.0
//
// cached.cu - attention of new tokens over the cache of their sequences, for the head widths that
// decode.cu leaves. First all rows are written to their places, then a block a (token, head) walks
// its slot's keys 128 at a time, 8 keys a warp at once. Few rows would leave most of the chip idle:
// their keys are shared out over `splits` blocks, by the position alone, and a third kernel joins
// the parts. Bytes: the seen keys and values once a head; floor of a decoding step: bytes of the
// slot's cache / the copy bandwidth. A slot or position outside the cache writes nothing and gives
// NaN, which the run's checks find.

#include "cache.cuh"

#define SELF const struct attn *k = (const struct attn *)base

enum { KEYS = 128, BLOCK = 128, KEYS_AT_ONCE = 8 };

template <typename C>
__global__ void __launch_bounds__(BLOCK)
    cache_attend(arr q, const int32_t *positions, const int32_t *slot, const C *kc, const C *vc,
                 arr o, const cache_parts parts, int64_t slots, int64_t room, const attn_args a)
{
    __shared__ float qs[ATTN_MAX_WIDTH], z[KEYS], tops[2][BLOCK / 32];
    int64_t t = blockIdx.y, h = blockIdx.x, g = h / a.group;
    int64_t row = cache_row(positions, slot, t, slots, room), out = (t * a.heads + h) * a.cv;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    float max = -INFINITY, sum = 0, acc[ATTN_MAX_WIDTH / BLOCK] = {};
    if (row < 0) {
        for (int i = threadIdx.x; i < a.cv; i += BLOCK)
            put(o, out + i, slot[t] == -1 ? 0 : nanf(""));
        return;
    }
    for (int i = threadIdx.x; i < a.c; i += BLOCK)
        qs[i] = get(q, (t * a.heads + h) * a.c + i);
    int64_t p = row % room, row0 = row - p, j0 = a.chunk ? p / a.chunk * a.chunk : 0;
    int64_t share = (p - j0) / gridDim.z / KEYS * KEYS + KEYS; // keys of a split, whole tiles
    j0 += blockIdx.z * share;
    int64_t end = min(j0 + share, p + 1);
    for (; j0 < end; j0 += KEYS) {
        int n = end - j0 < KEYS ? (int)(end - j0) : KEYS;
        __syncthreads();
        for (int j = warp * KEYS_AT_ONCE; j < n; j += BLOCK / 32 * KEYS_AT_ONCE) {
            float s[KEYS_AT_ONCE] = {};
            for (int i = lane; i < a.c; i += 32)
#pragma unroll
                for (int b = 0; b < KEYS_AT_ONCE; b++) // keys past the end: the last one again
                    s[b] += qs[i] * ld(kc, ((row0 + j0 + min(j + b, n - 1)) * a.kv + g) * a.c + i);
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
            const C *value = vc + ((row0 + j0) * a.kv + g) * a.cv + i;
#pragma unroll 8
            for (int j = 0; j < n; j++)
                acc[c] += z[j] * ld(value, (int64_t)j * a.kv * a.cv);
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
    cache_write_launch(k, in, stream);
    WITH_TYPE(base->in_kind[5], cache_attend<F><<<grid, BLOCK, 0, stream>>>(
        in_arr(base, in, 0), (const int32_t *)in[3].data, (const int32_t *)in[4].data,
        (const F *)in[5].data, (const F *)in[6].data, out_arr(base, out, 0), parts_in(k, ws),
        k->slots, k->positions, k->a));
    cache_join_launch<false>(k, in, out, ws, stream);
    return cuda_launched(base, err);
}

static mr_status cached_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
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
    { "attention.cached", "xxxiixx>x", sizeof(struct attn), cached_prepare, 0, 0 },
    {},
};
