// SPDX-License-Identifier: Apache-2.0
//
// pointwise.cu - add, cast, store, accumulate, swiglu and its gradient: a thread has a few packs of
// 16 bytes an operand, all loaded before the first is used, or single elements where sizes do not
// allow. Bytes: operands once; floor: bytes / the copy bandwidth (swiglu of 16384 x
// 4096 bf16 moves 403 MB, its gradient 671: 94 and 157 us at 4.27 TB/s).

#include "pack.cuh"

struct pointwise {
    struct kernel base;
    int64_t n, width, stride, up_at; // swiglu: F, distance of gate's rows, where up starts
    int fused, wide;                 // wide: integers take part, so values go through double
};

#define SELF const struct pointwise *k = (const struct pointwise *)base
#define LAUNCH(kernel, U, ...) \
    kernel<<<pack_grid<U>(k->n / V), THREADS, 0, stream>>>(__VA_ARGS__)
#define KERNEL __global__ void __launch_bounds__(THREADS)

// Runs STATEMENT with F and V: 16 bytes at a time if sizes and `addresses` (in parentheses) allow.
#define WITH_F_V(kind, addresses, ...) \
    WITH_PACK(kind, k->n % WIDE_V == 0 && aligned16 addresses, __VA_ARGS__)

// ---- add, accumulate ----------------------------------------------------------------------
template <typename F, int V, int U> KERNEL add(const F *a, const F *b, F *y, int64_t packs)
{
    pack<F, V> p[U], q[U];
    EACH_PACK(c, packs) {
        p[u].load(a, c * V);
        q[u].load(b, c * V);
    }
    EACH_PACK(c, packs) {
        float s[V], t[V];
        p[u].widen(s);
        q[u].widen(t);
#pragma unroll
        for (int j = 0; j < V; j++)
            s[j] += t[j];
        p[u].narrow(s);
        p[u].store(y, c * V);
    }
}

static mr_status add_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->n)
        WITH_F_V(base->in_kind[0], (in[0].data, in[1].data, out[0].data),
                 LAUNCH((add<F, V, 2>), 2, (const F *)in[0].data, (const F *)in[1].data,
                        (F *)out[0].data, k->n / V));
    return cuda_launched(base, err);
}

template <typename F, int V, int U> KERNEL accumulate(const F *x, float *dst, int64_t packs)
{
    pack<F, V> p[U];
    pack<float, V> q[U];
    EACH_PACK(c, packs) {
        p[u].load(x, c * V);
        q[u].load(dst, c * V);
    }
    EACH_PACK(c, packs) {
        float s[V], t[V];
        p[u].widen(s);
        q[u].widen(t);
#pragma unroll
        for (int j = 0; j < V; j++)
            t[j] += s[j];
        q[u].narrow(t);
        q[u].store(dst, c * V);
    }
}

static mr_status accumulate_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    if (k->n)
        WITH_F_V(base->in_kind[0], (in[0].data, in[1].data),
                 LAUNCH((accumulate<F, V, 2>), 2, (const F *)in[0].data, (float *)in[1].data,
                        k->n / V));
    return cuda_launched(base, err);
}

// ---- cast, store --------------------------------------------------------------------------
DEV double get_wide(arr a, int64_t i)
{
    return a.kind == CUDA_I32 ? (double)((const int32_t *)a.p)[i] : (double)get(a, i);
}

DEV void put_wide(arr a, int64_t i, double x)
{
    if (a.kind == CUDA_I32)
        ((int32_t *)a.p)[i] = (int32_t)x;
    else
        put(a, i, (float)x);
}

__global__ void cast_wide(arr x, arr y, const float *ok, int64_t n)
{
    if (ok && *ok == 0)
        return;
    GRID_LOOP(i, n)
        put_wide(y, i, get_wide(x, i));
}

template <typename X, typename Y, int V, int U>
KERNEL cast(const X *x, Y *y, const float *ok, int64_t packs)
{
    pack<X, V> p[U];
    EACH_PACK(c, packs)
        p[u].load(x, c * V);
    if (ok && *ok == 0)
        return;
    EACH_PACK(c, packs) {
        float s[V];
        pack<Y, V> q;
        p[u].widen(s);
        q.narrow(s);
        q.store(y, c * V);
    }
}

template <typename X, typename Y>
static void cast_packs(const struct pointwise *k, arr x, arr y, const float *ok,
                       cudaStream_t stream)
{
    WITH_V(k->n % WIDE_V == 0 && aligned16(x.p, y.p),
           LAUNCH((cast<X, Y, V, 2>), 2, (const X *)x.p, (Y *)y.p, ok, k->n / V));
}

static mr_status cast_to(const struct pointwise *k, arr x, arr y, const void *okay,
                         cudaStream_t stream, mr_err *err)
{
    const float *ok = (const float *)okay;
    if (k->wide)
        cast_wide<<<grid_for(k->n), THREADS, 0, stream>>>(x, y, ok, k->n);
    else if (k->n && y.kind == CUDA_BF16)
        WITH_TYPE(x.kind, (cast_packs<F, bf16>(k, x, y, ok, stream)));
    else if (k->n)
        WITH_TYPE(x.kind, (cast_packs<F, float>(k, x, y, ok, stream)));
    return cuda_launched(&k->base, err);
}

