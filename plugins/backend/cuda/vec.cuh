// SPDX-License-Identifier: Apache-2.0
//
// vec.cuh - V neighbouring elements at a time: 8 of them (or 4) where rows and addresses allow whole
// 16-byte accesses, else 1. A kernel is written once, over V.

#ifndef MRUN_CUDA_VEC_CUH
#define MRUN_CUDA_VEC_CUH
#include "dev.cuh"

enum { WIDE_V = 8 };

template <int V> DEV void ldv(const float *p, int64_t i, float x[V])
{
    static_assert(V == 1 || V == 4 || V == 8, "one value, or a load of 16 bytes");
    if (V == 8) {
        float4 a = *(const float4 *)(p + i), b = *(const float4 *)(p + i + 4);
        x[0] = a.x, x[1 % V] = a.y, x[2 % V] = a.z, x[3 % V] = a.w;
        x[4 % V] = b.x, x[5 % V] = b.y, x[6 % V] = b.z, x[7 % V] = b.w;
    } else if (V == 4) {
        float4 a = *(const float4 *)(p + i);
        x[0] = a.x, x[1 % V] = a.y, x[2 % V] = a.z, x[3 % V] = a.w;
    } else {
        x[0] = p[i];
    }
}

template <int V> DEV void ldv(const bf16 *p, int64_t i, float x[V])
{
    static_assert(V == 1 || V == 4 || V == 8, "one value, or a load of 8 or 16 bytes");
    if (V == 8) {
        uint4 a = *(const uint4 *)(p + i);
        const uint32_t w[4] = { a.x, a.y, a.z, a.w };
#pragma unroll
        for (int j = 0; j < 4; j++) {
            x[2 * j % V] = __uint_as_float(w[j] << 16);
            x[(2 * j + 1) % V] = __uint_as_float(w[j] & 0xffff0000u);
        }
    } else if (V == 4) {
        uint2 a = *(const uint2 *)(p + i);
        x[0] = __uint_as_float(a.x << 16), x[1 % V] = __uint_as_float(a.x & 0xffff0000u);
        x[2 % V] = __uint_as_float(a.y << 16), x[3 % V] = __uint_as_float(a.y & 0xffff0000u);
    } else {
        x[0] = ld(p, i);
    }
}

template <int V> DEV void stv(float *p, int64_t i, const float x[V])
{
    static_assert(V == 1 || V == 8, "one value, or stores of 16 bytes");
    if (V == 8) {
        *(float4 *)(p + i) = float4{ x[0], x[1 % V], x[2 % V], x[3 % V] };
        *(float4 *)(p + i + 4) = float4{ x[4 % V], x[5 % V], x[6 % V], x[7 % V] };
    } else {
        p[i] = x[0];
    }
}

template <int V> DEV void stv(bf16 *p, int64_t i, const float x[V])
{
    if (V == 8) {
        uint32_t w[4];
#pragma unroll
        for (int j = 0; j < 4; j++)
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;"
                : "=r"(w[j]) : "f"(x[(2 * j + 1) % V]), "f"(x[2 * j % V]));
        *(uint4 *)(p + i) = uint4{ w[0], w[1], w[2], w[3] };
    } else {
        st(p, i, x[0]);
    }
}

template <int V> DEV void getv(arr a, int64_t i, float x[V]) // an operand of either kind
{
    if (a.kind == CUDA_BF16)
        ldv<V>((const bf16 *)a.p, i, x);
    else
        ldv<V>((const float *)a.p, i, x);
}

// Are all there at 16-byte addresses? Absent operands are.
template <typename... P> static inline bool aligned16(const P *...p)
{
    return ((uintptr_t(0) | ... | (uintptr_t)p) % 16) == 0;
}

// Runs STATEMENT with V: 8 if `whole`, else 1.
#define WITH_V(whole, ...) \
    do { \
        if (whole) { \
            constexpr int V = WIDE_V; \
            __VA_ARGS__; \
        } else { \
            constexpr int V = 1; \
            __VA_ARGS__; \
        } \
    } while (0)

#endif
