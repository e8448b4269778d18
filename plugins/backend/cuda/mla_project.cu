// SPDX-License-Identifier: Apache-2.0
//
// mla_project.cu - both sides of absorbed latent attention on the tensor cores, for bf16: queries
// through the expansion's key part, and the joined sums through its value part. A block has a head.
//   absorb  64 latent values and 64 tokens, 16 a warp; the weight's rows are the product's terms
//   expand  16 tokens: their parts are joined into shared memory first, a warp has 16 values
// Bytes: the expansion once from memory (64 heads of 256 x 512: 16.8 MB, 4 us of an H200), absorbed
// queries and parts once in f32. Of each 32 terms thread (g, t) = (lane / 4, lane % 4) has 8 t ..
// 8 t + 7: a product does not care in which order its terms stand.

#include "mla_cached.cuh"
#include "mma.cuh"

enum { TOKENS = 64, COLUMNS = 64, ABSORB_THREADS = 128, EXPAND_TOKENS = 16, EXPAND_THREADS = 256 };
enum { MOST_PARTS = 256 };

DEV uint32_t word_of(const uint4 &v, int i)
{
    return i == 0 ? v.x : i == 1 ? v.y : i == 2 ? v.z : v.w;
}

// absorbed[t][h][l] = sum over i of w[h][i][l] q[t][h][i]
__global__ void __launch_bounds__(ABSORB_THREADS)
    absorb_mma(const bf16 *q, const bf16 *w, float *absorbed, int64_t tokens, int L, int heads,
               int nope, int rope, int value)
{
    const int h = blockIdx.x, l0 = blockIdx.z * COLUMNS, warp = threadIdx.x / 32;
    const int g = threadIdx.x % 32 / 4, t = threadIdx.x % 4;
    const int64_t t0 = blockIdx.y * (int64_t)TOKENS + 16 * warp;
    float acc[4][2][4] = {};
    next_may_start();
    previous_done();
    w += (int64_t)h * (nope + value) * L + l0 + 8 * g;
    for (int k = 8 * t; k < nope; k += 32) {
        uint4 a[8], b[2];
#pragma unroll
        for (int j = 0; j < 8; j++)
            a[j] = *(const uint4 *)(w + (int64_t)(k + j) * L);
#pragma unroll
        for (int n = 0; n < 2; n++) {
            int64_t token = t0 + 8 * n + g;
            b[n] = token < tokens ? *(const uint4 *)(q + (token * heads + h) * (nope + rope) + k)
                                  : uint4{};
        }
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int i = 0; i < 4; i++) { // columns 8 g + 2 i and the next
                uint32_t left[4];
#pragma unroll
                for (int e = 0; e < 4; e++)
                    left[e] = __byte_perm(word_of(a[4 * half + e / 2 * 2], i),
                                          word_of(a[4 * half + e / 2 * 2 + 1], i),
                                          e % 2 ? 0x7632 : 0x5410);
#pragma unroll
                for (int n = 0; n < 2; n++) {
                    uint32_t right[2] = { word_of(b[n], 2 * half), word_of(b[n], 2 * half + 1) };
                    mma(acc[i][n], left, right);
                }
            }
    }
#pragma unroll
    for (int n = 0; n < 2; n++)
#pragma unroll
        for (int e = 0; e < 2; e++) {
            int64_t token = t0 + 8 * n + 2 * t + e;
            if (token >= tokens)
                continue;
            float4 *to = (float4 *)(absorbed + (token * heads + h) * (L + rope) + l0 + 8 * g);
            to[0] = float4{ acc[0][n][e], acc[0][n][e + 2], acc[1][n][e], acc[1][n][e + 2] };
            to[1] = float4{ acc[2][n][e], acc[2][n][e + 2], acc[3][n][e], acc[3][n][e + 2] };
        }
}

