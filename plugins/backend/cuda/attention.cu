// SPDX-License-Identifier: Apache-2.0
//
// attention.cu - attention forward, flash style (Dao et al. 2022): a block has 32 queries of a
// head and walks the keys that they see, with the running maximum and sum of Milakov &
// Gimelshein 2018; S x S is never stored. On the ordinary fp32 units, for any head width up to 256:
// the kernel that takes what a tensor-core one refuses. Flops: 2 pairs H (C + Cv); it is bound by
// shared memory at some 10 TFLOP/s (seq 4096, 16 heads of 128: 7 ms; the floor is 0.1).

#include "attn.cuh"

#define SELF const struct attn *k = (const struct attn *)base

template <typename F, int NV, typename O>
__global__ void __launch_bounds__(256)
    attention(const F *q, const F *k, const F *v, const int32_t *seq_start, O *o, float *lse,
              const attn_args a)
{
    extern __shared__ float room[];
    __shared__ int first[TILE];
    float *qs = room, *ks = qs + TILE * (a.c + 1), *vs = ks + TILE * (a.c + 1);
    float *ps = vs + TILE * (a.cv + 1);
    int h = blockIdx.y, g = h / a.group, r = threadIdx.x / 8, x = threadIdx.x % 8;
    int t0 = (gridDim.x - 1 - blockIdx.x) * TILE, t = t0 + r; // the longest rows go first
    int last = last_seen(min((int64_t)t0 + TILE, a.tokens) - 1, a), end = last_seen(t, a);

    if (threadIdx.x < TILE)
        first[threadIdx.x] = t0 + threadIdx.x < a.tokens
            ? first_seen(seq_start, t0 + threadIdx.x, a) : INT32_MAX;
    load_tile(q, (int64_t)a.heads * a.c, (int64_t)h * a.c, t0, a.tokens, a.c, qs);
    __syncthreads();
    int mine = first[r];
    float max = -INFINITY, sum = 0, acc[NV] = {};
    for (int j0 = block_min_first(first) / TILE * TILE; j0 <= last; j0 += TILE) {
        __syncthreads();
        load_tile(k, (int64_t)a.kv * a.c, (int64_t)g * a.c, j0, a.keys, a.c, ks);
        load_tile(v, (int64_t)a.kv * a.cv, (int64_t)g * a.cv, j0, a.keys, a.cv, vs);
        __syncthreads();
        float z[4], top = max, part = 0;
        dots(qs, ks, a.c, r, x, z);
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int j = j0 + x + 8 * i;
            bool seen = j >= mine && j <= end;
            z[i] *= a.scale;
            top = seen ? fmaxf(top, z[i]) : top;
        }
        top = row_max(top);
        float keep = top == max ? 1 : expf(max - top); // no key so far: max is -inf, sums are 0
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int j = j0 + x + 8 * i;
            float p = j >= mine && j <= end ? expf(z[i] - top) : 0;
            ps[r * PPITCH + x + 8 * i] = p;
            part += p;
        }
        sum = sum * keep + row_sum(part);
        max = top;
        __syncwarp();
        int lo = mine > j0 ? mine - j0 : 0, hi = end - j0 < TILE - 1 ? end - j0 : TILE - 1;
#pragma unroll
        for (int i = 0; i < NV; i++)
            acc[i] *= keep;
        for (int j = lo; j <= hi; j++) { // unseen keys stay untouched, were they NaN
            float p = ps[r * PPITCH + j];
            const float *row = vs + j * (a.cv + 1);
#pragma unroll
            for (int i = 0; i < NV; i++)
                if (x + 8 * i < a.cv)
                    acc[i] += p * row[x + 8 * i];
        }
        __syncwarp();
    }
    if (t >= a.tokens)
        return;
    if (x == 0)
        lse[(int64_t)t * a.heads + h] = max + logf(sum);
#pragma unroll
    for (int i = 0; i < NV; i++)
        if (x + 8 * i < a.cv)
            st(o, ((int64_t)t * a.heads + h) * a.cv + x + 8 * i, sum == 0 ? 0 : acc[i] / sum);
}

static mr_status attention_run(RUN_ARGS)
{
    SELF;
    dim3 grid((unsigned)cuda_ceil(k->a.tokens, TILE), (unsigned)k->a.heads);
    (void)ws;
    if (k->a.tokens)
        WITH_ATTN(base->in_kind[0], k->a.cv, WITH_RESULT(k->a, F, {
            attention<F, NV, O><<<grid, 256, k->shared, stream>>>(
                (const F *)in[0].data, (const F *)in[1].data, (const F *)in[2].data,
                (const int32_t *)in[3].data, (O *)out[0].data, (float *)out[1].data, k->a);
        }));
    return cuda_launched(base, err);
}

static mr_status attention_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    const void *fn = nullptr;
    if (base->in_kind[1] != base->in_kind[0] || base->in_kind[2] != base->in_kind[0])
        return cuda_refuse(base, err, "q, k and v are of two dtypes");
    mr_status bad = attn_shape(k, c, c->in[0], c->in[2], err);
    if (bad)
        return bad;
    k->shared = 2 * tile_bytes(k->a.c) + tile_bytes(k->a.cv) + tile_bytes(TILE);
    WITH_ATTN(base->in_kind[0], k->a.cv,
              WITH_RESULT(k->a, F, fn = (const void *)attention<F, NV, O>));
    base->impl = "own flash fp32";
    base->run = attention_run;
    return want_shared(base, fn, k->shared, err);
}

const struct op_row cuda_attention_rows[] = {
    { "attention", "xxxI>xf", sizeof(struct attn), attention_prepare, 0, 0 },
    { "attention.cp", "xxxi>xf", sizeof(struct attn), attention_prepare, 0, 0 },
    { "attention.part", "xxxi>ff", sizeof(struct attn), attention_prepare, 0, 0 },
    {},
};
