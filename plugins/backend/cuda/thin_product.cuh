// SPDX-License-Identifier: Apache-2.0
//
// thin_product.cuh - few rows times many weights: what counts is to read bf16 weights once, at the
// memory's rate. A block has 16 M columns of the result (rows of an [O,I] weight, or columns of an
// [I,O] one) and a share of the inner dimension; its warps have each a part of that share, and 8 NT
// rows of x pass through the tensor cores together. Weights go from memory to registers in 16-byte
// pieces that are fragments as they come: a product does not care in which order its terms stand,
// so thread (g, t) = (lane / 4, lane % 4) has the terms 8 t .. 8 t + 7 of each 32.
//
// The warps' sums meet in shared memory, those of a cluster of blocks that share the inner
// dimension over its network, all in one order. x may be normalised on the way (a row's sums are
// times its 1 / rms), gathered by expert with a score, and the results finished as `thin_end` says.
//
// Bytes: the weights that rows are there for, once; floor: bytes / 4.2 TB/s on an H200.

#ifndef MRUN_CUDA_THIN_PRODUCT_CUH
#define MRUN_CUDA_THIN_PRODUCT_CUH
#include "early.cuh"
#include "mma.cuh"

enum { THIN_WEIGHTS = 3 };
enum thin_end {
    THIN_STORE, // y = sum + bias
    THIN_ADD,   // y = a + b + sum + bias, a and b where they are there
    THIN_SWIGLU // y = silu(sum of weight 0) times sum of weight 1, or of the other half's columns
};

struct thin_args { // by value in a launch
    const bf16 *x, *norm; // [T, inner]; the norm's weight [inner]
    const bf16 *w[THIN_WEIGHTS];
    void *y[THIN_WEIGHTS];
    const bf16 *bias[THIN_WEIGHTS], *a, *b;
    int tiles[THIN_WEIGHTS];             // of 16 M columns each
    int outer[THIN_WEIGHTS];             // columns of y
    int rows, inner, kind;               // rows of y, kind of y
    int normed;                          // 1: x is normalised, by norm or (NULL) without a weight
    int early;                           // 1: what follows may start before this kernel has waited
    float eps;
    // experts: rows offsets[e] .. offsets[e + 1] are expert e's, its weight the e-th
    const int32_t *offsets, *from; // row r is of row from[r] / each of x, or of y if it is added
    const float *scores;           // by from[r]; NULL: 1
    int experts, each;
};

DEV uint4 weights_at(const bf16 *p)
{
    uint4 v;
    asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p));
    return v;
}

DEV uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

DEV float low_of(uint32_t two) { return __uint_as_float(two << 16); }
DEV float high_of(uint32_t two) { return __uint_as_float(two & 0xffff0000u); }

// x times the norm's weight, rounded; adds the squares of x
DEV uint4 weigh(const uint4 &x, const uint4 &w, bool weighted, float &squares)
{
    uint32_t r[4];
#pragma unroll
    for (int i = 0; i < 4; i++) {
        float low = low_of(word_of(x, i)), high = high_of(word_of(x, i));
        float wl = low_of(word_of(w, i)), wh = high_of(word_of(w, i));
        squares += low * low + high * high;
        r[i] = weighted ? pack(low * wl, high * wh) : word_of(x, i);
    }
    return uint4{ r[0], r[1], r[2], r[3] };
}

// The slot-th expert that has rows: its number and its rows; false: there are fewer.
DEV bool expert_of(const int32_t *offsets, int experts, int slot, int rows, int *e, int *first,
                   int *end)
{
    int lane = threadIdx.x % 32;
    for (int e0 = 0; e0 < experts; e0 += 32) {
        int i = e0 + lane, lo = 0, hi = 0;
        if (i < experts)
            lo = offsets[i], hi = offsets[i + 1];
        lo = max(lo, 0), hi = min(hi, rows);
        uint32_t has = __ballot_sync(~0u, lo < hi);
        int n = __popc(has);
        if (slot < n) {
            for (; slot; slot--)
                has &= has - 1;
            int bit = __ffs((int)has) - 1;
            *e = e0 + bit;
            *first = __shfl_sync(~0u, lo, bit);
            *end = __shfl_sync(~0u, hi, bit);
            return true;
        }
        slot -= n;
    }
    return false;
}

