// SPDX-License-Identifier: Apache-2.0
//
// thin_lines.cuh - up to 16 rows times [O,I] weights, where a launch is a few microseconds and what
// counts is the chain of latencies. A block has 8 lines of the weight (4 of gate and up each) and a
// warp for each 256 terms: every load of weights that it will need is under way before it waits for
// anything, the rows of x pass through shared memory meanwhile, and one exchange of sums ends it.
// While the kernel before ends, its lines are asked for into the L2. The eight lines are columns
// of a tensor core product whose rows are those of x; thin_product.cuh tells how its terms lie.
//
// Bytes: the weights once; floor: bytes / 4.2 TB/s on an H200.

#ifndef MRUN_CUDA_THIN_LINES_CUH
#define MRUN_CUDA_THIN_LINES_CUH
#include "thin_product.cuh"

enum { LINES = 8, LINE_ROWS = 16, LINE_TERMS = 256 /* of a warp at once */ };

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

template <int WARPS, int END>
__global__ void __launch_bounds__(WARPS * 32, 32 / WARPS)
    thin_lines(const __grid_constant__ thin_args p)
{
    constexpr int OUT = END == THIN_SWIGLU ? LINES / 2 : LINES, U = LINE_TERMS / 32;
    extern __shared__ __align__(16) uint16_t xs[]; // [rows][inner + 32]
    __shared__ float part[WARPS][LINE_ROWS][LINES], squares[WARPS][LINE_ROWS];
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int tile = (int)blockIdx.x, s = 0;
    while (s + 1 < THIN_WEIGHTS && tile >= p.tiles[s])
        tile -= p.tiles[s++];
    const int col0 = tile * OUT, outer = p.outer[s], half = g >= OUT;
    const bool mine = col0 + g % OUT < outer; // this thread's line is there
    const bf16 *line = p.w[half ? 1 : s] + (int64_t)(mine ? col0 + g % OUT : 0) * p.inner;
    if (warp == 0 && t == 0 && mine)
        into_l2(line, (uint32_t)p.inner * 2);
    if (p.early)
        next_may_start();
    previous_done();
    if (!p.early)
        next_may_start();

    float acc[4] = {}, add = 0;
    for (int k0 = 0; k0 < p.inner; k0 += WARPS * LINE_TERMS) {
        const int k = k0 + warp * LINE_TERMS + 8 * t;
        uint4 w[U];
#pragma unroll
        for (int u = 0; u < U; u++)
            w[u] = mine && k + 32 * u < p.inner ? weights_at(line + k + 32 * u) : uint4{};
        if (k0 == 0) {
            const int n = threadIdx.x / OUT, col = col0 + threadIdx.x % OUT;
            if (END == THIN_ADD && n < p.rows && col < outer) // what the result is added to
                add = ld(p.a, (int64_t)n * outer + col);
            lines_rows<WARPS>(p, xs, squares);
            __syncthreads();
        }
#pragma unroll
        for (int u = 0; u < U; u++) {
            const bool in = k + 32 * u < p.inner;
            const uint16_t *x = xs + g * (p.inner + 32) + k + 32 * u;
            uint4 low = in && g < p.rows ? *(const uint4 *)x : uint4{};
            uint4 high = in && g + 8 < p.rows ? *(const uint4 *)(x + 8 * (p.inner + 32)) : uint4{};
#pragma unroll
            for (int h = 0; h < 2; h++) {
                uint32_t a[4] = { word_of(low, 2 * h), word_of(high, 2 * h),
                                  word_of(low, 2 * h + 1), word_of(high, 2 * h + 1) };
                uint32_t b[2] = { word_of(w[u], 2 * h), word_of(w[u], 2 * h + 1) };
                mma(acc, a, b);
            }
        }
    }
    *(float2 *)&part[warp][g][2 * t] = float2{ acc[0], acc[1] };
    *(float2 *)&part[warp][g + 8][2 * t] = float2{ acc[2], acc[3] };
    __syncthreads();
    const int n = threadIdx.x / OUT, c = threadIdx.x % OUT;
    if (n >= p.rows || col0 + c >= outer)
        return;
    float sum = 0, up = 0, q = 0;
#pragma unroll
    for (int v = 0; v < WARPS; v++) {
        sum += part[v][n][c];
        if (END == THIN_SWIGLU)
            up += part[v][n][(c + OUT) % LINES];
        if (p.normed)
            q += squares[v][n];
    }
    const float by = thin_rms(p, q);
    const int64_t at = (int64_t)n * outer + col0 + c;
    sum *= by;
    if (p.bias[s])
        sum += ld(p.bias[s], col0 + c);
    if (END == THIN_SWIGLU)
        sum = sum * sigmoid(sum) * (up * by);
    put(arr{ p.y[s], p.kind }, at, sum + add);
}

#endif
