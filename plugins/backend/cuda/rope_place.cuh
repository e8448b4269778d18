// SPDX-License-Identifier: Apache-2.0
//
// rope_place.cuh - the launch before attention over a cache where it takes queries and keys as they
// come from their products: a warp a head turns a token's queries (into the workspace) and keys
// (into the cache) by its position, normalises the head if asked, and copies the values. bf16,
// heads of at most 256. Bytes: q, k, v read and written once; a few us, that is latencies.

#ifndef MRUN_CUDA_ROPE_PLACE_CUH
#define MRUN_CUDA_ROPE_PLACE_CUH
#include "cache.cuh"

enum { PLACE_WARPS = 4, PLACE_PAIRS = 128, PLACE_EACH = 4 /* pairs of a lane */ };

struct place_args { // by value in a launch
    int pairs, interleaved, norm;
    float factor, eps;
    double freq[PLACE_PAIRS];
};

// One head of c values: pair i is (2i, 2i + 1), or (i, i + pairs); what no pair has stays.
DEV void place_head(const bf16 *x, bf16 *y, int c, int position, const place_args &r)
{
    const double tau = 6.283185307179586476925;
    const int lane = threadIdx.x % 32;
    float v[PLACE_EACH][2], sum = 0;
    int at[PLACE_EACH][2];
#pragma unroll
    for (int u = 0; u < PLACE_EACH; u++) {
        const int i = lane + 32 * u; // beyond the pairs that turn: the rest, two by two
        v[u][0] = v[u][1] = 0;
        if (2 * i >= c)
            continue;
        const bool turns = i < r.pairs, near = r.interleaved || !turns;
        at[u][0] = near ? 2 * i : i;
        at[u][1] = near ? 2 * i + 1 : i + r.pairs;
        float a = ld(x, at[u][0]), b = at[u][1] < c ? ld(x, at[u][1]) : 0, s = 0, co = 1;
        if (turns) {
            double angle = (double)position * r.freq[i];
            sincosf((float)(angle - tau * rint(angle / tau)), &s, &co);
            s *= r.factor;
            co *= r.factor;
        }
        v[u][0] = a * co - b * s;
        v[u][1] = a * s + b * co;
        sum += v[u][0] * v[u][0] + v[u][1] * v[u][1];
    }
    const float by = r.norm ? rsqrtf(warp_sum(sum) / (float)c + r.eps) : 1;
#pragma unroll
    for (int u = 0; u < PLACE_EACH; u++)
        if (2 * (lane + 32 * u) < c) {
            st(y, at[u][0], v[u][0] * by);
            if (at[u][1] < c)
                st(y, at[u][1], v[u][1] * by);
        }
}

// Grid: (heads of q, k and v / PLACE_WARPS, tokens).
static __global__ void __launch_bounds__(PLACE_WARPS * 32)
    rope_place(const bf16 *q, const bf16 *k, const bf16 *v, const cache_view at, bf16 *turned,
               bf16 *kc, bf16 *vc, const attn_args a, const __grid_constant__ place_args r)
{
    next_may_start();
    previous_done();
    const int64_t t = blockIdx.y, row = own_row(at, t);
    int h = (int)blockIdx.x * PLACE_WARPS + (int)threadIdx.x / 32;
    if (row < 0)
        return;
    const int position = at.positions[t];
    if (h < a.heads) {
        place_head(q + (t * a.heads + h) * a.c, turned + (t * a.heads + h) * a.c, a.c, position, r);
    } else if ((h -= a.heads) < a.kv) {
        place_head(k + (t * a.kv + h) * a.c, kc + (row * a.kv + h) * a.c, a.c, position, r);
    } else if ((h -= a.kv) < a.kv) {
        const bf16 *from = v + (t * a.kv + h) * a.cv;
        bf16 *to = vc + (row * a.kv + h) * a.cv;
        for (int i = threadIdx.x % 32 * 8; i < a.cv; i += 256)
            *(uint4 *)(to + i) = *(const uint4 *)(from + i);
    }
}

static inline mr_status place_read(const struct cached *k, const mr_call *c, place_args *r,
                                   mr_err *err)
{
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    if (freq->n > PLACE_PAIRS || k->a.c % 2 || (int)freq->n * 2 > k->a.c ||
        (!mr_attr_i(c, "interleaved", 1) && (int)freq->n * 2 < k->a.c))
        return cuda_refuse(&k->base, err, "more than 128 pairs, or halves of a part of a head");
    r->pairs = (int)freq->n;
    memcpy(r->freq, freq->u.fs, freq->n * sizeof *r->freq);
    r->interleaved = mr_attr_i(c, "interleaved", 1) != 0;
    r->norm = mr_attr_i(c, "qk_norm", 0) != 0;
    r->factor = (float)mr_attr_f(c, "factor", 1);
    r->eps = (float)mr_attr_f(c, "eps", 1e-5);
    return MR_OK;
}

static inline cudaError_t place_launch(const struct cached *k, const place_args &r,
                                       const mr_buf *in, bf16 *turned, cudaStream_t stream)
{
    dim3 grid((unsigned)cuda_ceil(k->a.heads + 2 * k->a.kv, PLACE_WARPS), (unsigned)k->a.tokens);
    return launch_early(&k->base, rope_place, grid, PLACE_WARPS * 32, 0, 1, stream,
                        (const bf16 *)in[Q].data, (const bf16 *)in[K].data,
                        (const bf16 *)in[V_NEW].data, view_in(k, in), turned,
                        (bf16 *)in[K_CACHE].data, (bf16 *)in[V_CACHE].data, k->a, r);
}

#endif
