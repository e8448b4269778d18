// SPDX-License-Identifier: Apache-2.0
//
// weighted.cu - swiglu and squared ReLU of routed rows times the row's probability, and their
// gradients (core/ops/weighted_act.c has the rounding points). Forward a thread has a few packs of
// 16 bytes; backward a warp has a row, whose probability's gradient it adds up. Bytes: operands
// once; floor: bytes / the copy bandwidth (131072 rows of 1024 in bf16 at 4.27 TB/s: swiglu 189 us,
// its gradient 314; srelu 126 and 189).

#include "pack.cuh"

struct weighted {
    struct kernel base;
    int64_t rows, width, stride, up_at; // width: F; up lies `up_at` after gate in rows of `stride`
    int fused;
};

struct weighted_args { // by value in a launch
    int64_t rows, width, stride;
    uint32_t packs; // of a row of y
};

template <int V> static weighted_args args_of(const struct weighted *k)
{
    return weighted_args{ k->rows, k->width, k->stride, (uint32_t)(k->width / V) };
}

#define SELF const struct weighted *k = (const struct weighted *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)
enum { U = 2 }; // packs a thread, of each operand

// for each pack u of this thread, which is at s
#define EACH_SPOT(s) \
    _Pragma("unroll") for (int u = 0; u < U; u++) \
        if (spot s = mine.at(u); s.row < a.rows)

// for each pack u of this lane from c0 on, number c of its row
#define EACH_OF_ROW(c) \
    _Pragma("unroll") for (int u = 0; u < U; u++) \
        if (uint32_t c = c0 + u * 32; c < a.packs)

DEV float relu(float x) // NaN stays NaN
{
    return x < 0 ? 0 : x;
}

// ---- weighted_swiglu ------------------------------------------------------------------------
template <typename F, int V>
KERNEL swiglu(const F *gate, const F *up, const float *probs, F *y, const weighted_args a)
{
    row_packs<U> mine(a.packs);
    pack<F, V> p[U], q[U];
    EACH_SPOT(s) {
        p[u].load(gate, s.row * a.stride + s.col * V);
        q[u].load(up, s.row * a.stride + s.col * V);
    }
    EACH_SPOT(s) {
        float g[V], w[V], by = probs[s.row];
        p[u].widen(g);
        q[u].widen(w);
#pragma unroll
        for (int j = 0; j < V; j++)
            g[j] = g[j] * sigmoid_for<F>(g[j]) * w[j] * by;
        p[u].narrow(g);
        p[u].store(y, s.row * a.width + s.col * V);
    }
}

template <typename F, int V>
KERNEL swiglu_bwd(const F *dy, const F *gate, const F *up, const float *probs, F *dgate, F *dup,
                  float *dprobs, const weighted_args a)
{
    int64_t r = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    if (r >= a.rows)
        return;
    float by = probs[r], sum = 0;
    dy += r * a.width;
    gate += r * a.stride, up += r * a.stride, dgate += r * a.stride, dup += r * a.stride;
    for (uint32_t c0 = threadIdx.x % 32; c0 < a.packs; c0 += 32 * U) {
        pack<F, V> o[U], p[U], q[U];
        EACH_OF_ROW(c) {
            o[u].load(dy, c * (int64_t)V);
            p[u].load(gate, c * (int64_t)V);
            q[u].load(up, c * (int64_t)V);
        }
        EACH_OF_ROW(c) {
            float d[V], g[V], w[V];
            o[u].widen(d);
            p[u].widen(g);
            q[u].widen(w);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float s = sigmoid_for<F>(g[j]), silu = g[j] * s;
                sum += d[j] * silu * w[j];
                d[j] *= by;
                w[j] = d[j] * w[j] * s * (1 + g[j] * (1 - s));
                d[j] *= silu;
            }
            p[u].narrow(w);
            q[u].narrow(d);
            p[u].store(dgate, c * (int64_t)V);
            q[u].store(dup, c * (int64_t)V);
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        dprobs[r] = sum;
}

static mr_status swiglu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows && k->width)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 &&
                  aligned16(in[0].data, in[2].data, out[0].data), {
            const F *gate = (const F *)in[0].data;
            const F *up = k->fused ? gate + k->up_at : (const F *)in[2].data;
            swiglu<F, V><<<pack_grid<U>(k->rows * (k->width / V)), THREADS, 0, stream>>>(
                gate, up, (const float *)in[1].data, (F *)out[0].data, args_of<V>(k));
        });
    return cuda_launched(base, err);
}

static unsigned row_grid(const struct weighted *k) // a warp a row
{
    return (unsigned)cuda_ceil(k->rows, THREADS / 32);
}

