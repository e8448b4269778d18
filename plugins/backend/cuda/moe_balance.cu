// SPDX-License-Identifier: Apache-2.0
//
// moe_balance.cu - the load of experts: the router's loss in two halves, for tokens spread over
// ranks (counts, then the loss of the summed counts), the choices of a step, and the bias that
// follows them. A warp has a token, a block a chunk of them; counts are whole numbers, which any
// order of additions sums alike, and other sums have an order fixed by sizes. Bytes: the logits
// once each way, counts from L2; floor: bytes / the copy bandwidth (16384 x 384 f32 at 4.27 TB/s:
// 6 us forward, 12 backward). route_load: 4 bytes a choice, balance_bias 12 an expert; both are
// launches of a few us.

#include "order.cuh"
#include "router_score.cuh"

enum { WARPS = 16 };

struct balance {
    struct kernel base;
    loss_args a;
    int rows; // of counts
};

#define SELF const struct balance *k = (const struct balance *)base

// the row of counts that is a token's, or -1
DEV int row_of(const int32_t *seq_start, int t, int rows, const loss_args &a)
{
    int row = a.by_sequence ? seq_start[t] : 0;
    return row >= 0 && row < rows ? row : -1;
}

// ---- moe_counts -----------------------------------------------------------------------------
// Runs of tokens of one row, which a chunk has few of, are counted in shared memory first.
template <int N>
__global__ void __launch_bounds__(32 * WARPS, N > 12 ? 1 : 2)
    count_chosen(arr logits, const int32_t *seq_start, float *counts, int rows, const loss_args a)
{
    extern __shared__ float shared[]; // scores [WARPS, E], counts [E], room [WARPS, ROUTE_ROOM]
    int t0 = (int)blockIdx.x * CHUNK, t1 = min(t0 + CHUNK, a.tokens), tid = threadIdx.x;
    int warp = tid / 32, E = a.experts;
    float *own = shared + warp * E;
    int *count = (int *)(shared + WARPS * E);
    uint32_t *room = (uint32_t *)count + E + warp * ROUTE_ROOM;
    for (int from = t0, to; from < t1; from = to) {
        int row = row_of(seq_start, from, rows, a);
        for (to = from + 1; to < t1 && row_of(seq_start, to, rows, a) == row; to++)
            ;
        for (int e = tid; e < E; e += 32 * WARPS)
            count[e] = 0;
        __syncthreads();
        for (int t = from + warp; t < to; t += WARPS) {
            float x[N];
            bool is_nan = false;
            load_row<N>(logits, t, E, x);
            EACH_EXPERT(e, E)
                is_nan |= isnan(x[i]);
            float norm = a.is_sigmoid ? 0 : row_lse<N>(x, E);
            count_best<N>(x, __any_sync(~0u, is_nan) ? NAN : norm, own, room, count, a);
        }
        __syncthreads();
        for (int e = tid; e < E && row >= 0; e += 32 * WARPS)
            if (count[e])
                atomicAdd(&counts[(int64_t)row * E + e], (float)count[e]);
        __syncthreads();
    }
}

static size_t count_room(const loss_args &a)
{
    return ((WARPS + 1) * (size_t)a.experts + WARPS * ROUTE_ROOM) * sizeof(float);
}

static mr_status counts_run(RUN_ARGS)
{
    SELF;
    const loss_args &a = k->a;
    float *counts = (float *)out[0].data;
    (void)ws;
    cudaError_t e = cudaMemsetAsync(counts, 0, (size_t)k->rows * (size_t)a.experts * sizeof(float),
                                    stream);
    if (e)
        return cuda_fail(err, e, base->op);
    if (a.tokens)
        WITH_N(a.experts, (count_chosen<N><<<a.chunks, 32 * WARPS, count_room(a), stream>>>(
            in_arr(base, in, 0), (const int32_t *)in[1].data, counts, k->rows, a)));
    return cuda_launched(base, err);
}

// ---- moe_balance_loss -------------------------------------------------------------------------
// This lane's counts of a token's row into f; returns E / (K T_s): K T_s is the row's sum.
template <int N> DEV float unit_of(const float *counts, int row, const loss_args &a, float f[N])
{
    float sum = 0;
    EACH_EXPERT(e, a.experts)
        sum += f[i] = row < 0 ? 0 : counts[(int64_t)row * a.experts + e];
    sum = warp_sum(sum);
    return sum > 0 ? (float)a.experts / sum : 0;
}

