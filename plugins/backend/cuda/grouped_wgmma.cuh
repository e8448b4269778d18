// SPDX-License-Identifier: Apache-2.0
//
// grouped_wgmma.cuh - the experts' products in bf16 on Hopper: one persistent kernel for forward
// and data gradient ("rows": an expert's rows of a and c) and for the weight gradient ("inner":
// an expert's rows are the inner dim, c is one matrix an expert, written or added to).
//
// Two blocks make a cluster. A unit of work is 256 x 256 of c: each block takes half of its rows,
// and what both need, b, each fetches half of, for both. One warp asks the copy engine for boxes
// of 64 x 64 through a ring of four stages; two warpgroups multiply, each 64 x 256 at a time, which
// reads b from shared memory least often. Results leave through a few lines of shared memory a
// warp, so that the ring has the rest.
//
// Every block takes every n-th unit of the work (grouped_tiles.cuh). Pieces of 64 rows without a
// row are neither fetched nor multiplied. One warp owns an element of c: equal bits every time.
//
// Flops 2 R I O; floor that over 989e12. Bytes at least: both operands and c once (weight
// gradient: c in fp32, twice where it is added to), which bounds few rows an expert: 8 I O E /
// bandwidth.

#ifndef MRUN_CUDA_GROUPED_WGMMA_CUH
#define MRUN_CUDA_GROUPED_WGMMA_CUH
#include "grouped_tiles.cuh"

enum {
    GROUPS = 2,        // warpgroups that multiply, a piece of a tile each
    BOXES = TILE / BOX, // of b in a stage
    STAGES = 4,
    LEAD = 2,          // stages that the first of them is ahead
    STAGE = (GROUPS + BOXES) * BOX_BYTES,
    WARP_ROWS = 16,    // of a piece
    MULTIPLIERS = 128 * GROUPS,
    BLOCK = 128 + MULTIPLIERS,
};

// B_TURNED: b's lines run along the columns, not along k; so do both operands' in "inner".
// ADD: "inner" adds to c; else it writes c, and zeros for experts without rows.
template <bool INNER_, bool B_TURNED_, bool ADD_ = false> struct plan {
    static constexpr bool INNER = INNER_, B_TURNED = B_TURNED_, ADD = ADD_;
    // where a warp turns 16 rows of its results into whole lines, rows apart by PITCH: 128 columns
    // of bf16, or 32 of fp32
    static constexpr int PITCH = INNER ? 32 * 4 + 32 : HALF * 2;
    static constexpr int WARP_ROOM = WARP_ROWS * PITCH;
    static constexpr int ROOM_AT = STAGES * STAGE;
    static constexpr int BARRIERS_AT = ROOM_AT + MULTIPLIERS / 32 * WARP_ROOM;
    static constexpr int STARTS_AT = BARRIERS_AT + 2 * STAGES * 8;
};

#ifdef HAS_WGMMA
// ---- the ring of stages -----------------------------------------------------------------------
template <class P> struct ring {
    char *shared;
    int stage;
    uint32_t phase;

    __device__ uint64_t *full(void) { return (uint64_t *)(shared + P::BARRIERS_AT) + stage; }
    __device__ uint64_t *empty(void) { return full() + STAGES; }
    __device__ char *a(int piece) { return shared + stage * STAGE + piece * BOX_BYTES; }
    __device__ char *b(int box) { return a(GROUPS + box); }
    __device__ void next(void)
    {
        if (++stage == STAGES) {
            stage = 0;
            phase ^= 1;
        }
    }
};

// ---- one warp fetches -------------------------------------------------------------------------
template <class P>
DEV void fetch_stage(const CUtensorMap *a, const CUtensorMap *b, const work &w, int rank, int k,
                     ring<P> &r)
{
    uint64_t *full = r.full();
    barrier_wait(r.empty(), r.phase ^ 1);
    barrier_expect(full, (uint32_t)(w.pieces + w.boxes) * BOX_BYTES);
    int at = (P::INNER ? w.lo : 0) + k * BOX;
    for (int i = 0; i < w.pieces; i++) {
        int row = w.row0 + i * BOX;
        box_load(r.a(i), a, P::INNER ? row : at, P::INNER ? at : row, 0, full);
    }
    for (int i = rank; i < w.boxes; i += 2) {
        int col = w.col0 + i * BOX;
        box_load_both(r.b(i), b, P::B_TURNED ? col : at, P::B_TURNED ? at : col,
                      P::INNER ? 0 : w.expert, full);
    }
}

