// SPDX-License-Identifier: Apache-2.0
//
// mla_decode.cu - new tokens attend over their slots' latents on the tensor cores: bf16 latents of
// 512 values and 64 rotated ones, the sizes of DeepSeek-V3 and Kimi-K2. A block has one token, 64
// heads and a split of the keys, and walks it 64 keys at a time with two tiles in flight: z = q k'
// over 576 values, an online softmax, acc += p v over 512, v lying inside k. Tiles lie in shared
// memory as they lie in the cache, 16-byte chunks exchanged by row so that no load meets a bank
// twice. Bytes: the seen latents once a 64 heads; flops 2 (576 + 512) a key and head; floor of a
// decoding step: bytes / 3.35 TB/s, and 64 heads' products take about as long on mma.sync.

#include "mla_cached.cuh"
#include "mma.cuh"

enum { L = 512, D = 576, CHUNKS = D / 8, HEADS = 64, KEYS = 64, BLOCK = 256 };
static constexpr float LOG2_E = 1.4426950408889634f;

struct tiles {
    uint16_t q[HEADS * D], k[2][KEYS * D], p[HEADS * KEYS];
    float top[2][HEADS], keep[HEADS];
};

// the address of element (row, 8 chunk) of a tile with rows of `chunks` chunks
DEV uint16_t *chunk_at(uint16_t *tile, int chunks, int row, int chunk)
{
    return tile + (row * chunks + (chunk ^ (row & 7))) * 8;
}

DEV void load_keys(uint16_t *tile, const uint16_t *latents, int64_t n) // n: keys that are there
{
#pragma unroll
    for (int i = 0; i < KEYS * CHUNKS / BLOCK; i++) {
        int e = threadIdx.x + i * BLOCK, row = e / CHUNKS, c = e % CHUNKS;
        bool there = row < n;
        copy16(chunk_at(tile, CHUNKS, row, c), there ? latents + (int64_t)row * D + c * 8 : latents,
               there);
    }
    copies_end();
}

// s: 16 heads from `row` by 32 keys from `col`
DEV void scores(float s[4][4], tiles &t, const uint16_t *keys, int row, int col)
{
    int l = threadIdx.x % 32;
    uint16_t *k = (uint16_t *)keys;
#pragma unroll 4
    for (int c = 0; c < CHUNKS; c += 2) {
        uint32_t a[4], b[2][4];
        load_matrices(a, chunk_at(t.q, CHUNKS, row + l % 16, c + l / 16));
#pragma unroll
        for (int i = 0; i < 2; i++)
            load_matrices(b[i], chunk_at(k, CHUNKS, col + 16 * i + l / 16 * 8 + l % 8,
                                         c + l / 8 % 2));
#pragma unroll
        for (int i = 0; i < 4; i++)
            mma(s[i], a, b[i / 2] + i % 2 * 2);
    }
}

// acc, 64 heads by 64 values from chunk `c0`, times keep, plus p v
DEV void gather(float acc[4][8][4], tiles &t, const uint16_t *keys, int c0)
{
    int l = threadIdx.x % 32;
    uint16_t *v = (uint16_t *)keys;
#pragma unroll
    for (int m = 0; m < 4; m++) {
        float low = t.keep[16 * m + l / 4], high = t.keep[16 * m + l / 4 + 8];
        if (__any_sync(~0u, low != 1 || high != 1))
#pragma unroll
            for (int n = 0; n < 8; n++) {
                acc[m][n][0] *= low, acc[m][n][1] *= low;
                acc[m][n][2] *= high, acc[m][n][3] *= high;
            }
    }
#pragma unroll
    for (int k = 0; k < KEYS / 16; k++) {
        uint32_t a[4][4];
#pragma unroll
        for (int m = 0; m < 4; m++)
            load_matrices(a[m], chunk_at(t.p, KEYS / 8, 16 * m + l % 16, 2 * k + l / 16));
#pragma unroll
        for (int n = 0; n < 4; n++) {
            uint32_t b[4];
            load_matrices_turned(b, chunk_at(v, CHUNKS, 16 * k + l / 8 % 2 * 8 + l % 8,
                                             c0 + 2 * n + l / 16));
#pragma unroll
            for (int m = 0; m < 4; m++) {
                mma(acc[m][2 * n], a[m], b);
                mma(acc[m][2 * n + 1], a[m], b + 2);
            }
        }
    }
}

// the maximum, or the sum, of the four lanes that share a row
template <bool MAX> DEV float quad(float x)
{
#pragma unroll
    for (int d = 1; d < 4; d *= 2) {
        float y = __shfl_xor_sync(~0u, x, d);
        x = MAX ? fmaxf(x, y) : x + y;
    }
    return x;
}

