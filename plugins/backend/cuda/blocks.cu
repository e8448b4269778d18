// SPDX-License-Identifier: Apache-2.0
//
// blocks.cu - orders of experts' rows that travel in blocks of equal size, or are filled up to a
// capacity: what take_rows goes by, made on the device so that a graph can hold it. Bytes: 4 for
// every entry of the orders, the offsets of all ranks beside them (131072 rows over 8 ranks at
// twice the mean: 3.7 MB); floor: two launches, a few us. Rows that a block has no room for are
// left out by both sides, and room() tells.

#include "dev.cuh"

struct blocks {
    struct kernel base;
    int ranks, index, experts, block, rows, capacity;
};

#define SELF const struct blocks *k = (const struct blocks *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)

// Exclusive sum over the block's threads; room: an int a thread.
DEV int sum_before(int x, int *room, int *total)
{
    int t = (int)threadIdx.x, sum = x;
    room[t] = x;
    __syncthreads();
    for (int d = 1; d < THREADS; d *= 2) {
        int more = t >= d ? room[t - d] : 0;
        __syncthreads();
        room[t] = sum += more;
        __syncthreads();
    }
    *total = room[THREADS - 1];
    return sum - x;
}

// A segment is what one rank sends for one of this rank's experts, expert by expert: its rows lie
// at `from` of the rank's block, as many as the block has room for.
DEV int segment(const int32_t *all, const blocks &k, int s, int *from)
{
    int each = k.experts / k.ranks, e = s / k.ranks;
    const int32_t *own = all + (int64_t)(s % k.ranks) * (k.experts + 1) + k.index * each;
    *from = min(own[e] - own[0], k.block);
    return min(own[e + 1] - own[0], k.block) - *from;
}

// start[s]: the first row by expert of segment s. One block; a thread has a run of segments.
KERNEL starts(const int32_t *all, int32_t *offsets, int32_t *start, blocks k)
{
    __shared__ int room[THREADS];
    int run = (k.experts + THREADS - 1) / THREADS, first = (int)threadIdx.x * run, from, total;
    int end = min(first + run, k.experts), n = 0;
    for (int s = first; s < end; s++)
        n += segment(all, k, s, &from);
    int at = sum_before(n, room, &total);
    for (int s = first; s < end; s++) {
        start[s] = at;
        if (s % k.ranks == 0)
            offsets[s / k.ranks] = at;
        at += segment(all, k, s, &from);
    }
    if (threadIdx.x == 0)
        offsets[k.experts / k.ranks] = total;
}

// The last i < n whose at[i * step] <= x; at[0] <= x.
DEV int last_upto(const int32_t *at, int step, int n, int x)
{
    int low = 0;
    while (n > 1) {
        int half = n / 2;
        if (at[(low + half) * step] <= x)
            low += half;
        n -= half;
    }
    return low;
}

// Entry i of the blocks, as they are sent and as they come, and where row i was put.
KERNEL orders(const int32_t *all, const int32_t *offsets, const int32_t *start, int32_t *order,
              int32_t *back, int32_t *send, int32_t *sent, blocks k)
{
    int each = k.experts / k.ranks, n_all = k.ranks * k.block;
    const int32_t *mine = all + (int64_t)k.index * (k.experts + 1);
    GRID_LOOP(i, max(n_all, k.rows)) {
        if (i < k.rows) {
            int n = last_upto(mine, each, k.ranks, (int)i), at = (int)i - mine[n * each];
            sent[i] = i < mine[(n + 1) * each] && at < k.block ? n * k.block + at : -1;
        }
        if (i >= n_all)
            continue;
        int n = (int)i / k.block, at = (int)i % k.block;
        const int32_t *own = all + (int64_t)n * (k.experts + 1) + k.index * each;
        send[i] = mine[n * each] + at < mine[(n + 1) * each] ? mine[n * each] + at : -1;
        if (i >= offsets[each])
            order[i] = -1;
        if (own[0] + at < own[each]) {
            int e = last_upto(own, 1, each, own[0] + at);
            int to = start[e * k.ranks + n] + at - (own[e] - own[0]);
            back[i] = to;
            order[to] = (int)i;
        } else {
            back[i] = -1;
        }
    }
}

