// SPDX-License-Identifier: Apache-2.0
//
// grouped_wgmma.cuh - the experts' products in bf16 on Hopper: one persistent kernel for forward
// and data gradient ("rows": an expert's rows of a and c) and for the weight gradient ("inner":
// an expert's rows are the inner dim, c is one matrix an expert and is added to).
//
// Two blocks make a cluster. What both need of a unit each fetches half of, for both. One warp asks
// the copy engine for boxes of 64 x 64 through a ring of stages; two warpgroups multiply, each up
// to two pieces of 64 x 128. In a team of two both work on one tile of the block; alone (a team of
// one) each has every other tile, so that one multiplies while the other adds to c.
//
// Every block takes every n-th unit of the work (grouped_tiles.cuh). Pieces of 64 rows without a
// row are neither fetched nor multiplied. One warp owns an element of c: equal bits every time.
//
// Flops 2 R I O; floor that over 989e12. Bytes at least: both operands and c once (weight
// gradient: c twice, fp32), which bounds few rows an expert: 8 I O E / bandwidth.

#ifndef MRUN_CUDA_GROUPED_WGMMA_CUH
#define MRUN_CUDA_GROUPED_WGMMA_CUH
#include "grouped_tiles.cuh"

enum {
    B_BOXES = BN / BOX,
    WARP_ROWS = 16,    // of a piece
    MULTIPLIERS = 256, // threads of the two warpgroups
    BLOCK = 128 + MULTIPLIERS,
};

// B_TURNED: b's lines run along the columns, not along k; so do both operands' in "inner".
// ADD: "inner" adds to c; else it writes c, and zeros for experts without rows.
template <bool INNER_, bool B_TURNED_, int TEAM_, int STAGES_, bool ADD_ = true> struct plan {
    static constexpr bool INNER = INNER_, B_TURNED = B_TURNED_, ADD = ADD_;
    static constexpr int TEAM = TEAM_, STAGES = STAGES_;
    static constexpr int PIECES = 2 * TEAM, BM = PIECES * BOX;
    static constexpr int STAGE = (PIECES + B_BOXES) * BOX_BYTES;
    // where a warp turns 16 rows of its results into whole lines, rows apart by PITCH
    static constexpr int PITCH = INNER ? BN / 2 * 4 + 32 : BN * 2;
    static constexpr int WARP_ROOM = WARP_ROWS * PITCH * (INNER ? 2 : 1);
    static constexpr int ROOM_AT = STAGES * STAGE;
    static constexpr int BARRIERS_AT = ROOM_AT + MULTIPLIERS / 32 * WARP_ROOM;
    static constexpr int TURNS_AT = BARRIERS_AT + 2 * STAGES * 8;
    static constexpr int STARTS_AT = TURNS_AT + 2 * 8;
};