__global__ void __launch_bounds__(BLOCK, 1)
    decode(const float *absorbed, const uint16_t *latents, float *parts, cache at, float scale,
           int heads)
{
    extern __shared__ __align__(1024) char room[];
    tiles &t = *(tiles *)room;
    int64_t token = blockIdx.y, where = row_of(at, token), first, end;
    int h0 = blockIdx.x * HEADS, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    int row = warp % 4 * 16, half = warp / 4, c0 = warp * 8; // of scores; of the sums, in chunks
    if (where < 0)
        return;
    int64_t p = where % at.room;
    split_of(p, &first, &end);
    latents += (where - p + first) * D;
    int64_t n = end - first;
    if (n > 0)
        load_keys(t.k[0], latents, n);
    absorbed += (token * heads + h0) * D;
    for (int e = threadIdx.x; e < HEADS * D / 2; e += BLOCK) {
        int h = e / (D / 2), i = e % (D / 2) * 2;
        float2 q = h0 + h < heads ? *(const float2 *)(absorbed + (int64_t)h * D + i) : float2{};
        uint16_t *to = chunk_at(t.q, CHUNKS, h, i / 8) + i % 8;
        *(uint32_t *)to = pack(q.x * scale * LOG2_E, q.y * scale * LOG2_E);
    }
    float acc[4][8][4] = {}, max[2] = { -INFINITY, -INFINITY }, sum[2] = {};
    for (int64_t j = 0, i = 0; j < n; j += KEYS, i ^= 1) {
        if (j + KEYS < n)
            load_keys(t.k[i ^ 1], latents + (j + KEYS) * D, n - j - KEYS);
        else
            copies_end(); // an empty group, so that all but the last are always those awaited
        copies_wait<1>();
        __syncthreads();

        float s[4][4] = {}, top[2] = { -INFINITY, -INFINITY };
        scores(s, t, t.k[i], row, 32 * half);
#pragma unroll
        for (int c = 0; c < 4; c++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                if (j + 32 * half + 8 * c + lane % 4 * 2 + e % 2 >= n)
                    s[c][e] = -INFINITY;
                top[e / 2] = fmaxf(top[e / 2], s[c][e]);
            }
#pragma unroll
        for (int r = 0; r < 2; r++) {
            top[r] = quad<true>(top[r]);
            if (lane % 4 == 0)
                t.top[half][row + lane / 4 + 8 * r] = top[r];
        }
        __syncthreads();
#pragma unroll
        for (int r = 0; r < 2; r++) { // a tile's first key is there, so the maximum is finite
            int at_row = row + lane / 4 + 8 * r;
            top[r] = fmaxf(max[r], fmaxf(t.top[0][at_row], t.top[1][at_row]));
            float keep = exp2f(max[r] - top[r]);
            max[r] = top[r];
            sum[r] *= keep;
            if (!half && lane % 4 == 0)
                t.keep[at_row] = keep;
#pragma unroll
            for (int c = 0; c < 4; c++) {
                float x = exp2f(s[c][2 * r] - top[r]), y = exp2f(s[c][2 * r + 1] - top[r]);
                sum[r] += x + y;
                *(uint32_t *)(chunk_at(t.p, KEYS / 8, at_row, 4 * half + c) + lane % 4 * 2) =
                    pack(x, y);
            }
        }
        __syncthreads();
        gather(acc, t, t.k[i], c0);
        __syncthreads();
    }
    parts += ((token * heads + h0) * gridDim.z + blockIdx.z) * (L + 2);
    int64_t step = gridDim.z * (int64_t)(L + 2); // from a head to the next
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] = quad<false>(sum[r]);
        if (half && lane % 4 == 0)
            t.top[1][row + lane / 4 + 8 * r] = sum[r];
    }
    __syncthreads();
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int h = row + lane / 4 + 8 * r;
        if (!half && lane % 4 == 0 && h0 + h < heads) {
            parts[h * step] = max[r] / LOG2_E;
            parts[h * step + 1] = sum[r] + t.top[1][h];
        }
    }
#pragma unroll
    for (int m = 0; m < 4; m++)
#pragma unroll
        for (int r = 0; r < 2; r++) {
            int h = 16 * m + lane / 4 + 8 * r;
            float *to = parts + h * step + 2 + c0 * 8 + lane % 4 * 2;
#pragma unroll
            for (int c = 0; c < 8; c++)
                if (h0 + h < heads)
                    *(float2 *)(to + 8 * c) = float2{ acc[m][c][2 * r], acc[m][c][2 * r + 1] };
        }
}

mr_status mla_decode_prepare(const struct kernel *k, int latent, int rope, int cache_kind,
                             mr_err *err)
{
    if (latent != L || latent + rope != D || cache_kind != CUDA_BF16 || k->dev->cc < 90)
        return MR_E_UNSUPPORTED; // the fp32 units do it
    return want_shared(k, (const void *)decode, sizeof(tiles), err);
}

void mla_decode(const float *absorbed, const void *latents, float *parts, cache at, float scale,
                int heads, int64_t tokens, int splits, cudaStream_t stream)
{
    dim3 grid((unsigned)cuda_ceil(heads, HEADS), (unsigned)tokens, (unsigned)splits);
    decode<<<grid, BLOCK, sizeof(tiles), stream>>>(absorbed, (const uint16_t *)latents, parts, at,
                                                   scale, heads);
}
