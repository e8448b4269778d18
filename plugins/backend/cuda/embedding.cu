// SPDX-License-Identifier: Apache-2.0
//
// embedding.cu - rows of a table, and their gradient. The gradient adds up the tokens of an id in
// order, so it first puts the tokens in the order of (id, token): `embed_order` shares the
// ids out over buckets, a block each, and every block finds its own tokens, and how many lie in
// buckets before its own, by reading all ids (they lie in cache). Then a group of equal ids is
// cut into pieces of PIECE tokens, whatever the group's size, a block adds up the pieces that begin
// in its stretch of the order, and `embed_join` adds the pieces of large groups. An id that fills a
// whole batch costs no more than others. No atomic decides where a number lies or in what order
// it is added.
//
// Bytes: T D read, and of the ids' table rows 4 D read and written; floor: bytes / the copy
// bandwidth (16384 tokens of 32768 random ids, 2048 wide, bf16: 278 MB, 65 us at 4.27 TB/s).
// An id outside the table gives a row of NaN, which the run's checks find; it adds nothing. Of a
// part of a vocabulary (embedding.part) ids of other parts give zeros.

#include "order.cuh"
#include "pack.cuh"

enum {
    IDS = 8, // ids a thread in one turn of embed_order
    TURN = ORDER_THREADS * IDS,
    MIN_BUCKETS = 128,
    PIECE = 32
};

struct embedding {
    struct kernel base;
    int64_t tokens, vocab, width;
    int64_t first, all; // the table's first id; ids of all parts
    int buckets, skip;
};

#define SELF const struct embedding *k = (const struct embedding *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)

// ---- embedding ----------------------------------------------------------------------------
template <typename F, int V, int U>
KERNEL embed(const int32_t *ids, const F *table, F *y, int64_t tokens, int64_t vocab,
             int64_t first, int64_t all, uint32_t packs)
{
    row_packs<U> mine(packs);
    pack<F, V> p[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < tokens) {
            int64_t id = ids[s.row] - first;
            if (id >= 0 && id < vocab) {
                p[u].load(table, (id * packs + s.col) * V);
            } else {
                float v[V];
#pragma unroll
                for (int j = 0; j < V; j++)
                    v[j] = id + first >= 0 && id + first < all ? 0 : nanf("");
                p[u].narrow(v);
            }
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < tokens)
            p[u].store(y, (s.row * packs + s.col) * V);
}

static mr_status embedding_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens && k->width)
        WITH_PACK(base->in_kind[1], k->width % WIDE_V == 0 && aligned16(in[1].data, out[0].data),
                  (embed<F, V, 4><<<pack_grid<4>(k->tokens * (k->width / V)), THREADS, 0,
                                    stream>>>(
                      (const int32_t *)in[0].data, (const F *)in[1].data, (F *)out[0].data,
                      k->tokens, k->vocab, k->first, k->all, (uint32_t)(k->width / V))));
    return cuda_launched(base, err);
}

// ---- the order of the tokens by (id, token) ---------------------------------------------------
// a place in the order; the places of its id's group are first .. end - 1
struct place {
    int token, id, first, end; // token -1: none, tokens with an id outside the table are left out
};

// of token t; -1, outside the table, past the last token and for the id that gets no gradient
DEV int id_of(const int32_t *ids, int t, int tokens, int skip, int first)
{
    int id = t < tokens ? ids[t] : -1;
    return id == skip || id < first ? -1 : id - first;
}

