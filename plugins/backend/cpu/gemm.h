/* SPDX-License-Identifier: Apache-2.0
 *
 * gemm.h - the matrix-product library, wrapped. Row-major; compiled once, for any CPU: the
 * library chooses its own instructions. It runs on this plugin's OpenMP threads; called
 * inside a parallel region it keeps to the calling thread.
 */
#ifndef MRUN_CPU_GEMM_H
#define MRUN_CPU_GEMM_H
#include "cpu.h"

/* C[M,N] = beta C + op(A)[M,K] op(B)[K,N], f32; ta, tb: 1 if stored transposed */
mr_status cpu_sgemm(int ta, int tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                    const float *B, int64_t ldb, float beta, float *C, int64_t ldc, mr_err *err);

#endif
