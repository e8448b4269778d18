// SPDX-License-Identifier: Apache-2.0
//
// route_drop.cu - routed rows by expert where an expert keeps at most its capacity of them. Rows
// are sorted by expert as route_plan does it; a block an expert finds the capacity's probability,
// digit by digit from counts in shared memory, and gives every pair its expert or, dropped, the
// number behind all experts; these are sorted again. Ties go to the earlier pair, by a running sum
// over the expert's rows: nothing depends on which thread comes first. Bytes: about 60 a pair;
// floor: six launches, some 20 us, that the pairs of most experts fit into.

#include "order.cuh"

struct drop {
    struct kernel base;
    int rows, experts, capacity, by_position;
};

#define SELF const struct drop *k = (const struct drop *)base

// A probability as a number in the same order; -0 is 0.
DEV uint32_t ordered(float x)
{
    uint32_t bits = __float_as_uint(x + 0.0f);
    return bits ^ ((uint32_t)((int32_t)bits >> 31) | 0x80000000u);
}

// The `capacity`-th largest of n keys, and in *equal how many of those with just that key belong to
// the largest. hist: 256 counters.
DEV uint32_t threshold(arr probs, const int32_t *rows, int n, int capacity, int *hist, int *room,
                       int *equal)
{
    __shared__ uint32_t found;
    __shared__ int rest;
    uint32_t prefix = 0, mask = 0;
    int left = capacity, tid = threadIdx.x, total;
    for (int shift = 24; shift >= 0; shift -= 8) {
        if (tid < 256)
            hist[tid] = 0;
        __syncthreads();
        for (int i = tid; i < n; i += ORDER_THREADS) {
            uint32_t key = ordered(get(probs, rows[i]));
            if ((key & mask) == prefix)
                atomicAdd(&hist[key >> shift & 255], 1);
        }
        __syncthreads();
        int own = tid < 256 ? hist[255 - tid] : 0; // larger digits first
        int before = block_before(own, room, &total);
        if (tid < 256 && before < left && left <= before + own) {
            found = (uint32_t)(255 - tid) << shift;
            rest = left - before;
        }
        __syncthreads();
        prefix |= found;
        mask |= 255u << shift;
        left = rest;
    }
    *equal = left;
    return prefix;
}

// to[pair]: its expert if that keeps it, else the number of experts
__global__ void __launch_bounds__(ORDER_THREADS)
    choose(arr probs, const int32_t *rows, const int32_t *offsets, int32_t *to, int experts,
           int capacity, bool by_position)
{
    __shared__ int hist[256], room[ORDER_WARPS];
    int e = (int)blockIdx.x, first = offsets[e], n = offsets[e + 1] - first, taken = 0, equal = 0;
    bool all = n <= capacity, ranks = !all && !by_position; // the same for the whole block
    uint32_t least = 0;
    rows += first;
    if (ranks)
        least = threshold(probs, rows, n, capacity, hist, room, &equal);
    for (int i0 = 0; i0 < n; i0 += ORDER_THREADS) {
        int i = i0 + (int)threadIdx.x, total = 0;
        bool keep = i < n && (all || i < capacity);
        if (ranks) {
            uint32_t key = i < n ? ordered(get(probs, rows[i])) : 0;
            bool tie = i < n && key == least;
            int rank = taken + block_before(tie, room, &total);
            keep = i < n && (key > least || (tie && rank < equal));
            taken += total;
        }
        if (i < n)
            to[rows[i]] = keep ? e : experts;
    }
}

__global__ void __launch_bounds__(THREADS)
    finish(arr probs, const int32_t *to, const int32_t *all_offsets, arr kept, int32_t *offsets,
           int rows, int experts)
{
    GRID_LOOP(i, max(rows, experts + 1)) {
        if (i < rows)
            put(kept, i, to[i] < experts ? get(probs, i) : 0);
        if (i <= experts)
            offsets[i] = all_offsets[i];
    }
}

// what lies in the workspace: the first order and what pairs go to, then counts of a sort
struct drop_room {
    int32_t *rows, *slots, *offsets, *to;
    void *sort;
};

static drop_room room_in(const struct drop *k, void *ws)
{
    drop_room r;
    r.rows = (int32_t *)ws;
    r.slots = r.rows + k->rows;
    r.to = r.slots + k->rows;
    r.offsets = r.to + k->rows;
    r.sort = r.offsets + k->experts + 2;
    return r;
}

static mr_status drop_run(RUN_ARGS)
{
    SELF;
    drop_room r = room_in(k, ws);
    arr probs = in_arr(base, in, 0);
    order_by_key((const int32_t *)in[1].data, r.sort, r.rows, r.slots, r.offsets, k->rows,
                 k->experts, stream);
    choose<<<k->experts, ORDER_THREADS, 0, stream>>>(probs, r.rows, r.offsets, r.to, k->experts,
                                                     k->capacity, k->by_position != 0);
    order_by_key(r.to, r.sort, (int32_t *)out[1].data, (int32_t *)out[2].data, r.offsets, k->rows,
                 k->experts + 1, stream);
    finish<<<grid_for(k->rows > k->experts ? k->rows : k->experts + 1), THREADS, 0, stream>>>(
        probs, r.to, r.offsets, out_arr(base, out, 0), (int32_t *)out[3].data, k->rows,
        k->experts);
    return cuda_launched(base, err);
}

__global__ void __launch_bounds__(THREADS)
    drop_bwd(arr dkept, const int32_t *slots, const int32_t *kept, arr dprobs, int rows)
{
    GRID_LOOP(i, rows)
        put(dprobs, i, slots[i] < *kept ? get(dkept, i) : 0);
}

static mr_status bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    drop_bwd<<<grid_for(k->rows), THREADS, 0, stream>>>(
        in_arr(base, in, 0), (const int32_t *)in[1].data,
        (const int32_t *)in[2].data + k->experts, out_arr(base, out, 0), k->rows);
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status drop_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct drop *k = (struct drop *)base;
    int64_t rows = mr_numel(c->in[1]), experts = mr_attr_i(c, "experts", 1);
    int64_t capacity = mr_attr_i(c, "capacity", 1);
    mr_status bad = order_prepare(base, rows, experts + 1, err);
    if (bad)
        return bad;
    k->rows = (int)rows;
    k->experts = (int)experts;
    k->capacity = (int)(capacity < rows ? capacity : rows);
    k->by_position = !strcmp(mr_attr_s(c, "policy", "probs"), "position");
    base->workspace = ((uint64_t)rows * 3 + (uint64_t)experts + 2) * sizeof(int32_t) +
                      order_bytes(k->rows, k->experts + 1);
    base->run = drop_run;
    return MR_OK;
}

static mr_status bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct drop *k = (struct drop *)base;
    int64_t rows = mr_numel(c->in[0]);
    if (rows > INT32_MAX)
        return cuda_refuse(base, err, "more rows than 32 bits count");
    k->rows = (int)rows;
    k->experts = (int)c->in[2]->dim[0] - 1;
    base->run = bwd_run;
    return MR_OK;
}

const struct op_row cuda_drop_rows[] = {
    { "route_drop", "xi>xiii", sizeof(struct drop), drop_prepare, 0, 0 },
    { "route_drop.bwd", "xii>x", sizeof(struct drop), bwd_prepare, 0, 0 },
    {},
};
