// SPDX-License-Identifier: Apache-2.0
//
// mla.cu - heads of latent attention, and rows cut in two: rope_tail, mla_kv, mla_kv.bwd, split,
// concat. A block a token (four were slower): one warp makes what the heads share, angles and the
// turned key part, while the others copy, 16 bytes an access and four in flight. Bytes, each once:
// rope_tail x and y (in place only the rotated part of both), mla_kv kv, kr, k and v, its gradient
// the same, split and concat both sides; floor: bytes / the copy bandwidth. The sum over heads is
// cut by sizes alone, so equal inputs give equal bits.

#include "mla.cuh"

enum { BLOCK = 128 };

struct mla {
    struct kernel base;
    int64_t tokens, width; // of split and concat: rows, and values of the longer side
    int first;
    mla_args a;
};

#define SELF const struct mla *k = (const struct mla *)base

// ---- rope_tail ----------------------------------------------------------------------------
template <typename F, int V>
__global__ void __launch_bounds__(BLOCK)
    rope_tail(const F *x, const int32_t *positions, F *y, const __grid_constant__ mla_args a)
{
    __shared__ float2 turn[MLA_MAX_PAIRS];
    constexpr int R = V == 1 ? 2 : V; // values that a thread turns
    int C = a.nope + a.rope, per = a.nope / V, turns = a.rope / R;
    x += blockIdx.x * (int64_t)a.heads * C;
    y += blockIdx.x * (int64_t)a.heads * C;
    for (int i = threadIdx.x; i < a.rope / 2; i += BLOCK)
        turn[i] = turn_of(a, positions[blockIdx.x], i);
    if (x != y)
        copy_items<F, V, BLOCK>(threadIdx.x, a.heads * per, [&](int e, F *&to) {
            int at = e / per * C + e % per * V;
            to = y + at;
            return x + at;
        });
    __syncthreads();
    for (int e = threadIdx.x; e < a.heads * turns; e += BLOCK) {
        int i = e % turns * R, at = e / turns * C + a.nope + i;
        float v[R], w[R];
        if (V == 1)
            v[0] = ld(x, at), v[1] = ld(x, at + 1);
        else
            ldv<V>(x, at, v);
#pragma unroll
        for (int j = 0; j < R; j += 2) {
            float2 cs = turn[(i + j) / 2];
            w[j] = v[j] * cs.x - v[j + 1] * cs.y;
            w[j + 1] = v[j] * cs.y + v[j + 1] * cs.x;
        }
        if (V == 1)
            st(y, at, w[0]), st(y, at + 1, w[1]);
        else
            stv<V>(y, at, w);
    }
}

// ---- mla_kv -------------------------------------------------------------------------------
template <typename F, int V>
__global__ void __launch_bounds__(BLOCK)
    mla_kv(const F *kv, const F *kr, const int32_t *positions, F *key, F *value,
           const __grid_constant__ mla_args a)
{
    __shared__ float turned[2 * MLA_MAX_PAIRS];
    int64_t t = blockIdx.x;
    int C = a.nope + a.rope, D = a.nope + a.value, per = D / V;
    for (int i = threadIdx.x; i < a.rope / 2; i += BLOCK) {
        float2 cs = turn_of(a, positions[t], i);
        float p = ld(kr, t * a.rope + 2 * i), q = ld(kr, t * a.rope + 2 * i + 1);
        turned[2 * i] = p * cs.x - q * cs.y;
        turned[2 * i + 1] = p * cs.y + q * cs.x;
    }
    kv += t * a.heads * D;
    key += t * a.heads * C;
    value += t * a.heads * a.value;
    copy_items<F, V, BLOCK>(threadIdx.x, a.heads * per, [&](int e, F *&to) {
        int h = e / per, i = e % per * V;
        to = i < a.nope ? key + h * C + i : value + h * a.value + i - a.nope;
        return kv + h * D + i;
    });
    __syncthreads();
    int turns = a.rope / V;
    for (int e = threadIdx.x; e < a.heads * turns; e += BLOCK)
        stv<V>(key, e / turns * C + a.nope + e % turns * V, turned + e % turns * V);
}

