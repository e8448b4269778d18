/* SPDX-License-Identifier: Apache-2.0
 *
 * gemm.h - the matrix-product library, wrapped. Row-major; compiled once, for any CPU: the
 * library chooses its own instructions. It runs on this plugin's OpenMP threads.
 */
#ifndef MRUN_CPU_GEMM_H
#define MRUN_CPU_GEMM_H
#include "cpu.h"

/* C[M,N] = beta C + op(A)[M,K] op(B)[K,N], f32; ta, tb: 1 if stored transposed */
mr_status cpu_sgemm(int ta, int tb, int64_t M, int64_t N, int64_t K, const float *A, int64_t lda,
                    const float *B, int64_t ldb, float beta, float *C, int64_t ldc, mr_err *err);

/* One product of fixed sizes, made at query: A and B both f32 or both bf16, C and bias either. */
struct cpu_product {
    int64_t m, n, k;
    int64_t a_rs, a_cs, b_rs, b_cs; /* strides of rows and columns; C is dense */
    int in_bf, c_bf, bias_bf;
    int has_bias, add; /* add: C += */
};

struct cpu_matmul; /* the library's plan of a product */

/* NULL if the library has no such product on this CPU. *scratch: bytes that run needs. */
struct cpu_matmul *cpu_matmul_make(void *library, const struct cpu_product *p, uint64_t *scratch);
void cpu_matmul_free(struct cpu_matmul *m); /* NULL is fine */
mr_status cpu_matmul_run(struct cpu_matmul *m, void *a, void *b, void *bias, void *c, void *scratch,
                         mr_err *err);

/* what plans share: one for a device; NULL: the library does not work here */
void *cpu_library_open(void);
void cpu_library_close(void *library);

#endif
