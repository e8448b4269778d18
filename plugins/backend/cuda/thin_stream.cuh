// SPDX-License-Identifier: Apache-2.0
//
// thin_stream.cuh - thin_product.cuh's products for up to 8 rows, where a launch is short and what
// counts is that memory never rests: one block a multiprocessor, small enough for the next kernel's
// block beside it. While the kernel before ends the block asks for its weights into the L2; then
// they pass through a ring of 16 KiB stages in shared memory, four of them under way, and the rows
// of x lie in shared memory whole. A stage is 16 rows by 512 of an [O,I] weight (16 of gate and up
// each by 256), or 128 by 64 columns of an [I,O] one (64 by 64 of gate and up each); 16-byte pieces
// are placed so that the eight threads that read at once touch all banks.
//
// Bytes: the weights that rows are there for, once; floor: bytes / 4.2 TB/s on an H200.

#ifndef MRUN_CUDA_THIN_STREAM_CUH
#define MRUN_CUDA_THIN_STREAM_CUH
#include "thin_product.cuh"

enum {
    STREAM_THREADS = 256, STREAM_WARPS = 8, STREAM_ROWS = 8, STAGE_BYTES = 16384, STAGES = 5,
    STREAM_PARTS = 2048,       // floats: the warps' sums of a tile
    STREAM_AHEAD = 128 << 10,  // bytes that a block asks for before it may start
};

// What a stage is. COLS columns of the result, KC terms; SPLIT warps share the terms.
template <bool IO, int END> struct stream_tile {
    static constexpr bool HALVES = END == THIN_SWIGLU;
    static constexpr int OUT = IO ? 64 : 16, COLS = HALVES ? 2 * OUT : OUT;
    static constexpr int KC = STAGE_BYTES / 2 / COLS, SPLIT = IO ? KC / 32 : STREAM_WARPS;
    static_assert(SPLIT * COLS * STREAM_ROWS <= STREAM_PARTS, "");
};

static inline int stream_share(int inner, int splits, int kc) // of the terms, in whole stages
{
    return (inner + kc * splits - 1) / (kc * splits) * kc;
}

static inline size_t stream_bytes(int rows, int share)
{
    return STAGES * (size_t)STAGE_BYTES + STREAM_PARTS * sizeof(float) +
           (size_t)rows * ((size_t)share + 32) * 2;
}

// Rows of x, weighed by the norm, into shared memory, terms k0 .. k0 + share - 1, zeros past the
// end; the squares of whole rows. A warp has a row.
DEV void stream_rows(const thin_args &p, const int *from, int count, int k0, int share,
                     uint16_t *xs, float *squares)
{
    const int warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (warp >= count)
        return;
    const bf16 *x = p.x + (int64_t)max(from[warp], 0) * p.inner;
    const bool there = from[warp] >= 0;
    uint16_t *to = xs + warp * (share + 32) - k0;
    float q = 0;
#pragma unroll 4
    for (int k = (p.normed ? 0 : k0) + 8 * lane; k < max(k0 + share, p.inner); k += 256) {
        const bool in = there && k < p.inner;
        uint4 v = in ? *(const uint4 *)(x + k) : uint4{};
        uint4 n = in && p.norm ? *(const uint4 *)(p.norm + k) : uint4{};
        if (p.normed)
            v = weigh(v, n, p.norm != nullptr, q);
        if (k >= k0 && k < k0 + share)
            *(uint4 *)(to + k) = v;
    }
    q = warp_sum(q);
    if (lane == 0)
        squares[warp] = q;
}