// ---- mla_kv.bwd ---------------------------------------------------------------------------
template <typename F, int V>
__global__ void __launch_bounds__(BLOCK)
    mla_kv_bwd(const F *dk, const F *dv, const int32_t *positions, F *dkv, F *dkr,
               const __grid_constant__ mla_args a)
{
    __shared__ float parts[BLOCK * V + 2 * MLA_MAX_PAIRS];
    int64_t t = blockIdx.x;
    int C = a.nope + a.rope, D = a.nope + a.value, per = D / V, turns = a.rope / V;
    int lanes = turns < BLOCK ? BLOCK / turns : 1; // threads that share a column of the sum
    lanes = lanes < a.heads ? lanes : a.heads;
    dk += dk ? t * a.heads * C : 0;
    dv += dv ? t * a.heads * a.value : 0;
    dkv += t * a.heads * D;
    for (int c = threadIdx.x; c < turns * lanes; c += BLOCK) {
        int i = c % turns * V, lane = c / turns;
        float sum[V] = {}, v[V];
        for (int h = lane; dk && h < a.heads; h += lanes) {
            ldv<V>(dk, h * C + a.nope + i, v);
#pragma unroll
            for (int j = 0; j < V; j++)
                sum[j] += v[j];
        }
#pragma unroll
        for (int j = 0; j < V; j++)
            parts[lane * a.rope + i + j] = sum[j];
    }
    copy_items<F, V, BLOCK>(threadIdx.x, a.heads * per, [&](int e, F *&to) -> const F * {
        int h = e / per, i = e % per * V;
        to = dkv + h * D + i;
        if (i < a.nope)
            return dk ? dk + h * C + i : nullptr;
        return dv ? dv + h * a.value + i - a.nope : nullptr;
    });
    __syncthreads();
    for (int i = threadIdx.x; i < a.rope / 2; i += BLOCK) {
        float2 cs = turn_of(a, positions[t], i);
        float p = 0, q = 0;
        for (int l = 0; l < lanes; l++) {
            p += parts[l * a.rope + 2 * i];
            q += parts[l * a.rope + 2 * i + 1];
        }
        st(dkr, t * a.rope + 2 * i, p * cs.x - q * cs.y);
        st(dkr, t * a.rope + 2 * i + 1, p * cs.y + q * cs.x);
    }
}

// ---- split, concat --------------------------------------------------------------------------
// x of D values a row is a of A, then b; concat takes an absent part for zeros
template <typename F, int V, bool APART>
__global__ void __launch_bounds__(BLOCK) halves(F *x, F *a, F *b, int n, int A, int D)
{
    int per = D / V, base = blockIdx.x * BLOCK * 4, end = base + BLOCK * 4;
    copy_items<F, V, BLOCK>(base + threadIdx.x, n < end ? n : end, [&](int e, F *&to) {
        int64_t r = e / per;
        int i = e % per * V;
        F *whole = x + r * D + i, *part = i < A ? a : b;
        if (part)
            part += i < A ? r * A + i : r * (D - A) + i - A;
        to = APART ? part : whole;
        return (const F *)(APART ? whole : part);
    });
}

// ---- launching ------------------------------------------------------------------------------
static bool whole_vectors(const mla_args &a)
{
    return a.nope % WIDE_V == 0 && a.rope % WIDE_V == 0 && a.value % WIDE_V == 0;
}

static mr_status tail_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_V(whole_vectors(k->a) && aligned16(in[0].data, out[0].data),
               WITH_TYPE(base->in_kind[0], (
            rope_tail<F, V><<<(unsigned)k->tokens, BLOCK, 0, stream>>>(
                (const F *)in[0].data, (const int32_t *)in[1].data, (F *)out[0].data, k->a))));
    return cuda_launched(base, err);
}

