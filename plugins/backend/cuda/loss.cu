// SPDX-License-Identifier: Apache-2.0
//
// loss.cu - cross entropy: one pass over a row of logits keeps its maximum and the sum of
// exponentials together, a block a row, four packs of 16 bytes a thread under way; the loss is
// added in double by one block, in a fixed order. Backward is element by element and may write
// over the logits; a row of weight 0 is not read. Bytes: forward the logits once, backward twice;
// floor: bytes / the copy bandwidth (16384 x 32768 bf16 at 4.27 TB/s: 251 and 503 us). One
// exponential an element takes half of the special units' rate at that speed. Of a part of a
// vocabulary the same passes give and take a token's (lse, target's logit); cross_entropy.merge
// makes one loss of all parts'.

#include "pack.cuh"

struct loss {
    struct kernel base;
    int64_t tokens, vocab;
    int64_t first, parts; // of a part: its first id; of merge: how many parts
};

#define SELF const struct loss *k = (const struct loss *)base

enum { AT_ONCE = 4 }; // packs a thread
static constexpr float LOG2_E = 1.44269504088896340736f;

// e^(x - m): for bf16 one multiply-add and the unit's own 2^x
template <typename F> DEV float exp_below(float x, float m)
{
    if (sizeof(F) != 2)
        return expf(x - m);
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(fmaf(x, LOG2_E, -m * LOG2_E)));
    return y;
}

// The sum of e^x so far, as sum times e^max. Maxima pass over NaN, sums do not.
struct softsum {
    float max, sum;
};

// what e^x is measured against: no maximum yet, no shift
DEV float shift_of(float max)
{
    return max == -INFINITY ? 0 : max;
}

// a thread's packs at once: one rescaling for all of them
template <typename F, int V>
DEV void take_all(softsum &s, const pack<F, V> p[AT_ONCE], int64_t first, int64_t packs)
{
    float m = s.max;
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++)
        if (first + u * THREADS < packs) {
            float x[V];
            p[u].widen(x);
#pragma unroll
            for (int j = 0; j < V; j++)
                m = fmaxf(m, x[j]);
        }
    if (m > s.max) {
        s.sum *= exp_below<F>(s.max, m);
        s.max = m;
    }
    m = shift_of(m);
#pragma unroll
    for (int u = 0; u < AT_ONCE; u++)
        if (first + u * THREADS < packs) {
            float x[V];
            p[u].widen(x);
#pragma unroll
            for (int j = 0; j < V; j++)
                s.sum += exp_below<F>(x[j], m);
        }
}

DEV softsum merge(softsum a, softsum b)
{
    float m = fmaxf(a.max, b.max), shift = shift_of(m);
    // what has no maximum has a sum of 0, or of NaN
    return softsum{ m, a.sum * expf(a.max - shift) + b.sum * expf(b.max - shift) };
}

DEV softsum warp_merge(softsum s)
{
    for (int d = 16; d; d >>= 1)
        s = merge(s, softsum{ __shfl_xor_sync(~0u, s.max, d), __shfl_xor_sync(~0u, s.sum, d) });
    return s;
}

