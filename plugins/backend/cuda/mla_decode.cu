// SPDX-License-Identifier: Apache-2.0
//
// mla_decode.cu - new tokens attend over their slots' latents on Hopper's tensor cores (wgmma):
// bf16 latents of 512 values and 64 rotated ones, the sizes of DeepSeek-V3 and Kimi-K2. A block
// has one token, 64 heads and a split of the keys, and walks it 64 keys at a time with two tiles
// in flight. Each of its two warpgroups makes the scores z = q k' of half of a tile's keys over
// 576 values; they tell each other their maxima and, as bf16 in shared memory, their weights p, and
// each gathers half of the 512 values, p v. v lies inside k. Bytes: the seen latents once a 64
// heads; a tile of 72 KiB takes an H200's share of bandwidth 4000 cycles, the products about 2800;
// floor of a decoding step: bytes / bandwidth.

#include "mla_cached.cuh"
#include "mma.cuh"

enum { L = 512, D = 576, CHUNKS = D / 8, HEADS = 64, KEYS = 64, BLOCK = 256, BOX_BYTES = 8192 };
static constexpr float LOG2_E = 1.4426950408889634f;

struct tiles { // of 64 rows as 9 boxes: 64 lines of 128 bytes with the 128-byte swizzle
    uint16_t q[HEADS * D], k[2][KEYS * D], p[HEADS * KEYS];
    float top[2][HEADS], sum[2][HEADS]; // of each warpgroup's keys
    int row[2][KEYS]; // where the keys of the tile that comes lie, and of the one after it
    int lost;         // a key that should be there has no row
};

// the address of element (row, 8 chunk)
DEV uint16_t *chunk_at(uint16_t *tile, int row, int chunk)
{
    return tile + chunk / 8 * (BOX_BYTES / 2) + row * 64 + ((chunk ^ row) & 7) * 8;
}

// keys of no row become zeros
DEV void load_keys(uint16_t *tile, const uint16_t *latents, const int *rows)
{
#pragma unroll
    for (int i = 0; i < KEYS * CHUNKS / BLOCK; i++) {
        int e = threadIdx.x + i * BLOCK, key = e / CHUNKS, c = e % CHUNKS, row = rows[key];
        bool there = row >= 0;
        copy16(chunk_at(tile, key, c), there ? latents + (int64_t)row * D + c * 8 : latents, there);
    }
    copies_end();
}

// ---- wgmma ---------------------------------------------------------------------------------
// Where boxes lie: address, from box to box (read if lines run along k), from 8 lines to the next.
DEV uint64_t operand_at(const void *boxes)
{
    return (uint64_t)(shared_at(boxes) >> 4 & 0x3fff) | (uint64_t)(BOX_BYTES >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}

#define D8(i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])

// d, 64 x 32, = a b' of boxes whose lines run along k, or += if `more`
DEV void product_scores(float d[16], uint64_t a, uint64_t b, int more)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("{\n.reg .pred more;\n"
                 "setp.ne.b32 more, %18, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n32k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15}, "
                 "%16, %17, more, 1, 1, 0, 0;\n}"
                 : D8(0), D8(8)
                 : "l"(a), "l"(b), "r"(more));
#endif
}

// d, 64 x 128, += a b of boxes a whose lines run along k and two boxes b whose lines are k
DEV void product_values(float d[64], uint64_t a, uint64_t b)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, 1, 1, 1, 0, 1;"
                 : D8(0), D8(8), D8(16), D8(24), D8(32), D8(40), D8(48), D8(56)
                 : "l"(a), "l"(b));
#endif
}

DEV void stores_visible(void) // what threads left in shared memory, to products started later
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

DEV void products_begin(void) // what registers hold now is what products read and add to
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#endif
}

DEV void products_end(void)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
#endif
}

DEV void products_wait(void)
{
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
    asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
#endif
}