static mr_status blocks_run(RUN_ARGS)
{
    SELF;
    const int32_t *all = (const int32_t *)in[0].data;
    int32_t *offsets = (int32_t *)out[0].data, *start = (int32_t *)ws;
    int64_t n = (int64_t)k->ranks * k->block;
    starts<<<1, THREADS, 0, stream>>>(all, offsets, start, *k);
    orders<<<grid_for(n > k->rows ? n : k->rows), THREADS, 0, stream>>>(
        all, offsets, start, (int32_t *)out[1].data, (int32_t *)out[2].data,
        (int32_t *)out[3].data, (int32_t *)out[4].data, *k);
    return cuda_launched(base, err);
}

// One block: the most that any rank sends another.
KERNEL room(const int32_t *all, float *ok, float *wanted, blocks k)
{
    __shared__ int most;
    int each = k.experts / k.ranks, mine = 0;
    if (threadIdx.x == 0)
        most = 0;
    __syncthreads();
    for (int i = (int)threadIdx.x; i < k.ranks * k.ranks; i += THREADS) {
        const int32_t *own = all + (int64_t)(i / k.ranks) * (k.experts + 1) + i % k.ranks * each;
        mine = max(mine, own[each] - own[0]);
    }
    atomicMax(&most, mine);
    __syncthreads();
    if (threadIdx.x == 0 && most > k.block) {
        *ok = 0;
        *wanted = fmaxf(*wanted, (float)most * (float)k.ranks / (float)k.rows);
    }
}

static mr_status room_run(RUN_ARGS)
{
    SELF;
    (void)ws, (void)out;
    room<<<1, THREADS, 0, stream>>>((const int32_t *)in[0].data, (float *)in[1].data,
                                    (float *)in[2].data, *k);
    return cuda_launched(base, err);
}

// ---- rows up to a capacity ------------------------------------------------------------------
KERNEL pad(const int32_t *offsets, int32_t *padded, int32_t *index, int32_t *inverse, blocks k)
{
    int n_all = k.experts * k.capacity;
    GRID_LOOP(i, max(max(n_all, k.rows), k.experts + 1)) {
        if (i <= k.experts)
            padded[i] = (int)i * k.capacity;
        if (i < n_all) {
            int e = (int)i / k.capacity, r = offsets[e] + (int)i % k.capacity;
            index[i] = r < offsets[e + 1] ? r : -1;
        }
        if (i < k.rows) {
            int e = last_upto(offsets, 1, k.experts, (int)i), at = (int)i - offsets[e];
            inverse[i] = i < offsets[k.experts] && at < k.capacity ? e * k.capacity + at : -1;
        }
    }
}

static mr_status pad_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    int64_t n = (int64_t)k->experts * k->capacity;
    pad<<<grid_for(n > k->rows ? n : k->rows), THREADS, 0, stream>>>(
        (const int32_t *)in[0].data, (int32_t *)out[0].data, (int32_t *)out[1].data,
        (int32_t *)out[2].data, *k);
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct blocks *k = (struct blocks *)base;
    bool pads = base->op[0] == 'r'; // route_pad
    int64_t ranks = mr_attr_i(c, "ranks", 1), block = mr_attr_i(c, "block", 1);
    int64_t rows = mr_attr_i(c, "rows", 1), experts = c->in[0]->dim[0] / ranks - 1;
    int64_t capacity = mr_attr_i(c, "capacity", 1);
    if (experts < 1 || experts > INT32_MAX - THREADS || rows > INT32_MAX ||
        block > INT32_MAX / ranks || capacity > INT32_MAX / experts)
        return cuda_refuse(base, err, "more rows than 32 bits count");
    k->ranks = (int)ranks;
    k->index = (int)mr_attr_i(c, "index", 0);
    k->experts = (int)experts;
    k->block = (int)block;
    k->rows = (int)rows;
    k->capacity = (int)capacity;
    base->run = pads ? pad_run : base->op[3] == 'r' ? room_run : blocks_run;
    base->workspace = base->run == blocks_run ? (uint64_t)experts * sizeof(int32_t) : 0;
    return MR_OK;
}

const struct op_row cuda_blocks_rows[] = {
    { "ep_blocks", "i>iiiii", sizeof(struct blocks), prepare, 0, 0 },
    { "ep_room", "iff>", sizeof(struct blocks), prepare, 0, 0 },
    { "route_pad", "i>iii", sizeof(struct blocks), prepare, 0, 0 },
    {},
};
