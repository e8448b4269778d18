// SPDX-License-Identifier: Apache-2.0
//
// permute_add.cu - routed rows back to their tokens with what is added to them, and the gradients
// of permute in one reading of its rows. A token's row is held in registers (rows.cuh) while its
// K routed rows pass by. Bytes of T = R = 16384, D = 2048, bf16: unpermute_add with two summands
// 268 MB, permute.bwd with one the same; floor at 4.27 TB/s 63 us each. A slot out of range makes
// its token NaN: the run's checks find it.

#include "rows.cuh"

struct permute_add {
    struct kernel base;
    int64_t rows, tokens, width, per_token;
};

#define SELF const struct permute_add *k = (const struct permute_add *)base

// GRAD: dprobs too, which needs x. `a` and `b` may be absent.
template <typename F, int L, int K, int V, bool GRAD>
__global__ void __launch_bounds__(THREADS)
    gather_add(const F *a, const F *b, const F *y, const F *x, const int32_t *slots,
               const float *probs, F *out, float *dprobs, int64_t tokens, int64_t n_rows, int n,
               int per_token)
{
    constexpr int G = THREADS / L;
    __shared__ __align__(16) float room[2][G][32];
    const int group = threadIdx.x / L, lane = threadIdx.x % L;
    const int64_t t = blockIdx.x * (int64_t)G + group;
    const bool on = t < tokens;
    pack<F, V> pa[K], pb[K], px[K];
    float sum[K][V] = {}, v[V], u[V];
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int at = (k * L + lane) * V;
        const bool there = on && at < n;
        if (a)
            load<F, V>(pa[k], a + t * n + at, there);
        if (b)
            load<F, V>(pb[k], b + t * n + at, there);
        if (GRAD)
            load<F, V>(px[k], x + t * n + at, there);
    }
    for (int i = 0; i < per_token; i++) {
        const int64_t pair = t * per_token + i, r = on ? slots[pair] : 0;
        const bool known = r >= 0 && r < n_rows;
        const float p = !known ? nanf("") : probs && on ? probs[pair] : 1;
        float dot = known ? 0 : nanf("");
        pack<F, V> py[K];
#pragma unroll
        for (int k = 0; k < K; k++)
            load<F, V>(py[k], y + (known ? r : 0) * n + (k * L + lane) * V,
                       on && (k * L + lane) * V < n);
#pragma unroll
        for (int k = 0; k < K; k++) {
            unpack<F, V>(py[k], v);
            if (GRAD)
                unpack<F, V>(px[k], u);
#pragma unroll
            for (int j = 0; j < V; j++) {
                sum[k][j] += v[j] * p;
                if (GRAD)
                    dot += v[j] * u[j];
            }
        }
        if (GRAD) {
            dot = row_sum<L>(dot, room[i & 1][group], 1 + group);
            if (on && !lane)
                dprobs[pair] = dot;
        }
    }
#pragma unroll
    for (int k = 0; k < K; k++) {
        const int at = (k * L + lane) * V;
        if (!on || at >= n)
            break;
        if (a) {
            unpack<F, V>(pa[k], v);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[k][j] += v[j];
        }
        if (b) {
            unpack<F, V>(pb[k], v);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[k][j] += v[j];
        }
        stv<V>(out + t * n, at, sum[k]);
    }
}

// permute.bwd of one routed row a token. What a token reads is asked for while the token before is
// at work, and where its row lies a turn earlier still.
template <typename F, int K, int V> struct asked {
    pack<F, V> a[K], y[K], x[K];
    float p;
    bool known; // is the slot in range?
};

template <typename F, int L, int K, int V, int B, int MIN>
__global__ void __launch_bounds__(B, MIN)
    turn_back(const F *a, const F *y, const F *x, const int32_t *slots, const float *probs, F *out,
              float *dprobs, int64_t tokens, int64_t n_rows, int n)
{
    constexpr int G = B / L;
    __shared__ __align__(16) float room[2][G][32];
    const int group = threadIdx.x / L, lane = threadIdx.x % L;
    const int64_t step = gridDim.x * (int64_t)G;
    int64_t t = blockIdx.x * (int64_t)G + group;
    int turn = 0;
    auto slot_of = [&](int64_t token) { return token < tokens ? slots[token] : 0; };
    auto ask = [&](asked<F, K, V> &w, int64_t token, int64_t r) {
        const bool on = token < tokens;
        w.known = r >= 0 && r < n_rows;
        w.p = !w.known ? nanf("") : probs && on ? probs[token] : 1;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int at = (k * L + lane) * V;
            const bool there = on && at < n;
            if (a)
                load<F, V>(w.a[k], a + token * n + at, there);
            load<F, V>(w.x[k], x + token * n + at, there);
            load<F, V>(w.y[k], y + (w.known ? r : 0) * n + at, there);
        }
    };
    asked<F, K, V> next;
    ask(next, t, slot_of(t));
    int32_t r = slot_of(t + step);
    for (; t - group < tokens; t += step) {
        const asked<F, K, V> now = next;
        float v[V], u[V], dot = now.known ? 0 : nanf("");
        ask(next, t + step, r);
        r = slot_of(t + 2 * step);
#pragma unroll
        for (int k = 0; k < K; k++) {
            unpack<F, V>(now.y[k], v);
            unpack<F, V>(now.x[k], u);
#pragma unroll
            for (int j = 0; j < V; j++)
                dot += v[j] * u[j];
        }
        dot = row_sum<L>(dot, room[turn][group], 1 + group);
        turn ^= 1;
        if (t < tokens && !lane)
            dprobs[t] = dot;
#pragma unroll
        for (int k = 0; k < K; k++) {
            const int at = (k * L + lane) * V;
            if (at >= n || t >= tokens)
                break;
            unpack<F, V>(now.y[k], v);
            if (a)
                unpack<F, V>(now.a[k], u);
#pragma unroll
            for (int j = 0; j < V; j++)
                v[j] = v[j] * now.p + (a ? u[j] : 0);
            stv<V>(out + t * n, at, v);
        }
    }
}

