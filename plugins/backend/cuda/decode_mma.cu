// SPDX-License-Identifier: Apache-2.0
//
// decode_mma.cu - attention of new tokens over a bf16 cache on the tensor cores, for heads of 64,
// 128 or 256 (192 with values of 128). A block has a token and up to 8 heads of a group; a warp
// takes 16 keys at a time, so that the whole group costs no more than one head: what is left is
// reading. Every load is 16 bytes and a fragment as it comes: a product does not care in which
// order its terms stand, so thread (g, t) = (lane / 4, lane % 4) takes dims 8 t .. 8 t + 7 of
// each 32 of key g, and of the values dims 8 g .. 8 g + 7 of each 64 of its four keys.
//
// The keys of a row are shared out over `splits` blocks, by the position alone; up to 16 of them
// are a cluster, which joins its parts over its network. Bytes: the seen keys and values once a
// group; floor: bytes / the copy bandwidth (4096 positions of 8 heads, 128 wide: 16.8 MB, 3.9 us
// at 4.27 TB/s). A place outside the cache writes nothing and gives NaN, which the run's checks
// find.

#include "mma.cuh"
#include "rope_place.cuh"

enum { DECODE_THREADS = 128, WARPS = DECODE_THREADS / 32, STEP = 16, MAX_HEADS = 8 };
enum { BLOCKS_PER_SM = 3, TURN = STEP * WARPS, CLUSTER = 16, CLUSTER_KEYS = 1024 };
static constexpr float LOG2_E = 1.44269504088896340736f;

struct decode_args { // by value in a launch, beside attn_args
    cache_view at;
    cache_parts parts;
    int splits, clustered;
};

struct decoding : cached {
    place_args rope; // of rope_attention
    int roped;
    uint64_t parts;  // where they lie in the workspace, behind the turned queries
};

#define SELF const struct decoding *k = (const struct decoding *)base

DEV float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEV uint32_t two(float low, float high) // as bf16
{
    uint32_t w;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w) : "f"(high), "f"(low));
    return w;
}

DEV float quad_max(float x) // over the four lanes of a row
{
    x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
    return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}

DEV float quad_sum(float x)
{
    x += __shfl_xor_sync(~0u, x, 1);
    return x + __shfl_xor_sync(~0u, x, 2);
}

DEV uint32_t word(const uint4 &w, int i)
{
    return i == 0 ? w.x : i == 1 ? w.y : i == 2 ? w.z : w.w;
}

// 16 bytes of a row of the cache; of a row that is none NaN, to be found in the result
DEV uint4 piece(const bf16 *p, int row, int64_t width)
{
    const uint32_t none = 0x7fc07fc0;
    return row < 0 ? uint4{ none, none, none, none } : *(const uint4 *)(p + row * width);
}

// The parts of a cluster's blocks, each with its maximum and sum, in their order.
template <int CV>
DEV void join_cluster(float (*own)[CV], const float *max, const float *sum, int n, int splits,
                      int rank, arr o, int64_t at0)
{
    cluster_sync();
    const int mine = (n * CV + splits - 1) / splits;
    for (int i = rank * mine + (int)threadIdx.x; i < min(n * CV, (rank + 1) * mine);
         i += DECODE_THREADS) {
        const int h = i / CV, c = i % CV;
        float top = -INFINITY, all = 0, v = 0;
        for (int r = 0; r < splits; r++)
            top = fmaxf(top, of_rank(&max[h], (uint32_t)r));
        top = shift_of(top);
        for (int r = 0; r < splits; r++) {
            float weight = exp2_fast(of_rank(&max[h], (uint32_t)r) - top);
            all += of_rank(&sum[h], (uint32_t)r) * weight;
            v += of_rank(&own[h][c], (uint32_t)r) * weight;
        }
        put(o, at0 + i, v / all);
    }
    cluster_sync(); // nobody reads here any more
}

