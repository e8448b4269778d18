// SPDX-License-Identifier: Apache-2.0
//
// mla_cached.cu - latent attention of new tokens over a cache of latents, absorbed. Five steps: a
// block a token writes its latent and turns its queries; a block a head and 128 latent values
// takes queries through the expansion's key part; a block a token and 8 heads walks the slot's
// latents on the fp32 units, a warp a key, so that a latent is read once for 8 heads, keys shared
// out over warps and `splits` blocks (mla_decode.cu does it on the tensor cores); a block a token
// and head joins the parts; a block a head takes the sums through the value part. Bytes: the
// expansion once, the seen latents once an 8 heads (from the L2 but the first time); floor of a
// decoding step: (expansion + seen latents) / 3.35 TB/s. A place outside the cache writes nothing
// and gives NaN, which the run's checks find.

#include "mla_cached.cuh"

enum { PLACE = 512, BLOCK = 128, WARPS = BLOCK / 32, HEADS = 8, TOKENS = 8, MAX_PARTS = 1024 };

// operands
enum { Q, C, KR, WUKV, POS, SLOT, PAGES, CACHE };

struct mla_cached {
    struct kernel base;
    int64_t tokens;
    cache_view at; // but for operands
    int latent, splits, parts_each; // parts that a split leaves
    int tensor, project; // attention, and the products beside it, on the tensor cores
    float scale;
    uint64_t parts; // in the workspace, behind the absorbed queries
    mla_args a;
};

#define SELF const struct mla_cached *k = (const struct mla_cached *)base

__global__ void __launch_bounds__(PLACE)
    place(arr q, arr c, arr kr, arr latents, float *absorbed, const cache_view at, int L,
          const __grid_constant__ mla_args a)
{
    __shared__ float2 turn[MLA_MAX_PAIRS];
    int64_t t = blockIdx.x, row = own_row(at, t);
    int D = L + a.rope, C = a.nope + a.rope;
    if (row < 0)
        return;
    for (int i = threadIdx.x; i < L; i += PLACE)
        put(latents, row * D + i, get(c, t * L + i));
    for (int i = threadIdx.x; i < a.rope / 2; i += PLACE) {
        float2 cs = turn[i] = turn_of(a, at.positions[t], i);
        float p = get(kr, t * a.rope + 2 * i), r = get(kr, t * a.rope + 2 * i + 1);
        put(latents, row * D + L + 2 * i, p * cs.x - r * cs.y);
        put(latents, row * D + L + 2 * i + 1, p * cs.y + r * cs.x);
    }
    __syncthreads();
    q = arr{ (char *)q.p + t * a.heads * C * (q.kind == CUDA_BF16 ? 2 : 4), q.kind };
    absorbed += t * a.heads * D;
#pragma unroll 4
    for (int e = threadIdx.x; e < a.heads * (a.rope / 2); e += PLACE) {
        int h = e / (a.rope / 2), i = e % (a.rope / 2);
        float2 cs = turn[i];
        float p = get(q, h * C + a.nope + 2 * i), r = get(q, h * C + a.nope + 2 * i + 1);
        absorbed[h * D + L + 2 * i] = p * cs.x - r * cs.y;
        absorbed[h * D + L + 2 * i + 1] = p * cs.y + r * cs.x;
    }
}

// absorbed[t][h][l] = sum over i of w[h][i][l] q[t][h][i], TOKENS tokens a block, a thread an l
template <typename W>
__global__ void __launch_bounds__(BLOCK)
    absorb(arr q, const W *w, float *absorbed, int64_t tokens, int L,
           const __grid_constant__ mla_args a)
{
    extern __shared__ float qs[]; // [nope][TOKENS]
    int h = blockIdx.x, l = blockIdx.z * BLOCK + threadIdx.x, C = a.nope + a.rope;
    int64_t t0 = blockIdx.y * (int64_t)TOKENS;
    for (int e = threadIdx.x; e < a.nope * TOKENS; e += BLOCK) {
        int64_t t = t0 + e % TOKENS;
        qs[e] = t < tokens ? get(q, (t * a.heads + h) * C + e / TOKENS) : 0;
    }
    __syncthreads();
    if (l >= L)
        return;
    float sum[TOKENS] = {};
    w += (int64_t)h * (a.nope + a.value) * L + l;
#pragma unroll 8
    for (int i = 0; i < a.nope; i++) {
        float x = ld(w, (int64_t)i * L);
#pragma unroll
        for (int t = 0; t < TOKENS; t++)
            sum[t] += x * qs[i * TOKENS + t];
    }
#pragma unroll
    for (int t = 0; t < TOKENS; t++)
        if (t0 + t < tokens)
            absorbed[((t0 + t) * a.heads + h) * (L + a.rope) + l] = sum[t];
}

