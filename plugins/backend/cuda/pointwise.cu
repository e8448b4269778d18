// SPDX-License-Identifier: Apache-2.0
//
// pointwise.cu - add, cast, store, accumulate, swiglu, gelu and their gradients: a thread
// has 8 neighbouring elements, or 1 where sizes do not allow. Bytes: operands once; floor: bytes /
// 3.35 TB/s (an H100; add of 16384 x 2048 bf16 moves 201 MB: 60 us).

#include "vec.cuh"

struct pointwise {
    struct kernel base;
    int64_t n, width, stride, up_at; // swiglu: F, distance of gate's rows, where up starts
    int fused, approx, wide;         // wide: integers take part, so values go through double
};

#define SELF const struct pointwise *k = (const struct pointwise *)base
#define LAUNCH(kernel, ...) kernel<<<grid_for(k->n / V), THREADS, 0, stream>>>(__VA_ARGS__)

// Runs STATEMENT with F and V: 8 elements at a time if sizes and `addresses` (in parentheses)
// allow.
#define WITH_F_V(kind, addresses, ...) \
    WITH_V(k->n % WIDE_V == 0 && aligned16 addresses, WITH_TYPE(kind, __VA_ARGS__))

// ---- add, accumulate ----------------------------------------------------------------------
template <typename F, int V> __global__ void add(const F *a, const F *b, F *y, int64_t n)
{
    GRID_LOOP(c, n / V) {
        float p[V], q[V];
        ldv<V>(a, c * V, p);
        ldv<V>(b, c * V, q);
#pragma unroll
        for (int j = 0; j < V; j++)
            p[j] += q[j];
        stv<V>(y, c * V, p);
    }
}

static mr_status add_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_F_V(base->in_kind[0], (in[0].data, in[1].data, out[0].data),
             LAUNCH((add<F, V>), (const F *)in[0].data, (const F *)in[1].data, (F *)out[0].data,
                    k->n));
    return cuda_launched(base, err);
}

template <typename F, int V> __global__ void accumulate(const F *x, float *dst, int64_t n)
{
    GRID_LOOP(c, n / V) {
        float p[V], q[V];
        ldv<V>(x, c * V, p);
        ldv<V>(dst, c * V, q);
#pragma unroll
        for (int j = 0; j < V; j++)
            q[j] += p[j];
        stv<V>(dst, c * V, q);
    }
}

static mr_status accumulate_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    WITH_F_V(base->in_kind[0], (in[0].data, in[1].data),
             LAUNCH((accumulate<F, V>), (const F *)in[0].data, (float *)in[1].data, k->n));
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

template <int V> __global__ void cast(arr x, arr y, const float *ok, int64_t n)
{
    if (ok && *ok == 0)
        return;
    GRID_LOOP(c, n / V) {
        float p[V];
        getv<V>(x, c * V, p);
        if (y.kind == CUDA_BF16)
            stv<V>((bf16 *)y.p, c * V, p);
        else
            stv<V>((float *)y.p, c * V, p);
    }
}

static mr_status cast_to(const struct pointwise *k, arr x, arr y, const void *ok,
                         cudaStream_t stream, mr_err *err)
{
    if (k->wide)
        cast_wide<<<grid_for(k->n), THREADS, 0, stream>>>(x, y, (const float *)ok, k->n);
    else
        WITH_V(k->n % WIDE_V == 0 && aligned16(x.p, y.p),
               LAUNCH(cast<V>, x, y, (const float *)ok, k->n));
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
// Element i of y is (row i / F, column i % F); gate and up lie in rows of `stride`.
template <typename F, int V>
__global__ void swiglu(const F *gate, const F *up, F *y, int64_t n, int64_t width, int64_t stride)
{
    GRID_LOOP(c, n / V) {
        int64_t i = c * V, at = i / width * stride + i % width;
        float g[V], u[V];
        ldv<V>(gate, at, g);
        ldv<V>(up, at, u);
#pragma unroll
        for (int j = 0; j < V; j++)
            g[j] = g[j] * sigmoid(g[j]) * u[j];
        stv<V>(y, i, g);
    }
}

template <typename F, int V>
__global__ void swiglu_bwd(const F *dy, const F *gate, const F *up, F *dgate, F *dup, int64_t n,
                           int64_t width, int64_t stride)
{
    GRID_LOOP(c, n / V) {
        int64_t i = c * V, at = i / width * stride + i % width;
        float d[V], g[V], u[V];
        ldv<V>(dy, i, d);
        ldv<V>(gate, at, g);
        ldv<V>(up, at, u);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float s = sigmoid(g[j]);
            u[j] = d[j] * u[j] * s * (1 + g[j] * (1 - s));
            d[j] *= g[j] * s;
        }
        stv<V>(dgate, at, u);
        stv<V>(dup, at, d);
    }
}

static mr_status swiglu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_V(k->width % WIDE_V == 0 && aligned16(in[0].data, in[1].data, out[0].data),
           WITH_TYPE(base->in_kind[0], {
               const F *gate = (const F *)in[0].data;
               const F *up = k->fused ? gate + k->up_at : (const F *)in[1].data;
               LAUNCH((swiglu<F, V>), gate, up, (F *)out[0].data, k->n, k->width, k->stride);
           }));
    return cuda_launched(base, err);
}