// A warp's share of a stage. x: of row g, at this thread's terms of the stage, or NULL.
template <bool IO, int END, int N>
DEV void stream_stage(char *stage, const uint16_t *x, float acc[N][4])
{
    typedef stream_tile<IO, END> tile;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    if (IO) { // one 32 of the terms, 32 of the columns
        const int step = warp % tile::SPLIT, half = warp / tile::SPLIT; // of 64 columns
        const int pieces = tile::COLS / 8, piece = half / 2 * 8 + g;
        uint2 w[8];
        uint4 v = x ? *(const uint4 *)(x + 32 * step) : uint4{};
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const int line = 32 * step + 8 * t + j;
            w[j] = ((const uint2 *)((uint4 *)stage + line * pieces +
                                    (piece ^ (line >> 3 & 3) << 1)))[half % 2];
        }
#pragma unroll
        for (int h = 0; h < 2; h++)
#pragma unroll
            for (int i = 0; i < 2; i++) {
                uint32_t a[4], b[2] = { word_of(v, 2 * h), word_of(v, 2 * h + 1) };
#pragma unroll
                for (int e = 0; e < 4; e++) {
                    const uint2 &lo = w[4 * h + e / 2 * 2], &hi = w[4 * h + e / 2 * 2 + 1];
                    a[e] = __byte_perm(i ? lo.y : lo.x, i ? hi.y : hi.x, e % 2 ? 0x7632 : 0x5410);
                }
                mma(acc[i], a, b);
            }
    } else {
        constexpr int STEPS = tile::KC / 32 / STREAM_WARPS, PIECES = tile::KC / 8;
#pragma unroll
        for (int s = 0; s < STEPS; s++) {
            const int step = warp * STEPS + s;
            uint4 v = x ? *(const uint4 *)(x + 32 * step) : uint4{};
#pragma unroll
            for (int i = 0; i < N; i++) {
                const int piece = (4 * step + t) ^ (g & 1) << 2; // of lines g and g + 8
                uint4 w0 = ((const uint4 *)stage)[(16 * i + g) * PIECES + piece];
                uint4 w1 = ((const uint4 *)stage)[(16 * i + g + 8) * PIECES + piece];
#pragma unroll
                for (int h = 0; h < 2; h++) {
                    uint32_t a[4] = { word_of(w0, 2 * h), word_of(w1, 2 * h),
                                      word_of(w0, 2 * h + 1), word_of(w1, 2 * h + 1) };
                    uint32_t b[2] = { word_of(v, 2 * h), word_of(v, 2 * h + 1) };
                    mma(acc[i], a, b);
                }
            }
        }
    }
}

// where in part[SPLIT][COLS][8] a warp's sums belong
template <bool IO, int END, int N> DEV void stream_part(float *part, const float acc[N][4])
{
    typedef stream_tile<IO, END> tile;
    const int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int step = warp % tile::SPLIT, half = warp / tile::SPLIT;
#pragma unroll
    for (int i = 0; i < N; i++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int col = IO ? half / 2 * 64 + 8 * g + half % 2 * 4 + 2 * i + e : 16 * i + g + 8 * e;
            *(float2 *)(part + (step * tile::COLS + col) * STREAM_ROWS + 2 * t) =
                float2{ acc[i][2 * e], acc[i][2 * e + 1] };
        }
}

// Grid: (blocks x splits, experts that may have rows or 1): blocks take tiles in turn. `share`:
// terms of a split.
template <bool IO, int END, bool GROUPED>
__global__ void __launch_bounds__(STREAM_THREADS, 2)
    thin_stream(const __grid_constant__ thin_args p, int splits, int share)
{
    typedef stream_tile<IO, END> T;
    constexpr int N = IO ? 2 : T::COLS / 16; // products of a warp, 16 columns each
    extern __shared__ __align__(128) char ring[];
    float *part = (float *)(ring + STAGES * STAGE_BYTES);
    uint16_t *xs = (uint16_t *)(part + STREAM_PARTS);
    __shared__ float squares[STREAM_ROWS], factor[STREAM_ROWS];
    __shared__ int from[STREAM_ROWS];
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int rank = splits > 1 ? (int)cluster_rank() : 0, blocks = (int)gridDim.x / splits;
    const int block = (int)blockIdx.x / splits, tiles = p.tiles[0] + p.tiles[1] + p.tiles[2];
    const int k0 = rank * share, k1 = min(p.inner, k0 + share);
    const int per_tile = max(1, (k1 - k0 + T::KC - 1) / T::KC);

    // tile number `tile` of all: which weight, from which column on
    auto place = [&](int tile, int *s) {
        for (*s = 0; *s + 1 < THIN_WEIGHTS && tile >= p.tiles[*s];)
            tile -= p.tiles[(*s)++];
        return tile * T::OUT;
    };
    if (!GROUPED && !IO && k0 < k1) { // the weights are on their way while the kernel before ends
        const int most = STREAM_AHEAD / (2 * (k1 - k0)); // lines
        for (int i = threadIdx.x; i < most; i += STREAM_THREADS) {
            int tile = block + i / T::COLS * blocks, s, line = i % T::COLS;
            if (tile >= tiles)
                break;
            int col = place(tile, &s) + line % T::OUT;
            if (col < p.outer[s])
                into_l2(p.w[line / T::OUT ? 1 : s] + (int64_t)col * p.inner + k0,
                        (uint32_t)(k1 - k0) * 2);
        }
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
                for (int c = threadIdx.x; c < T::OUT && block * T::OUT + c < p.outer[0];
                     c += STREAM_THREADS)
                    finish(p, END, 0, END == THIN_ADD ? row_from(p, r) : r, block * T::OUT + c, 0,
                           0);
        }
        if (!expert_of(p.offsets, p.experts, (int)blockIdx.y, p.rows, &expert, &first, &end))
            return; // all blocks of the cluster
    }
    const int count = min(end - first, (int)STREAM_ROWS);
    const int mine = (tiles - block + blocks - 1) / blocks, n = mine * per_tile;

    auto fetch = [&](int c) { // stage c of this block's; always a group
        if (c < n) {
            int s, col0 = place(block + c / per_tile * blocks, &s), k = k0 + c % per_tile * T::KC;
            const int outer = p.outer[s];
            const int64_t width = GROUPED && END == THIN_SWIGLU ? 2 * (int64_t)outer : outer;
            const bf16 *w = p.w[s] + expert * width * p.inner;
            const bf16 *other = GROUPED ? w + (int64_t)outer * p.inner : p.w[1];
            char *stage = ring + c % STAGES * STAGE_BYTES;
            constexpr int PIECES = (IO ? T::COLS : T::KC) / 8;
#pragma unroll
            for (int i = 0; i < STAGE_BYTES / 16 / STREAM_THREADS; i++) {
                const int e = threadIdx.x + i * STREAM_THREADS, line = e / PIECES;
                const int piece = e % PIECES;
                const bf16 *at;
                bool there;
                int to;
                if (IO) { // a line is a term
                    const int half = piece / 8, col = col0 + piece % 8 * 8;
                    at = w + (k + line) * width + half * outer + col;
                    there = k + line < k1 && col < outer;
                    to = line * PIECES + (piece ^ (line >> 3 & 3) << 1);
                } else { // a line is a column
                    const int half = line / T::OUT, col = col0 + line % T::OUT;
                    at = (half ? other : w) + (int64_t)col * p.inner + k + piece * 8;
                    there = k + piece * 8 < k1 && col < outer;
                    to = line * PIECES + (piece ^ (line & 1) << 2);
                }
                copy16((uint16_t *)stage + to * 8, (const uint16_t *)(there ? at : p.x), there);
            }
        }
        copies_end();
    };
