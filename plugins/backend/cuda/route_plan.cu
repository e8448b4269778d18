// SPDX-License-Identifier: Apache-2.0
//
// route_plan.cu - the order of the routed rows: a stable counting sort by expert, in two launches.
// The first counts the experts of each chunk of rows; in the second every block adds up all
// chunks' counts, so that it knows where each expert and its own chunk of it begin, and places its
// rows in order: no atomic decides where a row lies. Bytes: R indices read twice,
// rows and slots written; a few us, that is two launches and the counts, which lie in L2.

#include "order.cuh"

enum { TURNS = 2, CHUNK = ORDER_THREADS * TURNS };

struct plan {
    struct kernel base;
    int rows, experts;
};

static int order_chunks(int rows) // without rows, offsets are still written
{
    return rows ? (int)cuda_ceil(rows, CHUNK) : 1;
}

DEV int expert_of(const int32_t *index, int i, int rows, int experts) // -1: none
{
    int e = i < rows ? index[i] : -1;
    return e >= 0 && e < experts ? e : -1;
}

__global__ void __launch_bounds__(ORDER_THREADS)
    plan_count(const int32_t *index, int32_t *counts, int rows, int experts)
{
    extern __shared__ int32_t n[];
    for (int e = threadIdx.x; e < experts; e += ORDER_THREADS)
        n[e] = 0;
    __syncthreads();
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        int e = expert_of(index, (int)blockIdx.x * CHUNK + u * ORDER_THREADS + (int)threadIdx.x,
                          rows, experts);
        count_keys(e, n);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += ORDER_THREADS)
        counts[(int64_t)blockIdx.x * experts + e] = n[e];
}

// Into shared memory: `total[e]` rows of expert e in all chunks, `before[e]` in those before
// `chunk`. `width` experts side by side, a power of two; the chunks in as many rows as threads
// allow.
DEV void add_counts(const int32_t *counts, int chunk, int chunks, int experts, int width,
                    int32_t *total, int32_t *before)
{
    for (int e = threadIdx.x; e < experts; e += ORDER_THREADS)
        total[e] = before[e] = 0;
    __syncthreads();
    int row = (int)threadIdx.x / width, rows = ORDER_THREADS / width;
    for (int e = (int)threadIdx.x % width; e < experts; e += width) {
        int all = 0, some = 0;
#pragma unroll 8
        for (int c = row; c < chunks; c += rows) {
            int n = counts[(int64_t)c * experts + e];
            all += n;
            some += c < chunk ? n : 0;
        }
        atomicAdd(&total[e], all);
        atomicAdd(&before[e], some);
    }
    __syncthreads();
}

__global__ void __launch_bounds__(ORDER_THREADS)
    plan_place(const int32_t *index, const int32_t *counts, int32_t *rows_out, int32_t *slots,
               int32_t *offsets, int rows, int experts, int width)
{
    extern __shared__ int32_t next[]; // the next row of each expert, `before`, then `seen`
    __shared__ int room[ORDER_WARPS];
    int chunk = blockIdx.x, tid = threadIdx.x, n;
    int32_t *before = next + experts;
    uint16_t *seen = (uint16_t *)(before + experts);

    add_counts(counts, chunk, gridDim.x, experts, width, next, before);
    int count = tid < experts ? next[tid] : 0, at = block_before(count, room, &n);
    if (tid < experts) {
        next[tid] = at + before[tid];
        if (chunk == 0)
            offsets[tid] = at;
    }
    if (chunk == 0 && tid == 0)
        offsets[experts] = n;
    __syncthreads();
#pragma unroll
    for (int u = 0; u < TURNS; u++) {
        int i = chunk * CHUNK + u * ORDER_THREADS + tid, e = expert_of(index, i, rows, experts);
        int slot = take_place(e, next, seen, experts);
        if (e >= 0)
            rows_out[slot] = i;
        if (i < rows) {
            slots[i] = slot;
            if (i >= n) // rows at the end that an index of no expert leaves empty
                rows_out[i] = -1;
        }
    }
}

static size_t place_room(int keys)
{
    return 2 * (size_t)keys * sizeof(int32_t) + order_room(keys);
}

uint64_t order_bytes(int rows, int keys)
{
    return (uint64_t)order_chunks(rows) * (uint64_t)keys * sizeof(int32_t);
}

mr_status order_prepare(const struct kernel *base, int64_t rows, int64_t keys, mr_err *err)
{
    if (keys > ORDER_MAX_KEYS || rows > INT32_MAX - CHUNK)
        return cuda_refuse(base, err, "more than 1024 experts, or more rows than 32 bits count");
    return want_shared(base, (const void *)plan_place, place_room((int)keys), err);
}

void order_by_key(const int32_t *key, void *ws, int32_t *rows_out, int32_t *slots, int32_t *offsets,
                  int rows, int keys, cudaStream_t stream)
{
    int32_t *counts = (int32_t *)ws;
    int width = 1;
    while (width < keys && width < ORDER_THREADS)
        width *= 2;
    plan_count<<<order_chunks(rows), ORDER_THREADS, (size_t)keys * sizeof(int32_t), stream>>>(
        key, counts, rows, keys);
    plan_place<<<order_chunks(rows), ORDER_THREADS, place_room(keys), stream>>>(
        key, counts, rows_out, slots, offsets, rows, keys, width);
}

static mr_status plan_run(RUN_ARGS)
{
    const struct plan *k = (const struct plan *)base;
    order_by_key((const int32_t *)in[0].data, ws, (int32_t *)out[0].data, (int32_t *)out[1].data,
                 (int32_t *)out[2].data, k->rows, k->experts, stream);
    return cuda_launched(base, err);
}

static mr_status plan_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct plan *k = (struct plan *)base;
    int64_t rows = mr_numel(c->in[0]), experts = mr_attr_i(c, "experts", 1);
    mr_status bad = order_prepare(base, rows, experts, err);
    if (bad)
        return bad;
    k->rows = (int)rows;
    k->experts = (int)experts;
    base->workspace = order_bytes(k->rows, k->experts);
    base->run = plan_run;
    return MR_OK;
}

const struct op_row cuda_plan_rows[] = {
    { "route_plan", "i>iii", sizeof(struct plan), plan_prepare, 0, 0 },
    {},
};