// Bucket b has the ids b local .. (b + 1) local - 1; `local` is even. Shared memory: the local ids'
// next and first places, the room of take_place(), then a list of the bucket's tokens among TURN of
// them, in order.
__global__ void __launch_bounds__(ORDER_THREADS)
    embed_order(const int32_t *ids, place *order, int tokens, int vocab, int local, int skip,
                int base)
{
    extern __shared__ int room[];
    __shared__ int warps[ORDER_WARPS];
    int *next = room, *first = room + local, *seen = first + local + 1;
    int *list = seen + local * ORDER_WARPS / 2;
    int lo = (int)blockIdx.x * local, hi = min(lo + local, vocab), tid = threadIdx.x;
    int n, before = 0;

    if (tid < local)
        next[tid] = 0;
    __syncthreads();
    for (int t0 = 0; t0 < tokens; t0 += TURN) {
        int id[IDS];
#pragma unroll
        for (int j = 0; j < IDS; j++) {
            int t = t0 + j * ORDER_THREADS + tid;
            id[j] = id_of(ids, t, tokens, skip, base);
        }
#pragma unroll
        for (int j = 0; j < IDS; j++) {
            before += id[j] >= 0 && id[j] < lo;
            count_keys(id[j] >= lo && id[j] < hi ? id[j] - lo : -1, next);
        }
    }
    block_before(before, warps, &before); // now: the places before this bucket's
    int count = tid < local ? next[tid] : 0, at = before + block_before(count, warps, &n);
    if (tid < local)
        next[tid] = first[tid] = at;
    if (tid == 0)
        first[local] = before + n;
    if (blockIdx.x == gridDim.x - 1)
        for (int p = before + n + tid; p < tokens; p += ORDER_THREADS)
            order[p] = place{ -1, -1, -1, -1 };

    for (int t0 = 0; t0 < tokens; t0 += TURN) {
        int begin = t0 + tid * IDS;
        unsigned mine = 0;
#pragma unroll
        for (int j = 0; j < IDS; j++) {
            int id = id_of(ids, begin + j, tokens, skip, base);
            mine |= (id >= lo && id < hi ? 1u : 0u) << j;
        }
        at = block_before(__popc(mine), warps, &n);
        for (; mine; mine &= mine - 1)
            list[at++] = begin + __ffs(mine) - 1;
        __syncthreads();
        for (int i0 = 0; i0 < n; i0 += ORDER_THREADS) {
            int i = i0 + tid, t = i < n ? list[i] : -1, e = i < n ? ids[t] - base - lo : -1;
            int p = take_place(e, next, (uint16_t *)seen, local);
            if (e >= 0)
                order[p] = place{ t, e + lo, first[e], first[e + 1] };
        }
        __syncthreads(); // the list is read
    }
}

// ---- the sums -----------------------------------------------------------------------------
DEV bool begins_piece(int p, const place &at)
{
    return at.token >= 0 && (p - at.first) % PIECE == 0;
}

DEV bool ends_piece(int p, const place &at)
{
    return p + 1 == at.end || (p + 1 - at.first) % PIECE == 0;
}

DEV bool is_large(const place &at) // more than a piece
{
    return at.end - at.first > PIECE;
}

// The row of partial sums of a large group's piece that begins at place p. Of a stretch of PIECE
// places two can begin such a piece: then the second is its group's first.
DEV int64_t part_row(int p, int first)
{
    return 2 * (int64_t)(p / PIECE) + (p == first);
}

static inline int64_t part_rows(int64_t tokens)
{
    return 2 * cuda_ceil(tokens, PIECE);
}