#pragma unroll
    for (int c = 0; c < STAGES - 1; c++)
        fetch(c);
    if (threadIdx.x < STREAM_ROWS) {
        int r = first + (int)threadIdx.x;
        bool there = (int)threadIdx.x < count;
        from[threadIdx.x] = !there ? -1 : GROUPED && END != THIN_ADD ? row_from(p, r) : r;
    }
    __syncthreads();
    stream_rows(p, from, count, k0, share, xs, squares);
    if (threadIdx.x < (unsigned)count) {
        int i = GROUPED && p.scores ? p.from[first + threadIdx.x] : -1;
        factor[threadIdx.x] = i >= 0 && i < p.rows ? p.scores[i] : 1;
    }
    const uint16_t *x = g < count ? xs + g * (share + 32) + 8 * t : nullptr;

    float acc[N][4] = {};
    for (int c = 0; c < n; c++) {
        copies_wait<STAGES - 2>();
        __syncthreads(); // stage c is there for all, and all are done with the one before
        fetch(c + STAGES - 1);
        stream_stage<IO, END, N>(ring + c % STAGES * STAGE_BYTES,
                                 x ? x + c % per_tile * T::KC : nullptr, acc);
        if ((c + 1) % per_tile)
            continue;
        stream_part<IO, END, N>(part, acc);
#pragma unroll
        for (int i = 0; i < N; i++)
            acc[i][0] = acc[i][1] = acc[i][2] = acc[i][3] = 0;
        __syncthreads();
        if (splits > 1) { // this block's sums, for the others to read
            for (int i = threadIdx.x; i < T::COLS * STREAM_ROWS; i += STREAM_THREADS)
                for (int v = 1; v < T::SPLIT; v++)
                    part[i] += part[v * T::COLS * STREAM_ROWS + i];
            cluster_sync();
        }
        int s, col0 = place(block + c / per_tile * blocks, &s);
        const int part_of = T::OUT / splits; // columns that this block finishes
        for (int i = threadIdx.x; i < part_of * count; i += STREAM_THREADS) {
            const int col = rank * part_of + i % part_of, r = i / part_of;
            const int at = col * STREAM_ROWS + r, other = T::OUT * STREAM_ROWS;
            float sum = 0, up = 0, by = factor[r] * thin_rms(p, squares[r]);
            for (int v = 0; v < (splits > 1 ? splits : T::SPLIT); v++) {
                const int to = splits > 1 ? at : v * T::COLS * STREAM_ROWS + at;
                sum += splits > 1 ? of_rank(part + to, (uint32_t)v) : part[to];
                if (END == THIN_SWIGLU)
                    up += splits > 1 ? of_rank(part + to + other, (uint32_t)v) : part[to + other];
            }
            int row = GROUPED && END == THIN_ADD ? row_from(p, first + r) : first + r;
            if (col0 + col < p.outer[s])
                finish(p, END, s, row, col0 + col, sum * by, up * by);
        }
        if (splits > 1)
            cluster_sync(); // nobody reads here any more
    }
    copies_wait<0>();
}

#endif