// Values lane, lane + 32 .. of a latent are a lane's, R of them, the first RL in the value. A
// part is maximum, sum, L weighted sums.
template <typename C, int R>
__global__ void __launch_bounds__(BLOCK)
    attend(const float *absorbed, const C *latents, float *parts, const cache_view at, int L,
           float scale, int heads, int D)
{
    extern __shared__ float as[]; // [HEADS][D]
    int64_t t = blockIdx.y;
    int h0 = blockIdx.x * HEADS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    if (own_row(at, t) < 0)
        return;
    for (int e = threadIdx.x; e < HEADS * D; e += BLOCK)
        as[e] = h0 + e / D < heads ? scale * absorbed[(t * heads + h0) * D + e] : 0;
    __syncthreads();
    int slot = at.slot[t];
    int64_t j0, end;
    split_of(at.positions[t], &j0, &end);
    float max[HEADS], sum[HEADS] = {}, acc[HEADS][R] = {};
#pragma unroll
    for (int h = 0; h < HEADS; h++)
        max[h] = -INFINITY;
    int row = j0 + warp < end ? row_at(at, slot, (int)j0 + warp) : -1; // of the coming key
    for (int64_t j = j0 + warp; j < end; j += WARPS) {
        float x[R], z[HEADS] = {};
#pragma unroll
        for (int r = 0; r < R; r++)
            x[r] = lane + 32 * r >= D ? 0
                 : row < 0            ? nanf("")
                                      : ld(latents, (int64_t)row * D + lane + 32 * r);
        row = j + WARPS < end ? row_at(at, slot, (int)j + WARPS) : -1;
#pragma unroll
        for (int r = 0; r < R; r++)
#pragma unroll
            for (int h = 0; h < HEADS; h++)
                z[h] += x[r] * (lane + 32 * r < D ? as[h * D + lane + 32 * r] : 0);
#pragma unroll
        for (int h = 0; h < HEADS; h++) {
            float s = warp_sum(z[h]), top = fmaxf(max[h], s);
            if (top != max[h]) { // the same in all lanes
                float keep = expf(max[h] - top);
                sum[h] *= keep;
#pragma unroll
                for (int r = 0; r < R; r++)
                    acc[h][r] *= keep;
                max[h] = top;
            }
            float e = expf(s - top);
            sum[h] += e;
#pragma unroll
            for (int r = 0; r < R; r++)
                acc[h][r] += e * x[r];
        }
    }
    int n = gridDim.z * WARPS, part = blockIdx.z * WARPS + warp;
#pragma unroll
    for (int h = 0; h < HEADS; h++) {
        if (h0 + h >= heads)
            continue;
        float *to = parts + ((t * heads + h0 + h) * n + part) * (L + 2);
        if (!lane)
            to[0] = max[h], to[1] = sum[h];
#pragma unroll
        for (int r = 0; r < R; r++)
            if (lane + 32 * r < L)
                to[2 + lane + 32 * r] = acc[h][r];
    }
}

// u of a token and head: its n parts joined. One without keys has a maximum of -inf and sums of 0:
// it weighs 0.
__global__ void __launch_bounds__(BLOCK)
    join(const float *parts, float *u, const cache_view at, int heads, int L, int n)
{
    __shared__ float weight[MAX_PARTS], room[WARPS];
    int64_t t = blockIdx.y, row = t * heads + blockIdx.x;
    if (own_row(at, t) < 0)
        return;
    parts += row * n * (L + 2);
    float max = -INFINITY, sum = 0;
    for (int s = 0; s < n; s++)
        max = fmaxf(max, parts[s * (L + 2)]);
    for (int s = threadIdx.x; s < n; s += BLOCK) {
        weight[s] = expf(parts[s * (L + 2)] - max);
        sum += weight[s] * parts[s * (L + 2) + 1];
    }
    sum = lanes_sum<BLOCK>(sum, room);
    __syncthreads();
    for (int l = threadIdx.x; l < L; l += BLOCK) {
        float x = 0;
#pragma unroll 8
        for (int s = 0; s < n; s++)
            x += weight[s] * parts[s * (L + 2) + 2 + l];
        u[row * L + l] = x / sum;
    }
}