template <int N>
__global__ void __launch_bounds__(32 * WARPS, N > 12 ? 1 : 2)
    loss_chunks(arr logits, const int32_t *seq_start, const float *counts, double *term, int rows,
                const loss_args a)
{
    __shared__ double room[WARPS];
    int t0 = (int)blockIdx.x * CHUNK, t1 = min(t0 + CHUNK, a.tokens);
    double loss = 0;
    for (int t = t0 + (int)threadIdx.x / 32; t < t1; t += WARPS) {
        float x[N], f[N], sum = 0;
        float unit = unit_of<N>(counts, row_of(seq_start, t, rows, a), a, f);
        load_row<N>(logits, t, a.experts, x);
        scores<N>(x, a);
        EACH_EXPERT(e, a.experts)
            sum += x[i] * f[i];
        loss += (double)unit * sum; // this lane's experts
    }
    loss = block_sum_double(loss, room);
    if (threadIdx.x == 0)
        term[blockIdx.x] = loss;
}

static mr_status loss_run(RUN_ARGS)
{
    SELF;
    const loss_args &a = k->a;
    double *term = (double *)ws;
    if (a.tokens)
        WITH_N(a.experts, (loss_chunks<N><<<a.chunks, 32 * WARPS, 0, stream>>>(
            in_arr(base, in, 0), (const int32_t *)in[1].data, (const float *)in[2].data, term,
            k->rows, a)));
    sum_terms<<<1, 1024, 0, stream>>>(term, (float *)out[0].data, a.chunks, a.coeff);
    return cuda_launched(base, err);
}

// ---- moe_balance_loss.bwd ---------------------------------------------------------------------
template <int N>
__global__ void __launch_bounds__(32 * ROUTE_WARPS)
    loss_bwd(arr dloss, arr logits, const int32_t *seq_start, const float *counts, arr dlogits,
             int rows, const loss_args a)
{
    int t = (int)blockIdx.x * ROUTE_WARPS + (int)threadIdx.x / 32;
    if (t >= a.tokens)
        return;
    float x[N], d[N], dot = 0;
    float by = get(dloss, 0) * a.coeff * unit_of<N>(counts, row_of(seq_start, t, rows, a), a, d);
    load_row<N>(logits, t, a.experts, x);
    float norm = scores<N>(x, a);
    EACH_EXPERT(e, a.experts)
        dot += (d[i] *= by) * x[i];
    dot = warp_sum(dot); // both scores sum to 1: the gradient is taken off its mean
    EACH_EXPERT(e, a.experts) {
        float g = d[i] - dot, s = x[i] * norm; // s: the sigmoid
        put(dlogits, (int64_t)t * a.experts + e,
            a.is_sigmoid ? __fdividef(g, norm) * s * (1 - s) : g * x[i]);
    }
}

static mr_status bwd_run(RUN_ARGS)
{
    SELF;
    const loss_args &a = k->a;
    (void)ws;
    if (a.tokens)
        WITH_N(a.experts, (loss_bwd<N><<<(unsigned)cuda_ceil(a.tokens, ROUTE_WARPS),
                                         32 * ROUTE_WARPS, 0, stream>>>(
            in_arr(base, in, 0), in_arr(base, in, 1), (const int32_t *)in[2].data,
            (const float *)in[3].data, out_arr(base, out, 0), k->rows, a)));
    return cuda_launched(base, err);
}

// ---- route_load, balance_bias -------------------------------------------------------------------
struct load {
    struct kernel base;
    int n, experts, rows, stride; // route_load: n choices; balance_bias: rows of `stride`
    float rate;
};

__global__ void __launch_bounds__(ORDER_THREADS)
    count_load(const int32_t *index, const int32_t *slots, const int32_t *kept, const float *seed,
               float *load, int n, int experts)
{
    extern __shared__ int count_of[];
    if (*seed == 0)
        return;
    for (int e = threadIdx.x; e < experts; e += ORDER_THREADS)
        count_of[e] = 0;
    __syncthreads();
    for (int i0 = (int)blockIdx.x * ORDER_THREADS; i0 < n; i0 += (int)gridDim.x * ORDER_THREADS) {
        int i = i0 + (int)threadIdx.x, e = i < n ? index[i] : -1;
        bool counts = e >= 0 && e < experts && (!slots || slots[i] < *kept);
        count_keys(counts ? e : -1, count_of);
    }
    __syncthreads();
    for (int e = threadIdx.x; e < experts; e += ORDER_THREADS)
        if (count_of[e])
            atomicAdd(&load[e], (float)count_of[e]);
}