static mr_status swiglu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_V(k->width % WIDE_V == 0 && aligned16(in[0].data, in[1].data, in[2].data, out[0].data,
                                               out[1].data),
           WITH_TYPE(base->in_kind[0], {
               const F *gate = (const F *)in[1].data;
               F *dgate = (F *)out[0].data;
               const F *up = k->fused ? gate + k->up_at : (const F *)in[2].data;
               F *dup = k->fused ? dgate + k->up_at : (F *)out[1].data;
               LAUNCH((swiglu_bwd<F, V>), (const F *)in[0].data, gate, up, dgate, dup, k->n,
                      k->width, k->stride);
           }));
    return cuda_launched(base, err);
}

// ---- gelu ---------------------------------------------------------------------------------
static constexpr float ROOT_2_OVER_PI = 0.79788456080286535588f, CUBIC = 0.044715f;
static constexpr float ROOT_HALF = 0.70710678118654752440f;

DEV float gelu_of(float z, int approx)
{
    return z * (approx ? 0.5f * (1 + tanhf(ROOT_2_OVER_PI * (z + CUBIC * z * z * z)))
                       : 0.5f * erfcf(-z * ROOT_HALF));
}

DEV float gelu_slope(float z, int approx)
{
    if (approx) {
        float t = tanhf(ROOT_2_OVER_PI * (z + CUBIC * z * z * z));
        return 0.5f * (1 + t) + 0.5f * z * (1 - t * t) * ROOT_2_OVER_PI * (1 + 3 * CUBIC * z * z);
    }
    return 0.5f * erfcf(-z * ROOT_HALF) + z * expf(-0.5f * z * z) * 0.5f * ROOT_2_OVER_PI;
}

template <typename F, int V> __global__ void gelu(const F *x, F *y, int64_t n, int approx)
{
    GRID_LOOP(c, n / V) {
        float z[V];
        ldv<V>(x, c * V, z);
#pragma unroll
        for (int j = 0; j < V; j++)
            z[j] = gelu_of(z[j], approx);
        stv<V>(y, c * V, z);
    }
}

template <typename F, int V>
__global__ void gelu_bwd(const F *dy, const F *x, F *dx, int64_t n, int approx)
{
    GRID_LOOP(c, n / V) {
        float d[V], z[V];
        ldv<V>(dy, c * V, d);
        ldv<V>(x, c * V, z);
#pragma unroll
        for (int j = 0; j < V; j++)
            d[j] *= gelu_slope(z[j], approx);
        stv<V>(dx, c * V, d);
    }
}

static mr_status gelu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_F_V(base->in_kind[0], (in[0].data, out[0].data),
             LAUNCH((gelu<F, V>), (const F *)in[0].data, (F *)out[0].data, k->n, k->approx));
    return cuda_launched(base, err);
}

static mr_status gelu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_F_V(base->in_kind[0], (in[0].data, in[1].data, out[0].data),
             LAUNCH((gelu_bwd<F, V>), (const F *)in[0].data, (const F *)in[1].data,
                    (F *)out[0].data, k->n, k->approx));
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
#define PREPARE(name, body) \
    static mr_status name##_prepare(struct kernel *base, const mr_call *c, mr_err *err) \
    { \
        struct pointwise *k = (struct pointwise *)base; \
        (void)err; \
        k->n = mr_numel(c->in[0]); \
        base->run = name##_run; \
        body; \
        return MR_OK; \
    }

// template kernels read a and b, gate and up as one type
static mr_status same_kinds(const struct kernel *k, uint32_t n, mr_err *err)
{
    for (uint32_t i = 1; i < n; i++)
        if (k->in_kind[i] != k->in_kind[0])
            return cuda_refuse(k, err, "its operands are of two dtypes");
    return MR_OK;
}

static bool is_wide(int a, int b)
{
    return a == CUDA_I32 || b == CUDA_I32;
}

PREPARE(add, return same_kinds(base, 2, err))
PREPARE(accumulate, )
PREPARE(cast, k->wide = is_wide(base->in_kind[0], base->out_kind[0]))
PREPARE(store, k->wide = is_wide(base->in_kind[0], base->in_kind[1]))
PREPARE(gelu, k->approx = !strcmp(mr_attr_s(c, "approx", "none"), "tanh"))
PREPARE(gelu_bwd, k->approx = !strcmp(mr_attr_s(c, "approx", "none"), "tanh");
        return same_kinds(base, 2, err))

static void halves(struct pointwise *k, const mr_call *c, uint32_t gate)
{
    k->fused = c->n_in <= gate + 1 || !c->in[gate + 1];
    k->stride = mr_last(c->in[gate]);
    k->width = k->fused ? k->stride / 2 : k->stride;
    k->up_at = k->width;
}

PREPARE(swiglu, halves(k, c, 0); k->n = mr_numel(c->out[0]);
        return same_kinds(base, k->fused ? 1 : 2, err))
PREPARE(swiglu_bwd, halves(k, c, 1); return same_kinds(base, k->fused ? 2 : 3, err))

#define ROW(id, sig, name, flags) \
    { id, sig, sizeof(struct pointwise), name##_prepare, flags, 0 }

const struct op_row cuda_pointwise_rows[] = {
    ROW("add", "xx>x", add, MR_K_INPLACE0),
    ROW("accumulate", "xf>", accumulate, 0),
    ROW("cast", "n>n", cast, 0),
    ROW("store", "nnF>", store, 0),
    ROW("swiglu", "xX>x", swiglu, 0),
    ROW("swiglu.bwd", "xxX>xX", swiglu_bwd, 0),
    ROW("gelu", "x>x", gelu, MR_K_INPLACE0),
    ROW("gelu.bwd", "xx>x", gelu_bwd, MR_K_INPLACE0),
    {},
};