static mr_status cast_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    return cast_to(k, in_arr(base, in, 0), out_arr(base, out, 0), nullptr, stream, err);
}

static mr_status store_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    return cast_to(k, in_arr(base, in, 0), in_arr(base, in, 1), in[2].data, stream, err);
}

// ---- swiglu -------------------------------------------------------------------------------
// Rows of y are F wide; gate and up lie in rows of `stride`.
template <typename F, int V, int U>
KERNEL swiglu(const F *gate, const F *up, F *y, int64_t rows, uint32_t per_row, int64_t stride)
{
    row_packs<U> mine(per_row);
    pack<F, V> g[U], w[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < rows) {
            g[u].load(gate, s.row * stride + s.col * V);
            w[u].load(up, s.row * stride + s.col * V);
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < rows) {
            float a[V], b[V];
            g[u].widen(a);
            w[u].widen(b);
#pragma unroll
            for (int j = 0; j < V; j++)
                a[j] = a[j] * sigmoid_for<F>(a[j]) * b[j];
            g[u].narrow(a);
            g[u].store(y, (s.row * per_row + s.col) * V);
        }
}

template <typename F, int V, int U>
KERNEL swiglu_bwd(const F *dy, const F *gate, const F *up, F *dgate, F *dup, int64_t rows,
                  uint32_t per_row, int64_t stride)
{
    row_packs<U> mine(per_row);
    pack<F, V> d[U], g[U], w[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < rows) {
            d[u].load(dy, (s.row * per_row + s.col) * V);
            g[u].load(gate, s.row * stride + s.col * V);
            w[u].load(up, s.row * stride + s.col * V);
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < rows) {
            float a[V], b[V], c[V];
            d[u].widen(a);
            g[u].widen(b);
            w[u].widen(c);
#pragma unroll
            for (int j = 0; j < V; j++) {
                float sig = sigmoid_for<F>(b[j]);
                c[j] = a[j] * c[j] * sig * (1 + b[j] * (1 - sig));
                a[j] *= b[j] * sig;
            }
            w[u].narrow(c);
            d[u].narrow(a);
            w[u].store(dgate, s.row * stride + s.col * V);
            d[u].store(dup, s.row * stride + s.col * V);
        }
}

static mr_status swiglu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->n)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 &&
                  aligned16(in[0].data, in[1].data, out[0].data), {
            const F *gate = (const F *)in[0].data;
            const F *up = k->fused ? gate + k->up_at : (const F *)in[1].data;
            LAUNCH((swiglu<F, V, 2>), 2, gate, up, (F *)out[0].data, k->n / k->width,
                   (uint32_t)(k->width / V), k->stride);
        });
    return cuda_launched(base, err);
}

static mr_status swiglu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->n)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 &&
                  aligned16(in[0].data, in[1].data, in[2].data, out[0].data, out[1].data), {
            const F *gate = (const F *)in[1].data;
            F *dgate = (F *)out[0].data;
            const F *up = k->fused ? gate + k->up_at : (const F *)in[2].data;
            F *dup = k->fused ? dgate + k->up_at : (F *)out[1].data;
            LAUNCH((swiglu_bwd<F, V, 2>), 2, (const F *)in[0].data, gate, up, dgate, dup,
                   k->n / k->width, (uint32_t)(k->width / V), k->stride);
        });
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
#define PREPARE(name, body) \
    static mr_status name##_prepare(struct kernel *base, const mr_call *c, mr_err *err) \
    { \
        struct pointwise *k = (struct pointwise *)base; \
        k->n = mr_numel(c->in[0]); \
        base->run = name##_run; \
        body; \
        return packs_fit(base, k->n, k->width, err); \
    }

static bool is_wide(int a, int b)
{
    return a == CUDA_I32 || b == CUDA_I32;
}

#define SAME_KINDS(inputs) \
    if (same_kinds(base, inputs, err)) \
        return MR_E_UNSUPPORTED

PREPARE(add, SAME_KINDS(3))
PREPARE(accumulate, )
PREPARE(cast, k->wide = is_wide(base->in_kind[0], base->out_kind[0]))
PREPARE(store, k->wide = is_wide(base->in_kind[0], base->in_kind[1]))

static void halves(struct pointwise *k, const mr_call *c, uint32_t gate)
{
    k->fused = c->n_in <= gate + 1 || !c->in[gate + 1];
    k->stride = mr_last(c->in[gate]);
    k->width = k->fused ? k->stride / 2 : k->stride;
    k->up_at = k->width;
}

PREPARE(swiglu, halves(k, c, 0); k->n = mr_numel(c->out[0]); SAME_KINDS(3))
PREPARE(swiglu_bwd, halves(k, c, 1); SAME_KINDS(7))

#define ROW(id, sig, name, flags) \
    { id, sig, sizeof(struct pointwise), name##_prepare, flags, 0 }

const struct op_row cuda_pointwise_rows[] = {
    ROW("add", "xx>x", add, MR_K_INPLACE0),
    ROW("accumulate", "xf>", accumulate, 0),
    ROW("cast", "n>n", cast, 0),
    ROW("store", "nnF>", store, 0),
    ROW("swiglu", "xX>x", swiglu, 0),
    ROW("swiglu.bwd", "xxX>xX", swiglu_bwd, 0),
    {},
};
