// SPDX-License-Identifier: Apache-2.0
//
// exchange.cu - what travels between ranks, in the order in which it is computed: rows taken by an
// index or zig-zag, whatever their elements are, and the orders of rows that came for this rank's
// experts. Bytes: 2 L D of L rows; floor: bytes / the copy bandwidth (131072 rows of 2048 in bf16:
// 1.07 GB, 252 us at 4.27 TB/s). The plan is a few thousand numbers, made by one block, and 8 bytes
// a row. Rows that the bound has no room for are left out: the sender finds out before they go.

#include "dev.cuh"

struct exchange {
    struct kernel base;
    int64_t rows, from, ranks, index, seq, experts, bound;
    uint64_t row; // bytes
    int inverse;
};

#define SELF const struct exchange *k = (const struct exchange *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)

// ---- rows -----------------------------------------------------------------------------------
// y[i] = x[index[i]], zeros where there is none; a row is `units` of U
template <typename U>
KERNEL take(const U *x, const int32_t *index, U *y, int64_t rows, int64_t from, uint32_t units)
{
    GRID_LOOP(i, rows * units) {
        int64_t r = i / units, at = index[r];
        y[i] = at >= 0 && at < from ? x[at * units + i % units] : U{};
    }
}

// Row i of rank n lies at `at` of the whole: one piece from the front, one from the back.
template <typename U>
KERNEL zigzag(const U *x, U *y, int64_t rows, uint32_t units, int ranks, int64_t seq, bool inverse)
{
    int64_t piece = seq / (2 * ranks), each = rows / ranks;
    GRID_LOOP(i, rows * units) {
        int64_t r = i / units, n = r / each, own = r % each, in = own % (2 * piece);
        int64_t at = own / (2 * piece) * seq +
                     (in < piece ? n * piece + in : (2 * ranks - 2 - n) * piece + in);
        int64_t j = at * units + i % units;
        if (inverse)
            y[i] = x[j];
        else
            y[j] = x[i];
    }
}

// the widest unit that rows and addresses are whole multiples of
#define WITH_UNIT(row, a, b, ...) \
    do { \
        uint64_t all_ = (row) | (uint64_t)(uintptr_t)(a) | (uint64_t)(uintptr_t)(b); \
        if (all_ % 16 == 0) { \
            using U = uint4; \
            __VA_ARGS__; \
        } else if (all_ % 4 == 0) { \
            using U = uint32_t; \
            __VA_ARGS__; \
        } else { \
            using U = uint16_t; \
            __VA_ARGS__; \
        } \
    } while (0)

static mr_status take_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_UNIT(k->row, in[0].data, out[0].data, {
        uint32_t units = (uint32_t)(k->row / sizeof(U));
        take<U><<<grid_for(k->rows * units), THREADS, 0, stream>>>(
            (const U *)in[0].data, (const int32_t *)in[1].data, (U *)out[0].data, k->rows, k->from,
            units);
    });
    return cuda_launched(base, err);
}

static mr_status zigzag_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    WITH_UNIT(k->row, in[0].data, out[0].data, {
        uint32_t units = (uint32_t)(k->row / sizeof(U));
        zigzag<U><<<grid_for(k->rows * units), THREADS, 0, stream>>>(
            (const U *)in[0].data, (U *)out[0].data, k->rows, units, (int)k->ranks, k->seq,
            k->inverse != 0);
    });
    return cuda_launched(base, err);
}

// ---- the plan -------------------------------------------------------------------------------
// A segment is what one rank sends for one of this rank's experts. start[s]: its first row by
// expert; came[s]: its first row as it came. One thread walks the few segments; offsets too.
KERNEL segments(const int32_t *all, int32_t *offsets, int32_t *start, int32_t *came, int ranks,
                int index, int experts, int bound)
{
    int each = experts / ranks, first = index * each, sorted = 0;
    if (threadIdx.x)
        return;
    for (int e = 0; e < each; e++) {
        int part = 0;
        offsets[e] = min(sorted, bound);
        for (int n = 0; n < ranks; n++) {
            const int32_t *own = all + (int64_t)n * (experts + 1) + first;
            start[e * ranks + n] = sorted;
            came[e * ranks + n] = part + own[e] - own[0];
            sorted += own[e + 1] - own[e];
            part += own[each] - own[0];
        }
    }
    offsets[each] = min(sorted, bound);
}

KERNEL no_rows(int32_t *order, int32_t *back, int64_t bound)
{
    GRID_LOOP(i, bound)
        order[i] = back[i] = -1;
}

