/* SPDX-License-Identifier: Apache-2.0
 *
 * mm.h - matrix products of this plugin's own, one thread each: `mm` on f32 tiles that lie
 * in the cache, and `mm_packed` on matrices of any size, layout and dtype. Every element is
 * one sum whose order depends on its shape alone, so threads never change a bit of it.
 */
#ifndef MRUN_CPU_MM_H
#define MRUN_CPU_MM_H
#include "vec.h"

/* C[m][n] = (acc ? C[m][n] : 0) + sum_k A[m rs + k cs] B[k ldb + n]; N a multiple of W */
#define mm ISA_NAME(cpu_mm)
void mm(int64_t M, int64_t N, int64_t K, const float *A, int64_t rs, int64_t cs, const float *B,
        int64_t ldb, float *C, int64_t ldc, int acc);

/* element (i, j) is at i rs + j cs; one of the strides is 1 */
struct mat {
    arr a;
    int64_t rs, cs;
};

INLINE struct mat mat_at(struct mat m, int64_t i, int64_t j)
{
    m.a = arr_at(m.a, i * m.rs + j * m.cs);
    return m;
}

/* C[M,N] row-major = (acc ? C : 0) + A[M,K] B[K,N] + bias[n]; an absent bias has p NULL.
 * `room` holds mm_room(K) bytes. */
#define mm_packed ISA_NAME(cpu_mm_packed)
void mm_packed(int64_t M, int64_t N, int64_t K, struct mat A, struct mat B, arr C, int64_t ldc,
               int acc, arr bias, void *room);
#define mm_room ISA_NAME(cpu_mm_room)
uint64_t mm_room(int64_t K);

/* The same with sums in double, for f32 A, B and C and K up to EXACT_K. */
enum { EXACT_K = 512, EXACT_SIZE = 1 << 22, EXACT_ROWS = 256 };
#define mm_exact ISA_NAME(cpu_mm_exact)
void mm_exact(int64_t M, int64_t N, int64_t K, struct mat A, struct mat B, arr C, int64_t ldc,
              int acc, arr bias);

/* Of a whole product, not of a part of it: few rows of tokens, by a weight of I x O, with sums of
 * K. Training has more rows than that, comparing with references has not. */
INLINE int exact_pays(int64_t rows, int64_t I, int64_t O, int64_t K)
{
    return rows <= EXACT_ROWS && K <= EXACT_K && (!I || !O || rows <= EXACT_SIZE / I / O);
}

/* The same for M <= THIN rows of f32 A, lda apart, without packing. dots: B is [N,K], each
 * element a dot product; if B is bf16, mm_apart() was called on each row of A. sums: B is
 * [K,N]; room holds M x min(N up to a multiple of W, 512) floats. */
enum { THIN = 8 };
#define mm_apart ISA_NAME(cpu_mm_apart)
void mm_apart(float *a, int64_t n);
#define mm_thin_dots ISA_NAME(cpu_mm_thin_dots)
void mm_thin_dots(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, arr B, int64_t ldb,
                  arr C, int64_t ldc, arr bias);
#define mm_thin_sums ISA_NAME(cpu_mm_thin_sums)
void mm_thin_sums(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, arr B, int64_t ldb,
                  arr C, int64_t ldc, int acc, arr bias, float *room);

/* dst[c ldd + r] = src[r lds + c] for r < rows, c < cols */
#define mm_transpose ISA_NAME(cpu_mm_transpose)
void mm_transpose(float *dst, int64_t ldd, arr src, int64_t lds, int64_t rows, int64_t cols);

#endif