// C = 32 CB, Cv = 64 VB
template <int CB, int VB>
__global__ void __launch_bounds__(DECODE_THREADS, CB > 4 ? 2 : BLOCKS_PER_SM)
    decode(const bf16 *q, const bf16 *kc, const bf16 *vc, arr o, const decode_args d,
           const attn_args a)
{
    constexpr int C = 32 * CB, CV = 64 * VB;
    __shared__ float part[WARPS][8][CV], max[WARPS][8], sum[WARPS][8];
    const int splits = d.splits, split = (int)blockIdx.x % splits, block = (int)blockIdx.x / splits;
    int pieces = (a.group + MAX_HEADS - 1) / MAX_HEADS, kv = block / pieces;
    int h0 = kv * a.group + block % pieces * MAX_HEADS;
    int n = min((int)MAX_HEADS, (kv + 1) * a.group - h0);
    next_may_start();
    previous_done();
    int warp = threadIdx.x / 32, g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    int64_t token = blockIdx.y;
    if (own_row(d.at, token) < 0) { // in all blocks of a cluster
        for (int i = threadIdx.x; split == 0 && i < n * CV; i += DECODE_THREADS)
            put(o, (token * a.heads + h0) * CV + i, d.at.slot[token] == -1 ? 0 : nanf(""));
        return;
    }

    uint4 query[CB]; // row g is head g; rows 8 .. 15 of the fragments are empty
#pragma unroll
    for (int b = 0; b < CB; b++)
        query[b] = g < n ? *(const uint4 *)(q + (token * a.heads + h0 + g) * C + 32 * b + 8 * t)
                         : uint4{};
    const int slot = d.at.slot[token];
    int64_t p = d.at.positions[token], j0 = a.chunk ? p / a.chunk * a.chunk : 0;
    int64_t share = (p - j0) / splits / TURN * TURN + TURN; // keys of a split, whole tiles
    int64_t wk = (int64_t)a.kv * C, wv = (int64_t)a.kv * CV;
    j0 += split * share;
    int64_t end = min(j0 + share, p + 1);
    const bf16 *keys = kc + kv * C + 8 * t, *values = vc + kv * CV + 8 * g;
    float m = -INFINITY, l = 0, by = a.scale * LOG2_E, acc[VB][8][4] = {};

    int key_row[2], value_row[4]; // of the coming turn; values of 2t, 2t + 1, 2t + 8, 2t + 9
    auto find_rows = [&](int64_t j) {
#pragma unroll
        for (int i = 0; i < 2; i++)
            key_row[i] = j + 8 * i + g < end ? row_at(d.at, slot, (int)j + 8 * i + g) : 0;
#pragma unroll
        for (int i = 0; i < 4; i++) {
            int64_t at = j + 2 * t + i % 2 + i / 2 * 8;
            value_row[i] = at < end ? row_at(d.at, slot, (int)at) : 0;
        }
    };
    j0 += warp * STEP;
    find_rows(j0);
    for (; j0 < end; j0 += TURN) {
        uint4 key[2][CB] = {}, value[VB][4] = {};
#pragma unroll
        for (int i = 0; i < 2; i++)
            if (int64_t j = j0 + 8 * i + g; j < end)
#pragma unroll
                for (int b = 0; b < CB; b++)
                    key[i][b] = piece(keys + 32 * b, key_row[i], wk);
#pragma unroll
        for (int i = 0; i < 4; i++)
            if (int64_t j = j0 + 2 * t + i % 2 + i / 2 * 8; j < end)
#pragma unroll
                for (int b = 0; b < VB; b++)
                    value[b][i] = piece(values + 64 * b, value_row[i], wv);
        find_rows(j0 + TURN);

        float z[2][4] = {}; // of head g: keys 2t and 2t + 1 of each eight
#pragma unroll
        for (int b = 0; b < CB; b++)
#pragma unroll
            for (int half = 0; half < 2; half++) {
                uint32_t left[4] = { word(query[b], 2 * half), 0, word(query[b], 2 * half + 1), 0 };
#pragma unroll
                for (int i = 0; i < 2; i++) {
                    uint32_t right[2] = { word(key[i][b], 2 * half),
                                          word(key[i][b], 2 * half + 1) };
                    mma(z[i], left, right);
                }
            }
        float top = m;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                z[i][e] = j0 + 8 * i + 2 * t + e < end ? z[i][e] * by : -INFINITY;
                top = fmaxf(top, z[i][e]);
            }
        top = quad_max(top);
        float shift = shift_of(top), keep = exp2_fast(m - shift);
        m = top;
        l *= keep;
#pragma unroll
        for (int i = 0; i < 2; i++)
#pragma unroll
            for (int e = 0; e < 2; e++) {
                z[i][e] = exp2_fast(z[i][e] - shift);
                l += z[i][e]; // this lane's share; the four lanes of a head meet at the end
            }
        uint32_t left[4] = { two(z[0][0], z[0][1]), 0, two(z[1][0], z[1][1]), 0 };
#pragma unroll
        for (int b = 0; b < VB; b++)
#pragma unroll
            for (int i = 0; i < 8; i++) { // dims 64 b + 8 n + i
                uint32_t right[2];
#pragma unroll
                for (int r = 0; r < 2; r++)
                    right[r] = __byte_perm(word(value[b][2 * r], i / 2),
                                           word(value[b][2 * r + 1], i / 2),
                                           i % 2 ? 0x7632 : 0x5410);
                acc[b][i][0] *= keep;
                acc[b][i][1] *= keep;
                mma(acc[b][i], left, right);
            }
    }

    l = quad_sum(l);
    if (t == 0) {
        max[warp][g] = m;
        sum[warp][g] = l;
    }
    __syncthreads();
    float top = -INFINITY;
    for (int w = 0; w < WARPS; w++)
        top = fmaxf(top, max[w][g]);
    float weight = exp2_fast(m - shift_of(top));
