// SPDX-License-Identifier: Apache-2.0
//
// router_losses.cu - the load-balancing loss and the z loss of the router. A warp scores a token
// and finds its K best; then a block a segment (a sequence, or all tokens) adds up scores and
// choices: experts side by side, the tokens in as many rows as 1024 threads allow, added in one
// order. Bytes: T E logits three times; a single segment of 16384 tokens takes one block some
// 200 us, which is the slow case.

#include "route.cuh"

struct router_loss {
    struct kernel base;
    int tokens, experts, k, by_sequence, is_sigmoid;
    float coeff;
};

struct loss_args {
    int tokens, experts, k, by_sequence, is_sigmoid;
    float coeff;
};

// what lies in the workspace, in this order
struct loss_room {
    int32_t *start, *length; // [T]: a token's segment
    float *norm;             // [T]: log of the sum of exponentials, or the sum of sigmoids
    double *term;            // [T]: a segment's part of the loss, at its first token
    int32_t *best;           // [T, K]
};

#define SELF const struct router_loss *k = (const struct router_loss *)base

static loss_args args_of(const struct router_loss *k)
{
    return loss_args{ k->tokens, k->experts, k->k, k->by_sequence, k->is_sigmoid, k->coeff };
}

static loss_room room_in(void *ws, const struct router_loss *k)
{
    loss_room r;
    size_t T = (size_t)k->tokens;
    r.term = (double *)ws;
    r.start = (int32_t *)(r.term + T);
    r.length = r.start + T;
    r.norm = (float *)(r.length + T);
    r.best = (int32_t *)(r.norm + T);
    return r;
}

// ---- which tokens belong together -----------------------------------------------------------
DEV bool opens_segment(const int32_t *seq_start, int t, bool by_sequence)
{
    return t == 0 || (by_sequence && seq_start[t] != seq_start[t - 1]);
}

// a block a token; that of a segment's first token walks to its end and tells all its tokens
__global__ void __launch_bounds__(THREADS)
    find_segments(const int32_t *seq_start, loss_room r, const loss_args a)
{
    __shared__ int end;
    int first = blockIdx.x;
    if (!opens_segment(seq_start, first, a.by_sequence))
        return;
    if (threadIdx.x == 0)
        end = a.tokens;
    __syncthreads();
    for (int t0 = first + 1; a.by_sequence && t0 < a.tokens; t0 += THREADS) {
        int t = t0 + threadIdx.x;
        bool other = t < a.tokens && seq_start[t] != seq_start[t - 1];
        if (other)
            atomicMin(&end, t);
        if (__syncthreads_or(other))
            break;
    }
    __syncthreads();
    for (int t = first + threadIdx.x; t < end; t += THREADS) {
        r.start[t] = first;
        r.length[t] = end - first;
    }
}

// ---- moe_aux_loss -------------------------------------------------------------------------
// scores of a token into shared memory; returns what norms them
DEV float score_token(arr logits, int64_t t, const loss_args &a, float *score)
{
    int lane = threadIdx.x % 32;
    for (int e = lane; e < a.experts; e += 32)
        score[e] = get(logits, t * a.experts + e);
    __syncwarp();
    if (!a.is_sigmoid) {
        float lse = row_lse(score, a.experts);
        for (int e = lane; e < a.experts; e += 32)
            score[e] = expf(score[e] - lse);
        __syncwarp();
        return lse;
    }
    float sum = 0;
    for (int e = lane; e < a.experts; e += 32)
        sum += score[e] = sigmoid(score[e]);
    sum = warp_sum(sum) + 1e-20f;
    for (int e = lane; e < a.experts; e += 32)
        score[e] /= sum;
    __syncwarp();
    return sum;
}

__global__ void __launch_bounds__(32 * ROUTE_WARPS)
    aux_score(arr logits, loss_room r, const loss_args a)
{
    extern __shared__ float room[];
    int t = blockIdx.x * ROUTE_WARPS + threadIdx.x / 32;
    float *score = room + threadIdx.x / 32 * a.experts;
    uint32_t taken = 0;
    if (t >= a.tokens)
        return;
    float norm = score_token(logits, t, a, score);
    for (int j = 0; j < a.k; j++) {
        int e = best_of(score, a.experts, taken);
        taken = mark(taken, e);
        if (threadIdx.x % 32 == 0)
            r.best[(int64_t)t * a.k + j] = e;
    }
    if (threadIdx.x % 32 == 0)
        r.norm[t] = norm;
}

