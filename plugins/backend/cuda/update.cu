// SPDX-License-Identifier: Apache-2.0
//
// update.cu - the optimizer's side: sumsq, clip_scale, adamw, sgd. f32 in the very order of the
// catalogue's definition, each operation rounded: the __f..._rn forms keep the compiler from
// fusing them, so a checkpoint has the same bits on every backend. sumsq adds, in double, parts
// that the size alone cuts. Bytes a parameter: sumsq reads 4, adamw reads 16 and writes 12, 14 with
// bf16 weights beside f32 masters, 12 with split ones; floor: bytes / bandwidth (1 G parameters at
// 3.35 TB/s: 1.2 ms; 8.4 ms, 9.0 ms, 8.4 ms). An H200, whose copies move 4.26 TB/s, reaches 4.3
// and 4.2 to 4.3.

#include "masters.cuh"

struct update {
    struct kernel base;
    int64_t n;
    double a, b, eps; // adamw: beta1, beta2; sgd: momentum, nesterov; clip_scale: max_norm
};

#define SELF const struct update *k = (const struct update *)base

// ---- sumsq --------------------------------------------------------------------------------
enum { PARTS = 1024 };

__global__ void __launch_bounds__(THREADS)
    sumsq_parts(const float *x, double *sums, int64_t n, bool wide)
{
    __shared__ double room[32];
    const int64_t vectors = wide ? n / WIDE_V : 0;
    double sum = 0;
    GRID_LOOP(i, vectors) {
        float v[WIDE_V];
        ldv<WIDE_V>(x, i * WIDE_V, v);
#pragma unroll
        for (int j = 0; j < WIDE_V; j++)
            sum += (double)v[j] * (double)v[j];
    }
    GRID_LOOP(i, n - vectors * WIDE_V) {
        double v = x[vectors * WIDE_V + i];
        sum += v * v;
    }
    sum = block_sum_double(sum, room);
    if (threadIdx.x == 0)
        sums[blockIdx.x] = sum;
}

__global__ void __launch_bounds__(PARTS) sumsq_add(const double *sums, float *acc)
{
    __shared__ double room[32];
    double sum = block_sum_double(sums[threadIdx.x], room);
    if (threadIdx.x == 0)
        *acc = (float)(*acc + sum);
}

static mr_status sumsq_run(RUN_ARGS)
{
    SELF;
    (void)out;
    const float *x = (const float *)in[0].data;
    sumsq_parts<<<PARTS, THREADS, 0, stream>>>(x, (double *)ws, k->n, aligned16(x));
    sumsq_add<<<1, PARTS, 0, stream>>>((const double *)ws, (float *)in[1].data);
    return cuda_launched(base, err);
}

// ---- clip_scale ---------------------------------------------------------------------------
__global__ void clip_scale(const float *sumsq, float *grad_scale, float *norm, float *ok, float max)
{
    float n = sqrtf(*sumsq);
    bool fine = isfinite(n) && *ok != 0;
    *grad_scale = !fine ? 0 : max > 0 ? fminf(1, max / (n + 1e-6f)) : 1;
    *norm = n;
    *ok = fine;
}

static mr_status clip_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    clip_scale<<<1, 1, 0, stream>>>((const float *)in[0].data, (float *)in[1].data,
                                    (float *)in[2].data, (float *)in[3].data, (float)k->a);
    return cuda_launched(base, err);
}

// ---- an update over elements: QUAD a thread, and no thread a second time ---------------------
// Blocks that come and go keep the memory busier than blocks that stay and loop (98 against 94 %
// of what a copy moves, on an H200).
enum { RESIDENT = 5 }; // blocks that must fit on a multiprocessor

DEV float mul(float a, float b) { return __fmul_rn(a, b); }
DEV float plus(float a, float b) { return __fadd_rn(a, b); }

