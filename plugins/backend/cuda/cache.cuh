// SPDX-License-Identifier: Apache-2.0
//
// cache.cuh - the cache of keys and values: where a token's row lies, and the launch that writes
// the new rows before any token attends.

#ifndef MRUN_CUDA_CACHE_CUH
#define MRUN_CUDA_CACHE_CUH
#include "attn.cuh"
#include "vec.cuh"

// the row that token t owns; -1: none, or it lies outside the cache
DEV int64_t cache_row(const int32_t *positions, const int32_t *slot, int64_t t, int64_t slots,
                      int64_t room)
{
    int64_t b = slot[t], p = positions[t];
    return b < 0 || b >= slots || p < 0 || p >= room ? -1 : b * room + p;
}

// A block a token. Also sets `counters`, n of them a token, to 0: those of blocks that finish.
template <int V>
static __global__ void cache_write(arr k, arr v, const int32_t *positions, const int32_t *slot,
                                   arr kc, arr vc, int64_t slots, int64_t room, int64_t wk,
                                   int64_t wv, int *counters, int n)
{
    int64_t t = blockIdx.x, row = cache_row(positions, slot, t, slots, room);
    for (int i = threadIdx.x; i < n; i += blockDim.x)
        counters[t * n + i] = 0;
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

static inline void cache_write_launch(const struct attn *k, const mr_buf *in, int *counters, int n,
                                      cudaStream_t stream)
{
    int64_t wk = (int64_t)k->a.kv * k->a.c, wv = (int64_t)k->a.kv * k->a.cv;
    WITH_V(wk % WIDE_V == 0 && wv % WIDE_V == 0 &&
           aligned16(in[1].data, in[2].data, in[5].data, in[6].data), (
        cache_write<V><<<(unsigned)k->a.tokens, THREADS, 0, stream>>>(
            in_arr(&k->base, in, 1), in_arr(&k->base, in, 2), (const int32_t *)in[3].data,
            (const int32_t *)in[4].data, in_arr(&k->base, in, 5), in_arr(&k->base, in, 6),
            k->slots, k->positions, wk, wv, counters, n)));
}

// sizes, and what both kernels refuse
static inline mr_status cache_shape(struct attn *k, const mr_call *c, mr_err *err)
{
    mr_status bad = attn_shape(k, c, c->in[0], c->in[2], err);
    if (bad)
        return bad;
    if (k->base.in_kind[5] != k->base.in_kind[6])
        return cuda_refuse(&k->base, err, "the two caches are of two dtypes");
    if (k->a.tokens > 65535)
        return cuda_refuse(&k->base, err, "more than 65535 new tokens at once");
    k->slots = c->in[5]->dim[0];
    k->positions = c->in[5]->dim[1];
    return MR_OK;
}

// Blocks that share the keys of a row of work: `blocks` a multiprocessor, each with `tile` keys at
// least.
static inline int cache_splits(const struct attn *k, int64_t rows, int blocks, int tile)
{
    int64_t seen = k->a.chunk && k->a.chunk < k->positions ? k->a.chunk : k->positions;
    int64_t most = cuda_ceil(seen, tile);
    int64_t want = rows ? cuda_ceil((int64_t)blocks * k->base.dev->sms, rows) : 1;
    want = want < most ? want : most;
    return want < 1 ? 1 : want > 1024 ? 1024 : (int)want;
}

#endif
