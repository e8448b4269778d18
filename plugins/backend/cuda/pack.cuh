// SPDX-License-Identifier: Apache-2.0
//
// pack.cuh - how memory-bound kernels read: V neighbouring elements are a pack, kept as the words
// that memory holds, so that a thread can have several 16-byte loads under way before it widens
// the first. A block has U packs a thread, THREADS apart, and is not a loop: what a multiprocessor
// has under way is (its blocks) THREADS U 16 bytes, of which some 40 KiB hide the memory's latency.

#ifndef MRUN_CUDA_PACK_CUH
#define MRUN_CUDA_PACK_CUH
#include "vec.cuh"

#define INLINE_DEV __device__ __forceinline__

template <typename F, int V> struct pack {
    static constexpr int WORDS = V * (int)sizeof(F) / 16;
    uint4 w[WORDS];
    INLINE_DEV void load(const F *p, int64_t i)
    {
#pragma unroll
        for (int j = 0; j < WORDS; j++)
            w[j] = ((const uint4 *)(p + i))[j];
    }
    INLINE_DEV void store(F *p, int64_t i) const
    {
#pragma unroll
        for (int j = 0; j < WORDS; j++)
            ((uint4 *)(p + i))[j] = w[j];
    }
    INLINE_DEV void widen(float x[V]) const { split((const F *)nullptr, x); }
    INLINE_DEV void narrow(const float x[V]) { join((const F *)nullptr, x); }

  private:
    INLINE_DEV uint32_t word(int j) const
    {
        return j % 4 == 0 ? w[j / 4].x : j % 4 == 1 ? w[j / 4].y : j % 4 == 2 ? w[j / 4].z
                                                                              : w[j / 4].w;
    }
    INLINE_DEV void split(const float *, float x[V]) const
    {
#pragma unroll
        for (int j = 0; j < V; j++)
            x[j] = __uint_as_float(word(j));
    }
    INLINE_DEV void split(const bf16 *, float x[V]) const
    {
#pragma unroll
        for (int j = 0; j < V; j++)
            x[j] = __uint_as_float(j % 2 ? word(j / 2) & 0xffff0000u : word(j / 2) << 16);
    }
    INLINE_DEV void join(const float *, const float x[V])
    {
#pragma unroll
        for (int j = 0; j < V; j += 4)
            w[j / 4] = uint4{ __float_as_uint(x[j]), __float_as_uint(x[j + 1]),
                              __float_as_uint(x[j + 2]), __float_as_uint(x[j + 3]) };
    }
    INLINE_DEV void join(const bf16 *, const float x[V])
    {
        uint32_t a[V / 2];
#pragma unroll
        for (int j = 0; j < V / 2; j++)
            asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(a[j]) : "f"(x[2 * j + 1]), "f"(x[2 * j]));
#pragma unroll
        for (int j = 0; j < V / 2; j += 4)
            w[j / 4] = uint4{ a[j], a[j + 1], a[j + 2], a[j + 3] };
    }
};

template <typename F> struct pack<F, 1> { // where sizes or addresses do not allow more
    F x0;
    INLINE_DEV void load(const F *p, int64_t i) { x0 = p[i]; }
    INLINE_DEV void store(F *p, int64_t i) const { p[i] = x0; }
    INLINE_DEV void widen(float x[1]) const { x[0] = ld(&x0, 0); }
    INLINE_DEV void narrow(const float x[1]) { st(&x0, 0, x[0]); }
};

// Runs STATEMENT with F the element type of `kind` and V: 16 bytes of it if `whole` (rows of a
// multiple of 8 at aligned addresses), else 1.
#define WITH_PACK(kind, whole, ...) \
    do { \
        if ((kind) == CUDA_BF16 && (whole)) { \
            typedef bf16 F; \
            constexpr int V = 8; \
            __VA_ARGS__; \
        } else if (whole) { \
            typedef float F; \
            constexpr int V = 4; \
            __VA_ARGS__; \
        } else { \
            constexpr int V = 1; \
            WITH_TYPE(kind, __VA_ARGS__); \
        } \
    } while (0)

// ---- which packs a thread has ---------------------------------------------------------------
// of a flat operand: pack u
template <int U> DEV int64_t flat_pack(int u)
{
    return blockIdx.x * (int64_t)(U * THREADS) + u * THREADS + threadIdx.x;
}

// for each pack u of this thread, number c of n
#define EACH_PACK(c, n) \
    _Pragma("unroll") for (int u = 0; u < U; u++) \
        if (int64_t c = flat_pack<U>(u); c < (n))

// of an operand of rows: pack u lies in row `row`, `col` packs from its start. 32-bit divisions
// where they do: a 64-bit one takes as long as a load.
struct spot {
    int64_t row;
    uint32_t col;
};

template <int U> struct row_packs {
    int64_t row0;
    uint32_t col0, per_row;
    INLINE_DEV explicit row_packs(uint32_t packs_a_row) : per_row(packs_a_row)
    {
        int64_t first = blockIdx.x * (int64_t)(U * THREADS);
        row0 = first >> 32 ? first / per_row : (uint32_t)first / per_row;
        col0 = (uint32_t)(first - row0 * per_row) + threadIdx.x;
    }
    INLINE_DEV spot at(int u) const
    {
        uint32_t c = col0 + u * THREADS, r = c / per_row;
        return spot{ row0 + r, c - r * per_row };
    }
};

// the blocks for n packs
template <int U> static inline unsigned pack_grid(int64_t n)
{
    return (unsigned)cuda_ceil(n, U * THREADS);
}

// A kernel reads several operands as one type: the inputs whose bit is set, if they are there.
static inline mr_status same_kinds(const struct kernel *k, uint32_t inputs, mr_err *err)
{
    int kind = -1;
    for (uint32_t i = 0; i < k->n_in; i++) {
        if (!(k->present & inputs & 1u << i))
            continue;
        if (kind >= 0 && k->in_kind[i] != kind)
            return cuda_refuse(k, err, "its operands are of two dtypes");
        kind = k->in_kind[i];
    }
    return MR_OK;
}

// Rows of more packs than 31 bits count, and grids beyond them, are refused: nobody has them.
static inline mr_status packs_fit(const struct kernel *k, int64_t n, int64_t width, mr_err *err)
{
    if (width > INT32_MAX || n / THREADS > INT32_MAX)
        return cuda_refuse(k, err, "an operand has more elements than the launch grid counts");
    return MR_OK;
}

// ---- exponentials: bf16 has 8 bits, so the units' own suffice; f32 stays exact ----------------
template <typename F> DEV float exp_for(float x)
{
    return sizeof(F) == 2 ? __expf(x) : expf(x);
}

template <typename F> DEV float sigmoid_for(float x)
{
    return sizeof(F) == 2 ? __fdividef(1.0f, 1.0f + __expf(-x)) : sigmoid(x);
}

#endif
