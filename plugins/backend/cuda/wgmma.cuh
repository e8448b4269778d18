/* SPDX-License-Identifier: Apache-2.0
 *
 * wgmma.cuh - Hopper's own instructions (sm_90a) behind small functions: barriers that count
 * bytes, the copy engine's tiles (to one block or to a whole cluster), products of a warpgroup,
 * and registers moved from one warpgroup to another.
 *
 * A bf16 operand lies in shared memory as boxes of 64 lines of 128 bytes with the 128-byte
 * swizzle, 8 KiB each, on 1 KiB borders: lines run along the inner dim, either k ("as is") or the
 * row or column ("turned"). A product m64n128k16 reads one box of a and two of b, m64n256k16 four.
 */
#ifndef MRUN_CUDA_WGMMA_CUH
#define MRUN_CUDA_WGMMA_CUH
#include "dev.cuh"
#include <cuda.h>

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define HAS_WGMMA 1
#endif
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 900
#define PAIR_OF_BLOCKS /* the kernel is empty there, and the chip has no clusters */
#else
#define PAIR_OF_BLOCKS __cluster_dims__(2, 1, 1)
#endif

enum { BOX = 64, BOX_BYTES = BOX * BOX * 2 };

DEV uint32_t shared_address(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}

#ifdef HAS_WGMMA
/* ---- barriers --------------------------------------------------------------------------- */
DEV void barrier_init(uint64_t *bar, uint32_t count)
{
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_address(bar)), "r"(count));
}

/* after the inits, before the cluster meets: the copy engine and the neighbour see them */
DEV void barriers_visible(void)
{
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

/* one arrival, and so many bytes on their way */
DEV void barrier_expect(uint64_t *bar, uint32_t bytes)
{
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 ::"r"(shared_address(bar)), "r"(bytes) : "memory");
}

DEV void barrier_arrive(uint64_t *bar)
{
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(bar)) : "memory");
}

/* one arrival at the same barrier of block `rank` of the cluster */
DEV void barrier_arrive_at(uint64_t *bar, uint32_t rank)
{
    asm volatile("{\n.reg .b32 far;\n"
                 "mapa.shared::cluster.u32 far, %0, %1;\n"
                 "mbarrier.arrive.shared::cluster.b64 _, [far];\n}"
                 ::"r"(shared_address(bar)), "r"(rank) : "memory");
}

DEV void barrier_wait(uint64_t *bar, uint32_t parity)
{
    asm volatile("{\n.reg .pred done;\n"
                 "again:\n"
                 "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1;\n"
                 "@done bra over;\n"
                 "bra again;\n"
                 "over:\n}" ::"r"(shared_address(bar)), "r"(parity) : "memory");
}

DEV uint32_t cluster_rank(void)
{
    uint32_t r;
    asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
    return r;
}

DEV void cluster_meet(void)
{
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
}

/* `n` threads meet at barrier `id` (0 is __syncthreads) */
DEV void group_meet(int id, int n)
{
    asm volatile("bar.sync %0, %1;" ::"r"(id), "r"(n) : "memory");
}

/* counts at barrier `id` like those who meet there, and goes on */
DEV void group_arrive(int id, int n)
{
    asm volatile("bar.arrive %0, %1;" ::"r"(id), "r"(n) : "memory");
}

/* what ordinary stores left in shared memory is seen by products and copies started later */
DEV void shared_stores_visible(void)
{
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

/* ---- copies ----------------------------------------------------------------------------- */
/* A box at (x, y, z) to `dst`; what lies outside of the map becomes 0 and counts all the same. */
DEV void box_load(void *dst, const CUtensorMap *map, int x, int y, int z, uint64_t *bar)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1, {%2, %3, %4}], [%5];"
                 ::"r"(shared_address(dst)), "l"(map), "r"(x), "r"(y), "r"(z),
                   "r"(shared_address(bar)) : "memory");
}

/* the same to the same place, and the same barrier, in both blocks of a cluster of two */
DEV void box_load_both(void *dst, const CUtensorMap *map, int x, int y, int z, uint64_t *bar)
{
    asm volatile("cp.async.bulk.tensor.3d.shared::cluster.global.mbarrier::complete_tx::bytes"
                 ".multicast::cluster [%0], [%1, {%2, %3, %4}], [%5], %6;"
                 ::"r"(shared_address(dst)), "l"(map), "r"(x), "r"(y), "r"(z),
                   "r"(shared_address(bar)), "h"((uint16_t)3) : "memory");
}

DEV void map_prefetch(const CUtensorMap *map)
{
    asm volatile("prefetch.tensormap [%0];" ::"l"(map) : "memory");
}

/* ---- products --------------------------------------------------------------------------- */
template <int N> DEV void registers_give(void)
{
    asm volatile("setmaxnreg.dec.sync.aligned.u32 %0;" ::"n"(N));
}

template <int N> DEV void registers_take(void)
{
    asm volatile("setmaxnreg.inc.sync.aligned.u32 %0;" ::"n"(N));
}