// A block adds up the pieces that begin in its stretch; a thread has one pack of columns. Four
// blocks a multiprocessor: at 16384 tokens all run at once.
template <typename F, int V>
__global__ void __launch_bounds__(THREADS, 4)
    embed_sum(const F *dy, const place *order, float *dtable, float *parts, int tokens,
              int64_t width)
{
    enum { AHEAD = 2 }; // rows under way
    __shared__ place near[2 * PIECE];
    __shared__ int from, to;
    int p0 = (int)blockIdx.x * PIECE, tid = threadIdx.x;
    int64_t col = (blockIdx.y * (int64_t)blockDim.x + tid) * V;
    if (tid < 2 * PIECE)
        near[tid] = p0 + tid < tokens ? order[p0 + tid] : place{ -1, -1, -1, -1 };
    __syncthreads();
    if (tid < 32) { // PIECE == 32: a lane a place
        unsigned begins = __ballot_sync(~0u, begins_piece(p0 + tid, near[tid]));
        int last = 31 - __clz(begins);
        if (tid == 0) {
            from = begins ? __ffs(begins) - 1 : 0;
            to = begins ? min(last + PIECE, near[last].end - p0) : 0;
        }
    }
    __syncthreads();
    if (col >= width)
        return;
    float sum[V] = {};
    int begin = from;
    for (int q0 = from; q0 < to; q0 += AHEAD) {
        pack<F, V> p[AHEAD];
        pack<float, V> row[AHEAD];
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            if (int q = q0 + u; q < to) {
                const place &at = near[q];
                p[u].load(dy, at.token * width + col);
                if (p0 + q + 1 == at.end && !is_large(at))
                    row[u].load(dtable, at.id * width + col);
            }
#pragma unroll
        for (int u = 0; u < AHEAD; u++)
            if (int q = q0 + u; q < to) {
                const place &at = near[q];
                float x[V];
                p[u].widen(x);
#pragma unroll
                for (int j = 0; j < V; j++)
                    sum[j] += x[j];
                if (!ends_piece(p0 + q, at))
                    continue;
                if (is_large(at)) {
                    row[u].narrow(sum);
                    row[u].store(parts, part_row(p0 + begin, at.first) * width + col);
                } else {
                    row[u].widen(x);
#pragma unroll
                    for (int j = 0; j < V; j++)
                        x[j] += sum[j];
                    row[u].narrow(x);
                    row[u].store(dtable, at.id * width + col);
                }
#pragma unroll
                for (int j = 0; j < V; j++)
                    sum[j] = 0;
                begin = q + 1;
            }
    }
}

// The large groups that begin in a block's stretch of the order: their pieces added up, some side
// by side in ROWS rows of threads, those then one after the other.
enum { STRETCH = 4 * THREADS, LANES = 16, ROWS = THREADS / LANES };
enum { AT_ONCE = 8, TURN_PLACES = ROWS * PIECE * AT_ONCE }; // pieces under way a thread

template <int V>
KERNEL embed_join(const place *order, const float *parts, float *dtable, int tokens, int64_t width)
{
    __shared__ place large[STRETCH / PIECE + 1];
    __shared__ float side[ROWS][LANES][V];
    __shared__ int n;
    int lane = threadIdx.x % LANES, row = threadIdx.x / LANES;
    int64_t col = (blockIdx.y * (int64_t)LANES + lane) * V;
    if (threadIdx.x == 0)
        n = 0;
    __syncthreads();
#pragma unroll
    for (int j = 0; j < STRETCH / THREADS; j++)
        if (int p = (int)blockIdx.x * STRETCH + j * THREADS + (int)threadIdx.x; p < tokens) {
            place at = order[p];
            if (at.token >= 0 && at.first == p && is_large(at))
                large[atomicAdd(&n, 1)] = at; // groups share no sum: any order does
        }
    __syncthreads();
    for (int g = 0; g < n; g++) {
        place at = large[g];
        float sum[V] = {};
        for (int p0 = at.first + row * PIECE; p0 < at.end && col < width; p0 += TURN_PLACES) {
            pack<float, V> q[AT_ONCE];
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++)
                if (int p = p0 + u * ROWS * PIECE; p < at.end)
                    q[u].load(parts, part_row(p, at.first) * width + col);
#pragma unroll
            for (int u = 0; u < AT_ONCE; u++)
                if (p0 + u * ROWS * PIECE < at.end) {
                    float x[V];
                    q[u].widen(x);
#pragma unroll
                    for (int j = 0; j < V; j++)
                        sum[j] += x[j];
                }
        }
#pragma unroll
        for (int j = 0; j < V; j++)
            side[row][lane][j] = sum[j];
        __syncthreads();
        if (row == 0 && col < width)
#pragma unroll
            for (int j = 0; j < V; j++) {
                float all = 0;
                for (int r = 0; r < ROWS; r++)
                    all += side[r][lane][j];
                dtable[at.id * width + col + j] += all;
            }
        __syncthreads();
    }
}

// ---- from types to kernels ------------------------------------------------------------------
static int local_ids(const struct embedding *k)
{
    return (int)cuda_ceil(k->vocab, 2 * (int64_t)k->buckets) * 2;
}

static size_t shared_of(const struct embedding *k)
{
    return (size_t)(2 * local_ids(k) + 1 + TURN) * sizeof(int) + order_room(local_ids(k));
}

