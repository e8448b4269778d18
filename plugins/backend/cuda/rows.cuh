// SPDX-License-Identifier: Apache-2.0
//
// rows.cuh - kernels that hold a whole row in registers: L lanes share it, lane l has the V values
// from (k L + l) V on, for k < K. A row is a part of a warp, a warp, or a block. What is asked of
// memory is asked for at once; sums over a row are trees of fixed shape.

#ifndef MRUN_CUDA_ROWS_CUH
#define MRUN_CUDA_ROWS_CUH
#include "early.cuh"
#include "vec.cuh"

// ---- values as they lie in memory ------------------------------------------------------------
template <typename F, int V> struct pack {
    F v;
};
template <> struct pack<bf16, 8> {
    uint4 v;
};
template <> struct pack<float, 8> {
    float4 v, more;
};

// the i-th pack of p, zeros if not there
template <typename F, int V> DEV void load(pack<F, V> &p, const F *at, bool there)
{
    p = there ? *(const pack<F, V> *)at : pack<F, V>{};
}

template <typename F, int V> DEV void unpack(const pack<F, V> &p, float x[V])
{
    ldv<V>((const F *)&p, 0, x);
}

// ---- a sum over the L lanes of a row; all of them get it -------------------------------------
// `room`: 32 floats of this row's own, at a multiple of 16 bytes. A loop over rows changes between
// two rooms: whoever is two rows ahead has passed a barrier that the slowest has reached.
template <int L> DEV float row_sum(float x, float *room, int barrier)
{
    constexpr int W = L < 32 ? L : 32, N = L / 32;
#pragma unroll
    for (int d = W / 2; d; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    if (L <= 32)
        return x;
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x % L / 32] = x;
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(L) : "memory");
    if (N <= 8) {
        x = 0;
#pragma unroll
        for (int i = 0; i < N; i += 4) {
            const float4 p = *(const float4 *)(room + i);
            x += p.x + (i + 1 < N ? p.y : 0) + (i + 2 < N ? p.z : 0) + (i + 3 < N ? p.w : 0);
        }
        return x;
    }
    x = room[threadIdx.x % (N ? N : 1)];
#pragma unroll
    for (int d = N / 2; d; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    return x;
}

// Two sums at once, the second only if BOTH; `room`: 32 pairs, with the same two in turn.
template <int L, bool BOTH> DEV float2 row_sum_pair(float2 x, float2 *room, int barrier)
{
    constexpr int W = L < 32 ? L : 32, N = L / 32;
    auto fold = [&](int from) {
#pragma unroll
        for (int d = from / 2; d; d >>= 1) {
            x.x += __shfl_xor_sync(~0u, x.x, d);
            if (BOTH)
                x.y += __shfl_xor_sync(~0u, x.y, d);
        }
    };
    fold(W);
    if (L <= 32)
        return x;
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x % L / 32] = x;
    asm volatile("bar.sync %0, %1;" ::"r"(barrier), "n"(L) : "memory");
    if (N <= 8) {
        x = float2{ 0, 0 };
#pragma unroll
        for (int i = 0; i < N; i += 2) {
            const float4 p = *(const float4 *)(room + i);
            x.x += p.x + (i + 1 < N ? p.z : 0);
            x.y += p.y + (i + 1 < N ? p.w : 0);
        }
        return x;
    }
    x = room[threadIdx.x % (N ? N : 1)];
    fold(N);
    return x;
}

// ---- column sums in two stages: dst[column] += the blocks' shares, in their order -----------
// Up to two such sums in one launch, the second's shares behind those of the first; a destination
// may be NULL, and then its shares are not there.
enum { PART_COLS = 32, PART_LANES = 32 };

static __global__ void __launch_bounds__(PART_COLS *PART_LANES)
    add_shares(const float *sums, float *first, float *second, int parts, int n)
{
    __shared__ float room[PART_LANES][PART_COLS];
    const int col = blockIdx.x * PART_COLS + threadIdx.x % PART_COLS;
    const int lane = threadIdx.x / PART_COLS;
    float s = 0, *dst = !first || blockIdx.y ? second : first;
    sums += blockIdx.y * (int64_t)parts * n;
    previous_done();
#pragma unroll 8
    for (int p = lane; p < parts; p += PART_LANES)
        s += col < n ? sums[p * (int64_t)n + col] : 0;
    room[lane][threadIdx.x % PART_COLS] = s;
    __syncthreads();
    if (lane || col >= n)
        return;
    s = 0;
#pragma unroll
    for (int l = 0; l < PART_LANES; l++)
        s += room[l][threadIdx.x];
    dst[col] += s;
}

static inline cudaError_t launch_add_shares(const struct kernel *k, const float *sums, float *first,
                                            float *second, int parts, int64_t n,
                                            cudaStream_t stream)
{
    const dim3 grid((unsigned)cuda_ceil(n, PART_COLS), (first != nullptr) + (second != nullptr));
    if (!grid.y)
        return cudaSuccess;
    return launch_early(k, add_shares, grid, PART_COLS * PART_LANES, 0, 1, stream, sums, first,
                        second, parts, (int)n);
}

static inline bool rows_fit(int64_t n)
{
    return n <= (n % WIDE_V ? 1024 : 8192);
}

// ---- the narrowest shape that holds a row of n values: L lanes, each with K times V ------------
// Few lanes with several pieces each: more of a row is on its way at once, and the fewer warps wait
// for each other's sums.
#define BY_WIDTH(n, ...) \
    do { \
        if ((n) % WIDE_V) { \
            constexpr int V = 1; \
            if ((n) <= 64) { \
                constexpr int L = 32, K = 2; \
                __VA_ARGS__; \
            } else { \
                constexpr int L = 256, K = 4; \
                __VA_ARGS__; \
            } \
        } else { \
            constexpr int V = WIDE_V; \
            if ((n) <= 128) { \
                constexpr int L = 16, K = 1; \
                __VA_ARGS__; \
            } else if ((n) <= 512) { \
                constexpr int L = 32, K = 2; \
                __VA_ARGS__; \
            } else if ((n) <= 768) { \
                constexpr int L = 32, K = 3; \
                __VA_ARGS__; \
            } else if ((n) <= 1024) { \
                constexpr int L = 32, K = 4; \
                __VA_ARGS__; \
            } else if ((n) <= 2048) { \
                constexpr int L = 64, K = 4; \
                __VA_ARGS__; \
            } else if ((n) <= 4096) { \
                constexpr int L = 128, K = 4; \
                __VA_ARGS__; \
            } else { \
                constexpr int L = 256, K = 4; \
                __VA_ARGS__; \
            } \
        } \
    } while (0)

#endif