template <class U, class M> DEV void each(const U &u, const M &masters, int64_t n, bool wide)
{
    const int64_t at = (blockIdx.x * (int64_t)blockDim.x + threadIdx.x) * QUAD;
    if (wide && at + QUAD <= n)
        return u.template some<QUAD>(masters, at);
    for (int64_t i = at; i < n && i < at + QUAD; i++)
        u.template some<1>(masters, i);
}

static unsigned blocks_for(int64_t n)
{
    return n ? (unsigned)cuda_ceil(n, QUAD * THREADS) : 1;
}

// ---- adamw --------------------------------------------------------------------------------
struct adam_args {
    float *exp_avg, *exp_avg_sq;
    const float *grad, *lr, *weight_decay, *step, *grad_scale, *ok;
    float *corrections; // 1 - beta^step, of both betas
    double beta1, beta2;
    float eps;
    int64_t n;
};

__global__ void corrections(const adam_args p)
{
    if (threadIdx.x < 2)
        p.corrections[threadIdx.x] =
            (float)(1 - pow(threadIdx.x ? p.beta2 : p.beta1, (double)*p.step));
}

struct adam {
    float *exp_avg, *exp_avg_sq;
    const float *grad;
    float lr, wd, scale, b1, a1, c1, b2, a2, c2, eps;
    float lost; // v up to this is lost beside eps: a root below eps 2^-25 rounds away

    // m / c1 / (sqrt(v / c2) + eps). Division and root are slow on 0 and near it, where rows of a
    // table are that no token looked up: the answer is known, so they get a 1.
    MEMBER float direction(float m, float v) const
    {
        const bool no_m = m == 0, no_v = __float_as_uint(v) <= __float_as_uint(lost);
        const float root = __fsqrt_rn(__fdiv_rn(no_v ? 1 : v, c2));
        const float d = __fdiv_rn(__fdiv_rn(no_m ? 1 : m, c1), plus(no_v ? 0 : root, eps));
        return no_m ? m : d;
    }

    template <int V, class M> MEMBER void some(const M &masters, int64_t i) const
    {
        float g[V], w[V], m[V], v[V];
        get_some<V>(grad, i, g);
        masters.template get<V>(i, w);
        get_some<V>(exp_avg, i, m);
        get_some<V>(exp_avg_sq, i, v);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float x = mul(g[j], scale);
            m[j] = plus(mul(b1, m[j]), mul(a1, x));
            v[j] = plus(mul(b2, v[j]), mul(mul(a2, x), x));
            w[j] = __fsub_rn(w[j], mul(lr, plus(direction(m[j], v[j]), mul(wd, w[j]))));
        }
        put_some<V>(exp_avg, i, m);
        put_some<V>(exp_avg_sq, i, v);
        masters.template put<V>(i, w);
    }
};

template <class M>
__global__ void __launch_bounds__(THREADS, RESIDENT)
    adamw(const adam_args p, const M masters, bool wide)
{
    if (*p.ok == 0)
        return;
    const float c1 = p.corrections[0], c2 = p.corrections[1];
    const adam u = { p.exp_avg, p.exp_avg_sq, p.grad, *p.lr, *p.weight_decay, *p.grad_scale,
                     (float)p.beta1, (float)(1 - p.beta1), c1,
                     (float)p.beta2, (float)(1 - p.beta2), c2, p.eps,
                     c2 * p.eps * p.eps * 0x1p-54f };
    each(u, masters, p.n, wide);
}

static mr_status adamw_run(RUN_ARGS)
{
    SELF;
    enum { WEIGHTS = 9 };
    adam_args p = { (float *)in[1].data, (float *)in[2].data,
                    (const float *)in[3].data, (const float *)in[4].data, (const float *)in[5].data,
                    (const float *)in[6].data, (const float *)in[7].data, (const float *)in[8].data,
                    (float *)ws, k->a, k->b, (float)k->eps, k->n };
    const bool wide = aligned16(in[0].data, p.exp_avg, p.exp_avg_sq, p.grad, in[WEIGHTS].data);
    (void)out;
    corrections<<<1, 32, 0, stream>>>(p);
    WITH_MASTERS(base, in, WEIGHTS,
                 adamw<<<blocks_for(k->n), THREADS, 0, stream>>>(p, masters, wide));
    return cuda_launched(base, err);
}