// Without sums over the row its lanes need not stand together; with them fewer lanes wait.
#define BY_ROW(grad, n, ...) \
    do { \
        if ((n) % WIDE_V) { \
            constexpr int L = 256, K = 4, V = 1; \
            __VA_ARGS__; \
        } else { \
            constexpr int V = WIDE_V; \
            if ((n) <= 512) { \
                constexpr int L = 32, K = 2; \
                __VA_ARGS__; \
            } else if ((n) <= 2048) { \
                constexpr int L = grad ? 64 : 256, K = grad ? 4 : 1; \
                __VA_ARGS__; \
            } else { \
                constexpr int L = 256, K = 4; \
                __VA_ARGS__; \
            } \
        } \
    } while (0)

template <bool GRAD>
static mr_status run(const struct permute_add *k, const mr_buf *a, const mr_buf *b, const mr_buf *y,
                     const mr_buf *x, const mr_buf *slots, const mr_buf *probs, const mr_buf *out,
                     cudaStream_t stream, mr_err *err)
{
    if (k->tokens)
        WITH_TYPE(k->base.out_kind[0], BY_ROW(GRAD, k->width, {
            gather_add<F, L, K, V, GRAD>
                <<<(unsigned)cuda_ceil(k->tokens, THREADS / L), THREADS, 0, stream>>>(
                    (const F *)a->data, b ? (const F *)b->data : nullptr, (const F *)y->data,
                    x ? (const F *)x->data : nullptr, (const int32_t *)slots->data,
                    (const float *)probs->data, (F *)out[0].data,
                    GRAD ? (float *)out[1].data : nullptr, k->tokens, k->rows, (int)k->width,
                    (int)k->per_token);
        }));
    return cuda_launched(&k->base, err);
}

static mr_status unpermute_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    return run<false>(k, &in[0], &in[1], &in[2], nullptr, &in[4], &in[5], out, stream, err);
}

// Blocks that reside at once, each with its share of the tokens.
static mr_status turn_back_run(RUN_ARGS)
{
    SELF;
    constexpr int L = 128, K = 2, V = WIDE_V, B = 256, MIN = 2;
    const int64_t most = base->dev->sms * MIN, blocks = cuda_ceil(k->tokens, B / L);
    (void)ws;
    if (k->tokens)
        WITH_TYPE(base->out_kind[0],
                  (turn_back<F, L, K, V, B, sizeof(F) == 2 ? MIN : 1>
                   <<<(unsigned)(blocks < most ? blocks : most), B, 0, stream>>>(
                       (const F *)in[0].data, (const F *)in[1].data, (const F *)in[2].data,
                       (const int32_t *)in[4].data, (const float *)in[5].data, (F *)out[0].data,
                       (float *)out[1].data, k->tokens, k->rows, (int)k->width)));
    return cuda_launched(base, err);
}

static mr_status bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    return run<true>(k, &in[0], nullptr, &in[1], &in[2], &in[4], &in[5], out, stream, err);
}

static mr_status shape(struct kernel *base, const mr_type *token, const mr_type *row, mr_err *err)
{
    struct permute_add *k = (struct permute_add *)base;
    k->tokens = token->dim[0];
    k->rows = row->dim[0];
    k->width = row->dim[1];
    k->per_token = k->tokens ? k->rows / k->tokens : 1;
    if (!rows_fit(k->width))
        return cuda_refuse(base, err, "rows above 8192 values, or 1024 if no multiple of 8");
    return MR_OK;
}

static mr_status unpermute_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = unpermute_run;
    return shape(base, c->in[0], c->in[2], err);
}

static mr_status bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    const struct permute_add *k = (const struct permute_add *)base;
    mr_status st = shape(base, c->in[2], c->in[1], err);
    base->run = k->per_token == 1 && k->width % WIDE_V == 0 && k->width <= 2048 ? turn_back_run
                                                                                 : bwd_run;
    return st;
}

// in place: a thread has read its part of a before it writes there, and nobody else reads it
const struct op_row cuda_permute_add_rows[] = {
    { "unpermute_add", "xXxiiF>x", sizeof(struct permute_add), unpermute_prepare, MR_K_INPLACE0,
      0 },
    { "permute.bwd", "Xxxiif>xf", sizeof(struct permute_add), bwd_prepare, 0, 0 },
    {},
};
