/* SPDX-License-Identifier: Apache-2.0
 *
 * thin.c - products of a few rows (a decoding step, a small group of an expert): bound by
 * reading B once. Where B's k run along memory each element is a dot product; where its n do,
 * rows of B are added into the rows of C. Nothing is packed. Sums over k have a fixed order.
 * bf16 is read as pairs, evens apart from odds; A's blocks (dots) or C's (sums) of 2W values
 * are kept in that order too, so nothing needs to be shuffled inside the loops.
 */
#include "mm.h"

enum { WIDE = 512 }; /* columns whose sums stay in the cache while k runs */

/* C[0..m)[0..nr) = A rows . B rows: accumulators m x nr, all constants but K */
INLINE void dots(const int m, const int nr, const int bf, int64_t K, const float *A, int64_t lda,
                 arr B, int64_t ldb, float *sums)
{
    vf s[8][4];
    int64_t k = 0;
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++)
            s[i][r] = (vf){ 0 };
    for (; bf && k + 2 * W <= K; k += 2 * W) { /* A is evens, odds in each of these blocks */
        vu b[4];
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++)
            b[r] = vload_pairs((const uint16_t *)B.p + r * ldb + k);
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) {
            vf even = vload(A + i * lda + k), odd = vload(A + i * lda + k + W);
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++)
                s[i][r] = vfma(odd, vodds(b[r]), vfma(even, vevens(b[r]), s[i][r]));
        }
    }
    for (; k + W <= K; k += W) {
        vf b[4];
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++)
            b[r] = ld((arr){ B.p, bf }, r * ldb + k, W);
#pragma GCC unroll 8
        for (int i = 0; i < m; i++) {
            vf a = vload(A + i * lda + k);
#pragma GCC unroll 4
            for (int r = 0; r < nr; r++)
                s[i][r] = vfma(a, b[r], s[i][r]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < m; i++)
#pragma GCC unroll 4
        for (int r = 0; r < nr; r++) {
            float x = vsum(s[i][r]);
            for (int64_t j = k; j < K; j++)
                x += A[i * lda + j] * get((arr){ B.p, bf }, r * ldb + j);
            sums[i * 4 + r] = x;
        }
}

INLINE void dots_of(const int nr, int m, const int bf, int64_t K, const float *A, int64_t lda,
                    arr B, int64_t ldb, float *sums)
{
    switch (m) {
    case 1: dots(1, nr, bf, K, A, lda, B, ldb, sums); break;
    case 2: dots(2, nr, bf, K, A, lda, B, ldb, sums); break;
    case 3: dots(3, nr, bf, K, A, lda, B, ldb, sums); break;
    case 4: dots(4, nr, bf, K, A, lda, B, ldb, sums); break;
    }
}

/* As many rows of B at once as the registers allow: 4 for up to 2 rows of A, else 2. */
static void dots_rows(int m, int nr, int64_t K, const float *A, int64_t lda, arr B, int64_t ldb,
                      float *sums)
{
    for (int r = 0, n; r < nr; r += n) {
        arr b = arr_at(B, r * ldb);
        n = nr == 4 && m <= 2 ? 4 : nr - r >= 2 ? 2 : 1;
        if (n == 4 && B.bf)
            dots_of(4, m, 1, K, A, lda, b, ldb, sums + r);
        else if (n == 4)
            dots_of(4, m, 0, K, A, lda, b, ldb, sums + r);
        else if (n == 2 && B.bf)
            dots_of(2, m, 1, K, A, lda, b, ldb, sums + r);
        else if (n == 2)
            dots_of(2, m, 0, K, A, lda, b, ldb, sums + r);
        else
            dots_of(1, m, B.bf, K, A, lda, b, ldb, sums + r);
    }
}

