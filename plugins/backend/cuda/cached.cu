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

enum { KEYS = 128, BLOCK = 128, AT_ONCE = 8 };

template <typename C>
__global__ void __launch_bounds__(BLOCK)
    cache_attend(arr q, const int32_t *positions, const int32_t *slot, const C *kc, const C *vc,
                 arr o, float *parts, int64_t slots, int64_t room, const attn_args a)
{
    __shared__ float qs[ATTN_MAX_WIDTH], z[KEYS], part[2][BLOCK / 32];
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
        for (int j = warp * AT_ONCE; j < n; j += BLOCK / 32 * AT_ONCE) {
            float s[AT_ONCE] = {};
            for (int i = lane; i < a.c; i += 32)
#pragma unroll
                for (int b = 0; b < AT_ONCE; b++) // keys past the end: the last one again
                    s[b] += qs[i] * ld(kc, ((row0 + j0 + min(j + b, n - 1)) * a.kv + g) * a.c + i);
#pragma unroll
            for (int b = 0; b < AT_ONCE; b++) {
                float dot = warp_sum(s[b]);
                if (!lane && j + b < n)
                    z[j + b] = dot * a.scale;
            }
        }
        __syncthreads();
        float mine = threadIdx.x < n ? z[threadIdx.x] : -INFINITY, top = warp_max(mine);
        if (!lane)
            part[0][warp] = top;
        __syncthreads();
        top = max;
        for (int w = 0; w < BLOCK / 32; w++)
            top = fmaxf(top, part[0][w]);
        float keep = top == max ? 1 : expf(max - top);
        float e = threadIdx.x < n ? expf(mine - top) : 0, s = warp_sum(e);
        z[threadIdx.x] = e;
        if (!lane)
            part[1][warp] = s;
        __syncthreads();
        sum *= keep;
        for (int w = 0; w < BLOCK / 32; w++)
            sum += part[1][w];
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
    if (gridDim.z > 1) {
        parts += ((t * a.heads + h) * gridDim.z + blockIdx.z) * (a.cv + 2);
        parts[0] = max; // the same in all threads
        parts[1] = sum;
    }
#pragma unroll
    for (int c = 0; c < ATTN_MAX_WIDTH / BLOCK; c++) {
        int i = threadIdx.x + c * BLOCK;
        if (i >= a.cv)
            continue;
        if (gridDim.z > 1)
            parts[2 + i] = acc[c];
        else
            put(o, out + i, acc[c] / sum);
    }
}

// A split without keys has a maximum of -inf and sums of 0: it weighs 0.
__global__ void __launch_bounds__(BLOCK)
    cache_join(const int32_t *positions, const int32_t *slot, const float *parts, arr o, int splits,
               int64_t slots, int64_t room, const attn_args a)
{
    int64_t t = blockIdx.y, at = t * a.heads + blockIdx.x;
    float max = -INFINITY, sum = 0;
    if (cache_row(positions, slot, t, slots, room) < 0)
        return; // written already
    parts += at * splits * (a.cv + 2);
    for (int s = 0; s < splits; s++)
        max = fmaxf(max, parts[s * (a.cv + 2)]);
    for (int s = 0; s < splits; s++)
        sum += parts[s * (a.cv + 2) + 1] * expf(parts[s * (a.cv + 2)] - max);
    for (int i = threadIdx.x; i < a.cv; i += BLOCK) {
        float v = 0;
        for (int s = 0; s < splits; s++)
            v += parts[s * (a.cv + 2) + 2 + i] * expf(parts[s * (a.cv + 2)] - max);
        put(o, at * a.cv + i, v / sum);
    }
}

static mr_status cached_run(RUN_ARGS)
{
    SELF;
    const int32_t *positions = (const int32_t *)in[3].data, *slot = (const int32_t *)in[4].data;
    arr kc = in_arr(base, in, 5), vc = in_arr(base, in, 6);
    if (k->a.tokens) {
        cache_write_launch(k, in, nullptr, 0, stream);
        dim3 grid((unsigned)k->a.heads, (unsigned)k->a.tokens, (unsigned)k->splits);
        WITH_TYPE(kc.kind, cache_attend<F><<<grid, BLOCK, 0, stream>>>(
            in_arr(base, in, 0), positions, slot, (const F *)kc.p, (const F *)vc.p,
            out_arr(base, out, 0), (float *)ws, k->slots, k->positions, k->a));
        if (k->splits > 1)
            cache_join<<<dim3(grid.x, grid.y), BLOCK, 0, stream>>>(
                positions, slot, (const float *)ws, out_arr(base, out, 0), k->splits, k->slots,
                k->positions, k->a);
    }
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
    if (k->splits > 1)
        base->workspace = (uint64_t)rows * (uint64_t)k->splits * (uint64_t)(k->a.cv + 2) * 4;
    base->run = cached_run;
    return MR_OK;
}

const struct op_row cuda_cached_rows[] = {
    { "attention.cached", "xxxiixx>x", sizeof(struct attn), cached_prepare, 0, 0 },
    {},
};
