// SPDX-License-Identifier: Apache-2.0
//
// rope.cu - rope and rope + norm of any head (rope_heads.cu has the usual ones), and the
// temperature of queries without rope: all scale a token's row by what its position says. A block
// a token: its cosines and sines are made once, in shared memory, and serve all heads; with a norm
// a warp takes a head. Bytes: x once, y once (the norm's kernels read x twice, the second time from L1); floor:
// bytes / 4.27 TB/s.

#include "rope.h"

struct temperature {
    struct kernel base;
    int64_t tokens, width;
    double floor_scale, attn_scale;
};

// the token's cosines, then its sines
DEV void make_table(float *table, int position, const rope_args &a)
{
    for (int i = threadIdx.x; i < a.pairs; i += THREADS)
        cos_sin(a, i, position, table[i], table[a.pairs + i]);
    __syncthreads();
}

// where pair i of a head lies
DEV int first_of(const rope_args &a, int i) { return a.interleaved ? 2 * i : i; }
DEV int second_of(const rope_args &a, int i) { return a.interleaved ? 2 * i + 1 : i + a.pairs; }

template <typename F>
__global__ void __launch_bounds__(THREADS)
    rope(const F *x, const int32_t *positions, F *y, const __grid_constant__ rope_args a)
{
    __shared__ float table[2 * MAX_PAIRS];
    int64_t t = blockIdx.x;
    make_table(table, positions[t], a);
    const float *co = table, *si = table + a.pairs;
    x += t * a.width;
    y += t * a.width;
    int half = (a.head_dim + 1) / 2; // a thread does a pair, or two values that pass unchanged
    for (int e = threadIdx.x; e < a.width / a.head_dim * half; e += THREADS) {
        int h = e / half * a.head_dim, i = e % half;
        if (i < a.pairs) {
            int ia = h + first_of(a, i), ib = h + second_of(a, i);
            float p = ld(x, ia), q = ld(x, ib);
            st(y, ia, p * co[i] - q * si[i]);
            st(y, ib, p * si[i] + q * co[i]);
        } else {
            st(y, h + 2 * i, ld(x, h + 2 * i));
            if (2 * i + 1 < a.head_dim)
                st(y, h + 2 * i + 1, ld(x, h + 2 * i + 1));
        }
    }
}

// A warp a head: sums over the head, then values. With y: the gradient, x being dy; else forward.
template <typename F>
__global__ void __launch_bounds__(THREADS)
    rope_norm(const F *x, const F *y, const float *rstd_in, const int32_t *positions, F *out,
              float *rstd, const __grid_constant__ rope_args a)
{
    __shared__ float table[2 * MAX_PAIRS];
    const int lane = threadIdx.x % 32, heads = a.width / a.head_dim;
    make_table(table, positions[blockIdx.x], a);
    const float *co = table, *si = table + a.pairs;
    for (int h = threadIdx.x / 32; h < heads; h += THREADS / 32) {
        const int64_t head = blockIdx.x * (int64_t)heads + h, at = head * a.head_dim;
        float sum = 0, r = 0, mean = 0;
        for (int i = lane; i < a.head_dim; i += 32)
            if (y)
                sum += ld(x, at + i) * ld(y, at + i);
            else // turning changes no length but by the factor
                sum += ld(x, at + i) * ld(x, at + i) *
                       (i < 2 * a.pairs ? a.factor * a.factor : 1);
        sum = warp_sum(sum) / (float)a.head_dim;
        if (y)
            r = rstd_in[head], mean = sum;
        else
            r = 1 / sqrtf(sum + a.eps);
        if (!y && !lane)
            rstd[head] = r;
        for (int i = lane; i < a.pairs; i += 32) {
            const int64_t ia = at + first_of(a, i), ib = at + second_of(a, i);
            float p = ld(x, ia), q = ld(x, ib);
            if (y) {
                p -= ld(y, ia) * mean;
                q -= ld(y, ib) * mean;
            }
            st(out, ia, r * (p * co[i] - q * si[i]));
            st(out, ib, r * (p * si[i] + q * co[i]));
        }
        for (int i = 2 * a.pairs + lane; i < a.head_dim; i += 32)
            st(out, at + i, r * (ld(x, at + i) - (y ? ld(y, at + i) * mean : 0)));
    }
}