// o[t][h][v] = sum over l of w[h][nope + v][l] u[t][h][l], TOKENS tokens a block, a warp a v. What
// an unused row has in u does not matter.
template <typename W>
__global__ void __launch_bounds__(BLOCK)
    expand(const float *u, const W *w, arr o, const cache_view at, int64_t tokens, int L,
           const __grid_constant__ mla_args a)
{
    extern __shared__ float4 us[]; // [L][TOKENS]
    int h = blockIdx.x, lane = threadIdx.x % 32, warp = threadIdx.x / 32;
    int64_t t0 = blockIdx.y * (int64_t)TOKENS;
#pragma unroll
    for (int i = 0; i < TOKENS; i++)
        for (int l = threadIdx.x; l < L; l += BLOCK)
            ((float *)us)[l * TOKENS + i] =
                t0 + i < tokens ? u[((t0 + i) * a.heads + h) * L + l] : 0;
    __syncthreads();
    w += ((int64_t)h * (a.nope + a.value) + a.nope) * L;
    for (int v = blockIdx.z * WARPS + warp; v < a.value; v += gridDim.z * WARPS) {
        float y[TOKENS] = {};
#pragma unroll 8
        for (int l = lane; l < L; l += 32) {
            float x = ld(w, (int64_t)v * L + l);
#pragma unroll
            for (int i = 0; i < TOKENS; i += 4) {
                float4 four = us[(l * TOKENS + i) / 4];
                y[i] += x * four.x, y[i + 1] += x * four.y;
                y[i + 2] += x * four.z, y[i + 3] += x * four.w;
            }
        }
#pragma unroll
        for (int i = 0; i < TOKENS; i++)
            y[i] = warp_sum(y[i]);
        int64_t t = t0 + lane;
        float mine = 0;
#pragma unroll
        for (int i = 0; i < TOKENS; i++)
            mine = lane == i ? y[i] : mine;
        if (lane < TOKENS && t < tokens)
            put(o, (t * a.heads + h) * a.value + v,
                own_row(at, t) >= 0 ? mine : at.slot[t] == -1 ? 0 : nanf(""));
    }
}

template <typename C, int R>
static void launch_attend(const struct mla_cached *k, const float *absorbed, arr latents,
                          float *parts, const cache_view &at, cudaStream_t stream)
{
    int D = k->latent + k->a.rope;
    dim3 grid((unsigned)cuda_ceil(k->a.heads, HEADS), (unsigned)k->tokens, (unsigned)k->splits);
    attend<C, R><<<grid, BLOCK, HEADS * D * 4, stream>>>(
        absorbed, (const C *)latents.p, parts, at, k->latent, k->scale, k->a.heads, D);
}

