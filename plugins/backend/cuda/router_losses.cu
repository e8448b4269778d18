// SPDX-License-Identifier: Apache-2.0
//
// router_losses.cu - the load-balancing loss of the router, over segments. Forward a block has a
// CHUNK of tokens, a warp scores a token and finds its K best; what a segment has in a chunk is
// summed in the order of the tokens' warps: one that lies in one chunk is finished there, the parts
// of others are added up by `aux_join`, experts side by side. All sums are cut by sizes and segment
// borders alone. Bytes: the logits and the counts once; floor: bytes / the copy bandwidth (16384 x
// 384 f32 at 4.27 TB/s: 12 us each way).

#include "router_score.cuh"

enum { WARPS = 16, JOIN_THREADS = 1024, JOIN_CHUNKS = 8 };

struct router_loss {
    struct kernel base;
    loss_args a;
};

// What lies in the workspace of moe_aux_loss, in this order. A chunk has two sides: 0 is of the
// segment that began before it, 1 of the one that goes on behind it.
struct aux_room {
    double *term;         // [chunks, 1 + slices]: parts of the loss
    int2 *openers;        // [chunks]: the first and the last token that opens a segment, or -1
    float *score;         // [chunks, 2, E]: sums of scores
    int32_t *count;       // [chunks, 2, E]: tokens that chose
};

#define SELF const struct router_loss *k = (const struct router_loss *)base
#define KERNEL __global__ void __launch_bounds__(32 * ROUTE_WARPS)

static aux_room room_in(void *ws, const loss_args &a)
{
    aux_room r;
    size_t chunks = (size_t)a.chunks, sides = chunks * 2 * (size_t)a.experts;
    r.term = (double *)ws;
    r.openers = (int2 *)(r.term + chunks * (1 + (size_t)a.slices));
    r.score = (float *)(r.openers + chunks);
    r.count = (int32_t *)(r.score + sides);
    return r;
}

static segments segments_of(const struct router_loss *k, const mr_buf &seq_start)
{
    return segments{ (const int32_t *)seq_start.data, k->a.tokens, k->a.chunks, k->a.by_sequence };
}

static uint64_t aux_bytes(const loss_args &a)
{
    uint64_t chunks = (uint64_t)a.chunks, sides = chunks * 2 * (uint64_t)a.experts;
    return chunks * (1 + (uint64_t)a.slices) * sizeof(double) + chunks * sizeof(int2) +
           sides * (sizeof(float) + sizeof(int32_t));
}

// ---- moe_aux_loss -------------------------------------------------------------------------
template <int N>
__global__ void __launch_bounds__(32 * WARPS, N > 12 ? 1 : 2)
    aux_chunks(arr logits, const segments seg, aux_room r, float *counts, const loss_args a)
{
    extern __shared__ float shared[]; // scores [WARPS, E], counts [E], room [WARPS, ROUTE_ROOM]
    __shared__ double terms[WARPS];
    __shared__ uint64_t openers;
    int c = blockIdx.x, t0 = c * CHUNK, t1 = min(t0 + CHUNK, a.tokens), tid = threadIdx.x;
    int warp = tid / 32, lane = tid % 32, E = a.experts;
    float *own = shared + warp * E;
    int *count = (int *)(shared + WARPS * E);
    uint32_t *room = (uint32_t *)count + E + warp * ROUTE_ROOM;
    double loss = 0;

    if (warp == 0) {
        uint64_t all = open_tokens(seg, c);
        if (!lane)
            openers = all;
    }
    __syncthreads();
    uint64_t open = openers;
    if (tid == 0)
        r.openers[c] = opener_ends(open, c);
    if (tid < a.slices)
        r.term[(int64_t)c * (1 + a.slices) + 1 + tid] = 0;
    for (int t = t0 + warp; t < t1; t += WARPS)
        if (!(open >> (t - t0) & 1))
            for (int e = lane; e < E; e += 32)
                counts[(int64_t)t * E + e] = 0;

    for (int from = t0, to; from < t1; from = to) { // what segments have of this chunk
        uint64_t later = from - t0 == 63 ? 0 : open >> (from - t0 + 1);
        to = later ? from + __ffsll((int64_t)later) : t1;
        float sum[N] = {};
        for (int e = tid; e < E; e += 32 * WARPS)
            count[e] = 0;
        __syncthreads();
        for (int t = from + warp; t < to; t += WARPS) {
            float x[N], s[N];
            load_row<N>(logits, t, E, x);
#pragma unroll
            for (int i = 0; i < N; i++)
                s[i] = x[i];
            float norm = scores<N>(s, a);
            EACH_EXPERT(e, E)
                sum[i] += s[i];
            count_best<N>(x, norm, own, room, count, a);
        }
        EACH_EXPERT(e, E)
            own[e] = sum[i];
        __syncthreads();
        bool begins = open >> (from - t0) & 1;
        bool ends = to < t1 || to == a.tokens || opens_segment(seg, to);
        int64_t side = (2 * (int64_t)c + begins) * E;
        double load = 0;
        for (int e = tid; e < E; e += 32 * WARPS) {
            float all = 0;
            for (int w = 0; w < WARPS; w++)
                all += shared[w * E + e];
            load += (double)all * count[e];
            if (begins && ends) {
                counts[(int64_t)from * E + e] = (float)count[e];
            } else {
                r.score[side + e] = all;
                r.count[side + e] = count[e];
            }
        }
        if (begins && ends)
            loss += block_sum_double(load, terms) * E / ((double)a.k * (to - from));
        __syncthreads();
    }
    if (tid == 0)
        r.term[(int64_t)c * (1 + a.slices)] = loss;
}

