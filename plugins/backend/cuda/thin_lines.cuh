// SPDX-License-Identifier: Apache-2.0
//
// thin_lines.cuh - up to 16 rows times [O,I] weights, where a launch is a few microseconds and what
// counts is the chain of latencies. A block has 8 lines of the weight (4 of gate and up each) and a
// warp for each 256 terms: every load of weights that it will need is under way before it waits for
// anything, the rows of x pass through shared memory meanwhile, and one exchange of sums ends it.
// Two blocks a multiprocessor leave room for the next kernel's, which ask for their lines into the
// L2 while this one works. The eight lines are columns
// of a tensor core product whose rows are those of x; thin_product.cuh tells how its terms lie.
//
// Bytes: the weights once; floor: bytes / 4.2 TB/s on an H200.

#ifndef MRUN_CUDA_THIN_LINES_CUH
#define MRUN_CUDA_THIN_LINES_CUH
#include "thin_product.cuh"

enum { LINES = 8, LINE_ROWS = 16, LINE_TERMS = 256 /* of a warp at once */, LINES_AHEAD = 3 };

static inline size_t lines_shared(int rows, int inner)
{
    return (size_t)rows * ((size_t)inner + 32) * 2;
}

// Rows of x, weighed by the norm, into xs; each warp's squares of each row.
template <int WARPS>
DEV void lines_rows(const thin_args &p, uint16_t *xs, float squares[WARPS][LINE_ROWS])
{
    for (int r = 0; r < p.rows; r++) {
        const bf16 *x = p.x + (int64_t)r * p.inner;
        float q = 0;
        for (int k = threadIdx.x * 8; k < p.inner; k += WARPS * 256) {
            uint4 v = *(const uint4 *)(x + k);
            if (p.normed)
                v = weigh(v, p.norm ? *(const uint4 *)(p.norm + k) : uint4{}, p.norm != nullptr, q);
            *(uint4 *)(xs + r * (p.inner + 32) + k) = v;
        }
        if (p.normed) {
            q = warp_sum(q);
            if (threadIdx.x % 32 == 0)
                squares[threadIdx.x / 32][r] = q;
        }
    }
}

// Where a block is: line g of tile `tile`, for thread (g, t).
struct line_at {
    const bf16 *p; // NULL: there is none
    int s, col0;   // which weight, the tile's first column of y
};

template <int END> DEV line_at line_of(const thin_args &p, int tile, int tiles)
{
    constexpr int OUT = END == THIN_SWIGLU ? LINES / 2 : LINES;
    const int g = threadIdx.x % 32 / 4, half = g >= OUT;
    line_at l = { nullptr, 0, 0 };
    if (tile >= tiles)
        return l;
    while (l.s + 1 < THIN_WEIGHTS && tile >= p.tiles[l.s])
        tile -= p.tiles[l.s++];
    l.col0 = tile * OUT;
    if (l.col0 + g % OUT < p.outer[l.s])
        l.p = p.w[half ? 1 : l.s] + (int64_t)(l.col0 + g % OUT) * p.inner;
    return l;
}

// Blocks take tiles in turn; the next one's weights are under way while this one's sums meet.
template <int WARPS, int END>
__global__ void __launch_bounds__(WARPS * 32, 32 / WARPS)
    thin_lines(const __grid_constant__ thin_args p, int tiles)
{
    constexpr int OUT = END == THIN_SWIGLU ? LINES / 2 : LINES, U = LINE_TERMS / 32;
    extern __shared__ __align__(16) uint16_t xs[]; // [rows][inner + 32]
    __shared__ float part[WARPS][LINE_ROWS][LINES], squares[WARPS][LINE_ROWS];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int n = threadIdx.x / OUT, c = threadIdx.x % OUT; // the result that is this thread's
    int tile = (int)blockIdx.x, k0 = 0;
    line_at l = line_of<END>(p, tile, tiles), ahead = l;
    if (t == 0) // warp w asks for the block's w-th tile
        if (const bf16 *q = line_of<END>(p, tile + warp * (int)gridDim.x, tiles).p;
            q && warp < LINES_AHEAD)
            into_l2(q, (uint32_t)p.inner * 2);
    if (p.early)
        next_may_start();
    previous_done();
    if (!p.early)
        next_may_start();

    uint4 w[U];
    auto fetch = [&](const bf16 *line, int k) {
#pragma unroll
        for (int u = 0; u < U; u++)
            w[u] = line && k + 32 * u < p.inner ? weights_at(line + k + 32 * u) : uint4{};
    };
    fetch(l.p, warp * LINE_TERMS + 8 * t);
    lines_rows<WARPS>(p, xs, squares);
    __syncthreads();
    float by = 0, acc[4] = {};
    if (n < p.rows) {
        for (int v = 0; v < WARPS && p.normed; v++)
            by += squares[v][n];
        by = thin_rms(p, by);
    }
    while (tile < tiles) {
        float add = 0;
        if (END == THIN_ADD && k0 == 0 && n < p.rows && l.col0 + c < p.outer[0])
            add = ld(p.a, (int64_t)n * p.outer[0] + l.col0 + c); // the result is added to it
        for (bool more = true; more;) {
            const int k = k0 + warp * LINE_TERMS + 8 * t;
#pragma unroll
            for (int u = 0; u < U; u++) {
                const bool in = k + 32 * u < p.inner;
                const uint16_t *x = xs + g * (p.inner + 32) + k + 32 * u;
                uint4 low = in && g < p.rows ? *(const uint4 *)x : uint4{};
                uint4 high = in && g + 8 < p.rows ? *(const uint4 *)(x + 8 * (p.inner + 32))
                                                  : uint4{};
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    uint32_t a[4] = { word_of(low, 2 * h), word_of(high, 2 * h),
                                      word_of(low, 2 * h + 1), word_of(high, 2 * h + 1) };
                    uint32_t b[2] = { word_of(w[u], 2 * h), word_of(w[u], 2 * h + 1) };
                    mma(acc, a, b);
                }
            }
            k0 += WARPS * LINE_TERMS;
            more = k0 < p.inner;
            if (!more) {
                k0 = 0;
                tile += (int)gridDim.x;
                ahead = line_of<END>(p, tile, tiles);
            }
            fetch(ahead.p, k0 + warp * LINE_TERMS + 8 * t);
        }
        *(float2 *)&part[warp][g][2 * t] = float2{ acc[0], acc[1] };
        *(float2 *)&part[warp][g + 8][2 * t] = float2{ acc[2], acc[3] };
        acc[0] = acc[1] = acc[2] = acc[3] = 0;
        __syncthreads();
        if (n < p.rows && l.col0 + c < p.outer[l.s]) {
            float sum = 0, up = 0;
#pragma unroll
            for (int v = 0; v < WARPS; v++) {
                sum += part[v][n][c];
                if (END == THIN_SWIGLU)
                    up += part[v][n][(c + OUT) % LINES];
            }
            sum *= by;
            if (p.bias[l.s])
                sum += ld(p.bias[l.s], l.col0 + c);
            if (END == THIN_SWIGLU)
                sum = sum * sigmoid(sum) * (up * by);
            put(arr{ p.y[l.s], p.kind }, (int64_t)n * p.outer[l.s] + l.col0 + c, sum + add);
        }
        l = ahead;
        __syncthreads(); // the sums are read
    }
}

#endif