#pragma unroll
    for (int b = 0; b < VB; b++)
#pragma unroll
        for (int e = 0; e < 2; e++) // dims 64 b + 8 (2t + e) + 0 .. 7
#pragma unroll
            for (int i = 0; i < 8; i += 4)
                *(float4 *)&part[warp][g][64 * b + 16 * t + 8 * e + i] =
                    float4{ acc[b][i][e] * weight, acc[b][i + 1][e] * weight,
                            acc[b][i + 2][e] * weight, acc[b][i + 3][e] * weight };
    __syncthreads();
    __shared__ float all_max[MAX_HEADS], all_sum[MAX_HEADS];
    for (int i = threadIdx.x; i < n * CV; i += DECODE_THREADS) {
        int h = i / CV, c = i % CV;
        float v = 0, all = 0;
        top = -INFINITY;
        for (int w = 0; w < WARPS; w++)
            top = fmaxf(top, max[w][h]);
        for (int w = 0; w < WARPS; w++) {
            v += part[w][h][c];
            all += sum[w][h] * exp2_fast(max[w][h] - shift_of(top));
        }
        int64_t at = token * a.heads + h0 + h, one = at * splits + split;
        if (splits == 1) {
            put(o, at * CV + c, v / all);
        } else if (d.clustered) {
            part[0][h][c] = v; // nobody else reads it
            if (c == 0)
                all_max[h] = top, all_sum[h] = all;
        } else {
            d.parts.values[one * CV + c] = v;
            if (c == 0)
                d.parts.stats[one] = float2{ top, all };
        }
    }
    if (d.clustered)
        join_cluster<CV>(part[0], all_max, all_sum, n, splits, split, o,
                         (token * a.heads + h0) * CV);
}

// ---- from types to kernels ------------------------------------------------------------------
static int blocks_of(const struct cached *k) // of a token, but for splits
{
    return k->a.kv * (int)cuda_ceil(k->a.group, MAX_HEADS);
}