template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    rows_lse(const F *x, const int32_t *targets, float *nll, float *lse, float2 *stats,
             int64_t vocab, int64_t first)
{
    __shared__ softsum room[THREADS / 32];
    int64_t t = blockIdx.x, packs = vocab / V;
    softsum s = { -INFINITY, 0 };
    bool known = false;
    float hit = 0;
    x += t * vocab;
    if (threadIdx.x == 0) { // early: its latency is hidden
        int64_t y = targets[t] - first;
        known = y >= 0 && y < vocab;
        hit = known ? ld(x, y) : 0;
    }
    for (int64_t i = threadIdx.x; i < packs; i += THREADS * AT_ONCE) {
        pack<F, V> p[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            if (i + u * THREADS < packs)
                p[u].load(x, (i + u * THREADS) * V);
        take_all<F, V>(s, p, i, packs);
    }
    s = warp_merge(s);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    s = warp_merge(threadIdx.x < THREADS / 32 ? room[threadIdx.x] : softsum{ -INFINITY, 0 });
    if (threadIdx.x == 0) {
        float l = s.max + logf(s.sum);
        if (stats) {
            stats[t] = float2{ l, hit };
        } else {
            lse[t] = l;
            nll[t] = known ? l - hit : 0;
        }
    }
}

__global__ void __launch_bounds__(1024)
    sum_loss(const float *nll, const int32_t *targets, arr weight, float *loss, int64_t tokens,
             int64_t vocab)
{
    __shared__ double room[32];
    double sum = 0;
#pragma unroll 8
    for (int64_t t = threadIdx.x; t < tokens; t += 1024)
        if (targets[t] >= 0 && targets[t] < vocab)
            sum += (double)get(weight, t) * (double)nll[t];
    sum = block_sum_double(sum, room);
    if (threadIdx.x == 0)
        *loss = (float)sum;
}

static mr_status loss_run(RUN_ARGS)
{
    SELF;
    const int32_t *targets = (const int32_t *)in[1].data;
    float *nll = (float *)out[1].data, *lse = (float *)out[2].data;
    (void)ws;
    if (k->tokens)
        WITH_PACK(base->in_kind[0], k->vocab % WIDE_V == 0 && aligned16(in[0].data), (
            rows_lse<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                (const F *)in[0].data, targets, nll, lse, nullptr, k->vocab, 0)));
    sum_loss<<<1, 1024, 0, stream>>>(nll, targets, in_arr(base, in, 2), (float *)out[0].data,
                                     k->tokens, k->vocab);
    return cuda_launched(base, err);
}

// Of a part the scales are given, as (of the exponentials, of the target): dstats.
struct scales {
    const float *dloss, *lse;
    arr weight;
    const float2 *dstats, *stats;
    int64_t first;
};

template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    loss_bwd(const F *x, const int32_t *targets, scales g, F *dx, int64_t vocab)
{
    int64_t t = blockIdx.x, y = targets[t] - g.first;
    bool here = y >= 0 && y < vocab;
    float s = g.dstats ? g.dstats[t].x : here ? *g.dloss * get(g.weight, t) : 0;
    float at_target = g.dstats ? g.dstats[t].y : -s, l = g.dstats ? g.stats[t].x : g.lse[t];
    int64_t packs = vocab / V, hit = here ? y / V : -1; // the pack of the target
    x += t * vocab;
    dx += t * vocab;
    for (int64_t i = threadIdx.x; i < packs; i += THREADS * AT_ONCE) {
        pack<F, V> p[AT_ONCE];
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            if (s != 0 && i + u * THREADS < packs)
                p[u].load(x, (i + u * THREADS) * V);
#pragma unroll
        for (int u = 0; u < AT_ONCE; u++)
            if (int64_t c = i + u * THREADS; c < packs) {
                float v[V] = {};
                if (s != 0) { // a weight of 0 hides any logit
                    p[u].widen(v);
#pragma unroll
                    for (int j = 0; j < V; j++)
                        v[j] = s * exp_below<F>(v[j], l);
                    if (c == hit)
#pragma unroll
                        for (int j = 0; j < V; j++)
                            v[j] += j == y % V ? at_target : 0;
                }
                p[u].narrow(v);
                p[u].store(dx, c * V);
            }
    }
}

static mr_status loss_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_PACK(base->in_kind[0],
                  k->vocab % WIDE_V == 0 && aligned16(in[0].data, out[0].data), (
            loss_bwd<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                (const F *)in[0].data, (const int32_t *)in[2].data,
                scales{ (const float *)in[1].data, (const float *)in[4].data, in_arr(base, in, 3),
                        nullptr, nullptr, 0 },
                (F *)out[0].data, k->vocab)));
    return cuda_launched(base, err);
}

// ---- a part of the vocabulary ----------------------------------------------------------------
static mr_status part_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_PACK(base->in_kind[0], k->vocab % WIDE_V == 0 && aligned16(in[0].data), (
            rows_lse<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                (const F *)in[0].data, (const int32_t *)in[1].data, nullptr, nullptr,
                (float2 *)out[0].data, k->vocab, k->first)));
    return cuda_launched(base, err);
}

static mr_status part_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_PACK(base->in_kind[0],
                  k->vocab % WIDE_V == 0 && aligned16(in[0].data, out[0].data), (
            loss_bwd<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                (const F *)in[0].data, (const int32_t *)in[2].data,
                scales{ nullptr, nullptr, arr{}, (const float2 *)in[1].data,
                        (const float2 *)in[3].data, k->first },
                (F *)out[0].data, k->vocab)));
    return cuda_launched(base, err);
}

