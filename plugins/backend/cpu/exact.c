/* SPDX-License-Identifier: Apache-2.0
 *
 * exact.c - small f32 products with sums in double. A product of two f32 is exact there, and the
 * sum of a few hundred is rounded once, when it is stored: the error of an element is half a unit
 * of its last place, not that of K additions. Deep models amplify what products lose, so tiny ones,
 * which are compared with references, are held to much more than their speed is worth.
 *
 * Twice the lanes and a conversion: about a third of mm's rate. Columns of B are packed as doubles,
 * then go through the rows of A, four at a time. Sums run over k in order, whatever the threads do.
 */
#include "mm.h"

typedef double vd __attribute__((vector_size(4 * W)));
enum { D = W / 2, COLS = 2 * D, ROWS = 4 };

INLINE float at(struct mat m, int64_t i, int64_t j)
{
    return ((const float *)m.a.p)[i * m.rs + j * m.cs];
}

/* b[k][0..COLS) = B[k][j..], zeros past the last column */
static void pack(double *b, struct mat B, int64_t K, int64_t j, int64_t cols)
{
    for (int64_t k = 0; k < K && B.cs == 1; k++)
        for (int64_t c = 0; c < COLS; c++)
            b[k * COLS + c] = c < cols ? (double)at(B, k, j + c) : 0;
    for (int64_t c = 0; c < COLS && B.cs != 1; c++)
        for (int64_t k = 0; k < K; k++)
            b[k * COLS + c] = c < cols ? (double)at(B, k, j + c) : 0;
}

/* out[r][c] = sum over k of A[i + r][k] b[k][c], for the n rows from i on */
INLINE void tile(const int n, struct mat A, int64_t i, int64_t K, const double *b, double *out)
{
    vd s[ROWS][2];
    for (int r = 0; r < n; r++)
        s[r][0] = s[r][1] = (vd){ 0 };
    for (int64_t k = 0; k < K; k++) {
        vd b0, b1;
        __builtin_memcpy(&b0, b + k * COLS, sizeof b0);
        __builtin_memcpy(&b1, b + k * COLS + D, sizeof b1);
#pragma GCC unroll 4
        for (int r = 0; r < n; r++) {
            double a = (double)at(A, i + r, k);
            s[r][0] += a * b0;
            s[r][1] += a * b1;
        }
    }
    __builtin_memcpy(out, s, (size_t)n * sizeof s[0]);
}

void mm_exact(int64_t M, int64_t N, int64_t K, struct mat A, struct mat B, arr C, int64_t ldc,
              int acc, arr bias)
{
    double b[EXACT_K * COLS] __attribute__((aligned(64))), sum[ROWS * COLS];
    for (int64_t j = 0; j < N; j += COLS) {
        int64_t cols = N - j < COLS ? N - j : COLS;
        pack(b, B, K, j, cols);
        for (int64_t i = 0, n; i < M; i += n) {
            n = M - i < ROWS ? 1 : ROWS;
            if (n == ROWS)
                tile(ROWS, A, i, K, b, sum);
            else
                tile(1, A, i, K, b, sum);
            for (int64_t r = 0; r < n; r++)
                for (int64_t c = 0; c < cols; c++) {
                    float *y = (float *)C.p + (i + r) * ldc + j + c;
                    double x = sum[r * COLS + c] + (acc ? (double)*y : 0);
                    *y = (float)(bias.p ? x + (double)get(bias, j + c) : x);
                }
        }
    }
}