#ifdef HAS_WGMMA
// ---- the ring of stages -----------------------------------------------------------------------
template <class P> struct ring {
    char *shared;
    int stage;
    uint32_t phase;

    __device__ uint64_t *full(void) { return (uint64_t *)(shared + P::BARRIERS_AT) + stage; }
    __device__ uint64_t *empty(void) { return full() + P::STAGES; }
    __device__ char *a(int piece) { return shared + stage * P::STAGE + piece * BOX_BYTES; }
    __device__ char *b(int box) { return a(P::PIECES + box); }
    __device__ void skip(int n)
    {
        stage += n;
        phase ^= stage / P::STAGES & 1;
        stage %= P::STAGES;
    }
    __device__ void next(void)
    {
        if (++stage == P::STAGES) {
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
    barrier_expect(full, (uint32_t)(w.pieces + B_BOXES) * BOX_BYTES);
    int at = (P::INNER ? w.lo : 0) + k * BOX;
    for (int i = w.split ? 0 : rank; i < w.pieces; i += w.split ? 1 : 2) {
        int row = w.row0 + i * BOX, x = P::INNER ? row : at, y = P::INNER ? at : row;
        if (w.split)
            box_load(r.a(i), a, x, y, 0, full);
        else
            box_load_both(r.a(i), a, x, y, 0, full);
    }
    for (int i = w.split ? rank : 0; i < B_BOXES; i += w.split ? 2 : 1) {
        int col = w.col0 + i * BOX, z = P::INNER ? 0 : w.expert;
        int x = P::B_TURNED ? col : at, y = P::B_TURNED ? at : col;
        if (w.split)
            box_load_both(r.b(i), b, x, y, z, full);
        else
            box_load(r.b(i), b, x, y, z, full);
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
// what is there may be no number.
template <class P> DEV void clear_lines(ring<P> &r, int pieces, int lines, int group)
{
    const int threads = 128 * P::TEAM;
    int t = threadIdx.x % threads, n = (BOX - lines) * 128 / 16;
    for (int box = 0; box < P::PIECES + B_BOXES; box++) {
        if (box >= pieces && box < P::PIECES)
            continue;
        uint4 *from = (uint4 *)(r.a(box) + lines * 128);
        for (int i = t; i < n; i += threads)
            from[i] = uint4{ 0, 0, 0, 0 };
    }
    shared_stores_visible();
    group_meet(1 + group, threads);
}

// both blocks may fill the stage again, as far as this warpgroup is concerned
DEV void release(uint64_t *empty)
{
    if (threadIdx.x % 128 < 2)
        barrier_arrive_at(empty, threadIdx.x % 128);
}

// acc[s] = the product of piece s TEAM + member, for s < N; the last stage's products are still
// under way, and the stage is returned to be released after them.
template <class P, int N>
DEV uint64_t *multiply(float acc[2][64], const work &w, int member, int group, ring<P> &r)
{
    int steps = (w.inner + BOX - 1) / BOX;
    uint64_t *before = NULL;
    for (int k = 0; k < steps; k++) {
        barrier_wait(r.full(), r.phase);
        if (P::INNER && w.inner - k * BOX < BOX)
            clear_lines<P>(r, w.pieces, w.inner - k * BOX, group);
        if (N) {
            uint64_t a = operand_at(r.a(member)), b = operand_at(r.b(0));
            products_begin();
#pragma unroll
            for (int i = 0; i < BOX / 16; i++)
#pragma unroll
                for (int s = 0; s < N; s++)
                    product<P::INNER, P::B_TURNED>(
                        acc[s], a + s * (P::TEAM * BOX_BYTES >> 4) + i * k_step<P::INNER>(),
                        b + i * k_step<P::B_TURNED>(), k | i);
            products_end();
            products_wait<1>();
        } else {
            group_meet(2 + threadIdx.x / 128, 128); // products do that else: nobody lags
        }
        if (before)
            release(before);
        before = r.empty();
        r.next();
    }
    return before;
}

// ---- results leave ------------------------------------------------------------------------------
// This warp's 16 rows of a piece, `left` of them c's, through its room to lines of 16 bytes a lane.
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

// The same rows, added to c in fp32, 64 columns at a time.
template <class P>
DEV void add_rows(const float acc[64], char *room, float *c, int n, int left, int columns)
{
    int l = threadIdx.x % 32, col = l % 16 * 4;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        char *buf = room + half * WARP_ROWS * P::PITCH;
        float *at = c + (int64_t)(l / 16) * n + half * 64 + col; // every second row
        bool inside = half * 64 + col < columns;
        float4 old[8];
#pragma unroll
        for (int i = 0; i < 8; i++)
            if (P::ADD && 2 * i + l / 16 < left && inside)
                old[i] = *(const float4 *)(at + (int64_t)2 * i * n);
            else
                old[i] = float4{ 0, 0, 0, 0 };
#pragma unroll
        for (int j = 0; j < 8; j++) {
            const float *v = acc + 4 * (half * 8 + j);
            char *to = buf + l / 4 * P::PITCH + j * 32 + l % 4 * 8;
            *(float2 *)to = float2{ v[0], v[1] };
            *(float2 *)(to + 8 * P::PITCH) = float2{ v[2], v[3] };
        }
        __syncwarp();
#pragma unroll
        for (int i = 0; i < 8; i++) {
            float4 v = *(const float4 *)(buf + (2 * i + l / 16) * P::PITCH + col * 4);
            if (2 * i + l / 16 < left && inside)
                *(float4 *)(at + (int64_t)2 * i * n) = float4{ old[i].x + v.x, old[i].y + v.y,
                                                               old[i].z + v.z, old[i].w + v.w };
        }
    }
}

// The squares of a piece: 64 of them in float, the sums of pieces in double.
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

template <class P> DEV void compute(const grouped_args &p, char *shared)
{
    const int *starts = (const int *)(shared + P::STARTS_AT);
    int t = threadIdx.x - 128, group = t / 128, warp = t / 32;
    int member = P::TEAM == 1 ? 0 : group, seen = 0, e = 0, u = blockIdx.x / 2;
    int rank = (int)cluster_rank(), meeting = P::TEAM == 1 ? group : 0;
    char *room = shared + P::ROOM_AT + warp * P::WARP_ROOM;
    uint64_t *turns = (uint64_t *)(shared + P::TURNS_AT);
    ring<P> r = { shared, 0, 0 };
    float acc[2][64];
    double sum = 0; // of the squares that this thread wrote
    work w, next;
    for (bool more = find<P>(p, starts, u, rank, e, w); more; w = next, seen++) {
        u += gridDim.x / 2;
        if (P::TEAM == 1 && seen % 2 != group) {
            r.skip((w.inner + BOX - 1) / BOX);
            more = find<P>(p, starts, u, rank, e, next);
            continue;
        }
        // The ring's barriers tell a stage's use from the one before, no further back: so a team
        // of one starts when the other has seen all of its stages filled.
        if (P::TEAM == 1)
            barrier_wait(turns + group, (seen / 2 & 1) ^ !group);
        int mine = (w.pieces - member + P::TEAM - 1) / P::TEAM;
        uint64_t *last = mine >= 2   ? multiply<P, 2>(acc, w, member, meeting, r)
                         : mine == 1 ? multiply<P, 1>(acc, w, member, meeting, r)
                                     : multiply<P, 0>(acc, w, member, meeting, r);
        if (P::TEAM == 1 && t % 128 == 0)
            barrier_arrive(turns + !group);
        more = find<P>(p, starts, u, rank, e, next); // beside the last products
        products_wait<0>();
        hold(acc[0]);
        hold(acc[1]);
        release(last);
#pragma unroll
        for (int s = 0; s < 2; s++) {
            if (s >= mine)
                continue;
            int row = w.row0 + (s * P::TEAM + member) * BOX + warp % 4 * WARP_ROWS;
            int64_t at = (int64_t)row * p.n + w.col0;
            if (!P::INNER)
                put_rows(acc[s], room, (uint16_t *)p.c + at, p.n, w.end - row, p.n - w.col0);
            else
                add_rows<P>(acc[s], room, (float *)p.c + (int64_t)w.expert * p.m * p.n + at, p.n,
                            w.end - row, p.n - w.col0);
            if (P::INNER && !P::ADD && p.squares)
                sum += squares(acc[s]); // outside of c they are zeros
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
        for (int i = 0; i < P::STAGES; i++) {
            barrier_init(barriers + i, 1);
            barrier_init(barriers + P::STAGES + i, 2 * P::TEAM);
        }
        barrier_init((uint64_t *)(shared + P::TURNS_AT), 1);
        barrier_init((uint64_t *)(shared + P::TURNS_AT) + 1, 1);
        barriers_visible();
    } else if (threadIdx.x == 64) {
        map_prefetch(&a);
        map_prefetch(&b);
    }
    __syncthreads();
    cluster_meet();
    if (threadIdx.x < 128) {
        registers_give<40>();
        if (threadIdx.x < 32)
            fetch<P>(&a, &b, p, shared);
    } else {
        registers_take<232>();
        compute<P>(p, shared);
    }
    cluster_meet(); // nobody leaves while the neighbour may still write here
#endif
}
#endif
