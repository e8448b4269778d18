// SPDX-License-Identifier: Apache-2.0
//
// rope_heads.cu - rope, rope + norm of each head, and that one's gradient, for heads of 32,
// 64, 128 or 256 values that turn whole. A thread holds 16 bytes of a head (or
// of each of its halves, where pairs lie apart), a head is a part of a warp, and a block takes as
// many tokens as give every thread four such pieces: their loads are on the way while the block
// makes the tokens' cosines and sines, once for all heads. Bytes: each operand once; floor of
// 16384 x 2048 bf16 at 4.27 TB/s: rope and rope_norm 31 us, rope_norm.bwd 47.

#include "rope.h"

enum { PIECES = 4, TABLE = 4096 }; // pieces of a thread; cosines in shared memory at most

enum { ROPE, NORM, NORM_BWD };

template <typename F> struct piece {
    uint4 v[sizeof(F) / 2];
};

template <typename F> DEV piece<F> fetch(const F *p, bool there)
{
    piece<F> r = {};
    if (there)
        r = *(const piece<F> *)p;
    return r;
}

template <typename F> DEV void open(const piece<F> &p, float x[8])
{
    ldv<8>((const F *)&p, 0, x);
}

template <int LANES_> DEV float head_sum(float x)
{
#pragma unroll
    for (int d = LANES_ / 2; d; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// A head has C values. S pieces of a thread belong together: 1 (pairs are neighbours) or 2 (pair i
// is values i and i + C/2).
template <typename F, int WHAT, int S, int C>
__global__ void __launch_bounds__(THREADS, sizeof(F) == 2 ? 3 : 2)
    rope_heads(const F *x, const F *y, const float *rstd_in, const int32_t *positions, F *out,
               float *rstd, int tokens_a_block, const __grid_constant__ rope_args a)
{
    extern __shared__ float4 table4[];
    float *table = (float *)table4; // per token: cosines, then sines
    constexpr int U = PIECES / S, LH = C / (8 * S), half = C / 2;
    const int64_t token0 = blockIdx.x * (int64_t)tokens_a_block;
    const int tokens = (int)(a.tokens - token0 < tokens_a_block ? a.tokens - token0
                                                                : tokens_a_block);
    const int items = a.width / (8 * S), n = tokens * items;
    x += token0 * a.width, out += token0 * a.width;
    for (int first = 0; first < n; first += U * THREADS) {
        piece<F> p[U][S], q[U][S];
        float r[U];
        int at[U], token[U], lane[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int e = first + u * THREADS + threadIdx.x;
            const bool there = e < n;
            token[u] = there ? e / items : 0;
            lane[u] = e % LH;
            at[u] = S == 1 ? e * 8 : token[u] * a.width +
                                     (e - token[u] * items) / LH * C + lane[u] * 8;
#pragma unroll
            for (int s = 0; s < S; s++) {
                p[u][s] = fetch<F>(x + at[u] + s * half, there);
                if (WHAT == NORM_BWD)
                    q[u][s] = fetch<F>(y + token0 * a.width + at[u] + s * half, there);
            }
            if (WHAT == NORM_BWD)
                r[u] = there ? rstd_in[(token0 * items + e) / LH] : 0;
        }
        if (!first) {
            for (int i = threadIdx.x; i < tokens * half; i += THREADS) {
                float co, si;
                cos_sin(a, i % half, positions[token0 + i / half], co, si);
                table[i / half * 2 * half + i % half] = co;
                table[i / half * 2 * half + half + i % half] = si;
            }
            __syncthreads();
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int e = first + u * THREADS + threadIdx.x;
            const bool there = e < n;
            const float4 *angles = table4 + token[u] * (C / 4) + lane[u] * S;
            float v[S][8], co[S][4], si[S][4], sum = 0;
#pragma unroll
            for (int s = 0; s < S; s++)
                open<F>(p[u][s], v[s]);
#pragma unroll
            for (int s = 0; s < S; s++) {
                const float4 c = angles[s], d = angles[s + half / 4];
                co[s][0] = c.x, co[s][1] = c.y, co[s][2] = c.z, co[s][3] = c.w;
                si[s][0] = d.x, si[s][1] = d.y, si[s][2] = d.z, si[s][3] = d.w;
            }
            if (WHAT == NORM_BWD) {
                float w[S][8];
#pragma unroll
                for (int s = 0; s < S; s++) {
                    open<F>(q[u][s], w[s]);
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        sum += v[s][j] * w[s][j];
                }
                sum = head_sum<LH>(sum) * (1.0f / C);
#pragma unroll
                for (int s = 0; s < S; s++)
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        v[s][j] = r[u] * (v[s][j] - w[s][j] * sum);
            }
#pragma unroll
            for (int j = 0; j < 4 * S; j++) {
                float &f = S == 1 ? v[0][2 * j % 8] : v[0][j];
                float &g = S == 1 ? v[0][(2 * j + 1) % 8] : v[S - 1][j];
                const float cj = co[j / 4][j % 4], sj = si[j / 4][j % 4], b = f * cj - g * sj;
                g = f * sj + g * cj;
                f = b;
            }
            if (WHAT == NORM) {
#pragma unroll
                for (int s = 0; s < S; s++)
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        sum += v[s][j] * v[s][j];
                r[u] = rsqrtf(head_sum<LH>(sum) * (1.0f / C) + a.eps);
                if (there && !lane[u])
                    rstd[(token0 * items + e) / LH] = r[u];
#pragma unroll
                for (int s = 0; s < S; s++)
#pragma unroll
                    for (int j = 0; j < 8; j++)
                        v[s][j] *= r[u];
            }
#pragma unroll
            for (int s = 0; s < S; s++)
                if (there)
                    stv<8>(out, at[u] + s * half, v[s]);
        }
    }
}

#define BY_HEAD(head_dim, ...) \
    do { \
        if ((head_dim) == 128) { \
            constexpr int C = 128; \
            __VA_ARGS__; \
        } else if ((head_dim) == 64) { \
            constexpr int C = 64; \
            __VA_ARGS__; \
        } else if ((head_dim) == 256) { \
            constexpr int C = 256; \
            __VA_ARGS__; \
        } else { \
            constexpr int C = 32; \
            __VA_ARGS__; \
        } \
    } while (0)

template <int WHAT>
static mr_status run(const struct rope *k, const void *x, const void *y, const void *rstd_in,
                     const void *positions, void *out, void *rstd, cudaStream_t stream,
                     mr_err *err)
{
    const rope_args &a = k->a;
    const int s = a.interleaved ? 1 : 2, items = a.width / (8 * s);
    int tokens = PIECES / s * THREADS / items;
    if (tokens * a.head_dim > TABLE)
        tokens = TABLE / a.head_dim;
    tokens = tokens < 1 ? 1 : tokens;
    const unsigned blocks = (unsigned)cuda_ceil(a.tokens, tokens);
    const size_t room = (size_t)tokens * (size_t)a.head_dim * sizeof(float);
    if (a.tokens)
        WITH_TYPE(k->base.in_kind[0], BY_HEAD(a.head_dim, {
            if (s == 1)
                rope_heads<F, WHAT, 1, C><<<blocks, THREADS, room, stream>>>(
                    (const F *)x, (const F *)y, (const float *)rstd_in, (const int32_t *)positions,
                    (F *)out, (float *)rstd, tokens, a);
            else
                rope_heads<F, WHAT, 2, C><<<blocks, THREADS, room, stream>>>(
                    (const F *)x, (const F *)y, (const float *)rstd_in, (const int32_t *)positions,
                    (F *)out, (float *)rstd, tokens, a);
        }));
    return cuda_launched(&k->base, err);
}

static mr_status rope_run(RUN_ARGS)
{
    (void)ws;
    return run<ROPE>((const struct rope *)base, in[0].data, nullptr, nullptr, in[1].data,
                     out[0].data, nullptr, stream, err);
}

static mr_status norm_run(RUN_ARGS)
{
    (void)ws;
    return run<NORM>((const struct rope *)base, in[0].data, nullptr, nullptr, in[1].data,
                     out[0].data, out[1].data, stream, err);
}

static mr_status norm_bwd_run(RUN_ARGS)
{
    (void)ws;
    return run<NORM_BWD>((const struct rope *)base, in[0].data, in[1].data, in[2].data, in[3].data,
                         out[0].data, nullptr, stream, err);
}

static mr_status prepare(struct kernel *base, const mr_call *c, int back, mr_err *err)
{
    struct rope *k = (struct rope *)base;
    mr_status st = rope_take(k, c, back, err);
    const int C = k->a.head_dim;
    if (st)
        return st;
    if ((C != 32 && C != 64 && C != 128 && C != 256) || 2 * k->a.pairs != C)
        return cuda_refuse(base, err, "heads not 32, 64, 128 or 256 wide, or turned in part");
    return MR_OK;
}

static mr_status rope_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = rope_run;
    return prepare(base, c, 0, err);
}

static mr_status norm_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = norm_run;
    return prepare(base, c, 0, err);
}

static mr_status norm_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = norm_bwd_run;
    if (base->in_kind[0] != base->in_kind[1])
        return cuda_refuse(base, err, "dy and y are of two dtypes");
    return prepare(base, c, 1, err);
}

const struct op_row cuda_rope_heads_rows[] = {
    { "rope", "xi>x", sizeof(struct rope), rope_prepare, MR_K_INPLACE0, 0 },
    { "rope_norm", "xi>xf", sizeof(struct rope), norm_prepare, 0, 0 },
    { "rope_norm.bwd", "xxfi>x", sizeof(struct rope), norm_bwd_prepare, MR_K_INPLACE0, 0 },
    {},
};