static mr_status rope_run(RUN_ARGS)
{
    const struct rope *k = (const struct rope *)base;
    (void)ws;
    if (k->a.tokens)
        WITH_TYPE(base->in_kind[0], (rope<F><<<(unsigned)k->a.tokens, THREADS, 0, stream>>>(
            (const F *)in[0].data, (const int32_t *)in[1].data, (F *)out[0].data, k->a)));
    return cuda_launched(base, err);
}

static mr_status rope_norm_run(RUN_ARGS)
{
    const struct rope *k = (const struct rope *)base;
    (void)ws;
    if (k->a.tokens)
        WITH_TYPE(base->in_kind[0], (rope_norm<F><<<(unsigned)k->a.tokens, THREADS, 0, stream>>>(
            (const F *)in[0].data, nullptr, nullptr, (const int32_t *)in[1].data,
            (F *)out[0].data, (float *)out[1].data, k->a)));
    return cuda_launched(base, err);
}

static mr_status rope_norm_bwd_run(RUN_ARGS)
{
    const struct rope *k = (const struct rope *)base;
    (void)ws;
    if (k->a.tokens)
        WITH_TYPE(base->in_kind[0], (rope_norm<F><<<(unsigned)k->a.tokens, THREADS, 0, stream>>>(
            (const F *)in[0].data, (const F *)in[1].data, (const float *)in[2].data,
            (const int32_t *)in[3].data, (F *)out[0].data, nullptr, k->a)));
    return cuda_launched(base, err);
}

// ---- attn_temperature: a block a token ---------------------------------------------------------
template <typename F, int V>
__global__ void __launch_bounds__(THREADS)
    temperature(const F *x, const int32_t *positions, F *y, int64_t width, double floor_scale,
                double attn_scale)
{
    const float steps = (float)floor(((double)positions[blockIdx.x] + 1) / floor_scale);
    const float scale = 1 + (float)attn_scale * logf(1 + steps);
    x += blockIdx.x * width;
    y += blockIdx.x * width;
    for (int64_t i = threadIdx.x * V; i < width; i += THREADS * V) {
        float v[V];
        ldv<V>(x, i, v);
#pragma unroll
        for (int j = 0; j < V; j++)
            v[j] *= scale;
        stv<V>(y, i, v);
    }
}

static mr_status temperature_run(RUN_ARGS)
{
    const struct temperature *k = (const struct temperature *)base;
    (void)ws;
    if (k->tokens)
        WITH_V(k->width % WIDE_V == 0 && aligned16(in[0].data, out[0].data),
               WITH_TYPE(base->in_kind[0],
                         (temperature<F, V><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
                             (const F *)in[0].data, (const int32_t *)in[1].data, (F *)out[0].data,
                             k->width, k->floor_scale, k->attn_scale))));
    return cuda_launched(base, err);
}

static mr_status rope_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = rope_run;
    return rope_take((struct rope *)base, c, 0, err);
}

static mr_status rope_norm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = rope_norm_run;
    return rope_take((struct rope *)base, c, 0, err);
}

static mr_status rope_norm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = rope_norm_bwd_run;
    if (base->in_kind[0] != base->in_kind[1])
        return cuda_refuse(base, err, "dy and y are of two dtypes");
    return rope_take((struct rope *)base, c, 1, err);
}

static mr_status temperature_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct temperature *k = (struct temperature *)base;
    (void)err;
    k->tokens = c->in[0]->dim[0];
    k->width = c->in[0]->dim[1];
    k->floor_scale = mr_attr_f(c, "floor_scale", 1);
    k->attn_scale = mr_attr_f(c, "attn_scale", 0);
    base->run = temperature_run;
    return MR_OK;
}

const struct op_row cuda_rope_rows[] = {
    { "rope", "xi>x", sizeof(struct rope), rope_prepare, MR_K_INPLACE0, 0 },
    { "rope_norm", "xi>xf", sizeof(struct rope), rope_norm_prepare, 0, 0 },
    { "rope_norm.bwd", "xxfi>x", sizeof(struct rope), rope_norm_bwd_prepare, 0, 0 },
    { "attn_temperature", "xi>x", sizeof(struct temperature), temperature_prepare, MR_K_INPLACE0,
      0 },
    {},
};
