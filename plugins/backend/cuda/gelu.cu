// SPDX-License-Identifier: Apache-2.0
//
// gelu.cu - x times the integral of the normal distribution, or a form near it, and the gradient: a
// thread has a few packs of 16 bytes. Bytes: operands once; floor: bytes / the copy bandwidth
// (65536 x 3072 bf16 at 4.27 TB/s: 189 and 283 us).

#include "pack.cuh"

struct gelu {
    struct kernel base;
    int64_t n;
    int approx; // APPROX_...
};

#define SELF const struct gelu *k = (const struct gelu *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)

static constexpr float ROOT_2_OVER_PI = 0.79788456080286535588f, CUBIC = 0.044715f;
enum { APPROX_NONE = 0, APPROX_TANH, APPROX_QUICK };
static constexpr float QUICK = 1.702f;
static constexpr float ROOT_HALF = 0.70710678118654752440f;

// The integral of the normal distribution, and e^(-z²/2), which its density needs. For bf16 by
// Abramowitz & Stegun 7.1.26, whose error, 1.5e-7 of 1, is that of 1 + erf in f32: with the
// library's erfc a thread would compute longer than memory takes.
template <typename F> DEV float normal_below(float z, float *gauss)
{
    *gauss = exp_for<F>(-0.5f * z * z);
    if (sizeof(F) != 2)
        return 0.5f * erfcf(-z * ROOT_HALF);
    float t = __fdividef(1.0f, fmaf(fabsf(z), 0.3275911f * ROOT_HALF, 1.0f));
    float p = fmaf(fmaf(fmaf(fmaf(1.061405429f, t, -1.453152027f), t, 1.421413741f), t,
                        -0.284496736f), t, 0.254829592f);
    float tail = 0.5f * p * t * *gauss;
    return z < 0 ? tail : 1 - tail;
}

// (1 + tanh u) / 2 = sigmoid(2 u)
template <typename F> DEV float gelu_of(float z, int approx)
{
    float gauss;
    return z * (approx == APPROX_TANH
                    ? sigmoid_for<F>(2 * ROOT_2_OVER_PI * (z + CUBIC * z * z * z))
                : approx == APPROX_QUICK ? sigmoid_for<F>(QUICK * z)
                                         : normal_below<F>(z, &gauss));
}

template <typename F> DEV float gelu_slope(float z, int approx)
{
    if (approx == APPROX_QUICK) {
        float s = sigmoid_for<F>(QUICK * z);
        return s + QUICK * z * s * (1 - s);
    }
    if (approx == APPROX_TANH) {
        float s = sigmoid_for<F>(2 * ROOT_2_OVER_PI * (z + CUBIC * z * z * z));
        return s + z * s * (1 - s) * 2 * ROOT_2_OVER_PI * (1 + 3 * CUBIC * z * z);
    }
    float gauss, below = normal_below<F>(z, &gauss);
    return below + z * gauss * 0.5f * ROOT_2_OVER_PI;
}

template <typename F, int V, int U> KERNEL gelu_fwd(const F *x, F *y, int64_t packs, int approx)
{
    pack<F, V> p[U];
    EACH_PACK(c, packs)
        p[u].load(x, c * V);
    EACH_PACK(c, packs) {
        float z[V];
        p[u].widen(z);
#pragma unroll
        for (int j = 0; j < V; j++)
            z[j] = gelu_of<F>(z[j], approx);
        p[u].narrow(z);
        p[u].store(y, c * V);
    }
}

template <typename F, int V, int U>
KERNEL gelu_bwd(const F *dy, const F *x, F *dx, int64_t packs, int approx)
{
    pack<F, V> p[U], q[U];
    EACH_PACK(c, packs) {
        p[u].load(dy, c * V);
        q[u].load(x, c * V);
    }
    EACH_PACK(c, packs) {
        float d[V], z[V];
        p[u].widen(d);
        q[u].widen(z);
#pragma unroll
        for (int j = 0; j < V; j++)
            d[j] *= gelu_slope<F>(z[j], approx);
        p[u].narrow(d);
        p[u].store(dx, c * V);
    }
}

static mr_status gelu_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->n)
        WITH_PACK(base->in_kind[0], k->n % WIDE_V == 0 && aligned16(in[0].data, out[0].data),
                  (gelu_fwd<F, V, 2><<<pack_grid<2>(k->n / V), THREADS, 0, stream>>>(
                      (const F *)in[0].data, (F *)out[0].data, k->n / V, k->approx)));
    return cuda_launched(base, err);
}

static mr_status gelu_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->n)
        WITH_PACK(base->in_kind[0],
                  k->n % WIDE_V == 0 && aligned16(in[0].data, in[1].data, out[0].data),
                  (gelu_bwd<F, V, 2><<<pack_grid<2>(k->n / V), THREADS, 0, stream>>>(
                      (const F *)in[0].data, (const F *)in[1].data, (F *)out[0].data, k->n / V,
                      k->approx)));
    return cuda_launched(base, err);
}

static mr_status prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct gelu *k = (struct gelu *)base;
    k->n = mr_numel(c->in[0]);
    const char *approx = mr_attr_s(c, "approx", "none");
    k->approx = *approx == 't' ? APPROX_TANH : *approx == 'q' ? APPROX_QUICK : APPROX_NONE;
    mr_status bad = same_kinds(base, 3, err);
    return bad ? bad : packs_fit(base, k->n, 0, err);
}

static mr_status gelu_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = gelu_run;
    return prepare(base, c, err);
}

static mr_status gelu_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = gelu_bwd_run;
    return prepare(base, c, err);
}

const struct op_row cuda_gelu_rows[] = {
    { "gelu", "x>x", sizeof(struct gelu), gelu_prepare, MR_K_INPLACE0, 0 },
    { "gelu.bwd", "xx>x", sizeof(struct gelu), gelu_bwd_prepare, MR_K_INPLACE0, 0 },
    {},
};