static mr_status embedding_bwd_run(RUN_ARGS)
{
    SELF;
    const int32_t *ids = (const int32_t *)in[1].data;
    place *order = (place *)ws;
    float *dtable = (float *)in[2].data, *parts = (float *)(order + cuda_ceil(k->tokens, 4) * 4);
    int tokens = (int)k->tokens;
    unsigned pieces = (unsigned)cuda_ceil(tokens, PIECE);
    unsigned stretches = (unsigned)cuda_ceil(tokens, STRETCH);
    (void)out;
    if (!k->tokens || !k->width)
        return MR_OK;
    embed_order<<<k->buckets, ORDER_THREADS, shared_of(k), stream>>>(
        ids, order, tokens, (int)k->vocab, local_ids(k), k->skip, (int)k->first);
    bool whole = k->width % WIDE_V == 0 && aligned16(in[0].data, in[2].data);
    WITH_PACK(base->in_kind[0], whole, {
        int64_t columns = cuda_ceil(k->width, 32 * V) * 32; // narrow rows: smaller blocks
        unsigned threads = columns < 64 ? 64 : columns < THREADS ? (unsigned)columns : THREADS;
        embed_sum<F, V><<<dim3(pieces, (unsigned)cuda_ceil(k->width, threads * V)), threads, 0,
                          stream>>>((const F *)in[0].data, order, dtable, parts, tokens, k->width);
    });
    WITH_PACK(CUDA_F32, whole, (
        embed_join<V><<<dim3(stretches, (unsigned)cuda_ceil(k->width, LANES * V)), THREADS, 0,
                        stream>>>(order, parts, dtable, tokens, k->width), (void)sizeof(F)));
    return cuda_launched(base, err);
}

static mr_status shape(struct embedding *k, const mr_type *ids, const mr_type *table, mr_err *err)
{
    k->tokens = ids->dim[0];
    k->vocab = table->dim[0];
    k->width = table->dim[1];
    if (k->tokens > INT32_MAX - TURN || k->vocab > INT32_MAX / 4)
        return cuda_refuse(&k->base, err, "more tokens or rows than a 32-bit index names");
    return packs_fit(&k->base, k->tokens * k->width, k->width, err);
}

// which ids the table has
static void part(struct embedding *k, const mr_call *c, const mr_type *table)
{
    k->first = mr_attr_i(c, "first", 0);
    k->all = mr_attr_i(c, "vocab", table->dim[0]);
}

static mr_status embedding_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = embedding_run;
    part((struct embedding *)base, c, c->in[1]);
    return shape((struct embedding *)base, c->in[0], c->in[1], err);
}

static mr_status embedding_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct embedding *k = (struct embedding *)base;
    mr_status bad = shape(k, c->in[1], c->in[2], err);
    if (bad)
        return bad;
    if (cuda_ceil(k->width, LANES) > 65535)
        return cuda_refuse(base, err, "rows wider than the launch grid counts");
    int64_t buckets = cuda_ceil(k->vocab, ORDER_MAX_KEYS);
    part(k, c, c->in[2]);
    if (k->all > INT32_MAX)
        return cuda_refuse(base, err, "more ids than a 32-bit index names");
    k->skip = (int)mr_attr_i(c, "skip", -1);
    k->buckets = buckets < MIN_BUCKETS ? MIN_BUCKETS : (int)buckets;
    base->run = embedding_bwd_run;
    base->workspace = (uint64_t)(cuda_ceil(k->tokens, 4) * 4) * sizeof(place) +
                      (uint64_t)part_rows(k->tokens) * (uint64_t)k->width * sizeof(float);
    return want_shared(base, (const void *)embed_order, shared_of(k), err);
}

const struct op_row cuda_embedding_rows[] = {
    { "embedding", "ix>x", sizeof(struct embedding), embedding_prepare, 0, 0 },
    { "embedding.bwd", "xif>", sizeof(struct embedding), embedding_bwd_prepare, 0, 0 },
    { "embedding.part", "ix>x", sizeof(struct embedding), embedding_prepare, 0, 0 },
    { "embedding.part.bwd", "xif>", sizeof(struct embedding), embedding_bwd_prepare, 0, 0 },
    {},
};
