// SPDX-License-Identifier: Apache-2.0
//
// attention_bwd_mma.cu - the gradient of attention for bf16 heads up to 128 wide (192 on values
// of 128), on the tensor cores; the three kernels of attention_bwd.cu. D: the width of a tile of
// queries or keys, V: of values and outputs. dk and dv: a block has 64 keys, 16 a warp, and
// takes 32 queries at a time, transposed (keys are rows), so that weights and their gradients
// become operands where they lie. dq: 64 queries, 32 keys at a time. No atomics: one order of
// sums. Flops: 2 pairs H (5 C + 4 Cv); floor that over 990e12 s. NaN as in attention_mma.cu.

#include "attn_bwd.cuh"
#include "flash.cuh"

#define SELF const struct attn *k = (const struct attn *)base

enum { OWN = 64, STEP = 32 }; // rows that a block owns, rows that it takes at a time

// s: rows x STEP of products; turns them into weights p and their gradients d, with
// seen(row half, column) and the row's or column's lse and delta
struct seen_by {
    int first, last; // keys that a query sees
    float lse, delta;
};

DEV void weigh(float &s, float &d, int j, const seen_by &q, float unit, float scale)
{
    bool seen = j >= q.first && j <= q.last;
    float p = seen ? exp2f(s * unit - q.lse * LOG2_E) : 0;
    d = seen ? p * (d - q.delta) * scale : 0;
    s = p;
}

DEV seen_by query_of(const int32_t *seq_start, const float *lse, const float *delta, int t, int h,
                     const attn_args &a)
{
    if (t >= a.tokens)
        return seen_by{ INT32_MAX, t, 0, 0 };
    return seen_by{ first_seen(seq_start, t, a), last_seen(t, a), lse[(int64_t)t * a.heads + h],
                    delta[(int64_t)t * a.heads + h] };
}

// acc: 16 rows of tile a from `row` on, by ROWS rows of tile b; 16 values from column i on
template <int ROWS>
DEV void multiply(float acc[ROWS / 8][4], const uint16_t *a, const uint16_t *b, int pitch, int row,
                  int i)
{
    uint32_t fa[4], fb[4];
    fragment_a(fa, a, pitch, row, i);
#pragma unroll
    for (int m = 0; m < ROWS / 16; m++) {
        fragment_b(fb, b, pitch, m * 16, i);
        mma(acc[2 * m], fa, fb);
        mma(acc[2 * m + 1], fa, fb + 2);
    }
}