__global__ void __launch_bounds__(THREADS)
    merge_rows(const float2 *stats, const int32_t *targets, float *nll, float *lse, int64_t tokens,
               int64_t vocab, int64_t parts)
{
    int64_t t = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    softsum s = { -INFINITY, 0 };
    float hit = 0;
    if (t >= tokens)
        return;
    for (int64_t r = 0; r < parts; r++) { // e^lse is a sum of one
        float2 at = stats[r * tokens + t];
        s = merge(s, softsum{ at.x, 1 });
        hit += at.y;
    }
    float l = s.max + logf(s.sum);
    lse[t] = l;
    nll[t] = targets[t] >= 0 && targets[t] < vocab ? l - hit : 0;
}

__global__ void __launch_bounds__(THREADS)
    merge_bwd(const float *dloss, const float2 *stats, const int32_t *targets, arr weight,
              const float *lse, float2 *dstats, int64_t tokens, int64_t vocab, int64_t parts)
{
    int64_t t = blockIdx.x * (int64_t)THREADS + threadIdx.x;
    if (t >= tokens)
        return;
    float g = targets[t] >= 0 && targets[t] < vocab ? *dloss * get(weight, t) : 0;
    for (int64_t r = 0; r < parts; r++) {
        int64_t i = r * tokens + t;
        dstats[i] = float2{ g == 0 ? 0 : g * expf(stats[i].x - lse[t]), -g };
    }
}

static mr_status merge_run(RUN_ARGS)
{
    SELF;
    const int32_t *targets = (const int32_t *)in[1].data;
    float *nll = (float *)out[1].data;
    (void)ws;
    if (k->tokens)
        merge_rows<<<(unsigned)cuda_ceil(k->tokens, THREADS), THREADS, 0, stream>>>(
            (const float2 *)in[0].data, targets, nll, (float *)out[2].data, k->tokens, k->vocab,
            k->parts);
    sum_loss<<<1, 1024, 0, stream>>>(nll, targets, in_arr(base, in, 2), (float *)out[0].data,
                                     k->tokens, k->vocab);
    return cuda_launched(base, err);
}

static mr_status merge_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        merge_bwd<<<(unsigned)cuda_ceil(k->tokens, THREADS), THREADS, 0, stream>>>(
            (const float *)in[0].data, (const float2 *)in[1].data, (const int32_t *)in[2].data,
            in_arr(base, in, 3), (const float *)in[4].data, (float2 *)out[0].data, k->tokens,
            k->vocab, k->parts);
    return cuda_launched(base, err);
}

static mr_status shape(struct kernel *base, const mr_call *c)
{
    struct loss *k = (struct loss *)base;
    k->tokens = c->in[0]->dim[0];
    k->vocab = c->in[0]->dim[1];
    return MR_OK;
}

static mr_status loss_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    base->run = loss_run;
    return shape(base, c);
}

static mr_status loss_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    base->run = loss_bwd_run;
    return shape(base, c);
}

static mr_status part_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    base->run = c->n_in == 2 ? part_run : part_bwd_run;
    ((struct loss *)base)->first = mr_attr_i(c, "first", 0);
    return shape(base, c);
}

static mr_status merge_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct loss *k = (struct loss *)base;
    (void)err;
    base->run = c->n_in == 3 ? merge_run : merge_bwd_run;
    k->parts = mr_attr_i(c, "ranks", 1);
    k->vocab = mr_attr_i(c, "vocab", 0);
    k->tokens = c->in[c->n_in == 3 ? 1 : 2]->dim[0];
    return MR_OK;
}

const struct op_row cuda_loss_rows[] = {
    { "cross_entropy", "xix>fff", sizeof(struct loss), loss_prepare, 0, 0 },
    { "cross_entropy.bwd", "xfixf>x", sizeof(struct loss), loss_bwd_prepare, MR_K_INPLACE0, 0 },
    { "cross_entropy.part", "xi>f", sizeof(struct loss), part_prepare, 0, 0 },
    { "cross_entropy.part.bwd", "xfif>x", sizeof(struct loss), part_prepare, MR_K_INPLACE0, 0 },
    { "cross_entropy.merge", "fix>fff", sizeof(struct loss), merge_prepare, 0, 0 },
    { "cross_entropy.merge.bwd", "ffixf>f", sizeof(struct loss), merge_prepare, 0, 0 },
    {},
};