static mr_status cached_run(RUN_ARGS)
{
    SELF;
    cache_view at = k->at;
    at.positions = (const int32_t *)in[POS].data;
    at.slot = (const int32_t *)in[SLOT].data;
    at.pages = (const int32_t *)in[PAGES].data;
    float *absorbed = (float *)ws, *parts = (float *)((char *)ws + k->parts);
    arr q = in_arr(base, in, Q), latents = in_arr(base, in, CACHE);
    unsigned heads = (unsigned)k->a.heads, tiles = (unsigned)cuda_ceil(k->tokens, TOKENS);
    int L = k->latent, D = L + k->a.rope, w_kind = base->in_kind[WUKV];
    if (!k->tokens)
        return MR_OK;
    place<<<(unsigned)k->tokens, PLACE, 0, stream>>>(q, in_arr(base, in, C), in_arr(base, in, KR),
                                                     latents, absorbed, at, L, k->a);
    if (k->project) {
        cudaError_t e = mla_absorb(base, q.p, in[WUKV].data, absorbed, k->tokens, L, &k->a, stream);
        if (e)
            return cuda_fail(err, e, base->op);
    } else {
        WITH_TYPE(w_kind, (absorb<F><<<dim3(heads, tiles, (unsigned)cuda_ceil(L, BLOCK)), BLOCK,
                                       k->a.nope * TOKENS * 4, stream>>>(
            q, (const F *)in[WUKV].data, absorbed, k->tokens, L, k->a)));
    }
    if (k->tensor)
        mla_decode(absorbed, latents.p, parts, at, k->scale, k->a.heads, k->tokens, k->splits,
                   stream);
    else WITH_TYPE(latents.kind, {
        if (D <= 32 * 4)
            launch_attend<F, 4>(k, absorbed, latents, parts, at, stream);
        else
            launch_attend<F, 18>(k, absorbed, latents, parts, at, stream);
    });
    if (k->project) {
        cudaError_t e = mla_expand(base, parts, in[WUKV].data, out_arr(base, out, 0), at,
                                   k->tokens, L, &k->a, k->splits * k->parts_each, stream);
        return e ? cuda_fail(err, e, base->op) : MR_OK;
    }
    join<<<dim3(heads, (unsigned)k->tokens), BLOCK, 0, stream>>>(
        parts, absorbed, at, k->a.heads, L, k->splits * k->parts_each); // queries are done with
    dim3 grid(heads, tiles, tiles < 4 ? 8 : 2);
    WITH_TYPE(w_kind, (expand<F><<<grid, BLOCK, TOKENS * L * 4, stream>>>(
        absorbed, (const F *)in[WUKV].data, out_arr(base, out, 0), at, k->tokens, L, k->a)));
    return cuda_launched(base, err);
}

static mr_status cached_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct mla_cached *k = (struct mla_cached *)base;
    mr_status st = mla_read(base, c, c->in[3]->dim[0], &k->a, err);
    if (st)
        return st;
    k->tokens = c->in[0]->dim[0];
    k->latent = (int)mr_last(c->in[1]);
    st = view_shape(base, c->in[CACHE], c->in[PAGES], &k->at, err);
    if (st)
        return st;
    k->scale = (float)mr_attr_f(c, "scale", 1 / sqrt((double)(k->a.nope + k->a.rope)));
    if (k->latent + k->a.rope > 32 * 18)
        return cuda_refuse(base, err, "latents of more than 576 values");
    if (k->a.nope > 1024)
        return cuda_refuse(base, err, "heads of more than 1024 values without positions");
    if (k->tokens > 65535)
        return cuda_refuse(base, err, "more than 65535 new tokens at once");
    st = mla_decode_prepare(base, k->latent, k->a.rope, base->in_kind[CACHE], err);
    if (st && st != MR_E_UNSUPPORTED)
        return st;
    k->tensor = !st;
    k->parts_each = k->tensor ? 1 : WARPS;
    // a block a multiprocessor on the tensor cores, else four, each with 64 keys at least
    int64_t heads = k->tensor ? 64 : HEADS, full = (k->tensor ? 1 : 4) * base->dev->sms;
    int64_t blocks = k->tokens * cuda_ceil(k->a.heads, heads), most = cuda_ceil(k->at.most, 64);
    int64_t want = blocks ? k->tensor ? full / blocks : cuda_ceil(full, blocks) : 1;
    k->splits = (int)(want < most ? want : most);
    k->splits = k->splits < 1 ? 1 : k->splits;
    if (k->splits > MAX_PARTS / WARPS)
        k->splits = MAX_PARTS / WARPS;
    st = mla_project_prepare(base, base->in_kind[Q], base->in_kind[WUKV], k->latent, &k->a,
                             k->splits * k->parts_each, err);
    if (st && st != MR_E_UNSUPPORTED)
        return st;
    k->project = !st;
    int64_t rows = k->tokens * k->a.heads, D = k->latent + k->a.rope;
    k->parts = cuda_round((uint64_t)(rows * D) * 4);
    base->workspace = k->parts +
                      (uint64_t)(rows * k->splits * k->parts_each * (k->latent + 2)) * 4;
    base->run = cached_run;
    return MR_OK;
}

const struct op_row cuda_mla_cached_rows[] = {
    { "mla_attention.paged", "xxxxiiix>x", sizeof(struct mla_cached), cached_prepare, 0, 0 },
    {},
};