static mr_status load_run(RUN_ARGS)
{
    const struct load *k = (const struct load *)base;
    const int32_t *slots = base->present >> 1 & 1 ? (const int32_t *)in[1].data : NULL;
    const int32_t *kept = slots ? (const int32_t *)in[2].data + k->rows - 1 : NULL;
    int64_t blocks = cuda_ceil(k->n, ORDER_THREADS);
    (void)ws, (void)out;
    if (k->n)
        count_load<<<(unsigned)(blocks > 264 ? 264 : blocks), ORDER_THREADS,
                     (size_t)k->experts * sizeof(int), stream>>>(
            (const int32_t *)in[0].data, slots, kept, (const float *)in[3].data,
            (float *)in[4].data, k->n, k->experts);
    return cuda_launched(base, err);
}

// a block a row; loads are whole numbers, so that the side of the mean is exact
__global__ void __launch_bounds__(THREADS)
    move_bias(float *bias, const float *load, const float *ok, int experts, int stride, float rate)
{
    __shared__ double room[THREADS / 32];
    double sum = 0;
    bias += (int64_t)blockIdx.x * stride;
    load += (int64_t)blockIdx.x * stride;
    if (*ok == 0)
        return;
    for (int e = threadIdx.x; e < experts; e += THREADS)
        sum += load[e];
    sum = block_sum_double(sum, room);
    for (int e = threadIdx.x; e < experts; e += THREADS) {
        double less = sum - (double)load[e] * experts;
        bias[e] += less > 0 ? rate : less < 0 ? -rate : 0;
    }
}

static mr_status bias_run(RUN_ARGS)
{
    const struct load *k = (const struct load *)base;
    (void)ws, (void)out;
    move_bias<<<(unsigned)k->rows, THREADS, 0, stream>>>(
        (float *)in[0].data, (const float *)in[1].data, (const float *)in[2].data, k->experts,
        k->stride, k->rate);
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status balance_prepare(struct kernel *base, const mr_call *c, uint32_t logits,
                                 const mr_type *counts, mr_err *err)
{
    struct balance *k = (struct balance *)base;
    if (counts->dim[0] > INT32_MAX)
        return cuda_refuse(base, err, "more segments than 32-bit counters hold");
    k->rows = (int)counts->dim[0];
    return loss_prepare(base, c, logits, &k->a, err);
}

static mr_status counts_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    SELF;
    mr_status bad = balance_prepare(base, c, 0, c->out[0], err);
    base->run = counts_run;
    if (!bad)
        WITH_N(k->a.experts, bad = want_shared(base, (const void *)count_chosen<N>,
                                               count_room(k->a), err));
    return bad;
}

static mr_status loss_op_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    SELF;
    mr_status bad = balance_prepare(base, c, 0, c->in[2], err);
    base->run = loss_run;
    base->workspace = bad ? 0 : (uint64_t)k->a.chunks * sizeof(double);
    return bad;
}

static mr_status bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = bwd_run;
    return balance_prepare(base, c, 1, c->in[3], err);
}

static mr_status load_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct load *k = (struct load *)base;
    int64_t n = mr_numel(c->in[0]), experts = c->in[4]->dim[0];
    if (experts > ROUTE_MAX_EXPERTS || n > INT32_MAX - 264 * ORDER_THREADS)
        return cuda_refuse(base, err, "more than 1024 experts, or more choices than 32 bits count");
    k->n = (int)n;
    k->experts = (int)experts;
    k->rows = c->in[2] ? (int)c->in[2]->dim[0] : 0;
    base->run = load_run;
    return MR_OK;
}

static mr_status bias_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct load *k = (struct load *)base;
    if (mr_numel(c->in[0]) > INT32_MAX)
        return cuda_refuse(base, err, "more biases than 32 bits count");
    k->rows = (int)c->in[0]->dim[0];
    k->stride = (int)c->in[0]->dim[1];
    k->experts = (int)mr_attr_i(c, "experts", 1);
    k->rate = (float)mr_attr_f(c, "rate", 0);
    base->run = bias_run;
    return MR_OK;
}

const struct op_row cuda_balance_rows[] = {
    { "moe_counts", "xi>f", sizeof(struct balance), counts_prepare, 0, 0 },
    { "moe_balance_loss", "xif>f", sizeof(struct balance), loss_op_prepare, 0, 0 },
    { "moe_balance_loss.bwd", "xxif>x", sizeof(struct balance), bwd_prepare, 0, 0 },
    { "route_load", "iIIff>", sizeof(struct load), load_prepare, 0, 0 },
    { "balance_bias", "fff>", sizeof(struct load), bias_prepare, 0, 0 },
    {},
};