// A block a token; only that of a segment's first token has work. `width`: experts, rounded up to
// a power of two, side by side.
__global__ void __launch_bounds__(1024)
    aux_segment(arr logits, loss_room r, float *counts, int width, const loss_args a)
{
    __shared__ float part[1024];
    __shared__ int n[ROUTE_MAX_EXPERTS];
    __shared__ double room[32];
    int first = blockIdx.x, e = threadIdx.x % width, row = threadIdx.x / width;
    int rows = 1024 / width, length = r.length[first];
    if (r.start[first] != first) {
        for (int i = threadIdx.x; i < a.experts; i += 1024)
            counts[(int64_t)first * a.experts + i] = 0;
        if (threadIdx.x == 0)
            r.term[first] = 0;
        return;
    }
    float sum = 0;
    for (int t = first + row; t < first + length && e < a.experts; t += rows) {
        float x = get(logits, (int64_t)t * a.experts + e);
        sum += a.is_sigmoid ? sigmoid(x) / r.norm[t] : expf(x - r.norm[t]);
    }
    part[threadIdx.x] = sum;
    n[threadIdx.x] = 0;
    __syncthreads();
    for (int i = threadIdx.x; i < length * a.k; i += 1024)
        atomicAdd(&n[r.best[(int64_t)first * a.k + i]], 1);
    __syncthreads();
    double load = 0;
    if (row == 0 && e < a.experts) {
        for (int i = 1; i < rows; i++)
            sum += part[i * width + e];
        load = (double)sum * n[e];
        counts[(int64_t)first * a.experts + e] = (float)n[e];
    }
    load = block_sum_double(load, room);
    if (threadIdx.x == 0)
        r.term[first] = (double)a.experts / ((double)a.k * length) * load;
}

__global__ void __launch_bounds__(1024) sum_terms(const double *term, float *loss, int n, double by)
{
    __shared__ double room[32];
    double sum = 0;
    for (int i = threadIdx.x; i < n; i += 1024)
        sum += term[i];
    sum = block_sum_double(sum, room);
    if (threadIdx.x == 0)
        *loss = (float)(by * sum);
}

static mr_status aux_run(RUN_ARGS)
{
    SELF;
    loss_room r = room_in(ws, k);
    loss_args a = args_of(k);
    int width = 1;
    while (width < k->experts)
        width *= 2;
    if (k->tokens) {
        find_segments<<<k->tokens, THREADS, 0, stream>>>((const int32_t *)in[1].data, r, a);
        aux_score<<<(unsigned)cuda_ceil(k->tokens, ROUTE_WARPS), 32 * ROUTE_WARPS,
                    ROUTE_WARPS * k->experts * sizeof(float), stream>>>(in_arr(base, in, 0), r, a);
        aux_segment<<<k->tokens, 1024, 0, stream>>>(in_arr(base, in, 0), r, (float *)out[1].data,
                                                    width, a);
    }
    sum_terms<<<1, 1024, 0, stream>>>(r.term, (float *)out[0].data, k->tokens, k->coeff);
    return cuda_launched(base, err);
}

__global__ void __launch_bounds__(32 * ROUTE_WARPS)
    aux_bwd(const arr dloss, arr logits, const float *counts, loss_room r, arr dlogits,
            const loss_args a)
{
    extern __shared__ float room[];
    int t = blockIdx.x * ROUTE_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    float *score = room + threadIdx.x / 32 * a.experts;
    if (t >= a.tokens)
        return;
    float norm = score_token(logits, t, a, score), dot = 0;
    float unit = get(dloss, 0) * a.coeff * (float)a.experts / ((float)a.k * (float)r.length[t]);
    counts += (int64_t)r.start[t] * a.experts;
    for (int e = lane; e < a.experts; e += 32)
        dot += unit * counts[e] * score[e];
    dot = warp_sum(dot);
    for (int e = lane; e < a.experts; e += 32) {
        float d = unit * counts[e] - dot, s = score[e] * norm; // s: the sigmoid
        put(dlogits, (int64_t)t * a.experts + e,
            a.is_sigmoid ? d / norm * s * (1 - s) : d * score[e]);
    }
}

static mr_status aux_bwd_run(RUN_ARGS)
{
    SELF;
    loss_room r = room_in(ws, k);
    loss_args a = args_of(k);
    if (!k->tokens)
        return MR_OK;
    find_segments<<<k->tokens, THREADS, 0, stream>>>((const int32_t *)in[2].data, r, a);
    aux_bwd<<<(unsigned)cuda_ceil(k->tokens, ROUTE_WARPS), 32 * ROUTE_WARPS,
              ROUTE_WARPS * k->experts * sizeof(float), stream>>>(
        in_arr(base, in, 0), in_arr(base, in, 1), (const float *)in[3].data, r,
        out_arr(base, out, 0), a);
    return cuda_launched(base, err);
}