typedef void (*decode_fn)(const bf16 *, const bf16 *, const bf16 *, arr, const decode_args,
                          const attn_args);

static decode_fn fn_of(const struct cached *k)
{
    return k->a.c == 64 ? decode<2, 1> : k->a.c == 128 ? decode<4, 2>
         : k->a.c == 192 ? decode<6, 2> : decode<8, 4>;
}

static mr_status decode_run(RUN_ARGS)
{
    SELF;
    void *parts = (char *)ws + k->parts;
    const bf16 *q = (const bf16 *)(k->roped ? ws : in[Q].data);
    decode_args d = { view_in(k, in), parts_in(k, parts), k->splits, k->clustered };
    dim3 grid((unsigned)(blocks_of(k) * k->splits), (unsigned)k->a.tokens);
    if (!k->a.tokens)
        return MR_OK;
    cudaError_t e = k->roped ? place_launch(k, k->rope, in, (bf16 *)ws, stream)
                             : cache_write_launch(k, in, stream);
    e = e ? e : launch_early(base, fn_of(k), grid, DECODE_THREADS, 0,
                             k->clustered ? k->splits : 1, stream, q,
                             (const bf16 *)in[K_CACHE].data, (const bf16 *)in[V_CACHE].data,
                             out_arr(base, out, 0), d, k->a);
    e = e ? e : cache_join_launch<true>(k, in, out, parts, stream);
    return e ? cuda_fail(err, e, base->op) : MR_OK;
}

static mr_status decode_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct decoding *k = (struct decoding *)base;
    mr_status bad = cache_shape(k, c, err);
    if (bad)
        return bad;
    if (base->in_kind[0] != CUDA_BF16 || base->in_kind[K_CACHE] != CUDA_BF16)
        return cuda_refuse(base, err, "the queries or the cache are not bf16");
    if (!(k->a.c == k->a.cv && (k->a.c == 64 || k->a.c == 128 || k->a.c == 256)) &&
        !(k->a.c == 192 && k->a.cv == 128))
        return cuda_refuse(base, err, "heads are not 64, 128, 256 or 192/128 wide");
    k->splits = cache_splits(k, k->a.tokens * blocks_of(k), BLOCKS_PER_SM, TURN);
    // a cluster's 16 blocks are enough for a few thousand positions; more are shared out wider
    if (base->dev->cc >= 90 && k->splits > 1 && k->positions <= CLUSTER * CLUSTER_KEYS) {
        k->clustered = 1;
        k->splits = k->splits < CLUSTER ? k->splits : (int)CLUSTER;
        cudaError_t e = cudaFuncSetAttribute((const void *)fn_of(k),
                                             cudaFuncAttributeNonPortableClusterSizeAllowed, 1);
        if (e)
            return cuda_fail(err, e, base->op);
    }
    k->parts = k->roped ? cuda_round((uint64_t)(k->a.tokens * k->a.heads * k->a.c) * 2) : 0;
    base->workspace = k->parts + (k->clustered ? 0 : parts_bytes(k));
    base->run = decode_run;
    return MR_OK;
}

static mr_status roped_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct decoding *k = (struct decoding *)base;
    k->roped = 1;
    mr_status st = decode_prepare(base, c, err);
    if (st)
        return st;
    if (base->in_kind[K] != CUDA_BF16 || base->in_kind[V_NEW] != CUDA_BF16)
        return cuda_refuse(base, err, "the new keys or values are not bf16");
    return place_read(k, c, &k->rope, err);
}

const struct op_row cuda_decode_mma_rows[] = {
    { "attention.paged", "xxxiiixx>x", sizeof(struct decoding), decode_prepare, 0, 0 },
    { "rope_attention.paged", "xxxiiixx>x", sizeof(struct decoding), roped_prepare, 0, 0 },
    {},
};
