// SPDX-License-Identifier: Apache-2.0
//
// update.cu - the optimizer's side: sumsq, clip_scale, adamw, sgd. f32 in the very order of the
// catalogue's definition, each operation rounded: the __f..._rn forms keep the compiler from
// fusing them, so a checkpoint has the same bits on every backend. sumsq adds, in double, parts
// that the size alone cuts. Bytes: adamw reads 16 and writes 12 a parameter, sumsq reads 4;
// floor: bytes / 3.35 TB/s (1 G parameters: 8.4 ms and 1.2 ms).

#include "dev.cuh"

struct update {
    struct kernel base;
    int64_t n;
    double a, b, eps; // adamw: beta1, beta2; sgd: momentum, nesterov; clip_scale: max_norm
};

#define SELF const struct update *k = (const struct update *)base

// ---- sumsq --------------------------------------------------------------------------------
enum { PARTS = 1024 };

__global__ void __launch_bounds__(THREADS) sumsq_parts(const float *x, double *sums, int64_t n)
{
    __shared__ double room[32];
    double sum = 0;
    GRID_LOOP(i, n)
        sum += (double)x[i] * (double)x[i];
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
    sumsq_parts<<<PARTS, THREADS, 0, stream>>>((const float *)in[0].data, (double *)ws, k->n);
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

// ---- adamw --------------------------------------------------------------------------------
DEV float mul(float a, float b) { return __fmul_rn(a, b); }
DEV float plus(float a, float b) { return __fadd_rn(a, b); }

struct adam_args {
    float *master, *exp_avg, *exp_avg_sq;
    const float *grad, *lr, *weight_decay, *step, *grad_scale, *ok;
    double beta1, beta2;
    float eps;
    int64_t n;
};

__global__ void __launch_bounds__(THREADS) adamw(const adam_args p)
{
    __shared__ float corrections[2];
    if (*p.ok == 0)
        return;
    if (threadIdx.x == 0) {
        corrections[0] = (float)(1 - pow(p.beta1, (double)*p.step));
        corrections[1] = (float)(1 - pow(p.beta2, (double)*p.step));
    }
    __syncthreads();
    const float c1 = corrections[0], c2 = corrections[1], lr = *p.lr, wd = *p.weight_decay;
    const float b1 = (float)p.beta1, a1 = (float)(1 - p.beta1), scale = *p.grad_scale;
    const float b2 = (float)p.beta2, a2 = (float)(1 - p.beta2);
    GRID_LOOP(i, p.n) {
        float g = mul(p.grad[i], scale), w = p.master[i];
        float m = p.exp_avg[i] = plus(mul(b1, p.exp_avg[i]), mul(a1, g));
        float v = p.exp_avg_sq[i] = plus(mul(b2, p.exp_avg_sq[i]), mul(mul(a2, g), g));
        float step = __fdiv_rn(__fdiv_rn(m, c1), plus(__fsqrt_rn(__fdiv_rn(v, c2)), p.eps));
        p.master[i] = __fsub_rn(w, mul(lr, plus(step, mul(wd, w))));
    }
}

static mr_status adamw_run(RUN_ARGS)
{
    SELF;
    adam_args p = { (float *)in[0].data, (float *)in[1].data, (float *)in[2].data,
                    (const float *)in[3].data, (const float *)in[4].data, (const float *)in[5].data,
                    (const float *)in[6].data, (const float *)in[7].data, (const float *)in[8].data,
                    k->a, k->b, (float)k->eps, k->n };
    (void)out, (void)ws;
    adamw<<<grid_for(k->n), THREADS, 0, stream>>>(p);
    return cuda_launched(base, err);
}

// ---- sgd ----------------------------------------------------------------------------------
__global__ void __launch_bounds__(THREADS)
    sgd(float *master, float *momentum, const float *grad, const float *lr, const float *decay,
        const float *grad_scale, const float *ok, float mu, int nesterov, int64_t n)
{
    if (*ok == 0)
        return;
    const float rate = *lr, wd = *decay, scale = *grad_scale;
    GRID_LOOP(i, n) {
        float w = master[i], g = plus(mul(grad[i], scale), mul(wd, w));
        if (momentum) {
            float b = momentum[i] = plus(mul(mu, momentum[i]), g);
            g = nesterov ? plus(g, mul(mu, b)) : b;
        }
        master[i] = __fsub_rn(w, mul(rate, g));
    }
}

static mr_status sgd_run(RUN_ARGS)
{
    SELF;
    (void)out, (void)ws;
    sgd<<<grid_for(k->n), THREADS, 0, stream>>>(
        (float *)in[0].data, (float *)in[1].data, (const float *)in[2].data,
        (const float *)in[3].data, (const float *)in[4].data, (const float *)in[5].data,
        (const float *)in[6].data, (float)k->a, k->b != 0, k->n);
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
    { "adamw", "fffffffff>", sizeof(struct update), adamw_prepare, 0, 0 },
    { "sgd", "fFfffff>", sizeof(struct update), sgd_prepare, 0, 0 },
    {},
};