template <int N> DEV void hold(float d[N]) // uses of d stay on their side of this point
{
#pragma unroll
    for (int i = 0; i < N; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

// ---- attention ------------------------------------------------------------------------------
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

DEV float exp2_fast(float x)
{
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

// Scores s of this warpgroup's 32 keys, of which n are there; a thread has two rows, value i of s
// in row i / 2 % 2 and column i / 4 * 8 + lane % 4 * 2 + i % 2.
DEV void tell_top(float s[16], int n, float *top, int row)
{
    float most[2] = { -INFINITY, -INFINITY };
    const int column = threadIdx.x % 4 * 2;
    if (n < KEYS / 2)
#pragma unroll
        for (int i = 0; i < 16; i++)
            s[i] = i / 4 * 8 + column + i % 2 < n ? s[i] : -INFINITY;
#pragma unroll
    for (int i = 0; i < 16; i++)
        most[i / 2 % 2] = fmaxf(most[i / 2 % 2], s[i]);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        most[r] = quad<true>(most[r]);
        if (threadIdx.x % 4 == 0)
            top[row + 8 * r] = most[r];
    }
}

// To weights, into p from column `first` on. keep: for what was summed before. A tile's first key
// is there, so the maximum is finite.
DEV void soften(const tiles &t, const float s[16], int row, int first, uint16_t *p, float max[2],
                float sum[2], float keep[2])
{
#pragma unroll
    for (int r = 0; r < 2; r++) {
        float top = fmaxf(max[r], fmaxf(t.top[0][row + 8 * r], t.top[1][row + 8 * r]));
        keep[r] = exp2_fast(max[r] - top);
        max[r] = top;
        sum[r] *= keep[r];
#pragma unroll
        for (int c = 0; c < 4; c++) {
            float e = exp2_fast(s[4 * c + 2 * r] - top), f = exp2_fast(s[4 * c + 2 * r + 1] - top);
            sum[r] += e + f;
            *(uint32_t *)(chunk_at(p, row + 8 * r, first / 8 + c) + threadIdx.x % 4 * 2) =
                pack(e, f);
        }
    }
}

__global__ void __launch_bounds__(BLOCK, 1)
    decode(const float *absorbed, const uint16_t *latents, float *parts, const cache_view at,
           float scale, int heads)
{
    extern __shared__ __align__(1024) char room[];
    tiles &t = *(tiles *)room;
    int64_t token = blockIdx.y, first, end;
    int h0 = blockIdx.x * HEADS, group = threadIdx.x / 128, lane = threadIdx.x % 32;
    if (own_row(at, token) < 0)
        return;
    int slot = at.slot[token];
    split_of(at.positions[token], &first, &end);
    int64_t n = end - first;
    auto find_rows = [&](int64_t j, int *rows) {
        int64_t key = j + threadIdx.x;
        if (threadIdx.x >= KEYS)
            return;
        rows[threadIdx.x] = key < n ? row_at(at, slot, (int)(first + key)) : -1;
        if (key < n && rows[threadIdx.x] < 0)
            t.lost = 1;
    };
    if (threadIdx.x == 0)
        t.lost = 0;
    __syncthreads();
    find_rows(0, t.row[0]);
    find_rows(KEYS, t.row[1]);
    __syncthreads();
    if (n > 0)
        load_keys(t.k[0], latents, t.row[0]);
    absorbed += (token * heads + h0) * D;
    for (int e = threadIdx.x; e < HEADS * D / 2; e += BLOCK) {
        int h = e / (D / 2), i = e % (D / 2) * 2;
        float2 q = h0 + h < heads ? *(const float2 *)(absorbed + (int64_t)h * D + i) : float2{};
        *(uint32_t *)(chunk_at(t.q, h, i / 8) + i % 8) = pack(q.x * scale * LOG2_E,
                                                              q.y * scale * LOG2_E);
    }
    float acc[2][64] = {}, max[2] = { -INFINITY, -INFINITY }, sum[2] = {};
    const int row = threadIdx.x % 128 / 32 * 16 + lane / 4;
    const uint64_t q = operand_at(t.q), weights = operand_at(t.p);
    for (int64_t j = 0, i = 0; j < n; j += KEYS, i ^= 1) {
        copies_wait<0>();
        stores_visible();
        __syncthreads(); // the tile is there for all, and all are done with the other
        const uint64_t k = operand_at(t.k[i]), half = k + (group * (KEYS / 2) * 128 >> 4);

        float s[16], keep[2];
        products_begin();
#pragma unroll
        for (int c = 0; c < D / 16; c++) { // 32 bytes of a line on, or a box
            uint64_t step = (c / 4 * BOX_BYTES + c % 4 * 32) >> 4;
            product_scores(s, q + step, half + step, c > 0);
        }
        products_end();
        if (j + KEYS < n)
            load_keys(t.k[i ^ 1], latents, t.row[i ^ 1]);
        find_rows(j + 2 * KEYS, t.row[i]); // read behind the next barrier
        products_wait();
        hold<16>(s);
        const int64_t left = n - j - group * (KEYS / 2);
        tell_top(s, left < KEYS / 2 ? (int)left : KEYS / 2, t.top[group], row);
        __syncthreads();
        soften(t, s, row, group * (KEYS / 2), t.p, max, sum, keep);
        stores_visible();
        if (__any_sync(~0u, keep[0] != 1 || keep[1] != 1))
#pragma unroll
            for (int e = 0; e < 64; e++) {
                acc[0][e] *= keep[e / 2 % 2];
                acc[1][e] *= keep[e / 2 % 2];
            }
        __syncthreads(); // all weights are there
        hold<64>(acc[0]);
        hold<64>(acc[1]);
        products_begin();
#pragma unroll
        for (int c = 0; c < KEYS / 16; c++) // 16 lines on
#pragma unroll
            for (int h = 0; h < 2; h++)
                product_values(acc[h], weights + (c * 32 >> 4),
                               k + ((group * 4 + h * 2) * BOX_BYTES + c * 16 * 128 >> 4));
        products_end();
        products_wait();
        hold<64>(acc[0]);
        hold<64>(acc[1]);
    }
    int64_t step = gridDim.z * (int64_t)(L + 2); // from a head to the next
    parts += (token * heads + h0) * step + blockIdx.z * (L + 2);
#pragma unroll
    for (int r = 0; r < 2; r++) {
        sum[r] = quad<false>(sum[r]);
        if (lane % 4 == 0)
            t.sum[group][row + 8 * r] = sum[r];
    }
    __syncthreads();
    const float lost = t.lost ? nanf("") : 0; // to be found in the result
#pragma unroll
    for (int r = 0; r < 2; r++) {
        int h = row + 8 * r;
        float *to = parts + h * step;
        if (h0 + h >= heads)
            continue;
        if (!group && lane % 4 == 0)
            to[0] = max[r] / LOG2_E, to[1] = t.sum[0][h] + t.sum[1][h] + lost;
        to += 2 + group * 256 + lane % 4 * 2;
#pragma unroll
        for (int half = 0; half < 2; half++)
#pragma unroll
            for (int c = 0; c < 16; c++)
                *(float2 *)(to + half * 128 + 8 * c) = float2{ acc[half][4 * c + 2 * r],
                                                               acc[half][4 * c + 2 * r + 1] };
    }
}

mr_status mla_decode_prepare(const struct kernel *k, int latent, int rope, int cache_kind,
                             mr_err *err)
{
    if (latent != L || latent + rope != D || cache_kind != CUDA_BF16 || k->dev->cc != 90)
        return MR_E_UNSUPPORTED; // the fp32 units do it
    return want_shared(k, (const void *)decode, sizeof(tiles), err);
}

void mla_decode(const float *absorbed, const void *latents, float *parts, const cache_view &at,
                float scale, int heads, int64_t tokens, int splits, cudaStream_t stream)
{
    dim3 grid((unsigned)cuda_ceil(heads, HEADS), (unsigned)tokens, (unsigned)splits);
    decode<<<grid, BLOCK, sizeof(tiles), stream>>>(absorbed, (const uint16_t *)latents, parts, at,
                                                   scale, heads);
}
