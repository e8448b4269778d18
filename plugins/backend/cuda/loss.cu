// SPDX-License-Identifier: Apache-2.0
//
// loss.cu - cross entropy: one pass over a row of logits keeps its maximum and the sum of
// exponentials together, a block a row; the loss is added in double by one block, in a fixed
// order. Backward is element by element and may write over the logits. Bytes: forward the logits
// once, backward twice; floor: bytes / 3.35 TB/s (16384 x 32768 bf16: 320 us and 640 us).

#include "vec.cuh"

struct loss {
    struct kernel base;
    int64_t tokens, vocab;
};

#define SELF const struct loss *k = (const struct loss *)base

// The sum of e^x so far, as sum times e^max. Maxima pass over NaN, sums do not.
struct softsum {
    float max, sum;
};

// V at once: one rescaling for all of them
template <int V> DEV void take_all(softsum &s, const float x[V])
{
    float m = s.max;
#pragma unroll
    for (int j = 0; j < V; j++)
        m = fmaxf(m, x[j]);
    if (m > s.max) {
        s.sum *= expf(s.max - m);
        s.max = m;
    }
#pragma unroll
    for (int j = 0; j < V; j++)
        s.sum += x[j] == -INFINITY ? 0 : expf(x[j] - s.max);
}

DEV softsum merge(softsum a, softsum b)
{
    float m = fmaxf(a.max, b.max);
    float fa = a.max == -INFINITY ? 0 : expf(a.max - m), fb = b.max == -INFINITY ? 0
                                                                                : expf(b.max - m);
    // what has no maximum has a sum of 0, or of NaN
    return softsum{ m, a.sum * fa + b.sum * fb };
}

DEV softsum warp_merge(softsum s)
{
    for (int d = 16; d; d >>= 1)
        s = merge(s, softsum{ __shfl_xor_sync(~0u, s.max, d), __shfl_xor_sync(~0u, s.sum, d) });
    return s;
}

template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    rows_lse(const F *x, const int32_t *targets, float *nll, float *lse, int64_t vocab)
{
    __shared__ softsum room[THREADS / 32];
    int64_t t = blockIdx.x;
    softsum s = { -INFINITY, 0 };
    x += t * vocab;
    for (int64_t i = threadIdx.x * V; i < vocab; i += THREADS * V) {
        float v[V];
        ldv<V>(x, i, v);
        take_all<V>(s, v);
    }
    s = warp_merge(s);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = s;
    __syncthreads();
    if (threadIdx.x >= 32)
        return;
    s = warp_merge(threadIdx.x < THREADS / 32 ? room[threadIdx.x] : softsum{ -INFINITY, 0 });
    if (threadIdx.x == 0) {
        int y = targets[t];
        float l = s.max + logf(s.sum);
        lse[t] = l;
        nll[t] = y >= 0 && y < vocab ? l - ld(x, y) : 0;
    }
}

__global__ void __launch_bounds__(1024)
    sum_loss(const float *nll, const int32_t *targets, arr weight, float *loss, int64_t tokens,
             int64_t vocab)
{
    __shared__ double room[32];
    double sum = 0;
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
        WITH_V(k->vocab % WIDE_V == 0 && aligned16(in[0].data), WITH_TYPE(base->in_kind[0], (
            rows_lse<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                (const F *)in[0].data, targets, nll, lse, k->vocab))));
    sum_loss<<<1, 1024, 0, stream>>>(nll, targets, in_arr(base, in, 2), (float *)out[0].data,
                                     k->tokens, k->vocab);
    return cuda_launched(base, err);
}

template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    loss_bwd(const F *x, const float *dloss, const int32_t *targets, arr weight, const float *lse,
             F *dx, int64_t vocab)
{
    int64_t t = blockIdx.x, y = targets[t];
    float s = y >= 0 && y < vocab ? *dloss * get(weight, t) : 0, l = lse[t];
    x += t * vocab;
    dx += t * vocab;
    for (int64_t i = threadIdx.x * V; i < vocab; i += THREADS * V) {
        float v[V];
        ldv<V>(x, i, v);
#pragma unroll
        for (int j = 0; j < V; j++) // a weight of 0 hides any logit
            v[j] = s == 0 ? 0 : s * (expf(v[j] - l) - (i + j == y ? 1.0f : 0.0f));
        stv<V>(dx, i, v);
    }
}

static mr_status loss_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_V(k->vocab % WIDE_V == 0 && aligned16(in[0].data, out[0].data),
               WITH_TYPE(base->in_kind[0], (
            loss_bwd<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                (const F *)in[0].data, (const float *)in[1].data, (const int32_t *)in[2].data,
                in_arr(base, in, 3), (const float *)in[4].data, (F *)out[0].data, k->vocab))));
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

const struct op_row cuda_loss_rows[] = {
    { "cross_entropy", "xix>fff", sizeof(struct loss), loss_prepare, 0, 0 },
    { "cross_entropy.bwd", "xfixf>x", sizeof(struct loss), loss_bwd_prepare, MR_K_INPLACE0, 0 },
    {},
};
