// SPDX-License-Identifier: Apache-2.0
//
// rope.cu - rope, and the temperature of queries without it: both scale a token's row by what
// its position says. A block a token: its cosines and sines are made once, in shared memory, and
// serve all heads. Angles are products in double brought into +-pi before the f32 sine, so that
// position 100,000 is as exact as position 1. Bytes: x once, y once; floor: bytes / 3.35 TB/s.

#include "dev.cuh"

enum { MAX_PAIRS = 256 };

struct rope {
    struct kernel base;
    int64_t tokens, width;
    int head_dim, pairs, interleaved;
    double factor, turn, floor_scale, attn_scale;
    double freq[MAX_PAIRS];
};

#define SELF const struct rope *k = (const struct rope *)base

struct rope_args { // what a launch carries by value
    int64_t width;
    int head_dim, pairs, interleaved;
    float factor;
    double turn, freq[MAX_PAIRS];
};

template <typename F>
__global__ void __launch_bounds__(THREADS)
    rope(const F *x, const int32_t *positions, F *y, const __grid_constant__ rope_args a)
{
    __shared__ float co[MAX_PAIRS], si[MAX_PAIRS];
    int64_t t = blockIdx.x;
    for (int i = threadIdx.x; i < a.pairs; i += THREADS) {
        const double tau = 6.283185307179586476925;
        double angle = a.turn * (double)positions[t] * a.freq[i];
        float s, c;
        sincosf((float)(angle - tau * rint(angle / tau)), &s, &c);
        co[i] = c * a.factor;
        si[i] = s * a.factor;
    }
    __syncthreads();
    x += t * a.width;
    y += t * a.width;
    int half = (a.head_dim + 1) / 2; // a thread does a pair, or two values that pass unchanged
    for (int e = threadIdx.x; e < a.width / a.head_dim * half; e += THREADS) {
        int h = e / half * a.head_dim, i = e % half;
        if (i < a.pairs) {
            int ia = h + (a.interleaved ? 2 * i : i), ib = a.interleaved ? ia + 1 : ia + a.pairs;
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

static mr_status rope_run(RUN_ARGS)
{
    SELF;
    rope_args a = { k->width, k->head_dim, k->pairs, k->interleaved, (float)k->factor, k->turn,
                    {} };
    (void)ws;
    memcpy(a.freq, k->freq, (size_t)k->pairs * sizeof *a.freq);
    if (k->tokens)
        WITH_TYPE(base->in_kind[0], (rope<F><<<(unsigned)k->tokens, THREADS, 0, stream>>>(
            (const F *)in[0].data, (const int32_t *)in[1].data, (F *)out[0].data, a)));
    return cuda_launched(base, err);
}

template <typename F>
__global__ void temperature(const F *x, const int32_t *positions, F *y, int64_t n, int64_t width,
                            double floor_scale, double attn_scale)
{
    GRID_LOOP(i, n) {
        int32_t p = positions[i / width];
        float steps = (float)floor(((double)p + 1) / floor_scale);
        st(y, i, ld(x, i) * (1 + (float)attn_scale * logf(1 + steps)));
    }
}

static mr_status temperature_run(RUN_ARGS)
{
    SELF;
    int64_t n = k->tokens * k->width;
    (void)ws;
    WITH_TYPE(base->in_kind[0], (temperature<F><<<grid_for(n), THREADS, 0, stream>>>(
        (const F *)in[0].data, (const int32_t *)in[1].data, (F *)out[0].data, n, k->width,
        k->floor_scale, k->attn_scale)));
    return cuda_launched(base, err);
}

static mr_status rope_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct rope *k = (struct rope *)base;
    const mr_attr *freq = mr_attr_find(c, "inv_freq");
    k->tokens = c->in[0]->dim[0];
    k->width = c->in[0]->dim[1];
    k->head_dim = (int)mr_attr_i(c, "head_dim", 1);
    k->interleaved = mr_attr_i(c, "interleaved", 1) != 0;
    k->factor = mr_attr_f(c, "factor", 1);
    k->turn = mr_attr_i(c, "inverse", 0) ? -1 : 1;
    if (!freq || freq->n > MAX_PAIRS)
        return cuda_refuse(base, err, "more than 256 frequencies");
    k->pairs = (int)freq->n;
    memcpy(k->freq, freq->u.fs, freq->n * sizeof *k->freq);
    base->run = rope_run;
    return MR_OK;
}

static mr_status temperature_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct rope *k = (struct rope *)base;
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
    { "attn_temperature", "xi>x", sizeof(struct rope), temperature_prepare, MR_K_INPLACE0, 0 },
    {},
};
