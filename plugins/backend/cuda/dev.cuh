/* SPDX-License-Identifier: Apache-2.0
 *
 * dev.cuh - what kernels share: elements by kind, sums over lanes, launching. bf16 is kept as
 * its 16 bits: widening is a shift, narrowing one instruction (to nearest, ties to even), and
 * no large header is compiled for it. Sums are trees of fixed shape.
 */
#ifndef MRUN_CUDA_DEV_CUH
#define MRUN_CUDA_DEV_CUH
#include "cuda.h"
#include <math.h>

#define DEV static __device__ __forceinline__

struct bf16 {
    uint16_t bits;
};

DEV float widen(uint16_t bits)
{
    return __uint_as_float((uint32_t)bits << 16);
}

DEV uint16_t narrow(float x)
{
    uint16_t h;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(h) : "f"(x));
    return h;
}

DEV float ld(const float *p, int64_t i) { return p[i]; }
DEV float ld(const bf16 *p, int64_t i) { return widen(p[i].bits); }
DEV void st(float *p, int64_t i, float x) { p[i] = x; }
DEV void st(bf16 *p, int64_t i, float x) { p[i].bits = narrow(x); }
DEV float round_to(const float *, float x) { return x; }
DEV float round_to(const bf16 *, float x) { return widen(narrow(x)); }

/* An operand whose kind is known when the kernel starts, the same for all threads. For what is
 * not the bulk of the traffic: the bulk is a template's type. */
struct arr {
    void *p;
    int kind;
};

DEV float get(arr a, int64_t i)
{
    return a.kind == CUDA_F32 ? ((const float *)a.p)[i]
         : a.kind == CUDA_BF16 ? widen(((const uint16_t *)a.p)[i])
                               : (float)((const int32_t *)a.p)[i];
}

DEV void put(arr a, int64_t i, float x)
{
    if (a.kind == CUDA_F32)
        ((float *)a.p)[i] = x;
    else
        ((uint16_t *)a.p)[i] = narrow(x);
}

static inline arr in_arr(const struct kernel *k, const mr_buf *in, uint32_t i)
{
    return arr{ in[i].data, k->in_kind[i] };
}

static inline arr out_arr(const struct kernel *k, const mr_buf *out, uint32_t i)
{
    return arr{ out[i].data, k->out_kind[i] };
}

/* ---- sums and maxima; all lanes get the result ------------------------------------------ */
DEV float warp_sum(float x)
{
    for (int d = 16; d; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    return x;
}

DEV float warp_max(float x)
{
    for (int d = 16; d; d >>= 1)
        x = fmaxf(x, __shfl_xor_sync(~0u, x, d));
    return x;
}

/* Over L lanes: a warp, or the whole block, whose `room` holds a float a warp. A block passes
 * its own room for each sum, or syncs between. */
template <int L> DEV float lanes_sum(float x, float *room)
{
    x = warp_sum(x);
    if (L == 32)
        return x;
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < L / 32 ? room[threadIdx.x % 32] : 0;
    return warp_sum(x);
}

DEV double block_sum_double(double x, double *room) /* room: a double a warp */
{
    for (int d = 16; d; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    if (threadIdx.x % 32 == 0)
        room[threadIdx.x / 32] = x;
    __syncthreads();
    x = threadIdx.x % 32 < blockDim.x / 32 ? room[threadIdx.x % 32] : 0;
    for (int d = 16; d; d >>= 1)
        x += __shfl_xor_sync(~0u, x, d);
    return x;
}

DEV float sigmoid(float x)
{
    return 1 / (1 + expf(-x));
}

/* ---- launching -------------------------------------------------------------------------- */
#define THREADS 256
#define GRID_LOOP(i, n) \
    for (int64_t i = blockIdx.x * (int64_t)blockDim.x + threadIdx.x; i < (n); \
         i += (int64_t)gridDim.x * blockDim.x)

static inline unsigned grid_for(int64_t n) /* of THREADS threads, for a GRID_LOOP over n */
{
    int64_t blocks = cuda_ceil(n, THREADS);
    return (unsigned)(blocks < 1 ? 1 : blocks > 132 * 16 ? 132 * 16 : blocks);
}

/* More than 48 KiB of shared memory must be asked for, once a kernel: in prepare(). */
static inline mr_status want_shared(const struct kernel *k, const void *fn, size_t bytes,
                                    mr_err *err)
{
    if (bytes > 227 * 1024)
        return cuda_refuse(k, err, "it needs more shared memory than a multiprocessor has");
    if (bytes <= 48 * 1024)
        return MR_OK;
    cudaError_t e = cudaFuncSetAttribute(fn, cudaFuncAttributeMaxDynamicSharedMemorySize,
                                         (int)bytes);
    return e ? cuda_fail(err, e, k->op) : MR_OK;
}

/* Runs STATEMENT with F the element type of `kind`. */
#define WITH_TYPE(kind, ...) \
    do { \
        if ((kind) == CUDA_BF16) { \
            typedef bf16 F; \
            __VA_ARGS__; \
        } else { \
            typedef float F; \
            __VA_ARGS__; \
        } \
    } while (0)

#define RUN_ARGS \
    const struct kernel *base, const mr_buf *in, const mr_buf *out, void *ws, cudaStream_t stream, \
        mr_err *err

#endif