// The segments that begin in one of JOIN_CHUNKS chunks and go on behind it: SLICE experts side by
// side, the chunks in as many rows as threads allow.
__global__ void __launch_bounds__(JOIN_THREADS)
    aux_join(aux_room r, float *counts, const loss_args a)
{
    enum { ROWS = JOIN_THREADS / SLICE };
    __shared__ float score[ROWS][SLICE];
    __shared__ int count[ROWS][SLICE], last;
    int lane = threadIdx.x % SLICE, row = threadIdx.x / SLICE;
    int e = (int)blockIdx.x * SLICE + lane, own = (int)blockIdx.y * JOIN_CHUNKS + lane;
    bool goes_on = false;
    if (lane < JOIN_CHUNKS && own + 1 < a.chunks) // not if none opens, or it ends with its chunk
        goes_on = r.openers[own].y >= 0 && r.openers[own + 1].x != (own + 1) * CHUNK;
    for (unsigned todo = __ballot_sync(~0u, goes_on); todo; todo &= todo - 1) {
        int c = (int)blockIdx.y * JOIN_CHUNKS + __ffs(todo) - 1, first = r.openers[c].y;
        if (threadIdx.x == 0)
            last = a.chunks;
        __syncthreads();
        for (int d0 = c + 1; d0 < a.chunks; d0 += JOIN_THREADS) { // the chunk with the next opener
            int d = d0 + (int)threadIdx.x;
            bool found = d < a.chunks && r.openers[d].x >= 0;
            if (found)
                atomicMin(&last, d);
            if (__syncthreads_or(found))
                break;
        }
        __syncthreads();
        int stop = last, end = stop < a.chunks ? r.openers[stop].x : a.tokens;
        int chunks = stop < a.chunks && end > stop * CHUNK ? stop + 1 : stop;
        float sum = 0;
        int n = 0;
        if (e < a.experts)
#pragma unroll 8
            for (int d = c + row; d < chunks; d += ROWS) {
                int64_t at = (2 * (int64_t)d + (d == c)) * a.experts + e;
                sum += r.score[at];
                n += r.count[at];
            }
        score[row][lane] = sum;
        count[row][lane] = n;
        __syncthreads();
        if (row == 0) {
            double all = 0;
            n = 0;
            for (int i = 0; i < ROWS; i++) {
                all += score[i][lane];
                n += count[i][lane];
            }
            double load = e < a.experts ? all * n : 0;
            for (int d = 16; d; d >>= 1)
                load += __shfl_xor_sync(~0u, load, d);
            if (e < a.experts)
                counts[(int64_t)first * a.experts + e] = (float)n;
            if (!lane)
                r.term[(int64_t)c * (1 + a.slices) + 1 + blockIdx.x] =
                    load * a.experts / ((double)a.k * (end - first));
        }
        __syncthreads();
    }
}

