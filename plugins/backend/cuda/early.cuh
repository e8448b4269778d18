// SPDX-License-Identifier: Apache-2.0
//
// early.cuh - programmatic dependent launch: a kernel launched by launch_early() starts while the
// one before it on the stream still runs, asks for what cannot change to come into the L2, and
// waits in previous_done() before it reads or writes anything else. So small kernels follow each
// other without gaps, and memory is busy across their borders. Captured into a graph this becomes a
// programmatic edge; where the GPU or the kernel before knows nothing of it, the launch is plain.
//
// Invariant: every thread of such a kernel passes previous_done() before its first read of an
// operand's values and before its first write, so that whoever waits for this kernel has waited for
// all before it. Before it there are hints only: a prefetch of what is stale changes nothing.

#ifndef MRUN_CUDA_EARLY_CUH
#define MRUN_CUDA_EARLY_CUH
#include "dev.cuh"

DEV void previous_done(void)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

DEV void next_may_start(void) // once all blocks have said so, or have ended
{
#if __CUDA_ARCH__ >= 900
    asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// `bytes` from p on, both multiples of 16, into the L2
DEV void into_l2(const void *p, uint32_t bytes)
{
#if __CUDA_ARCH__ >= 900
    asm volatile("cp.async.bulk.prefetch.L2.global [%0], %1;" ::"l"(p), "r"(bytes) : "memory");
#else
    (void)p, (void)bytes;
#endif
}

// ---- clusters: blocks that may read each other's shared memory; one block each before Hopper ----
DEV uint32_t cluster_rank(void)
{
    uint32_t r = 0;
#if __CUDA_ARCH__ >= 900
    asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(r));
#endif
    return r;
}

DEV void cluster_sync(void) // what all of them wrote before, all of them see
{
#if __CUDA_ARCH__ >= 900
    asm volatile("barrier.cluster.arrive.release.aligned;\n"
                 "barrier.cluster.wait.acquire.aligned;" ::: "memory");
#endif
}

DEV float of_rank(const float *shared, uint32_t rank) // that block's value at the same place
{
#if __CUDA_ARCH__ >= 900
    uint32_t at;
    float x;
    asm volatile("mapa.shared::cluster.u32 %0, %1, %2;\n"
                 : "=r"(at) : "r"((uint32_t)__cvta_generic_to_shared(shared)), "r"(rank));
    asm volatile("ld.shared::cluster.f32 %0, [%1];" : "=f"(x) : "r"(at) : "memory");
    return x;
#else
    (void)rank;
    return *shared;
#endif
}

// ---- launching ------------------------------------------------------------------------------
// `cluster`: neighbours in x that form one, 1 on GPUs before Hopper.
template <typename... P, typename... A>
static inline cudaError_t launch_early(const struct kernel *k, void (*fn)(P...), dim3 grid,
                                       int threads, size_t shared, int cluster,
                                       cudaStream_t stream, A... args)
{
    cudaLaunchAttribute attr[2];
    cudaLaunchConfig_t c = {};
    c.gridDim = grid;
    c.blockDim = dim3((unsigned)threads);
    c.dynamicSmemBytes = shared;
    c.stream = stream;
    c.attrs = attr;
    if (k->dev->cc >= 90) {
        attr[c.numAttrs].id = cudaLaunchAttributeProgrammaticStreamSerialization;
        attr[c.numAttrs++].val.programmaticStreamSerializationAllowed = 1;
    }
    if (cluster > 1) {
        attr[c.numAttrs].id = cudaLaunchAttributeClusterDimension;
        attr[c.numAttrs].val.clusterDim.x = (unsigned)cluster;
        attr[c.numAttrs].val.clusterDim.y = 1;
        attr[c.numAttrs++].val.clusterDim.z = 1;
    }
    return cudaLaunchKernelEx(&c, fn, P(args)...);
}

#endif
