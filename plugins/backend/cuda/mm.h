/* SPDX-License-Identifier: Apache-2.0
 *
 * mm.h - our own matrix products: one for any mix of f32 and bf16 on the ordinary units, one for
 * bf16 on the tensor cores. Both take strides, so that no transposed copy is made, and both
 * serve the experts, whose row ranges lie on the device.
 */
#ifndef MRUN_CUDA_MM_H
#define MRUN_CUDA_MM_H
#include "cuda.h"
#ifdef __cplusplus
extern "C" {
#endif

/* a matrix: element (i, j) at data[i * stride_i + j * stride_j]; one stride is 1 */
struct cuda_mat {
    void *data;
    int64_t stride_i, stride_j;
    int64_t expert; /* elements from one expert's matrix to the next, 0: shared */
    int32_t kind, pad;
};

enum cuda_mm_mode {
    CUDA_MM_PLAIN = 0,
    CUDA_MM_ROWS,  /* the rows of a and c are the experts'; rows of none give 0 */
    CUDA_MM_INNER, /* the inner dim is the experts' rows; c is one matrix an expert */
};

/* c [m, n] = a [m, k] b [k, n] (+ bias [n]), or c += with `add`. In mode ROWS m, in mode INNER k
 * is the bound of all experts' rows together. */
struct cuda_mm {
    struct cuda_mat a, b, c;
    int64_t m, n, k, experts;
    const int32_t *offsets; /* [experts + 1], on the device */
    void *bias;
    int32_t bias_kind, mode, add, pad;
};

const char *cuda_mm_name(int kind_a, int kind_b);
cudaError_t cuda_mm_run(const struct cuda_mm *, cudaStream_t);

#ifdef __cplusplus
}
#endif
#endif
