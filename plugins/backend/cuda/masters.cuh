// SPDX-License-Identifier: Apache-2.0
//
// masters.cuh - what the ops that write parameters keep of them: f32 masters with or without bf16
// weights, or bf16 weights and an i16 rest, which are the masters together (core/ops/ref.h
// defines the halves), or bf16 weights alone. get() reads V masters from element i, put() writes
// them, and the weights, where there are some; V is WIDE_V at 16-byte addresses, or 1.

#ifndef MRUN_CUDA_MASTERS_CUH
#define MRUN_CUDA_MASTERS_CUH
#include "vec.cuh"

#define MEMBER __device__ __forceinline__

struct whole {
    float *master; // NULL: weights alone, for put()
    bf16 *weights; // NULL: none

    template <int V> MEMBER void get(int64_t i, float w[V]) const { ldv<V>(master, i, w); }
    template <int V> MEMBER void put(int64_t i, const float w[V]) const
    {
        if (master)
            stv<V>(master, i, w);
        if (weights)
            stv<V>(weights, i, w);
    }
};

DEV uint32_t weight_half(uint32_t u) // to nearest, ties away from zero; NaN stays NaN
{
    return (u & 0x7fffffffu) > 0x7f800000u ? u >> 16 | 0x40 : (u + 0x8000u) >> 16;
}

DEV float join(uint32_t weight, uint32_t rest) // each in its low 16 bits
{
    return __uint_as_float((weight << 16) + (uint32_t)(int32_t)(int16_t)rest);
}

struct split {
    uint16_t *rest, *weights;

    template <int V> MEMBER void get(int64_t i, float w[V]) const
    {
        if constexpr (V == 1) {
            w[0] = join(weights[i], rest[i]);
        } else {
            const uint4 a = *(const uint4 *)(weights + i), b = *(const uint4 *)(rest + i);
            const uint32_t hi[4] = { a.x, a.y, a.z, a.w }, lo[4] = { b.x, b.y, b.z, b.w };
#pragma unroll
            for (int j = 0; j < 4; j++) {
                w[2 * j] = join(hi[j], lo[j]);
                w[2 * j + 1] = join(hi[j] >> 16, lo[j] >> 16);
            }
        }
    }

    template <int V> MEMBER void put(int64_t i, const float w[V]) const
    {
        if constexpr (V == 1) {
            weights[i] = (uint16_t)weight_half(__float_as_uint(w[0]));
            rest[i] = (uint16_t)__float_as_uint(w[0]);
        } else {
            uint32_t hi[4], lo[4];
#pragma unroll
            for (int j = 0; j < 4; j++) {
                uint32_t u = __float_as_uint(w[2 * j]), v = __float_as_uint(w[2 * j + 1]);
                hi[j] = weight_half(u) | weight_half(v) << 16;
                lo[j] = __byte_perm(u, v, 0x5410);
            }
            *(uint4 *)(weights + i) = uint4{ hi[0], hi[1], hi[2], hi[3] };
            *(uint4 *)(rest + i) = uint4{ lo[0], lo[1], lo[2], lo[3] };
        }
    }
};

// Runs STATEMENT with `masters` as the operands say.
#define WITH_MASTERS(kernel, in, weights_at, ...) \
    do { \
        if ((kernel)->in_kind[0] == CUDA_I16) { \
            const split masters = { (uint16_t *)in[0].data, (uint16_t *)in[weights_at].data }; \
            __VA_ARGS__; \
        } else { \
            const whole masters = { (float *)in[0].data, (bf16 *)in[weights_at].data }; \
            __VA_ARGS__; \
        } \
    } while (0)

#endif
