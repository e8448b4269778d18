// SPDX-License-Identifier: Apache-2.0
//
// attention_bwd.cu - the gradient of attention from o and lse, in three kernels without an atomic:
// delta = <do, o> a row; dk and dv, a block 32 keys, over all queries of its group that see
// them; dq, a block 32 queries, over the keys that they see. Scores are made twice, which is
// the price of one order of sums. Flops: 2 pairs H (5 C + 4 Cv) on the ordinary fp32 units; bound
// by shared memory at some 10 TFLOP/s.

#include "attn_bwd.cuh"

#define SELF const struct attn *k = (const struct attn *)base

// What of a tile of queries is needed beside q and do.
struct query_rows {
    int first[TILE], last[TILE];
    float lse[TILE], delta[TILE];
};

DEV void load_rows(query_rows &s, const int32_t *seq_start, const float *lse, const float *delta,
                   int t0, int h, const attn_args &a)
{
    int t = t0 + threadIdx.x;
    if (threadIdx.x >= TILE)
        return;
    bool there = t < a.tokens;
    s.first[threadIdx.x] = there ? first_seen(seq_start, t, a) : INT32_MAX;
    s.last[threadIdx.x] = last_seen(t, a);
    s.lse[threadIdx.x] = there ? lse[(int64_t)t * a.heads + h] : 0;
    s.delta[threadIdx.x] = there ? delta[(int64_t)t * a.heads + h] : 0;
}

// p and ds of query row r with keys x + 8 i, into ps and ds [query][key]; 0 where unseen
DEV void scores(const query_rows &s, const float *qs, const float *ks, const float *os,
                const float *vs, int j0, int r, int x, float *ps, float *ds,
                const attn_args &a)
{
    float z[4], d[4];
    dots(qs, ks, a.c, r, x, z);
    dots(os, vs, a.cv, r, x, d);
#pragma unroll
    for (int i = 0; i < 4; i++) {
        int j = j0 + x + 8 * i;
        bool seen = j >= s.first[r] && j <= s.last[r];
        float p = seen ? expf(z[i] * a.scale - s.lse[r]) : 0;
        ps[r * PPITCH + x + 8 * i] = p;
        ds[r * PPITCH + x + 8 * i] = seen ? a.scale * p * (d[i] - s.delta[r]) : 0;
    }
}

template <typename F, int NV, typename O>
__global__ void __launch_bounds__(256)
    attn_dkv(const F *dy, const F *q, const F *k, const F *v, const float *lse,
             const int32_t *seq_start, const float *delta, const int32_t *reach, O *dk, O *dv,
             const attn_args a)
{
    extern __shared__ float room[];
    __shared__ query_rows s;
    float *qs = room, *ks = qs + TILE * (a.c + 1), *vs = ks + TILE * (a.c + 1);
    float *os = vs + TILE * (a.cv + 1), *ps = os + TILE * (a.cv + 1), *ds = ps + TILE * PPITCH;
    int g = blockIdx.y, r = threadIdx.x / 8, x = threadIdx.x % 8, j0 = blockIdx.x * TILE;
    float ak[NV] = {}, av[NV] = {};

    load_tile(k, (int64_t)a.kv * a.c, (int64_t)g * a.c, j0, a.keys, a.c, ks);
    load_tile(v, (int64_t)a.kv * a.cv, (int64_t)g * a.cv, j0, a.keys, a.cv, vs);
    for (int h = g * a.group; h < (g + 1) * a.group; h++)
        for (int t0 = first_query(j0, a); t0 <= reach[blockIdx.x]; t0 += TILE) {
            __syncthreads();
            load_rows(s, seq_start, lse, delta, t0, h, a);
            load_tile(q, (int64_t)a.heads * a.c, (int64_t)h * a.c, t0, a.tokens, a.c, qs);
            load_tile(dy, (int64_t)a.heads * a.cv, (int64_t)h * a.cv, t0, a.tokens, a.cv, os);
            __syncthreads();
            scores(s, qs, ks, os, vs, j0, r, x, ps, ds, a);
            __syncthreads();
            for (int i = 0; i < TILE; i++) { // r is a key now
                float p = ps[i * PPITCH + r], d = ds[i * PPITCH + r];
                const float *qrow = qs + i * (a.c + 1), *orow = os + i * (a.cv + 1);
                if (p == 0 && d == 0)
                    continue; // unseen: untouched, were it NaN
#pragma unroll
                for (int n = 0; n < NV; n++) {
                    if (x + 8 * n < a.c)
                        ak[n] += d * qrow[x + 8 * n];
                    if (x + 8 * n < a.cv)
                        av[n] += p * orow[x + 8 * n];
                }
            }
        }
    int64_t row = ((int64_t)j0 + r) * a.kv + g;
    if (j0 + r >= a.keys)
        return;
#pragma unroll
    for (int n = 0; n < NV; n++) {
        if (x + 8 * n < a.c)
            st(dk, row * a.c + x + 8 * n, ak[n]);
        if (x + 8 * n < a.cv)
            st(dv, row * a.cv + x + 8 * n, av[n]);
    }
}

