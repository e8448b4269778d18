// SPDX-License-Identifier: Apache-2.0
//
// flash.cuh - what the tensor-core attention kernels share: tiles of bf16 rows in shared memory,
// D values and 8 of padding a row (16 bytes: the 8 rows that one load touches start in different
// banks), heads narrower than D filled up with zeros.

#ifndef MRUN_CUDA_FLASH_CUH
#define MRUN_CUDA_FLASH_CUH
#include "attn.cuh"
#include "mma.cuh"

enum { FLASH_THREADS = 128 };
static constexpr float LOG2_E = 1.4426950408889634f;

// Starts the copy of rows row0 .. row0 + ROWS - 1, `width` values from column `col`.
template <int D, int ROWS>
DEV void flash_load(uint16_t *tile, const uint16_t *p, int64_t stride, int col, int row0,
                    int64_t tokens, int width)
{
#pragma unroll
    for (int e = threadIdx.x; e < ROWS * D / 8; e += FLASH_THREADS) {
        int r = e / (D / 8), c = e % (D / 8) * 8;
        bool there = row0 + r < tokens && c < width;
        copy16(tile + r * (D + 8) + c, there ? p + (row0 + r) * stride + col + c : p, there);
    }
}

DEV void flash_put(uint16_t *p, float a, float b)
{
    *(uint32_t *)p = pack(a, b);
}

DEV void flash_put(float *p, float a, float b)
{
    *(float2 *)p = make_float2(a, b);
}

// 16 rows of results from row0 on
template <int D, typename O>
DEV void flash_store(O *p, const float acc[D / 8][4], int64_t stride, int col, int row0,
                     int64_t tokens, int width)
{
    int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < D / 8; n++)
#pragma unroll
        for (int i = 0; i < 2; i++) {
            int row = row0 + lane / 4 + 8 * i, c = n * 8 + lane % 4 * 2;
            if (row < tokens && c < width)
                flash_put(p + row * stride + col + c, acc[n][2 * i], acc[n][2 * i + 1]);
        }
}

// operands 0 .. n - 1 are bf16, heads whole vectors, at most 128 wide, of q and k 192
static inline mr_status flash_shape(struct attn *k, const mr_call *c, const mr_type *q,
                                    const mr_type *v, int n, mr_err *err)
{
    for (int i = 0; i < n; i++)
        if (k->base.in_kind[i] != CUDA_BF16)
            return cuda_refuse(&k->base, err, "the tensor cores take bf16 only");
    mr_status bad = attn_shape(k, c, q, v, err);
    if (!bad && (k->a.c % 8 || k->a.cv % 8 || k->a.c > 192 || k->a.cv > 128))
        bad = cuda_refuse(&k->base, err, "head widths must be multiples of 8, at most 192 and of "
                                         "values 128");
    return bad;
}

// Runs STATEMENT with D the width of the tiles of q and k, V of v and o.
#define WITH_WIDTH(args, ...) \
    do { \
        if ((args).c <= 64 && (args).cv <= 64) { \
            constexpr int D = 64, V = 64; \
            __VA_ARGS__; \
        } else if ((args).c <= 96 && (args).cv <= 96) { \
            constexpr int D = 96, V = 96; \
            __VA_ARGS__; \
        } else if ((args).c <= 128) { \
            constexpr int D = 128, V = 128; \
            __VA_ARGS__; \
        } else { \
            constexpr int D = 192, V = 128; \
            __VA_ARGS__; \
        } \
    } while (0)

#endif
