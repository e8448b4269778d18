// SPDX-License-Identifier: Apache-2.0
//
// permute.cu - tokens to rows grouped by expert, back, and the probability's gradient. Gathers
// both ways, so no two blocks write one place: a block a row or token, a warp a product. Bytes:
// R D read and written once; floor: bytes / 3.35 TB/s. A row whose index is out of range becomes
// NaN: the run's checks find it.

#include "vec.cuh"

struct permute {
    struct kernel base;
    int64_t rows, tokens, width, per_token;
};

#define SELF const struct permute *k = (const struct permute *)base

template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    permute(const F *x, const int32_t *rows, arr probs, F *y, int64_t n_rows, int64_t width,
            int64_t per_token)
{
    int64_t r = blockIdx.x, i = rows[r];
    bool known = i >= 0 && i < n_rows;
    float p = !known ? nanf("") : probs.p ? get(probs, i) : 1;
    x += known ? i / per_token * width : 0;
    y += r * width;
    for (int64_t d = threadIdx.x * V; d < width; d += THREADS * V) {
        float v[V];
        ldv<V>(x, d, v);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] *= p;
        stv<V>(y, d, v);
    }
}

template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    unpermute(const F *y, const int32_t *slots, arr probs, F *x, int64_t n_rows, int64_t width,
              int64_t per_token)
{
    int64_t t = blockIdx.x;
    for (int64_t d = threadIdx.x * V; d < width; d += THREADS * V) {
        float sum[V] = {}, v[V];
        for (int64_t i = t * per_token; i < (t + 1) * per_token; i++) {
            int64_t r = slots[i];
            bool known = r >= 0 && r < n_rows;
            float p = !known ? nanf("") : probs.p ? get(probs, i) : 1;
            ldv<V>(y, (known ? r : 0) * width + d, v);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[j] += v[j] * p;
        }
        stv<V>(x, t * width + d, sum);
    }
}

__global__ void __launch_bounds__(THREADS)
    dprobs(arr a, arr b, const int32_t *rows, float *d, int64_t n_rows, int64_t width,
           int64_t per_token)
{
    int64_t r = blockIdx.x * (int64_t)(THREADS / 32) + threadIdx.x / 32;
    if (r >= n_rows)
        return;
    int64_t i = rows[r];
    if (i < 0 || i >= n_rows)
        return;
    float sum = 0;
    for (int64_t j = threadIdx.x % 32; j < width; j += 32)
        sum += get(a, r * width + j) * get(b, i / per_token * width + j);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        d[i] = sum;
}

static mr_status permute_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows)
        WITH_V(k->width % WIDE_V == 0 && aligned16(in[0].data, out[0].data),
               WITH_TYPE(base->in_kind[0], (
            permute<F, V><<<(unsigned)k->rows, THREADS, 0, stream>>>(
                (const F *)in[0].data, (const int32_t *)in[1].data, in_arr(base, in, 3),
                (F *)out[0].data, k->rows, k->width, k->per_token))));
    return cuda_launched(base, err);
}

static mr_status unpermute_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_V(k->width % WIDE_V == 0 && aligned16(in[0].data, out[0].data),
               WITH_TYPE(base->in_kind[0], (
            unpermute<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                (const F *)in[0].data, (const int32_t *)in[2].data, in_arr(base, in, 3),
                (F *)out[0].data, k->rows, k->width, k->per_token))));
    return cuda_launched(base, err);
}

static mr_status dprobs_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows)
        dprobs<<<(unsigned)cuda_ceil(k->rows, THREADS / 32), THREADS, 0, stream>>>(
            in_arr(base, in, 0), in_arr(base, in, 1), (const int32_t *)in[2].data,
            (float *)out[0].data, k->rows, k->width, k->per_token);
    return cuda_launched(base, err);
}

static mr_status permute_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct permute *k = (struct permute *)base;
    (void)err;
    k->tokens = c->in[0]->dim[0];
    k->width = c->in[0]->dim[1];
    k->rows = c->in[1]->dim[0];
    k->per_token = k->tokens ? k->rows / k->tokens : 1;
    base->run = permute_run;
    return MR_OK;
}

static mr_status unpermute_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct permute *k = (struct permute *)base;
    (void)err;
    k->per_token = mr_attr_i(c, "k", 1);
    k->rows = c->in[0]->dim[0];
    k->width = c->in[0]->dim[1];
    k->tokens = k->rows / k->per_token;
    base->run = unpermute_run;
    return MR_OK;
}

static mr_status dprobs_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct permute *k = (struct permute *)base;
    (void)err;
    k->rows = c->in[0]->dim[0];
    k->width = c->in[0]->dim[1];
    k->tokens = c->in[1]->dim[0];
    k->per_token = k->tokens ? k->rows / k->tokens : 1;
    base->run = dprobs_run;
    return MR_OK;
}

const struct op_row cuda_permute_rows[] = {
    { "permute", "xiiX>x", sizeof(struct permute), permute_prepare, 0, 0 },
    { "unpermute", "xiiX>x", sizeof(struct permute), unpermute_prepare, 0, 0 },
    { "permute.dprobs", "xxi>f", sizeof(struct permute), dprobs_prepare, 0, 0 },
    {},
};