template <class P>
DEV void fetch(const CUtensorMap *a, const CUtensorMap *b, const grouped_args &p, char *shared)
{
    const int *starts = (const int *)(shared + P::STARTS_AT);
    ring<P> r = { shared, 0, 0 };
    int e = 0, rank = (int)cluster_rank();
    work w;
    for (int u = blockIdx.x / 2; find<P>(p, starts, u, rank, e, w); u += gridDim.x / 2) {
        int steps = (w.inner + BOX - 1) / BOX;
        if (threadIdx.x % 32 == 0)
            for (int k = 0; k < steps; k++, r.next())
                fetch_stage<P>(a, b, w, rank, k, r);
        __syncwarp();
    }
}

// ---- two warpgroups multiply --------------------------------------------------------------------
// In the last stage of an expert's rows the lines of the next expert become 0, in both operands:
// what is there may be no number. Each warpgroup does what it reads, b twice, so that none waits.
template <class P> DEV void clear_lines(ring<P> &r, const work &w, int group, int lines)
{
    int n = (BOX - lines) * 128 / 16;
    for (int box = -1; box < w.boxes; box++) {
        uint4 *from = (uint4 *)((box < 0 ? r.a(group) : r.b(box)) + lines * 128);
        for (int i = threadIdx.x % 128; i < n; i += 128)
            from[i] = uint4{ 0, 0, 0, 0 };
    }
    shared_stores_visible();
    group_meet(1 + group, 128);
}

// both blocks may fill the stage again, as far as this warpgroup is concerned
DEV void release(uint64_t *empty)
{
    if (threadIdx.x % 128 < 2)
        barrier_arrive_at(empty, threadIdx.x % 128);
}

// acc = this warpgroup's piece of the product, `WIDTH` boxes wide (0: it has none); the last
// stage's products are still under way, and the stage is returned to be released after them.
// lead: the other warpgroup waits for the first LEAD stages (see compute()).
template <class P, int WIDTH>
DEV uint64_t *multiply(float acc[2][64], const work &w, int group, bool lead, ring<P> &r)
{
    int steps = (w.inner + BOX - 1) / BOX;
    uint64_t *before = NULL;
    for (int k = 0; k < steps; k++) {
        barrier_wait(r.full(), r.phase);
        if (P::INNER && WIDTH && w.inner - k * BOX < BOX)
            clear_lines<P>(r, w, group, w.inner - k * BOX);
        if (WIDTH) {
            uint64_t a = operand_at(r.a(group)), b = operand_at(r.b(0));
            products_begin();
#pragma unroll
            for (int i = 0; i < BOX / 16; i++)
                if (WIDTH == BOXES)
                    product_wide<P::INNER, P::B_TURNED>(acc[0], acc[1],
                                                        a + i * k_step<P::INNER>(),
                                                        b + i * k_step<P::B_TURNED>(), k | i);
                else
                    product<P::INNER, P::B_TURNED>(acc[0], a + i * k_step<P::INNER>(),
                                                   b + i * k_step<P::B_TURNED>(), k | i);
            products_end();
            products_wait<1>();
        } else {
            group_meet(1 + group, 128); // products do that else: nobody lags
        }
        if (lead && k == min(steps, (int)LEAD) - 1)
            group_arrive(3, MULTIPLIERS);
        if (before)
            release(before);
        before = r.empty();
        r.next();
    }
    return before;
}