static mr_status kv_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_V(whole_vectors(k->a) && aligned16(in[0].data, out[0].data, out[1].data),
               WITH_TYPE(base->in_kind[0], (
            mla_kv<F, V><<<(unsigned)k->tokens, BLOCK, 0, stream>>>(
                (const F *)in[0].data, (const F *)in[1].data, (const int32_t *)in[2].data,
                (F *)out[0].data, (F *)out[1].data, k->a))));
    return cuda_launched(base, err);
}

static mr_status kv_bwd_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->tokens)
        WITH_V(whole_vectors(k->a) && aligned16(in[0].data, in[1].data, out[0].data),
               WITH_TYPE(base->out_kind[0], (
            mla_kv_bwd<F, V><<<(unsigned)k->tokens, BLOCK, 0, stream>>>(
                (const F *)in[0].data, (const F *)in[1].data, (const int32_t *)in[2].data,
                (F *)out[0].data, (F *)out[1].data, k->a))));
    return cuda_launched(base, err);
}

template <bool APART>
static void launch_halves(const struct mla *k, int kind, void *x, void *a, void *b,
                          cudaStream_t stream)
{
    int A = k->first, D = (int)k->width;
    if (k->tokens)
        WITH_V(A % WIDE_V == 0 && D % WIDE_V == 0 && aligned16(x, a, b), WITH_TYPE(kind, (
            halves<F, V, APART><<<(unsigned)cuda_ceil(k->tokens * D / V, BLOCK * 4), BLOCK, 0,
                                  stream>>>((F *)x, (F *)a, (F *)b, (int)(k->tokens * D / V), A,
                                            D))));
}

static mr_status split_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    launch_halves<true>(k, base->in_kind[0], in[0].data, out[0].data, out[1].data, stream);
    return cuda_launched(base, err);
}

static mr_status concat_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    launch_halves<false>(k, base->out_kind[0], out[0].data, in[0].data, in[1].data, stream);
    return cuda_launched(base, err);
}

// ---- from types to kernels ------------------------------------------------------------------
static mr_status tail_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct mla *k = (struct mla *)base;
    int head = (int)mr_attr_i(c, "head_dim", 1);
    mr_status st = mla_read(base, c, 0, &k->a, err);
    k->tokens = c->in[0]->dim[0];
    k->a.heads = (int)(c->in[0]->dim[1] / head);
    k->a.nope = head - k->a.rope;
    base->run = tail_run;
    return st;
}

static mr_status kv_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct mla *k = (struct mla *)base;
    k->tokens = c->in[0]->dim[0];
    base->run = kv_run;
    return mla_read(base, c, mr_last(c->in[0]), &k->a, err);
}

static mr_status kv_bwd_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct mla *k = (struct mla *)base;
    mr_status st = mla_read(base, c, mr_last(c->out[0]), &k->a, err);
    k->tokens = c->out[0]->dim[0];
    k->a.turn = -1;
    base->run = kv_bwd_run;
    return st;
}

static mr_status halves_prepare(struct kernel *base, const mr_call *c, const mr_type *x,
                                mr_err *err)
{
    struct mla *k = (struct mla *)base;
    if (mr_numel(x) > INT32_MAX - BLOCK * 4)
        return cuda_refuse(base, err, "more than 2^31 values");
    k->tokens = mr_rows(x);
    k->width = mr_last(x);
    k->first = (int)mr_attr_i(c, "first", 0);
    return MR_OK;
}

static mr_status split_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = split_run;
    return halves_prepare(base, c, c->in[0], err);
}

static mr_status concat_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    base->run = concat_run;
    return halves_prepare(base, c, c->out[0], err);
}

const struct op_row cuda_mla_rows[] = {
    { "rope_tail", "xi>x", sizeof(struct mla), tail_prepare, MR_K_INPLACE0, 0 },
    { "mla_kv", "xxi>xx", sizeof(struct mla), kv_prepare, 0, 0 },
    { "mla_kv.bwd", "XXi>xx", sizeof(struct mla), kv_bwd_prepare, 0, 0 },
    { "split", "x>xx", sizeof(struct mla), split_prepare, 0, 0 },
    { "concat", "XX>x", sizeof(struct mla), concat_prepare, 0, 0 },
    {},
};