static size_t chunk_room(const loss_args &a)
{
    return ((WARPS + 1) * (size_t)a.experts + WARPS * ROUTE_ROOM) * sizeof(float);
}

static mr_status aux_run(RUN_ARGS)
{
    SELF;
    const loss_args &a = k->a;
    aux_room r = room_in(ws, a);
    float *counts = (float *)out[1].data;
    if (a.tokens) {
        WITH_N(a.experts, (aux_chunks<N><<<a.chunks, 32 * WARPS, chunk_room(a), stream>>>(
            in_arr(base, in, 0), segments_of(k, in[1]), r, counts, a)));
        aux_join<<<dim3(a.slices, (unsigned)cuda_ceil(a.chunks, JOIN_CHUNKS)), JOIN_THREADS, 0,
                   stream>>>(r, counts, a);
    }
    sum_terms<<<1, 1024, 0, stream>>>(r.term, (float *)out[0].data, a.chunks * (1 + a.slices),
                                      a.coeff);
    return cuda_launched(base, err);
}

// ---- moe_aux_loss.bwd -----------------------------------------------------------------------
template <int N>
KERNEL aux_bwd(arr dloss, arr logits, const segments seg, const float *counts,
               const int2 *openers, arr dlogits, const loss_args a)
{
    int t = (int)blockIdx.x * ROUTE_WARPS + (int)threadIdx.x / 32;
    if (t >= a.tokens)
        return;
    int2 whole = a.by_sequence ? segment_of(seg, openers, t) : int2{ 0, a.tokens };
    float x[N], d[N], dot = 0;
    float unit = get(dloss, 0) * a.coeff * (float)a.experts / ((float)a.k * (float)whole.y);
    load_row<N>(logits, t, a.experts, x);
    EACH_EXPERT(e, a.experts)
        d[i] = unit * counts[(int64_t)whole.x * a.experts + e];
    float norm = scores<N>(x, a);
    EACH_EXPERT(e, a.experts)
        dot += d[i] * x[i];
    dot = warp_sum(dot);
    EACH_EXPERT(e, a.experts) {
        float g = d[i] - dot, s = x[i] * norm; // s: the sigmoid
        put(dlogits, (int64_t)t * a.experts + e,
            a.is_sigmoid ? __fdividef(g, norm) * s * (1 - s) : g * x[i]);
    }
}

static unsigned token_grid(const loss_args &a) // a warp a token
{
    return (unsigned)cuda_ceil(a.tokens, ROUTE_WARPS);
}

static mr_status aux_bwd_run(RUN_ARGS)
{
    SELF;
    const loss_args &a = k->a;
    segments seg = segments_of(k, in[2]);
    int2 *openers = (int2 *)ws;
    if (!a.tokens)
        return MR_OK;
    if (a.by_sequence)
        find_openers<<<(unsigned)cuda_ceil(a.chunks, ROUTE_WARPS), 32 * ROUTE_WARPS, 0, stream>>>(
            seg, openers);
    WITH_N(a.experts, (aux_bwd<N><<<token_grid(a), 32 * ROUTE_WARPS, 0, stream>>>(
        in_arr(base, in, 0), in_arr(base, in, 1), seg, (const float *)in[3].data, openers,
        out_arr(base, out, 0), a)));
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status aux_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    SELF;
    mr_status bad = loss_prepare(base, c, 0, &((struct router_loss *)base)->a, err);
    base->run = aux_run;
    base->workspace = bad ? 0 : aux_bytes(k->a);
    if (bad || !k->a.tokens)
        return bad;
    WITH_N(k->a.experts, bad = want_shared(base, (const void *)aux_chunks<N>, chunk_room(k->a),
                                           err));
    return bad;
}

static mr_status aux_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    SELF;
    mr_status bad = loss_prepare(base, c, 1, &((struct router_loss *)base)->a, err);
    base->run = aux_bwd_run;
    base->workspace = !bad && k->a.by_sequence ? (uint64_t)k->a.chunks * sizeof(int2) : 0;
    return bad;
}

const struct op_row cuda_router_loss_rows[] = {
    { "moe_aux_loss", "xi>ff", sizeof(struct router_loss), aux_prepare, 0, 0 },
    { "moe_aux_loss.bwd", "xxif>x", sizeof(struct router_loss), aux_bwd_prepare, 0, 0 },
    {},
};
