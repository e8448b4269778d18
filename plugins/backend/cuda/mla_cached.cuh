// SPDX-License-Identifier: Apache-2.0
//
// mla_cached.cuh - what the two ways to attend over cached latents share: where a new token
// stands in the cache, and the parts that they leave for the last step to join. A part of a token
// and head is its maximum, its sum, and L sums weighted by exp(score - maximum), all f32.

#ifndef MRUN_CUDA_MLA_CACHED_CUH
#define MRUN_CUDA_MLA_CACHED_CUH
#include "early.cuh"
#include "mla.cuh"
#include "pages.cuh"

// keys first .. end - 1 of the p + 1 that a token sees are a split's
DEV void split_of(int64_t p, int64_t *first, int64_t *end)
{
    int64_t share = (p / gridDim.z / 64 + 1) * 64; // whole tiles
    *first = blockIdx.z * share;
    *end = *first + share < p + 1 ? *first + share : p + 1;
}

// mla_decode.cu: the tensor cores' way, for bf16 latents of 512 + 64 values. 0: it will do.
mr_status mla_decode_prepare(const struct kernel *k, int latent, int rope, int cache_kind,
                             mr_err *err);
void mla_decode(const float *absorbed, const void *latents, float *parts, const cache_view &at,
                float scale, int heads, int64_t tokens, int splits, cudaStream_t stream);

// mla_project.cu: both sides of it on the tensor cores, for bf16. 0: it will do. n: parts of a row.
mr_status mla_project_prepare(const struct kernel *k, int q_kind, int w_kind, int L,
                              const mla_args *a, int n, mr_err *err);
cudaError_t mla_absorb(const struct kernel *k, const void *q, const void *w, float *absorbed,
                       int64_t tokens, int L, const mla_args *a, cudaStream_t stream);
cudaError_t mla_expand(const struct kernel *k, const float *parts, const void *w, arr o,
                       const cache_view &at, int64_t tokens, int L, const mla_args *a, int n,
                       cudaStream_t stream); // joins the parts, too

#endif