// o[t][h][v] = sum over l of w[h][nope + v][l] u[t][h][l], u the joined parts of the row
__global__ void __launch_bounds__(EXPAND_THREADS)
    expand_mma(const float *parts, const bf16 *w, arr o, const cache_view at, int64_t tokens, int L,
               int heads, int nope, int value, int n)
{
    extern __shared__ __align__(16) uint16_t us[]; // [EXPAND_TOKENS][L + 32], then the weights
    float *weight = (float *)(us + EXPAND_TOKENS * (L + 32)); // [EXPAND_TOKENS][n]
    const int h = blockIdx.x, warp = threadIdx.x / 32, lane = threadIdx.x % 32;
    const int g = lane / 4, t = lane % 4;
    const int64_t t0 = blockIdx.y * (int64_t)EXPAND_TOKENS;
    next_may_start();
    previous_done();
    parts += (t0 * heads + h) * n * (L + 2);
    const int64_t step = (int64_t)heads * n * (L + 2); // from a token to the next
    for (int r = warp; r < EXPAND_TOKENS; r += EXPAND_THREADS / 32) {
        bool there = t0 + r < tokens && own_row(at, t0 + r) >= 0;
        float max = -INFINITY, sum = 0;
        for (int s = lane; s < n && there; s += 32)
            max = fmaxf(max, parts[r * step + s * (int64_t)(L + 2)]);
        max = warp_max(max);
        for (int s = lane; s < n; s += 32) {
            const float *part = parts + r * step + s * (int64_t)(L + 2);
            float f = there ? expf(part[0] - max) : -1; // a row that is none has no parts
            weight[r * n + s] = f;
            sum += there ? f * part[1] : 1;
        }
        sum = warp_sum(sum);
        for (int s = lane; s < n; s += 32)
            weight[r * n + s] /= sum;
    }
    __syncthreads();
#pragma unroll 4
    for (int e = threadIdx.x; e < EXPAND_TOKENS * L / 2; e += EXPAND_THREADS) {
        const int r = e / (L / 2), l = e % (L / 2) * 2;
        float2 u = {};
        if (!(weight[r * n] < 0))
#pragma unroll 2
            for (int s = 0; s < n; s++) {
                float2 x = *(const float2 *)(parts + r * step + s * (int64_t)(L + 2) + 2 + l);
                u.x += weight[r * n + s] * x.x;
                u.y += weight[r * n + s] * x.y;
            }
        *(uint32_t *)(us + r * (L + 32) + l) = pack(u.x, u.y);
    }
    __syncthreads();
    w += ((int64_t)h * (nope + value) + nope) * L;
    for (int v0 = 16 * warp; v0 < value; v0 += 16 * (EXPAND_THREADS / 32)) {
        float acc[2][4] = {};
#pragma unroll 8
        for (int k = 8 * t; k < L; k += 32) {
            uint4 a = *(const uint4 *)(w + (int64_t)(v0 + g) * L + k);
            uint4 b = *(const uint4 *)(w + (int64_t)(v0 + g + 8) * L + k);
#pragma unroll
            for (int m = 0; m < 2; m++) {
                uint4 x = *(const uint4 *)(us + (8 * m + g) * (L + 32) + k);
#pragma unroll
                for (int half = 0; half < 2; half++) {
                    uint32_t left[4] = { word_of(a, 2 * half), word_of(b, 2 * half),
                                         word_of(a, 2 * half + 1), word_of(b, 2 * half + 1) };
                    uint32_t right[2] = { word_of(x, 2 * half), word_of(x, 2 * half + 1) };
                    mma(acc[m], left, right);
                }
            }
        }
#pragma unroll
        for (int m = 0; m < 2; m++)
#pragma unroll
            for (int e = 0; e < 4; e++) {
                int64_t token = t0 + 8 * m + 2 * t + e % 2;
                if (token < tokens)
                    put(o, (token * heads + h) * value + v0 + g + e / 2 * 8,
                        own_row(at, token) >= 0     ? acc[m][e]
                        : at.slot[token] == -1 ? 0
                                               : nanf(""));
            }
    }
}

static size_t expand_shared(int L, int n)
{
    return EXPAND_TOKENS * ((size_t)(L + 32) * 2 + (size_t)n * sizeof(float));
}

mr_status mla_project_prepare(const struct kernel *k, int q_kind, int w_kind, int L,
                              const mla_args *a, int n, mr_err *err)
{
    if (q_kind != CUDA_BF16 || w_kind != CUDA_BF16 || L % COLUMNS || a->nope % 32 ||
        a->value % 16 || a->rope % 8 || n > MOST_PARTS)
        return MR_E_UNSUPPORTED; // the fp32 units do it
    return want_shared(k, (const void *)expand_mma, expand_shared(L, n), err);
}

cudaError_t mla_absorb(const struct kernel *k, const void *q, const void *w, float *absorbed,
                       int64_t tokens, int L, const mla_args *a, cudaStream_t stream)
{
    dim3 grid((unsigned)a->heads, (unsigned)cuda_ceil(tokens, TOKENS), (unsigned)(L / COLUMNS));
    return launch_early(k, absorb_mma, grid, ABSORB_THREADS, 0, 1, stream, (const bf16 *)q,
                        (const bf16 *)w, absorbed, tokens, L, a->heads, a->nope, a->rope, a->value);
}

cudaError_t mla_expand(const struct kernel *k, const float *parts, const void *w, arr o,
                       const cache_view &at, int64_t tokens, int L, const mla_args *a, int n,
                       cudaStream_t stream)
{
    dim3 grid((unsigned)a->heads, (unsigned)cuda_ceil(tokens, EXPAND_TOKENS));
    return launch_early(k, expand_mma, grid, EXPAND_THREADS, expand_shared(L, n), 1, stream, parts,
                        (const bf16 *)w, o, at, tokens, L, a->heads, a->nope, a->value, n);
}
