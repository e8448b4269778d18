// SPDX-License-Identifier: Apache-2.0
//
// order.cuh - stable placing by key within a block of 1024 threads: the piece that counting sorts
// share. Keys are small numbers, whose next places lie in shared memory. Counts of a warp come from
// matching its lanes, those of warps before it from a running sum a key; nothing depends on which
// warp comes first.

#ifndef MRUN_CUDA_ORDER_CUH
#define MRUN_CUDA_ORDER_CUH
#include "dev.cuh"

enum { ORDER_THREADS = 1024, ORDER_WARPS = ORDER_THREADS / 32, ORDER_MAX_KEYS = 1024 };

// sum over the threads before this one; *total over all. `room`: an int a warp.
DEV int block_before(int x, int *room, int *total)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, sum = x;
    for (int d = 1; d < 32; d <<= 1) {
        int y = __shfl_up_sync(~0u, sum, d);
        sum += lane >= d ? y : 0;
    }
    __syncthreads(); // the room of the sum before this one
    if (lane == 31)
        room[warp] = sum;
    __syncthreads();
    int all = room[lane], before = all; // 32 warps: a lane has a warp's sum
    for (int d = 1; d < 32; d <<= 1) {
        int y = __shfl_up_sync(~0u, before, d);
        before += lane >= d ? y : 0;
    }
    *total = __shfl_sync(~0u, before, 31);
    return __shfl_sync(~0u, before - all, warp) + sum - x;
}

// shared memory of take_places, for `keys` of them
static inline size_t order_room(int64_t keys)
{
    return (size_t)ORDER_WARPS * (size_t)keys * sizeof(uint16_t);
}

// The place of this thread's key e: next[e] and the number of threads before it with the same key.
// Then next[e] counts on. e < 0: no key. All threads call it; `seen`: order_room() bytes.
DEV int take_place(int e, int *next, uint16_t *seen, int keys)
{
    int lane = threadIdx.x % 32, warp = threadIdx.x / 32, k = threadIdx.x, sum = 0;
    for (int i = k; i < ORDER_WARPS / 2 * keys; i += ORDER_THREADS)
        ((uint32_t *)seen)[i] = 0;
    unsigned peers = __match_any_sync(~0u, e);
    int rank = __popc(peers & ((1u << lane) - 1));
    __syncthreads();
    if (e >= 0 && !rank)
        seen[warp * keys + e] = (uint16_t)__popc(peers);
    __syncthreads();
    for (int w0 = 0; w0 < ORDER_WARPS && k < keys; w0 += 8) {
        int n[8]; // read before any is written
#pragma unroll
        for (int w = 0; w < 8; w++)
            n[w] = seen[(w0 + w) * keys + k];
#pragma unroll
        for (int w = 0; w < 8; w++) {
            seen[(w0 + w) * keys + k] = (uint16_t)sum;
            sum += n[w];
        }
    }
    __syncthreads();
    int at = e >= 0 ? next[e] + seen[warp * keys + e] + rank : -1;
    __syncthreads();
    if (k < keys)
        next[k] += sum;
    return at;
}

// Counts the keys of a warp's lanes: one addition for the first lane's key and its likes, so that a
// frequent key does not wait for itself. Integers: any order gives the same sum.
DEV void count_keys(int e, int *count)
{
    int lane = threadIdx.x % 32;
    unsigned mine = __ballot_sync(~0u, e >= 0);
    if (!mine)
        return;
    int lead = __shfl_sync(~0u, e, __ffs(mine) - 1);
    unsigned led = __ballot_sync(~0u, e == lead);
    if (e >= 0 && (e != lead || lane == __ffs(led) - 1))
        atomicAdd(&count[e], e == lead ? __popc(led) : 1);
}

/* ---- a stable sort of a whole array (route_plan.cu), for other kernels' files -------------- */
/* rows by key: rows_out[r] the row at place r (-1 behind all that have one), slots its inverse,
 * offsets [keys + 1]; a key outside [0, keys) has no place. ws: order_bytes(). */
void order_by_key(const int32_t *key, void *ws, int32_t *rows_out, int32_t *slots, int32_t *offsets,
                  int rows, int keys, cudaStream_t stream);
uint64_t order_bytes(int rows, int keys);
mr_status order_prepare(const struct kernel *base, int64_t rows, int64_t keys, mr_err *err);

#endif