/* each whole block of 2W values to its even ones, then its odd ones */
void mm_apart(float *a, int64_t n)
{
    for (int64_t j = 0; j + 2 * W <= n; j += 2 * W) {
        float odd[W];
        for (int l = 0; l < W; l++) {
            odd[l] = a[j + 2 * l + 1];
            a[j + l] = a[j + 2 * l];
        }
        memcpy(a + j + W, odd, sizeof odd);
    }
}

void mm_thin_dots(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, arr B, int64_t ldb,
                  arr C, int64_t ldc, arr bias)
{
    float sums[16];
    for (int64_t n = 0; n < N; n += 4) {
        int nr = N - n < 4 ? (int)(N - n) : 4;
        for (int64_t i = 0; i < M; i += 4) {
            int m = M - i < 4 ? (int)(M - i) : 4;
            dots_rows(m, nr, K, A + i * lda, lda, arr_at(B, n * ldb), ldb, sums);
            for (int j = 0; j < m; j++)
                for (int r = 0; r < nr; r++)
                    put(C, (i + j) * ldc + n + r,
                        sums[j * 4 + r] + (bias.p ? get(bias, n + r) : 0));
        }
    }
}

/* c[0..n) += a0 b0 + .. over kn <= 4 rows, in that order */
INLINE void add_rows(float *c, int64_t n, const float *a, int kn, arr b, int64_t ldb, const int bf)
{
    int64_t j = 0;
    for (; bf && j + 2 * W <= n; j += 2 * W) { /* c is evens, odds in each of these blocks */
        vf even = vload(c + j), odd = vload(c + j + W);
        for (int k = 0; k < kn; k++) {
            vu pairs = vload_pairs((const uint16_t *)b.p + k * ldb + j);
            even = vfma(vset(a[k]), vevens(pairs), even);
            odd = vfma(vset(a[k]), vodds(pairs), odd);
        }
        vstore(c + j, even);
        vstore(c + j + W, odd);
    }
    for (; j < n; j += W) {
        int l = LANES(j, n);
        vf s = vload(c + j);
        for (int k = 0; k < kn; k++)
            s = vfma(vset(a[k]), ld((arr){ b.p, bf }, k * ldb + j, l), s);
        vstore(c + j, s);
    }
}

/* a row of sums to its place: order restored, bias or old values added */
static void finish_row(float *c, int64_t n, arr C, int acc, arr bias, int bf)
{
    for (int64_t j = 0; bf && j + 2 * W <= n; j += 2 * W) {
        vf lo, hi;
        interleave(vload(c + j), vload(c + j + W), &lo, &hi);
        vstore(c + j, lo);
        vstore(c + j + W, hi);
    }
    for (int64_t j = 0; j < n; j += W) {
        int l = LANES(j, n);
        vf v = vload(c + j);
        if (bias.p)
            v += ld(bias, j, l);
        st(C, j, l, acc ? ld(C, j, l) + v : v);
    }
}

void mm_thin_sums(int64_t M, int64_t N, int64_t K, const float *A, int64_t lda, arr B, int64_t ldb,
                  arr C, int64_t ldc, int acc, arr bias, float *room)
{
    int64_t wide = N < WIDE ? (N + W - 1) / W * W : WIDE;
    for (int64_t n = 0; n < N; n += wide) {
        int64_t w = N - n < wide ? N - n : wide;
        memset(room, 0, (size_t)(M * wide) * 4);
        for (int64_t k = 0; k < K; k += 4) {
            arr b = arr_at(B, k * ldb + n);
            for (int64_t i = 0; i < M; i++) {
                const float *a = A + i * lda + k;
                if (K - k < 4)
                    add_rows(room + i * wide, w, a, (int)(K - k), b, ldb, b.bf);
                else if (b.bf)
                    add_rows(room + i * wide, w, a, 4, b, ldb, 1);
                else
                    add_rows(room + i * wide, w, a, 4, b, ldb, 0);
            }
        }
        for (int64_t i = 0; i < M; i++)
            finish_row(room + i * wide, w, arr_at(C, i * ldc + n), acc,
                       bias.p ? arr_at(bias, n) : bias, B.bf);
    }
}