// which row of x, or of the result, row r of the experts is; -1: none
DEV int row_from(const thin_args &p, int r)
{
    int i = p.from ? p.from[r] : r * p.each;
    return i >= 0 && i < p.rows ? i / p.each : -1;
}

DEV void finish(const thin_args &p, int end, int s, int64_t row, int col, float sum, float up)
{
    arr y = { p.y[s], p.kind };
    int64_t at = row * p.outer[s] + col;
    if (row < 0)
        return;
    if (p.bias[s])
        sum += ld(p.bias[s], col);
    if (end == THIN_SWIGLU)
        sum = sum * sigmoid(sum) * up;
    if (end == THIN_ADD) {
        sum += ld(p.a, at);
        if (p.b)
            sum += ld(p.b, at);
    }
    put(y, at, sum);
}

// One block's sums over k0 .. k1 - 1, a warp's in part[warp][column][row], and those of squares if
// x is normalised. IO: weights [I,O], else [O,I]; HALVES: the upper half of the columns are those
// of the other weight, or of the other half of this one. Thread (g, t) has row g of each 8.
template <bool IO, int M, int NT, int WARPS, bool HALVES>
DEV void thin_sums(const thin_args &p, const bf16 *w, const bf16 *other, int64_t width, int outer,
                   int col0, int k0, int k1, const bf16 *const x[NT], const bool there[NT],
                   float part[WARPS][16 * M][8 * NT], float squares[WARPS][8 * NT])
{
    constexpr int LOADS = 2 * M, U = M > 2 ? 16 / LOADS : 8 / LOADS;
    constexpr int STEP = 32 * U; // of the inner dimension: 8 or 16 loads of weights a thread
    static_assert(U >= 1 && (!IO || M % 4 == 0), "");
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, t = lane % 4;
    float acc[M][NT][4] = {}, sq[NT] = {};
    for (int k = k0 + warp * STEP; k < k1; k += WARPS * STEP) {
        uint4 xs[U][NT], ws[U][LOADS], ns[U];
#pragma unroll
        for (int u = 0; u < U; u++) {
            const int kk = k + 32 * u + 8 * t;
            const bool in = kk < k1;
#pragma unroll
            for (int n = 0; n < NT; n++)
                xs[u][n] = in && there[n] ? *(const uint4 *)(x[n] + kk) : uint4{};
            ns[u] = p.norm && in && there[0] ? *(const uint4 *)(p.norm + kk) : uint4{};
#pragma unroll
            for (int j = 0; j < LOADS; j++) {
                const bf16 *at;
                bool have;
                if (IO) { // terms kk .. kk + 7, columns 8 g .. 8 g + 7 of each 64
                    const bool narrow = HALVES && M == 4; // 32 columns of each half
                    int half = narrow ? g / 4 : HALVES && j / 8 >= LOADS / 16;
                    int col = col0 + (narrow ? 8 * (g % 4)
                                             : (j / 8 - half * LOADS / 16) * 64 + 8 * g);
                    at = w + (kk + j % 8) * width + half * outer + col;
                    have = in && col < outer;
                } else { // columns 16 i + g and 16 i + g + 8
                    int half = HALVES && j >= LOADS / 2;
                    int col = col0 + (j - half * LOADS / 2) * 8 + g;
                    at = (half ? other : w) + (int64_t)col * p.inner + kk;
                    have = in && col < outer;
                }
                ws[u][j] = have ? weights_at(at) : uint4{};
            }
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            if (p.normed)
#pragma unroll
                for (int n = 0; n < NT; n++)
                    xs[u][n] = weigh(xs[u][n], ns[u], p.norm != nullptr, sq[n]);
#pragma unroll
            for (int h = 0; h < 2; h++)
#pragma unroll
                for (int i = 0; i < M; i++) {
                    uint32_t a[4];
                    if (IO) {
                        const uint4 *v = ws[u] + i / 4 * 8 + 4 * h;
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            a[e] = __byte_perm(word_of(v[e / 2 * 2], i % 4),
                                               word_of(v[e / 2 * 2 + 1], i % 4),
                                               e % 2 ? 0x7632 : 0x5410);
                    } else {
#pragma unroll
                        for (int e = 0; e < 4; e++)
                            a[e] = word_of(ws[u][2 * i + e % 2], 2 * h + e / 2);
                    }
#pragma unroll
                    for (int n = 0; n < NT; n++) {
                        uint32_t b[2] = { word_of(xs[u][n], 2 * h), word_of(xs[u][n], 2 * h + 1) };
                        mma(acc[i][n], a, b);
                    }
                }
        }
    }
#pragma unroll
    for (int i = 0; i < M; i++)
#pragma unroll
        for (int n = 0; n < NT; n++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                int col = IO ? i / 4 * 64 + 8 * g + 2 * (i % 4) + e : 16 * i + g + 8 * e;
                *(float2 *)&part[warp][col][8 * n + 2 * t] =
                    float2{ acc[i][n][2 * e], acc[i][n][2 * e + 1] };
            }
    if (p.normed)
#pragma unroll
        for (int n = 0; n < NT; n++) {
            float q = sq[n];
            q += __shfl_xor_sync(~0u, q, 1);
            q += __shfl_xor_sync(~0u, q, 2);
            if (t == 0)
                squares[warp][8 * n + g] = q;
        }
}

