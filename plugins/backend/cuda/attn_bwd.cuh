// SPDX-License-Identifier: Apache-2.0
//
// attn_bwd.cuh - what both backward kernels of attention do first: delta = <do, o> a row, and
// which queries a tile of keys matters to.

#ifndef MRUN_CUDA_ATTN_BWD_CUH
#define MRUN_CUDA_ATTN_BWD_CUH
#include "attn.cuh"

template <typename F>
__global__ void __launch_bounds__(256)
    attn_delta(const F *dy, const F *o, float *delta, int64_t rows, int cv)
{
    int64_t row = blockIdx.x * (int64_t)8 + threadIdx.x / 32;
    float sum = 0;
    if (row >= rows)
        return;
    for (int i = threadIdx.x % 32; i < cv; i += 32)
        sum += ld(dy, row * cv + i) * ld(o, row * cv + i);
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        delta[row] = sum;
}

// a block a tile of `keys` keys: the last query that sees one of them
static __global__ void __launch_bounds__(256)
    attn_reach(const int32_t *seq_start, int32_t *reach, int keys, const attn_args a)
{
    __shared__ int last;
    int j0 = blockIdx.x * keys, j1 = min((int64_t)j0 + keys, a.keys) - 1;
    int from = first_query(j0, a);
    if (threadIdx.x == 0)
        last = a.cut ? from - 1 : j1; // of another rank's keys there may be no query
    __syncthreads();
    for (int t = (a.cut ? from : j0) + threadIdx.x; t < a.tokens; t += 256)
        if (first_seen(seq_start, t, a) <= j1)
            atomicMax(&last, t);
    __syncthreads();
    if (threadIdx.x == 0)
        reach[blockIdx.x] = last;
}

// Both into the workspace: delta [T, H], then reach [tiles].
static inline uint64_t attn_bwd_room(const attn_args &a, int keys)
{
    return ((uint64_t)a.tokens * (uint64_t)a.heads + (uint64_t)cuda_ceil(a.keys, keys)) * 4;
}

template <typename F>
static void attn_bwd_first(const F *dy, const F *o, const int32_t *seq_start, float *delta,
                           int32_t *reach, int keys, const attn_args &a, cudaStream_t stream)
{
    int64_t rows = a.tokens * a.heads;
    attn_delta<F><<<(unsigned)cuda_ceil(rows, 8), 256, 0, stream>>>(dy, o, delta, rows, a.cv);
    attn_reach<<<(unsigned)cuda_ceil(a.keys, keys), 256, 0, stream>>>(seq_start, reach, keys, a);
}

#endif