// a block a segment
KERNEL orders(const int32_t *all, const int32_t *start, const int32_t *came, int32_t *order,
              int32_t *back, int ranks, int index, int experts, int bound)
{
    int s = (int)blockIdx.x, e = s / ranks, n = s % ranks, each = experts / ranks;
    const int32_t *own = all + (int64_t)n * (experts + 1) + index * each;
    for (int i = (int)threadIdx.x; i < own[e + 1] - own[e]; i += THREADS) {
        int to = start[s] + i, at = came[s] + i;
        if (to < bound && at < bound) {
            order[to] = at;
            back[at] = to;
        }
    }
}

static mr_status plan_run(RUN_ARGS)
{
    SELF;
    int64_t count = k->experts; // E/N experts of this rank by N ranks
    int32_t *start = (int32_t *)ws, *came = start + count;
    const int32_t *all = (const int32_t *)in[0].data;
    int32_t *order = (int32_t *)out[1].data, *back = (int32_t *)out[2].data;
    segments<<<1, 32, 0, stream>>>(all, (int32_t *)out[0].data, start, came, (int)k->ranks,
                                   (int)k->index, (int)k->experts, (int)k->bound);
    no_rows<<<grid_for(k->bound), THREADS, 0, stream>>>(order, back, k->bound);
    orders<<<(unsigned)count, THREADS, 0, stream>>>(all, start, came, order, back, (int)k->ranks,
                                                    (int)k->index, (int)k->experts, (int)k->bound);
    return cuda_launched(base, err);
}

KERNEL window(const int32_t *offsets, int32_t *own, int first, int n)
{
    GRID_LOOP(i, n)
        own[i] = offsets[first + i];
}

static mr_status window_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    window<<<1, THREADS, 0, stream>>>((const int32_t *)in[0].data, (int32_t *)out[0].data,
                                      (int)(k->index * k->experts), (int)k->experts + 1);
    return cuda_launched(base, err);
}

// ---- from types to kernels ----------------------------------------------------------------
static void sizes(struct exchange *k, const mr_call *c)
{
    k->from = c->in[0]->dim[0];
    k->rows = c->out[0]->dim[0];
    k->row = mr_bytes(c->in[0]) / (uint64_t)k->from;
    k->ranks = mr_attr_i(c, "ranks", 1);
    k->index = mr_attr_i(c, "index", 0);
}

static mr_status take_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    sizes((struct exchange *)base, c);
    base->run = take_run;
    (void)err;
    return MR_OK;
}

static mr_status zigzag_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct exchange *k = (struct exchange *)base;
    sizes(k, c);
    k->seq = mr_attr_i(c, "seq", 0);
    k->inverse = mr_attr_i(c, "inverse", 0) != 0;
    base->run = zigzag_run;
    if (k->ranks < 1 || k->seq < 1 || k->seq % (2 * k->ranks) || k->rows % k->seq)
        return cuda_refuse(base, err, "sequences that are not cut in equal pieces");
    return MR_OK;
}

static mr_status plan_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct exchange *k = (struct exchange *)base;
    sizes(k, c);
    k->experts = c->in[0]->dim[1] - 1;
    k->bound = c->out[1]->dim[0];
    base->workspace = (uint64_t)k->experts * 2 * sizeof(int32_t);
    base->run = plan_run;
    if (k->ranks != c->in[0]->dim[0] || k->experts < 1 || k->experts % k->ranks ||
        k->index >= k->ranks || k->bound > INT32_MAX)
        return cuda_refuse(base, err, "counts of other ranks than it has");
    return MR_OK;
}

static mr_status window_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct exchange *k = (struct exchange *)base;
    sizes(k, c);
    k->experts = c->out[0]->dim[0] - 1; // of this rank
    base->run = window_run;
    if (k->experts * k->ranks + 1 != c->in[0]->dim[0] || k->index >= k->ranks)
        return cuda_refuse(base, err, "offsets of other experts than it has");
    return MR_OK;
}

const struct op_row cuda_exchange_rows[] = {
    { "take_rows", "nii>n", sizeof(struct exchange), take_prepare, 0, 0 },
    { "zigzag", "n>n", sizeof(struct exchange), zigzag_prepare, 0, 0 },
    { "ep_plan", "i>iii", sizeof(struct exchange), plan_prepare, 0, 0 },
    { "ep_window", "i>i", sizeof(struct exchange), window_prepare, 0, 0 },
    {},
};