static mr_status swiglu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 &&
                  aligned16(in[0].data, in[1].data, in[3].data, out[0].data, out[2].data), {
            const F *gate = (const F *)in[1].data;
            const F *up = k->fused ? gate + k->up_at : (const F *)in[3].data;
            F *dgate = (F *)out[0].data;
            F *dup = k->fused ? dgate + k->up_at : (F *)out[2].data;
            swiglu_bwd<F, V><<<row_grid(k), THREADS, 0, stream>>>(
                (const F *)in[0].data, gate, up, (const float *)in[2].data, dgate, dup,
                (float *)out[1].data, args_of<V>(k));
        });
    return cuda_launched(base, err);
}

// ---- weighted_srelu -------------------------------------------------------------------------
template <typename F, int V>
KERNEL srelu(const F *x, const float *probs, F *y, const weighted_args a)
{
    row_packs<U> mine(a.packs);
    pack<F, V> p[U];
    EACH_SPOT(s)
        p[u].load(x, s.row * a.width + s.col * V);
    EACH_SPOT(s) {
        float v[V], by = probs[s.row];
        p[u].widen(v);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] = relu(v[j]) * relu(v[j]) * by;
        p[u].narrow(v);
        p[u].store(y, s.row * a.width + s.col * V);
    }
}

template <typename F, int V>
KERNEL srelu_bwd(const F *dy, const F *x, const float *probs, F *dx, float *dprobs,
                 const weighted_args a)
{
    int64_t r = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    if (r >= a.rows)
        return;
    float by = probs[r], sum = 0;
    dy += r * a.width, x += r * a.width, dx += r * a.width;
    for (uint32_t c0 = threadIdx.x % 32; c0 < a.packs; c0 += 32 * U) {
        pack<F, V> o[U], p[U];
        EACH_OF_ROW(c) {
            o[u].load(dy, c * (int64_t)V);
            p[u].load(x, c * (int64_t)V);
        }
        EACH_OF_ROW(c) {
            float d[V], v[V];
            o[u].widen(d);
            p[u].widen(v);
#pragma unroll
            for (int j = 0; j < V; j++) {
                v[j] = relu(v[j]);
                sum += d[j] * round_to((const F *)nullptr, v[j] * v[j]);
                v[j] = d[j] * by * 2 * v[j];
            }
            p[u].narrow(v);
            p[u].store(dx, c * (int64_t)V);
        }
    }
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        dprobs[r] = sum;
}

static mr_status srelu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows && k->width)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 && aligned16(in[0].data, out[0].data), (
            srelu<F, V><<<pack_grid<U>(k->rows * (k->width / V)), THREADS, 0, stream>>>(
                (const F *)in[0].data, (const float *)in[1].data, (F *)out[0].data,
                args_of<V>(k))));
    return cuda_launched(base, err);
}

static mr_status srelu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows)
        WITH_PACK(base->in_kind[0],
                  k->width % WIDE_V == 0 && aligned16(in[0].data, in[1].data, out[0].data), (
            srelu_bwd<F, V><<<row_grid(k), THREADS, 0, stream>>>(
                (const F *)in[0].data, (const F *)in[1].data, (const float *)in[2].data,
                (F *)out[0].data, (float *)out[1].data, args_of<V>(k))));
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status shape(struct weighted *k, const mr_type *x, bool fused, mr_err *err)
{
    k->rows = mr_rows(x);
    k->stride = mr_last(x);
    k->fused = fused;
    k->width = fused ? k->stride / 2 : k->stride;
    k->up_at = fused ? k->width : 0;
    return packs_fit(&k->base, k->rows * k->width, k->width, err);
}

static mr_status swiglu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    bool fused = !(base->present >> 2 & 1);
    mr_status bad = same_kinds(base, 5, err);
    base->run = swiglu_run;
    return bad ? bad : shape((struct weighted *)base, c->in[0], fused, err);
}

static mr_status swiglu_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    bool fused = !(base->present >> 3 & 1);
    mr_status bad = same_kinds(base, 11, err);
    base->run = swiglu_bwd_run;
    return bad ? bad : shape((struct weighted *)base, c->in[1], fused, err);
}

static mr_status srelu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = srelu_run;
    return shape((struct weighted *)base, c->in[0], false, err);
}

static mr_status srelu_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status bad = same_kinds(base, 3, err);
    base->run = srelu_bwd_run;
    return bad ? bad : shape((struct weighted *)base, c->in[1], false, err);
}

const struct op_row cuda_weighted_rows[] = {
    { "weighted_swiglu", "xfX>x", sizeof(struct weighted), swiglu_prepare, 0, 0 },
    { "weighted_swiglu.bwd", "xxfX>xfX", sizeof(struct weighted), swiglu_bwd_prepare, 0, 0 },
    { "weighted_srelu", "xf>x", sizeof(struct weighted), srelu_prepare, MR_K_INPLACE0, 0 },
    { "weighted_srelu.bwd", "xxf>xf", sizeof(struct weighted), srelu_bwd_prepare, MR_K_INPLACE0,
      0 },
    {},
};