DEV float thin_rms(const thin_args &p, float squares) // what a normalised row's sums are times
{
    return p.normed ? rsqrtf(squares / (float)p.inner + p.eps) : 1;
}

// Grid: (tiles x splits, experts that may have rows or 1); a cluster is the splits of a tile.
template <bool IO, int M, int NT, int WARPS, int END, bool GROUPED>
__global__ void __launch_bounds__(WARPS * 32, M * NT > 4 ? 12 / WARPS : 16 / WARPS)
    thin_product(const __grid_constant__ thin_args p, int splits)
{
    constexpr int COLS = 16 * M, ROWS = 8 * NT, OUT = END == THIN_SWIGLU ? COLS / 2 : COLS;
    __shared__ float part[WARPS][COLS][ROWS], squares[WARPS][ROWS], factor[ROWS];
    const int g = threadIdx.x % 32 / 4, rank = splits > 1 ? (int)cluster_rank() : 0;
    int tile = (int)blockIdx.x / splits, s = 0;
    while (s + 1 < THIN_WEIGHTS && tile >= p.tiles[s])
        tile -= p.tiles[s++];
    // this block's columns and its share of the inner dimension, in whole 32s
    const int col0 = tile * OUT, outer = p.outer[s];
    const int share = ((p.inner + 31) / 32 + splits - 1) / splits * 32;
    const int k0 = rank * share, k1 = min(p.inner, k0 + share);

    if (!GROUPED && !IO && k0 < k1) // the weights are on their way while the kernel before ends
        for (int r = threadIdx.x; r < COLS; r += WARPS * 32) {
            int half = END == THIN_SWIGLU && r >= OUT, row = col0 + r - half * OUT;
            if (row < outer)
                into_l2(p.w[half ? 1 : s] + (int64_t)row * p.inner + k0, (uint32_t)(k1 - k0) * 2);
        }
    if (p.early)
        next_may_start();
    previous_done();
    if (!p.early)
        next_may_start();

    int expert = 0, first = 0, end = p.rows;
    if (GROUPED) {
        if (blockIdx.y == 0 && rank == 0) { // rows that no expert owns
            int low = min(max(p.offsets[0], 0), p.rows), high = max(p.offsets[p.experts], low);
            for (int r = low ? 0 : high; r < p.rows; r = r + 1 == low ? high : r + 1)
                for (int c = threadIdx.x; c < OUT && col0 + c < outer; c += WARPS * 32)
                    finish(p, END, s, END == THIN_ADD ? row_from(p, r) : r, col0 + c, 0, 0);
        }
        if (!expert_of(p.offsets, p.experts, (int)blockIdx.y, p.rows, &expert, &first, &end))
            return; // all blocks of the cluster
    }
    // an expert's gate and up projections are one matrix, others are two
    const int64_t width = GROUPED && END == THIN_SWIGLU ? 2 * (int64_t)outer : outer;
    const bf16 *w = p.w[s] + expert * width * p.inner;
    const bf16 *other = GROUPED ? w + (int64_t)outer * p.inner : p.w[1];

    for (int r0 = first; r0 < end; r0 += ROWS) {
        const int count = min(ROWS, end - r0);
        float score = 1; // asked for early, to be there when the sums are
        if (GROUPED && p.scores && threadIdx.x < (unsigned)count) {
            int i = p.from[r0 + threadIdx.x];
            score = i >= 0 && i < p.rows ? p.scores[i] : 1;
        }
        const bf16 *x[NT];
        bool there[NT];
#pragma unroll
        for (int n = 0; n < NT; n++) {
            int r = r0 + 8 * n + g;
            int from = GROUPED && END != THIN_ADD && r < end ? row_from(p, r) : r;
            there[n] = r < end && from >= 0;
            x[n] = p.x + (there[n] ? (int64_t)from * p.inner : 0);
        }
        thin_sums<IO, M, NT, WARPS, END == THIN_SWIGLU>(p, w, other, width, outer, col0, k0, k1, x,
                                                        there, part, squares);
        __syncthreads();
        if (splits > 1) { // this block's sums, for the others to read
            for (int i = threadIdx.x; i < COLS * count; i += WARPS * 32) {
                float *at = &part[0][i % COLS][i / COLS], sum = 0;
#pragma unroll
                for (int v = 0; v < WARPS; v++)
                    sum += at[v * COLS * ROWS];
                *at = sum;
            }
            if (p.normed && threadIdx.x < ROWS)
                for (int v = 1; v < WARPS; v++)
                    squares[0][threadIdx.x] += squares[v][threadIdx.x];
            cluster_sync();
        }
        if (threadIdx.x < (unsigned)count) {
            float q = 0;
            if (p.normed)
                for (int v = 0; v < (splits > 1 ? splits : WARPS); v++)
                    q += splits > 1 ? of_rank(&squares[0][threadIdx.x], (uint32_t)v)
                                    : squares[v][threadIdx.x];
            factor[threadIdx.x] = thin_rms(p, q) * score;
        }
        __syncthreads();
        const int mine = OUT / splits; // columns that this block finishes
        for (int i = threadIdx.x; i < mine * count; i += WARPS * 32) {
            const int c = rank * mine + i % mine, n = i / mine;
            float sum = 0, up = 0;
            if (splits > 1) {
                for (int v = 0; v < splits; v++) {
                    sum += of_rank(&part[0][c][n], (uint32_t)v);
                    if (END == THIN_SWIGLU)
                        up += of_rank(&part[0][c + OUT][n], (uint32_t)v);
                }
            } else {
#pragma unroll
                for (int v = 0; v < WARPS; v++) {
                    sum += part[v][c][n];
                    if (END == THIN_SWIGLU)
                        up += part[v][(c + OUT) % COLS][n];
                }
            }
            int row = GROUPED && END == THIN_ADD ? row_from(p, r0 + n) : r0 + n;
            if (col0 + c < outer)
                finish(p, END, s, row, col0 + c, sum * factor[n], up * factor[n]);
        }
        if (splits > 1)
            cluster_sync(); // nobody reads here any more
        else if (r0 + ROWS < end)
            __syncthreads();
    }
}

#endif