// ---- router_z_loss ------------------------------------------------------------------------
__global__ void __launch_bounds__(32 * ROUTE_WARPS)
    z_score(arr logits, float *lse, double *term, const loss_args a)
{
    extern __shared__ float room[];
    int t = blockIdx.x * ROUTE_WARPS + threadIdx.x / 32, lane = threadIdx.x % 32;
    float *x = room + threadIdx.x / 32 * a.experts;
    if (t >= a.tokens)
        return;
    for (int e = lane; e < a.experts; e += 32)
        x[e] = get(logits, (int64_t)t * a.experts + e);
    __syncwarp();
    float l = row_lse(x, a.experts);
    if (!lane) {
        lse[t] = l;
        term[t] = (double)l * l;
    }
}

static mr_status z_run(RUN_ARGS)
{
    SELF;
    if (k->tokens)
        z_score<<<(unsigned)cuda_ceil(k->tokens, ROUTE_WARPS), 32 * ROUTE_WARPS,
                  ROUTE_WARPS * k->experts * sizeof(float), stream>>>(
            in_arr(base, in, 0), (float *)out[1].data, (double *)ws, args_of(k));
    sum_terms<<<1, 1024, 0, stream>>>((const double *)ws, (float *)out[0].data, k->tokens,
                                      k->coeff);
    return cuda_launched(base, err);
}

__global__ void z_bwd(const arr dloss, arr logits, const float *lse, arr dlogits, int experts,
                      float coeff, int64_t n)
{
    float unit = 2 * coeff * get(dloss, 0);
    GRID_LOOP(i, n) {
        float l = lse[i / experts];
        put(dlogits, i, unit * l * expf(get(logits, i) - l));
    }
}

static mr_status z_bwd_run(RUN_ARGS)
{
    SELF;
    int64_t n = (int64_t)k->tokens * k->experts;
    (void)ws;
    z_bwd<<<grid_for(n), THREADS, 0, stream>>>(in_arr(base, in, 0), in_arr(base, in, 1),
                                               (const float *)in[2].data, out_arr(base, out, 0),
                                               k->experts, k->coeff, n);
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status prepare(struct kernel *base, const mr_call *c, uint32_t logits, mr_err *err)
{
    struct router_loss *k = (struct router_loss *)base;
    const mr_type *x = c->in[logits];
    int64_t chosen = mr_attr_i(c, "k", 1);
    if (x->dim[1] > ROUTE_MAX_EXPERTS || chosen > ROUTE_MAX_EXPERTS)
        return cuda_refuse(base, err, "more than 1024 experts");
    if (x->dim[0] > INT32_MAX / ROUTE_MAX_EXPERTS)
        return cuda_refuse(base, err, "more tokens than 32-bit counters hold");
    k->tokens = (int)x->dim[0];
    k->experts = (int)x->dim[1];
    k->k = (int)chosen;
    k->by_sequence = !strcmp(mr_attr_s(c, "type", "aux"), "seq_aux");
    k->is_sigmoid = !strcmp(mr_attr_s(c, "score", "sigmoid"), "sigmoid");
    k->coeff = (float)mr_attr_f(c, "coeff", 0);
    return MR_OK;
}

static uint64_t aux_room(const struct kernel *base)
{
    SELF;
    return (uint64_t)k->tokens * (sizeof(double) + 2 * sizeof(int32_t) + sizeof(float) +
                                  (uint64_t)k->k * sizeof(int32_t));
}

static mr_status aux_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status bad = prepare(base, c, 0, err);
    base->run = aux_run;
    base->workspace = bad ? 0 : aux_room(base);
    return bad;
}

static mr_status aux_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status bad = prepare(base, c, 1, err);
    base->run = aux_bwd_run;
    base->workspace = bad ? 0 : aux_room(base);
    return bad;
}

static mr_status z_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    mr_status bad = prepare(base, c, 0, err);
    base->run = z_run;
    base->workspace = (uint64_t)((struct router_loss *)base)->tokens * sizeof(double);
    return bad;
}

static mr_status z_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = z_bwd_run;
    return prepare(base, c, 1, err);
}

const struct op_row cuda_router_loss_rows[] = {
    { "moe_aux_loss", "xi>ff", sizeof(struct router_loss), aux_prepare, 0, 0 },
    { "moe_aux_loss.bwd", "xxif>x", sizeof(struct router_loss), aux_bwd_prepare, 0, 0 },
    { "router_z_loss", "x>ff", sizeof(struct router_loss), z_prepare, 0, 0 },
    { "router_z_loss.bwd", "xxf>x", sizeof(struct router_loss), z_bwd_prepare, 0, 0 },
    {},
};