// ---- results leave ------------------------------------------------------------------------------
// This warp's 16 rows of half a tile, `left` of them c's, through its room to lines of 16 bytes a
// lane.
DEV void put_rows(const float acc[64], char *room, uint16_t *c, int n, int left, int columns)
{
    int l = threadIdx.x % 32;
#pragma unroll
    for (int j = 0; j < 16; j += 2)
        store_matrices(room + l % 16 * 256 + ((j + l / 16) ^ l % 8) * 16,
                       pack_bf16(acc[4 * j], acc[4 * j + 1]),
                       pack_bf16(acc[4 * j + 2], acc[4 * j + 3]),
                       pack_bf16(acc[4 * j + 4], acc[4 * j + 5]),
                       pack_bf16(acc[4 * j + 6], acc[4 * j + 7]));
    __syncwarp();
#pragma unroll
    for (int i = 0; i < 8; i++) {
        int row = 2 * i + l / 16, chunk = l % 16;
        uint4 v = *(const uint4 *)(room + row * 256 + (chunk ^ row % 8) * 16);
        if (row < left && chunk * 8 < columns)
            *(uint4 *)(c + (int64_t)row * n + chunk * 8) = v;
    }
    __syncwarp();
}

// The same rows in fp32, written or added, 32 columns at a time. The L2 adds, so that c does
// not come here; an element is added to once, so the bits are equal every time. (It takes what is
// below the least normal number, 1e-38, for zero.)
template <class P>
DEV void put_floats(const float acc[64], char *room, float *c, int n, int left, int columns)
{
    int l = threadIdx.x % 32, col = l % 8 * 4;
    float *at = c + (int64_t)(l / 8) * n + col; // every fourth row
#pragma unroll
    for (int q = 0; q < 4; q++) {
#pragma unroll
        for (int j = 0; j < 4; j++) {
            const float *v = acc + 4 * (q * 4 + j);
            char *to = room + l / 4 * P::PITCH + j * 32 + l % 4 * 8;
            *(float2 *)to = float2{ v[0], v[1] };
            *(float2 *)(to + 8 * P::PITCH) = float2{ v[2], v[3] };
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 4; i++) {
            float4 v = *(const float4 *)(room + (4 * i + l / 8) * P::PITCH + col * 4);
            float *to = at + (int64_t)4 * i * n + q * 32;
            if (4 * i + l / 8 >= left || q * 32 + col >= columns)
                continue;
            if (P::ADD)
                add_far(to, v);
            else
                *(float4 *)to = v;
        }
        __syncwarp();
    }
}

// The squares of half a piece: 64 a thread, in float; the sums of halves in double.
DEV double squares(const float acc[64])
{
    float sum[4] = { 0, 0, 0, 0 };
#pragma unroll
    for (int i = 0; i < 64; i++)
        sum[i % 4] = fmaf(acc[i], acc[i], sum[i % 4]);
    return (double)sum[0] + sum[1] + ((double)sum[2] + sum[3]);
}

DEV void put_squares(double *to, double sum)
{
    for (int d = 16; d; d /= 2)
        sum += __shfl_xor_sync(~0u, sum, d);
    if (threadIdx.x % 32 == 0)
        to[blockIdx.x * (MULTIPLIERS / 32) + (threadIdx.x - 128) / 32] = sum;
}

// Rows of no expert become 0; all multiplying threads of the grid.
DEV void clear_rest(const grouped_args &p)
{
    int64_t wide = p.n / 8, head = rows_of(p, 0).lo;
    int64_t tail = min(max(p.offsets[p.experts], 0), p.rows), n = head + p.rows - tail;
    int64_t at = (int64_t)blockIdx.x * MULTIPLIERS + threadIdx.x - 128;
    for (int64_t i = at; i < n * wide; i += (int64_t)gridDim.x * MULTIPLIERS)
        ((uint4 *)p.c)[i < head * wide ? i : i + (tail - head) * wide] = uint4{ 0, 0, 0, 0 };
}