// ---- sgd ----------------------------------------------------------------------------------
struct descent {
    float *momentum; // NULL: none
    const float *grad;
    float rate, wd, scale, mu;
    int nesterov;

    template <int V, class M> MEMBER void some(const M &masters, int64_t i) const
    {
        float g[V], w[V], b[V];
        get_some<V>(grad, i, g);
        masters.template get<V>(i, w);
        if (momentum)
            get_some<V>(momentum, i, b);
#pragma unroll
        for (int j = 0; j < V; j++) {
            float x = plus(mul(g[j], scale), mul(wd, w[j]));
            if (momentum) {
                b[j] = plus(mul(mu, b[j]), x);
                x = nesterov ? plus(x, mul(mu, b[j])) : b[j];
            }
            w[j] = __fsub_rn(w[j], mul(rate, x));
        }
        if (momentum)
            put_some<V>(momentum, i, b);
        masters.template put<V>(i, w);
    }
};

struct sgd_args {
    float *momentum;
    const float *grad, *lr, *weight_decay, *grad_scale, *ok;
    float mu;
    int nesterov;
    int64_t n;
};

template <class M>
__global__ void __launch_bounds__(THREADS, RESIDENT)
    sgd(const sgd_args p, const M masters, bool wide)
{
    if (*p.ok == 0)
        return;
    const descent u = { p.momentum, p.grad, *p.lr, *p.weight_decay, *p.grad_scale, p.mu,
                        p.nesterov };
    each(u, masters, p.n, wide);
}

static mr_status sgd_run(RUN_ARGS)
{
    SELF;
    enum { WEIGHTS = 7 };
    sgd_args p = { (float *)in[1].data, (const float *)in[2].data, (const float *)in[3].data,
                   (const float *)in[4].data, (const float *)in[5].data, (const float *)in[6].data,
                   (float)k->a, k->b != 0, k->n };
    const bool wide = aligned16(in[0].data, p.momentum, p.grad, in[WEIGHTS].data);
    (void)out, (void)ws;
    WITH_MASTERS(base, in, WEIGHTS,
                 sgd<<<blocks_for(k->n), THREADS, 0, stream>>>(p, masters, wide));
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status sumsq_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    ((struct update *)base)->n = mr_numel(c->in[0]);
    base->workspace = PARTS * sizeof(double);
    base->run = sumsq_run;
    return MR_OK;
}

static mr_status clip_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    (void)err;
    ((struct update *)base)->a = mr_attr_f(c, "max_norm", 0);
    base->run = clip_run;
    return MR_OK;
}

static mr_status adamw_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct update *k = (struct update *)base;
    (void)err;
    k->n = mr_numel(c->in[0]);
    k->a = mr_attr_f(c, "beta1", 0.9);
    k->b = mr_attr_f(c, "beta2", 0.95);
    k->eps = mr_attr_f(c, "eps", 1e-8);
    base->workspace = 2 * sizeof(float);
    base->run = adamw_run;
    return MR_OK;
}

static mr_status sgd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct update *k = (struct update *)base;
    (void)err;
    k->n = mr_numel(c->in[0]);
    k->a = mr_attr_f(c, "momentum", 0);
    k->b = (double)mr_attr_i(c, "nesterov", 0);
    base->run = sgd_run;
    return MR_OK;
}

const struct op_row cuda_update_rows[] = {
    { "sumsq", "ff>", sizeof(struct update), sumsq_prepare, 0, 0 },
    { "clip_scale", "ffff>", sizeof(struct update), clip_prepare, 0, 0 },
    { "adamw", "mffffffffB>", sizeof(struct update), adamw_prepare, 0, 0 },
    { "sgd", "mFfffffB>", sizeof(struct update), sgd_prepare, 0, 0 },
    {},
};