template <int D, int V, typename O>
__global__ void __launch_bounds__(FLASH_THREADS)
    flash_dkv(const uint16_t *dy, const uint16_t *q, const uint16_t *k, const uint16_t *v,
              const float *lse, const int32_t *seq_start, const float *delta, const int32_t *reach,
              O *dk, O *dv, const attn_args a)
{
    constexpr int P = D + 8, PV = V + 8;
    extern __shared__ __align__(16) uint16_t tiles[];
    __shared__ seen_by rows[2][STEP];
    uint16_t *ks = tiles, *vs = ks + OWN * P, *qs = vs + OWN * PV, *os = qs + 2 * STEP * P;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = blockIdx.y, j0 = blockIdx.x * OWN;
    int from = first_query(j0, a);
    int tiles_n = (reach[blockIdx.x] - from) / STEP + 1, n_all = tiles_n * a.group;
    int64_t wq = (int64_t)a.heads * a.c, wo = (int64_t)a.heads * a.cv;
    const float unit = a.scale * LOG2_E;
    float ak[D / 8][4] = {}, av[V / 8][4] = {};

    auto load = [&](int n, int at) {
        int h = g * a.group + n / tiles_n, t0 = from + n % tiles_n * STEP;
        flash_load<D, STEP>(qs + at * STEP * P, q, wq, h * a.c, t0, a.tokens, a.c);
        flash_load<V, STEP>(os + at * STEP * PV, dy, wo, h * a.cv, t0, a.tokens, a.cv);
        copies_end();
        if (threadIdx.x < STEP)
            rows[at][threadIdx.x] = query_of(seq_start, lse, delta, t0 + threadIdx.x, h, a);
    };
    flash_load<D, OWN>(ks, k, (int64_t)a.kv * a.c, g * a.c, j0, a.keys, a.c);
    flash_load<V, OWN>(vs, v, (int64_t)a.kv * a.cv, g * a.cv, j0, a.keys, a.cv);
    load(0, 0);
    for (int n = 0, at = 0; n < n_all; n++, at ^= 1) {
        if (n + 1 < n_all) {
            load(n + 1, at ^ 1);
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        const uint16_t *qt = qs + at * STEP * P, *ot = os + at * STEP * PV;
        float s[STEP / 8][4] = {}, d[STEP / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            multiply<STEP>(s, ks, qt, P, warp * 16, i * 16);
#pragma unroll
        for (int i = 0; i < V / 16; i++)
            multiply<STEP>(d, vs, ot, PV, warp * 16, i * 16);
#pragma unroll
        for (int m = 0; m < STEP / 8; m++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                weigh(s[m][e], d[m][e], j0 + warp * 16 + lane / 4 + e / 2 * 8,
                      rows[at][m * 8 + lane % 4 * 2 + e % 2], unit, a.scale);
#pragma unroll
        for (int i = 0; i < STEP / 16; i++) {
            uint32_t pa[4], da[4], b[4];
            pack_a(pa, s[2 * i], s[2 * i + 1]);
            pack_a(da, d[2 * i], d[2 * i + 1]);
#pragma unroll
            for (int m = 0; m < V / 16; m++) {
                fragment_b_turned(b, ot, PV, i * 16, m * 16);
                mma(av[2 * m], pa, b);
                mma(av[2 * m + 1], pa, b + 2);
            }
#pragma unroll
            for (int m = 0; m < D / 16; m++) {
                fragment_b_turned(b, qt, P, i * 16, m * 16);
                mma(ak[2 * m], da, b);
                mma(ak[2 * m + 1], da, b + 2);
            }
        }
        __syncthreads();
    }
    flash_store<D>(dk, ak, (int64_t)a.kv * a.c, g * a.c, j0 + warp * 16, a.keys, a.c);
    flash_store<V>(dv, av, (int64_t)a.kv * a.cv, g * a.cv, j0 + warp * 16, a.keys, a.cv);
}

template <int D, int V, typename O>
__global__ void __launch_bounds__(FLASH_THREADS)
    flash_dq(const uint16_t *dy, const uint16_t *q, const uint16_t *k, const uint16_t *v,
             const float *lse, const int32_t *seq_start, const float *delta, O *dq,
             const attn_args a)
{
    constexpr int P = D + 8, PV = V + 8;
    extern __shared__ __align__(16) uint16_t tiles[];
    __shared__ int lows[4];
    uint16_t *qs = tiles, *os = qs + OWN * P, *ks = os + OWN * PV, *vs = ks + 2 * STEP * P;
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, h = blockIdx.y, g = h / a.group;
    int t0 = (gridDim.x - 1 - blockIdx.x) * OWN;
    int last = last_seen(min((int64_t)t0 + OWN, a.tokens) - 1, a);
    const float unit = a.scale * LOG2_E;
    float acc[D / 8][4] = {};
    seen_by row[2];

    for (int i = 0; i < 2; i++)
        row[i] = query_of(seq_start, lse, delta, t0 + warp * 16 + lane / 4 + 8 * i, h, a);
    int low = min(row[0].first, row[1].first);
    for (int d = 16; d; d >>= 1)
        low = min(low, __shfl_xor_sync(~0u, low, d));
    if (!lane)
        lows[warp] = low;
    __syncthreads();
    int j0 = min(min(lows[0], lows[1]), min(lows[2], lows[3])) / STEP * STEP, at = 0;

    auto load = [&](int j, int to) {
        flash_load<D, STEP>(ks + to * STEP * P, k, (int64_t)a.kv * a.c, g * a.c, j, a.keys, a.c);
        flash_load<V, STEP>(vs + to * STEP * PV, v, (int64_t)a.kv * a.cv, g * a.cv, j, a.keys,
                            a.cv);
        copies_end();
    };
    flash_load<D, OWN>(qs, q, (int64_t)a.heads * a.c, h * a.c, t0, a.tokens, a.c);
    flash_load<V, OWN>(os, dy, (int64_t)a.heads * a.cv, h * a.cv, t0, a.tokens, a.cv);
    load(j0, 0);
    for (; j0 <= last; j0 += STEP, at ^= 1) {
        if (j0 + STEP <= last) {
            load(j0 + STEP, at ^ 1);
            copies_wait<1>();
        } else {
            copies_wait<0>();
        }
        __syncthreads();
        const uint16_t *kt = ks + at * STEP * P, *vt = vs + at * STEP * PV;
        float s[STEP / 8][4] = {}, d[STEP / 8][4] = {};
#pragma unroll
        for (int i = 0; i < D / 16; i++)
            multiply<STEP>(s, qs, kt, P, warp * 16, i * 16);
#pragma unroll
        for (int i = 0; i < V / 16; i++)
            multiply<STEP>(d, os, vt, PV, warp * 16, i * 16);
#pragma unroll
        for (int m = 0; m < STEP / 8; m++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                weigh(s[m][e], d[m][e], j0 + m * 8 + lane % 4 * 2 + e % 2, row[e / 2], unit,
                      a.scale);
#pragma unroll
        for (int i = 0; i < STEP / 16; i++) {
            uint32_t da[4], b[4];
            pack_a(da, d[2 * i], d[2 * i + 1]);
#pragma unroll
            for (int m = 0; m < D / 16; m++) {
                fragment_b_turned(b, kt, P, i * 16, m * 16);
                mma(acc[2 * m], da, b);
                mma(acc[2 * m + 1], da, b + 2);
            }
        }
        __syncthreads();
    }
    copies_wait<0>(); // of a part that no row sees there was no step
    flash_store<D>(dq, acc, (int64_t)a.heads * a.c, h * a.c, t0 + warp * 16, a.tokens, a.c);
}

template <int D, int V> static size_t room(void) // of either width OWN rows and twice STEP
{
    return (size_t)(OWN + 2 * STEP) * (D + 8 + V + 8) * sizeof(uint16_t);
}

static mr_status flash_bwd_run(RUN_ARGS)
{
    SELF;
    const uint16_t *dy = (const uint16_t *)in[0].data, *q = (const uint16_t *)in[1].data;
    const uint16_t *kk = (const uint16_t *)in[2].data, *v = (const uint16_t *)in[3].data;
    const float *lse = (const float *)in[5].data;
    const int32_t *seq_start = (const int32_t *)in[6].data;
    float *delta = (float *)ws;
    int32_t *reach = (int32_t *)(delta + k->a.tokens * k->a.heads);
    unsigned tiles = (unsigned)cuda_ceil(k->a.keys, OWN);
    unsigned rows = (unsigned)cuda_ceil(k->a.tokens, OWN);
    if (!k->a.tokens)
        return MR_OK;
    attn_bwd_first((const bf16 *)in[0].data, (const bf16 *)in[4].data, seq_start, delta, reach, OWN,
                   k->a, stream);
    WITH_WIDTH(k->a, WITH_RESULT(k->a, uint16_t, {
        size_t shared = room<D, V>();
        flash_dkv<D, V, O><<<dim3(tiles, (unsigned)k->a.kv), FLASH_THREADS, shared, stream>>>(
            dy, q, kk, v, lse, seq_start, delta, reach, (O *)out[1].data, (O *)out[2].data, k->a);
        flash_dq<D, V, O><<<dim3(rows, (unsigned)k->a.heads), FLASH_THREADS, shared, stream>>>(
            dy, q, kk, v, lse, seq_start, delta, (O *)out[0].data, k->a);
    }));
    return cuda_launched(base, err);
}

static mr_status flash_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct attn *k = (struct attn *)base;
    mr_status bad = flash_shape(k, c, c->in[1], c->in[3], 5, err);
    if (bad)
        return bad;
    base->workspace = attn_bwd_room(k->a, OWN);
    base->impl = "own flash mma bf16";
    base->run = flash_bwd_run;
    WITH_WIDTH(k->a, WITH_RESULT(k->a, uint16_t, {
        bad = want_shared(base, (const void *)flash_dkv<D, V, O>, room<D, V>(), err);
        bad = bad ? bad : want_shared(base, (const void *)flash_dq<D, V, O>, room<D, V>(), err);
    }));
    return bad;
}

const struct op_row cuda_flash_bwd_rows[] = {
    { "attention.bwd", "xxxxxfI>xxx", sizeof(struct attn), flash_bwd_prepare, 0, 0 },
    { "attention.cp.bwd", "xxxxxfi>xxx", sizeof(struct attn), flash_bwd_prepare, 0, 0 },
    { "attention.part.bwd", "xxxxxfi>fff", sizeof(struct attn), flash_bwd_prepare, 0, 0 },
    {},
};