template <typename F, int NV, typename O>
__global__ void __launch_bounds__(256)
    attn_dq(const F *dy, const F *q, const F *k, const F *v, const float *lse,
            const int32_t *seq_start, const float *delta, O *dq, const attn_args a)
{
    extern __shared__ float room[];
    __shared__ query_rows s;
    float *qs = room, *ks = qs + TILE * (a.c + 1), *vs = ks + TILE * (a.c + 1);
    float *os = vs + TILE * (a.cv + 1), *ps = os + TILE * (a.cv + 1), *ds = ps + TILE * PPITCH;
    int h = blockIdx.y, g = h / a.group, r = threadIdx.x / 8, x = threadIdx.x % 8;
    int t0 = (gridDim.x - 1 - blockIdx.x) * TILE, t = t0 + r;
    int last = last_seen(min((int64_t)t0 + TILE, a.tokens) - 1, a);
    float acc[NV] = {};

    load_rows(s, seq_start, lse, delta, t0, h, a);
    load_tile(q, (int64_t)a.heads * a.c, (int64_t)h * a.c, t0, a.tokens, a.c, qs);
    load_tile(dy, (int64_t)a.heads * a.cv, (int64_t)h * a.cv, t0, a.tokens, a.cv, os);
    __syncthreads();
    for (int j0 = block_min_first(s.first) / TILE * TILE; j0 <= last; j0 += TILE) {
        __syncthreads();
        load_tile(k, (int64_t)a.kv * a.c, (int64_t)g * a.c, j0, a.keys, a.c, ks);
        load_tile(v, (int64_t)a.kv * a.cv, (int64_t)g * a.cv, j0, a.keys, a.cv, vs);
        __syncthreads();
        scores(s, qs, ks, os, vs, j0, r, x, ps, ds, a);
        __syncwarp();
        int lo = s.first[r] > j0 ? s.first[r] - j0 : 0;
        int hi = s.last[r] - j0 < TILE - 1 ? s.last[r] - j0 : TILE - 1;
        for (int j = lo; j <= hi; j++) {
            float d = ds[r * PPITCH + j];
            const float *row = ks + j * (a.c + 1);
#pragma unroll
            for (int n = 0; n < NV; n++)
                if (x + 8 * n < a.c)
                    acc[n] += d * row[x + 8 * n];
        }
        __syncwarp();
    }
    if (t >= a.tokens)
        return;
#pragma unroll
    for (int n = 0; n < NV; n++)
        if (x + 8 * n < a.c)
            st(dq, ((int64_t)t * a.heads + h) * a.c + x + 8 * n, acc[n]);
}

static mr_status attention_bwd_run(RUN_ARGS)
{
    SELF;
    const int32_t *seq_start = (const int32_t *)in[6].data;
    const float *lse = (const float *)in[5].data;
    int64_t rows = k->a.tokens * k->a.heads;
    float *delta = (float *)ws;
    int32_t *reach = (int32_t *)(delta + rows);
    unsigned tiles = (unsigned)cuda_ceil(k->a.keys, TILE);
    unsigned of_queries = (unsigned)cuda_ceil(k->a.tokens, TILE);
    if (!rows)
        return MR_OK;
    WITH_TYPE(base->in_kind[0], attn_bwd_first((const F *)in[0].data, (const F *)in[4].data,
                                               seq_start, delta, reach, TILE, k->a, stream));
    WITH_ATTN(base->in_kind[0], k->a.c > k->a.cv ? k->a.c : k->a.cv, {
        const F *dy = (const F *)in[0].data, *q = (const F *)in[1].data;
        const F *kk = (const F *)in[2].data, *v = (const F *)in[3].data;
        WITH_RESULT(k->a, F, {
            attn_dkv<F, NV, O><<<dim3(tiles, (unsigned)k->a.kv), 256, k->shared, stream>>>(
                dy, q, kk, v, lse, seq_start, delta, reach, (O *)out[1].data, (O *)out[2].data,
                k->a);
            attn_dq<F, NV, O><<<dim3(of_queries, (unsigned)k->a.heads), 256, k->shared, stream>>>(
                dy, q, kk, v, lse, seq_start, delta, (O *)out[0].data, k->a);
        });
    });
    return cuda_launched(base, err);
}

static mr_status attention_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    const void *dkv = nullptr, *dq = nullptr;
    for (int i = 1; i < 5; i++)
        if (base->in_kind[i] != base->in_kind[0])
            return cuda_refuse(base, err, "its operands are of two dtypes");
    mr_status bad = attn_shape(k, c, c->in[1], c->in[3], err);
    if (bad)
        return bad;
    k->shared = 2 * tile_bytes(k->a.c) + 2 * tile_bytes(k->a.cv) + 2 * tile_bytes(TILE);
    base->workspace = attn_bwd_room(k->a, TILE);
    WITH_ATTN(base->in_kind[0], k->a.c > k->a.cv ? k->a.c : k->a.cv, {
        WITH_RESULT(k->a, F, {
            dkv = (const void *)attn_dkv<F, NV, O>;
            dq = (const void *)attn_dq<F, NV, O>;
        });
    });
    base->impl = "own flash fp32";
    base->run = attention_bwd_run;
    bad = want_shared(base, dkv, k->shared, err);
    return bad ? bad : want_shared(base, dq, k->shared, err);
}

const struct op_row cuda_attention_bwd_rows[] = {
    { "attention.bwd", "xxxxxfI>xxx", sizeof(struct attn), attention_bwd_prepare, 0, 0 },
    { "attention.cp.bwd", "xxxxxfi>xxx", sizeof(struct attn), attention_bwd_prepare, 0, 0 },
    { "attention.part.bwd", "xxxxxfi>fff", sizeof(struct attn), attention_bwd_prepare, 0, 0 },
    {},
};
