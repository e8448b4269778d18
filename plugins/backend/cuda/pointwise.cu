// SPDX-License-Identifier: Apache-2.0
//
// pointwise.cu - add, cast, store, accumulate, swiglu, gelu and their gradients: one thread an
// element, neighbours next to each other. Bytes: operands once; floor: bytes / 3.35 TB/s (an
// H100; add of 16384 x 2048 bf16 moves 201 MB: 60 us).

#include "dev.cuh"

struct pointwise {
    struct kernel base;
    int64_t n, width, stride, up_at; // swiglu: F, distance of gate's rows, where up starts
    int fused, approx, wide;         // wide: integers take part, so values go through double
};

#define SELF const struct pointwise *k = (const struct pointwise *)base
#define LAUNCH(kernel, ...) kernel<<<grid_for(k->n), THREADS, 0, stream>>>(__VA_ARGS__)

// ---- add, accumulate ----------------------------------------------------------------------
template <typename F> __global__ void add(const F *a, const F *b, F *y, int64_t n)
{
    GRID_LOOP(i, n)
        st(y, i, ld(a, i) + ld(b, i));
}

static mr_status add_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_TYPE(base->in_kind[0], LAUNCH(add<F>, (const F *)in[0].data, (const F *)in[1].data,
                                       (F *)out[0].data, k->n));
    return cuda_launched(base, err);
}

template <typename F> __global__ void accumulate(const F *x, float *dst, int64_t n)
{
    GRID_LOOP(i, n)
        dst[i] += ld(x, i);
}

static mr_status accumulate_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    WITH_TYPE(base->in_kind[0],
              LAUNCH(accumulate<F>, (const F *)in[0].data, (float *)in[1].data, k->n));
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

__global__ void cast(arr x, arr y, const float *ok, int64_t n, int wide)
{
    if (ok && *ok == 0)
        return;
    if (wide)
        GRID_LOOP(i, n)
            put_wide(y, i, get_wide(x, i));
    else
        GRID_LOOP(i, n)
            put(y, i, get(x, i));
}

static mr_status cast_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    LAUNCH(cast, in_arr(base, in, 0), out_arr(base, out, 0), nullptr, k->n, k->wide);
    return cuda_launched(base, err);
}

static mr_status store_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    LAUNCH(cast, in_arr(base, in, 0), in_arr(base, in, 1), (const float *)in[2].data, k->n,
           k->wide);
    return cuda_launched(base, err);
}

// ---- swiglu -------------------------------------------------------------------------------
// Element i of y is (row i / F, column i % F); gate and up lie in rows of `stride`.
template <typename F>
__global__ void swiglu(const F *gate, const F *up, F *y, int64_t n, int64_t width, int64_t stride)
{
    GRID_LOOP(i, n) {
        int64_t at = i / width * stride + i % width;
        float g = ld(gate, at);
        st(y, i, g * sigmoid(g) * ld(up, at));
    }
}

template <typename F>
__global__ void swiglu_bwd(const F *dy, const F *gate, const F *up, F *dgate, F *dup, int64_t n,
                           int64_t width, int64_t stride)
{
    GRID_LOOP(i, n) {
        int64_t at = i / width * stride + i % width;
        float d = ld(dy, i), g = ld(gate, at), u = ld(up, at), s = sigmoid(g);
        st(dgate, at, d * u * s * (1 + g * (1 - s)));
        st(dup, at, d * g * s);
    }
}

static mr_status swiglu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_TYPE(base->in_kind[0], {
        const F *gate = (const F *)in[0].data;
        const F *up = k->fused ? gate + k->up_at : (const F *)in[1].data;
        LAUNCH(swiglu<F>, gate, up, (F *)out[0].data, k->n, k->width, k->stride);
    });
    return cuda_launched(base, err);
}

static mr_status swiglu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_TYPE(base->in_kind[0], {
        const F *gate = (const F *)in[1].data;
        F *dgate = (F *)out[0].data;
        const F *up = k->fused ? gate + k->up_at : (const F *)in[2].data;
        F *dup = k->fused ? dgate + k->up_at : (F *)out[1].data;
        LAUNCH(swiglu_bwd<F>, (const F *)in[0].data, gate, up, dgate, dup, k->n, k->width,
               k->stride);
    });
    return cuda_launched(base, err);
}

// ---- gelu ---------------------------------------------------------------------------------
static constexpr float ROOT_2_OVER_PI = 0.79788456080286535588f, CUBIC = 0.044715f;
static constexpr float ROOT_HALF = 0.70710678118654752440f;

template <typename F> __global__ void gelu(const F *x, F *y, int64_t n, int approx)
{
    GRID_LOOP(i, n) {
        float z = ld(x, i);
        float phi = approx ? 0.5f * (1 + tanhf(ROOT_2_OVER_PI * (z + CUBIC * z * z * z)))
                           : 0.5f * erfcf(-z * ROOT_HALF);
        st(y, i, z * phi);
    }
}

template <typename F>
__global__ void gelu_bwd(const F *dy, const F *x, F *dx, int64_t n, int approx)
{
    GRID_LOOP(i, n) {
        float z = ld(x, i), slope;
        if (approx) {
            float t = tanhf(ROOT_2_OVER_PI * (z + CUBIC * z * z * z));
            slope = 0.5f * (1 + t) +
                    0.5f * z * (1 - t * t) * ROOT_2_OVER_PI * (1 + 3 * CUBIC * z * z);
        } else {
            slope = 0.5f * erfcf(-z * ROOT_HALF) + z * expf(-0.5f * z * z) * 0.5f * ROOT_2_OVER_PI;
        }
        st(dx, i, ld(dy, i) * slope);
    }
}

static mr_status gelu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_TYPE(base->in_kind[0],
              LAUNCH(gelu<F>, (const F *)in[0].data, (F *)out[0].data, k->n, k->approx));
    return cuda_launched(base, err);
}

static mr_status gelu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_TYPE(base->in_kind[0], LAUNCH(gelu_bwd<F>, (const F *)in[0].data, (const F *)in[1].data,
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
