// SPDX-License-Identifier: Apache-2.0
//
// attention_mma.cu - attention forward for bf16 heads up to 128 wide (192 on values of 128, as in
// MLA), on the tensor cores: the walk of attention.cu with 64 queries a block, 16 a warp, 64 keys
// a step. D: the width of a tile of queries or keys, V: of values. Queries stay in
// registers; the next keys and values are copied while these are multiplied; weights go from
// the first product's result to the second's operand without leaving registers. Flops: 2 pairs
// H (C + Cv); floor 2 pairs H (C + Cv) / 990e12 s; mma.sync can reach some 60 % of that.
//
// A NaN among the keys or values of a tile spreads to all its queries, also those that do not
// see it: 0 times NaN. No number is touched otherwise.

#include "attn.cuh"
#include "flash.cuh"

#define SELF const struct attn *k = (const struct attn *)base

template <int D, int V, typename O>
__global__ void __launch_bounds__(FLASH_THREADS)
    flash(const uint16_t *q, const uint16_t *k, const uint16_t *v, const int32_t *seq_start,
          O *o, float *lse, const attn_args a)
{
    constexpr int P = D + 8, PV = V + 8, B = 64;
    extern __shared__ __align__(16) uint16_t tiles[];
    __shared__ int lows[4], highs[4];
    uint16_t *ks = tiles, *vs = tiles + 2 * B * P; // two of each
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.y, g = h / a.group;
    int t0 = (gridDim.x - 1 - blockIdx.x) * B, end = min((int64_t)t0 + B, a.tokens) - 1;
    int last = last_seen(end, a), sure = last_seen(t0, a); // any row sees, every row sees
    int64_t wk = (int64_t)a.kv * a.c, wv = (int64_t)a.kv * a.cv;
    const float unit = a.scale * LOG2_E;

    // my two rows, what they see, and what the block sees
    int t[2], first[2], upto[2];
    for (int i = 0; i < 2; i++) {
        t[i] = t0 + warp * 16 + lane / 4 + 8 * i;
        first[i] = first_seen(seq_start, min(t[i], end), a);
        upto[i] = last_seen(t[i], a);
    }
    int low = min(first[0], first[1]), high = max(first[0], first[1]);
    for (int d = 16; d; d >>= 1) {
        low = min(low, __shfl_xor_sync(~0u, low, d));
        high = max(high, __shfl_xor_sync(~0u, high, d));
    }
    if (!lane) {
        lows[warp] = low;
        highs[warp] = high;
    }
    flash_load<D, B>(ks, q, (int64_t)a.heads * a.c, h * a.c, t0, a.tokens, a.c);
    copies_end();
    copies_wait<0>();
    __syncthreads();
    low = min(min(lows[0], lows[1]), min(lows[2], lows[3]));
    high = max(max(highs[0], highs[1]), max(highs[2], highs[3]));
    uint32_t qf[D / 16][4];
#pragma unroll
    for (int i = 0; i < D / 16; i++)
        fragment_a(qf[i], ks, P, warp * 16, i * 16);
    __syncthreads();

    float acc[V / 8][4] = {}, max[2] = { -INFINITY, -INFINITY }, sum[2] = {};
    int j0 = low / B * B, at = 0;
    flash_load<D, B>(ks, k, wk, g * a.c, j0, a.keys, a.c);
    flash_load<V, B>(vs, v, wv, g * a.cv, j0, a.keys, a.cv);
    copies_end();
    for (; j0 <= last; j0 += B, at ^= 1) {
        if (j0 + B <= last) {
            flash_load<D, B>(ks + (at ^ 1) * B * P, k, wk, g * a.c, j0 + B, a.keys, a.c);
            flash_load<V, B>(vs + (at ^ 1) * B * PV, v, wv, g * a.cv, j0 + B, a.keys, a.cv);
            copies_end();
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        const uint16_t *kt = ks + at * B * P, *vt = vs + at * B * PV;
        float s[B / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i++)
#pragma unroll
            for (int n = 0; n < B / 16; n++) {
                uint32_t b[4];
                fragment_b(b, kt, P, n * 16, i * 16);
                mma(s[2 * n], qf[i], b);
                mma(s[2 * n + 1], qf[i], b + 2);
            }
        bool whole = j0 >= high && j0 + B - 1 <= sure; // every row sees every key
        float top[2] = { max[0], max[1] };
#pragma unroll
        for (int n = 0; n < B / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int j = j0 + n * 8 + lane % 4 * 2 + e % 2;
                s[n][e] = whole || (j >= first[e / 2] && j <= upto[e / 2]) ? s[n][e] * unit
                                                                        : -INFINITY;
                top[e / 2] = fmaxf(top[e / 2], s[n][e]);
            }
        float keep[2], base[2];
#pragma unroll
        for (int i = 0; i < 2; i++) {
            top[i] = fmaxf(top[i], __shfl_xor_sync(~0u, top[i], 1));
            top[i] = fmaxf(top[i], __shfl_xor_sync(~0u, top[i], 2));
            keep[i] = top[i] == max[i] ? 1 : exp2f(max[i] - top[i]);
            base[i] = top[i] == -INFINITY ? 0 : top[i]; // no key so far
            max[i] = top[i];
            sum[i] *= keep[i];
        }
#pragma unroll
        for (int n = 0; n < B / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                s[n][e] = exp2f(s[n][e] - base[e / 2]);
                sum[e / 2] += s[n][e];
            }
#pragma unroll
        for (int n = 0; n < V / 8; n++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                acc[n][e] *= keep[e / 2];
#pragma unroll
        for (int i = 0; i < B / 16; i++) {
            uint32_t p[4];
            pack_a(p, s[2 * i], s[2 * i + 1]);
#pragma unroll
            for (int n = 0; n < V / 16; n++) {
                uint32_t b[4];
                fragment_b_turned(b, vt, PV, i * 16, n * 16);
                mma(acc[2 * n], p, b);
                mma(acc[2 * n + 1], p, b + 2);
            }
        }
        __syncthreads();
    }
    copies_wait<0>(); // of a part that no row sees there was no step
#pragma unroll
    for (int i = 0; i < 2; i++) {
        sum[i] += __shfl_xor_sync(~0u, sum[i], 1);
        sum[i] += __shfl_xor_sync(~0u, sum[i], 2);
        if (t[i] < a.tokens && lane % 4 == 0)
            lse[(int64_t)t[i] * a.heads + h] = (max[i] + log2f(sum[i])) / LOG2_E;
        for (int n = 0; n < V / 8; n++) {
            acc[n][2 * i] = sum[i] == 0 ? 0 : acc[n][2 * i] / sum[i];
            acc[n][2 * i + 1] = sum[i] == 0 ? 0 : acc[n][2 * i + 1] / sum[i];
        }
    }
    flash_store<V>(o, acc, (int64_t)a.heads * a.cv, h * a.cv, t0 + warp * 16, a.tokens, a.cv);
}

template <int D, int V> static size_t room(void)
{
    return (size_t)2 * 64 * (D + 8 + V + 8) * sizeof(uint16_t);
}

static mr_status flash_run(RUN_ARGS)
{
    SELF;
    dim3 grid((unsigned)cuda_ceil(k->a.tokens, 64), (unsigned)k->a.heads);
    (void)ws;
    if (k->a.tokens)
        WITH_WIDTH(k->a, WITH_RESULT(k->a, uint16_t, {
            flash<D, V, O><<<grid, FLASH_THREADS, room<D, V>(), stream>>>(
                (const uint16_t *)in[0].data, (const uint16_t *)in[1].data,
                (const uint16_t *)in[2].data, (const int32_t *)in[3].data, (O *)out[0].data,
                (float *)out[1].data, k->a);
        }));
    return cuda_launched(base, err);
}

static mr_status flash_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    mr_status bad = flash_shape(k, c, c->in[0], c->in[2], 3, err);
    if (bad)
        return bad;
    base->impl = "own flash mma bf16";
    base->run = flash_run;
    WITH_WIDTH(k->a, WITH_RESULT(k->a, uint16_t, {
        bad = want_shared(base, (const void *)flash<D, V, O>, room<D, V>(), err);
    }));
    return bad;
}

const struct op_row cuda_flash_rows[] = {
    { "attention", "xxxI>xf", sizeof(struct attn), flash_prepare, 0, 0 },
    { "attention.cp", "xxxi>xf", sizeof(struct attn), flash_prepare, 0, 0 },
    { "attention.part", "xxxi>ff", sizeof(struct attn), flash_prepare, 0, 0 },
    {},
};
