// SPDX-License-Identifier: Apache-2.0
//
// masters.cuh - what the ops that write parameters keep of them: f32 masters with or without bf16
// weights, or bf16 weights and an i16 rest, which are the masters together (core/ops/ref.h
// defines the halves), or bf16 weights alone. get() reads V masters from element i, put() writes
// them, and the weights, where there are some. V is 4 or 1: four f32 are the 16 bytes that a
// thread moves best at a time, and a kernel with several such streams needs few registers.

#ifndef MRUN_CUDA_MASTERS_CUH
#define MRUN_CUDA_MASTERS_CUH
#include "vec.cuh"

enum { QUAD = 4 };

template <int V> DEV void get_some(const float *p, int64_t i, float x[V])
{
    if constexpr (V == QUAD) {
        const float4 a = *(const float4 *)(p + i);
        x[0] = a.x, x[1] = a.y, x[2] = a.z, x[3] = a.w;
    } else {
        x[0] = p[i];
    }
}

template <int V> DEV void put_some(float *p, int64_t i, const float x[V])
{
    if constexpr (V == QUAD)
        *(float4 *)(p + i) = float4{ x[0], x[1], x[2], x[3] };
    else
        p[i] = x[0];
}

template <int V> DEV void put_some(bf16 *p, int64_t i, const float x[V])
{
    if constexpr (V == QUAD) {
        uint2 w;
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w.x) : "f"(x[1]), "f"(x[0]));
        asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(w.y) : "f"(x[3]), "f"(x[2]));
        *(uint2 *)(p + i) = w;
    } else {
        st(p, i, x[0]);
    }
}

#define MEMBER __device__ __forceinline__

struct whole {
    float *master; // NULL: weights alone, for put()
    bf16 *weights; // NULL: none

    template <int V> MEMBER void get(int64_t i, float w[V]) const { get_some<V>(master, i, w); }
    template <int V> MEMBER void put(int64_t i, const float w[V]) const
    {
        if (master)
            put_some<V>(master, i, w);
        if (weights)
            put_some<V>(weights, i, w);
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
        if constexpr (V == QUAD) {
            const uint2 a = *(const uint2 *)(weights + i), b = *(const uint2 *)(rest + i);
            w[0] = join(a.x, b.x), w[1] = join(a.x >> 16, b.x >> 16);
            w[2] = join(a.y, b.y), w[3] = join(a.y >> 16, b.y >> 16);
        } else {
            w[0] = join(weights[i], rest[i]);
        }
    }

    template <int V> MEMBER void put(int64_t i, const float w[V]) const
    {
        uint32_t u[V];
        for (int j = 0; j < V; j++)
            u[j] = __float_as_uint(w[j]);
        if constexpr (V == QUAD) {
            *(uint2 *)(weights + i) = uint2{ weight_half(u[0]) | weight_half(u[1]) << 16,
                                             weight_half(u[2]) | weight_half(u[3]) << 16 };
            *(uint2 *)(rest + i) = uint2{ __byte_perm(u[0], u[1], 0x5410),
                                          __byte_perm(u[2], u[3], 0x5410) };
        } else {
            weights[i] = (uint16_t)weight_half(u[0]);
            rest[i] = (uint16_t)u[0];
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