/* Where an operand's boxes lie, as wgmma reads it: address, from box to box (turned: LBO), from
 * 8 lines to the next 8 (SBO, 1 KiB), swizzle of 128 bytes. The address keeps its low 18 bits:
 * above them stands the block's rank in its cluster. */
DEV uint64_t operand_at(const void *boxes)
{
    return (uint64_t)(shared_address(boxes) >> 4 & 0x3fff) | (uint64_t)(BOX_BYTES >> 4) << 16 |
           (uint64_t)(1024 >> 4) << 32 | 1ull << 62;
}

/* what a step of 16 along k adds to it: 32 bytes of each line, or 16 lines */
template <int TURNED> DEV constexpr uint64_t k_step(void)
{
    return (TURNED ? 16 * 128 : 32) >> 4;
}

DEV void products_begin(void)
{
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
}

DEV void products_end(void)
{
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
}

template <int N> DEV void products_wait(void)
{
    asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(N) : "memory");
}

/* the compiler shall not move uses of d over this point */
DEV void hold(float d[64])
{
#pragma unroll
    for (int i = 0; i < 64; i++)
        asm volatile("" : "+f"(d[i])::"memory");
}

#define D8(d, i) \
    "+f"(d[i]), "+f"(d[i + 1]), "+f"(d[i + 2]), "+f"(d[i + 3]), "+f"(d[i + 4]), "+f"(d[i + 5]), \
        "+f"(d[i + 6]), "+f"(d[i + 7])
#define D64(d) \
    D8(d, 0), D8(d, 8), D8(d, 16), D8(d, 24), D8(d, 32), D8(d, 40), D8(d, 48), D8(d, 56)

/* d (64 x 128, fp32) = a b, or += if `more`. In d thread t of the warpgroup holds rows
 * t / 32 * 16 + t % 32 / 4 (d[4 j], d[4 j + 1]) and 8 further (d[4 j + 2], d[4 j + 3]), columns
 * 8 j + t % 4 * 2 and the next. */
template <int A_TURNED, int B_TURNED>
DEV void product(float d[64], uint64_t a, uint64_t b, int more)
{
    asm volatile("{\n.reg .pred more;\n"
                 "setp.ne.b32 more, %66, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n128k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63}, "
                 "%64, %65, more, 1, 1, %67, %68;\n}"
                 : D64(d)
                 : "l"(a), "l"(b), "r"(more), "n"(A_TURNED), "n"(B_TURNED));
}

/* the same for 64 x 256, four boxes of b: c is the left half, d the right */
template <int A_TURNED, int B_TURNED>
DEV void product_wide(float c[64], float d[64], uint64_t a, uint64_t b, int more)
{
    asm volatile("{\n.reg .pred more;\n"
                 "setp.ne.b32 more, %130, 0;\n"
                 "wgmma.mma_async.sync.aligned.m64n256k16.f32.bf16.bf16 "
                 "{%0, %1, %2, %3, %4, %5, %6, %7, %8, %9, %10, %11, %12, %13, %14, %15, "
                 "%16, %17, %18, %19, %20, %21, %22, %23, %24, %25, %26, %27, %28, %29, %30, %31, "
                 "%32, %33, %34, %35, %36, %37, %38, %39, %40, %41, %42, %43, %44, %45, %46, %47, "
                 "%48, %49, %50, %51, %52, %53, %54, %55, %56, %57, %58, %59, %60, %61, %62, %63, "
                 "%64, %65, %66, %67, %68, %69, %70, %71, %72, %73, %74, %75, %76, %77, %78, %79, "
                 "%80, %81, %82, %83, %84, %85, %86, %87, %88, %89, %90, %91, %92, %93, %94, %95, "
                 "%96, %97, %98, %99, %100, %101, %102, %103, %104, %105, %106, %107, %108, %109, %110, %111, "
                 "%112, %113, %114, %115, %116, %117, %118, %119, %120, %121, %122, %123, %124, %125, %126, %127}, "
                 "%128, %129, more, 1, 1, %131, %132;\n}"
                 : D64(c), D64(d)
                 : "l"(a), "l"(b), "r"(more), "n"(A_TURNED), "n"(B_TURNED));
}
#undef D64
#undef D8

/* four 8 x 8 tiles of bf16 to shared memory; lane l gives the place of row l % 8 of tile l / 8 */
DEV void store_matrices(void *at, uint32_t a, uint32_t b, uint32_t c, uint32_t d)
{
    asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};"
                 ::"r"(shared_address(at)), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

/* four floats are added where they lie in global memory, on a border of 16 bytes */
DEV void add_far(float *to, float4 v)
{
    asm volatile("red.relaxed.gpu.global.add.v4.f32 [%0], {%1, %2, %3, %4};"
                 ::"l"(to), "f"(v.x), "f"(v.y), "f"(v.z), "f"(v.w) : "memory");
}

DEV uint32_t pack_bf16(float low, float high)
{
    uint32_t r;
    asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(r) : "f"(high), "f"(low));
    return r;
}
#endif /* HAS_WGMMA */
#endif