// The matrices of experts without rows become 0; all multiplying threads of the grid.
DEV void clear_empty(const grouped_args &p)
{
    int64_t n = (int64_t)p.m * p.n / 4;
    for (int e = 0; e < p.experts; e++) {
        span r = rows_of(p, e);
        if (r.hi > r.lo)
            continue;
        float4 *c = (float4 *)p.c + e * n;
        for (int64_t i = (int64_t)blockIdx.x * MULTIPLIERS + threadIdx.x - 128; i < n;
             i += (int64_t)gridDim.x * MULTIPLIERS)
            c[i] = float4{ 0, 0, 0, 0 };
    }
}

// The first warpgroup is ahead by some stages from its first unit on, and stays so: while one
// writes results the other multiplies.
template <class P> DEV void compute(const grouped_args &p, char *shared)
{
    const int *starts = (const int *)(shared + P::STARTS_AT);
    int t = threadIdx.x - 128, group = t / 128, warp = t / 32, e = 0, u = blockIdx.x / 2;
    int rank = (int)cluster_rank();
    char *room = shared + P::ROOM_AT + warp * P::WARP_ROOM;
    ring<P> r = { shared, 0, 0 };
    float acc[2][64];
    double sum = 0; // of the squares that this thread wrote
    work w, next;
    bool more = find<P>(p, starts, u, rank, e, w), lead = group == 0;
    if (more && !lead)
        group_meet(3, MULTIPLIERS);
    for (; more; w = next, lead = false) {
        u += gridDim.x / 2;
        uint64_t *last = group >= w.pieces  ? multiply<P, 0>(acc, w, group, lead, r)
                         : w.boxes == BOXES ? multiply<P, BOXES>(acc, w, group, lead, r)
                                            : multiply<P, HALF / BOX>(acc, w, group, lead, r);
        more = find<P>(p, starts, u, rank, e, next); // beside the last products
        products_wait<0>();
        hold(acc[0]);
        hold(acc[1]);
        release(last);
#pragma unroll
        for (int half = 0; half < 2; half++) {
            int row = w.row0 + group * BOX + warp % 4 * WARP_ROWS, col = w.col0 + half * HALF;
            int64_t at = (int64_t)row * p.n + col;
            if (group >= w.pieces || half * HALF >= w.boxes * BOX)
                continue;
            if (!P::INNER)
                put_rows(acc[half], room, (uint16_t *)p.c + at, p.n, w.end - row, p.n - col);
            else
                put_floats<P>(acc[half], room, (float *)p.c + (int64_t)w.expert * p.m * p.n + at,
                              p.n, w.end - row, p.n - col);
            if (P::INNER && !P::ADD && p.squares)
                sum += squares(acc[half]); // outside of c they are zeros
        }
    }
    if (!P::INNER)
        clear_rest(p);
    else if (!P::ADD)
        clear_empty(p);
    if (P::INNER && !P::ADD && p.squares)
        put_squares(p.squares, sum);
}
#endif

template <class P>
__global__ void PAIR_OF_BLOCKS __launch_bounds__(BLOCK, 1)
    grouped(const __grid_constant__ CUtensorMap a, const __grid_constant__ CUtensorMap b,
            const grouped_args p)
{
#ifdef HAS_WGMMA
    extern __shared__ __align__(1024) char shared[];
    uint64_t *barriers = (uint64_t *)(shared + P::BARRIERS_AT);
    if (threadIdx.x < 32) {
        count_tiles<P>(p, (int *)(shared + P::STARTS_AT));
    } else if (threadIdx.x == 32) {
        for (int i = 0; i < STAGES; i++) {
            barrier_init(barriers + i, 1);
            barrier_init(barriers + STAGES + i, 2 * GROUPS);
        }
        barriers_visible();
    } else if (threadIdx.x == 64) {
        map_prefetch(&a);
        map_prefetch(&b);
    }
    __syncthreads();
    cluster_meet();
    if (threadIdx.x < 128) {
        registers_give<56>();
        if (threadIdx.x < 32)
            fetch<P>(&a, &b, p, shared);
    } else {
        registers_take<224>();
        compute<P>(p, shared);
    }
    cluster_meet(); // nobody leaves while the neighbour may still write here
#endif
}
#endif
