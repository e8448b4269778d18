/* SPDX-License-Identifier: Apache-2.0
 *
 * fp8.h - a product of two matrices of 8-bit floats, each read along the summed dim.
 */
#ifndef MRUN_CUDA_FP8_H
#define MRUN_CUDA_FP8_H
#include "cuda.h"
#ifdef __cplusplus
extern "C" {
#endif

/* c [rows, cols] (+)= a_scale b_scale (a bᵀ) + bias [cols]; a [rows, inner], b [cols, inner]; the
 * scales lie on the device. Kinds of c and bias: enum cuda_kind. */
struct cuda_fp8_product {
    const uint8_t *a, *b;
    const float *a_scale, *b_scale;
    void *c;
    const void *bias; /* NULL: none */
    int64_t rows, cols, inner;
    int a_e5m2, b_e5m2, c_kind, bias_kind, add, pad;
};

cudaError_t cuda_fp8_plain(const struct cuda_fp8_product *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
