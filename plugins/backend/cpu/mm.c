/* SPDX-License-Identifier: Apache-2.0
 * mm.c - see mm.h. The inner kernel keeps MR x 2 vectors of C in registers; B comes from a
 * strip of columns that was packed once and stays in the second-level cache, A from its own
 * rows where they are f32, else from a packed block. */
#include "mm.h"

#if W == 16
#define MR 8
#else
#define MR 6
#endif
enum { STRIP = 524288, WIDEST = 512, BLOCK_M = 96 }; /* floats and columns of a packed strip of B */

/* mr rows by nv vectors; both are constants where this is called */
INLINE void tile(const int mr, const int nv, int64_t K, const float *A, int64_t rs, int64_t cs,
                 const float *B, int64_t ldb, float *C, int64_t ldc, int acc)
{
    vf c[MR][2];
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            c[i][v] = acc ? vload(C + i * ldc + v * W) : (vf){ 0 };
    for (int64_t k = 0; k < K; k++) {
        vf b[2];
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            b[v] = vload(B + k * ldb + v * W);
#pragma GCC unroll 8
        for (int i = 0; i < mr; i++) {
            vf a = vset(A[i * rs + k * cs]);
#pragma GCC unroll 2
            for (int v = 0; v < nv; v++)
                c[i][v] = vfma(a, b[v], c[i][v]);
        }
    }
#pragma GCC unroll 8
    for (int i = 0; i < mr; i++)
#pragma GCC unroll 2
        for (int v = 0; v < nv; v++)
            vstore(C + i * ldc + v * W, c[i][v]);
}

/* all m rows: MR at a time, the last MR + 1 to 2 MR - 1 in two even tiles, since a tile of one
 * or two rows would only wait for its own sums */
INLINE void rows(const int nv, int64_t m, int64_t K, const float *A, int64_t rs, int64_t cs,
                 const float *B, int64_t ldb, float *C, int64_t ldc, int acc)
{
    while (m > 0) {
        int64_t n = m >= 2 * MR ? MR : m > MR ? (m + 1) / 2 : m;
        switch (n) {
        case 1: tile(1, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
        case 2: tile(2, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
        case 3: tile(3, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
        case 4: tile(4, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
        case 5: tile(5, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
        case 6: tile(6, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
#if MR > 6
        case 7: tile(7, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
        case 8: tile(8, nv, K, A, rs, cs, B, ldb, C, ldc, acc); break;
#endif
        }
        m -= n, A += n * rs, C += n * ldc;
    }
}

void mm(int64_t M, int64_t N, int64_t K, const float *A, int64_t rs, int64_t cs, const float *B,
        int64_t ldb, float *C, int64_t ldc, int acc)
{
    int64_t n = 0;
    for (; n + 2 * W <= N; n += 2 * W)
        rows(2, M, K, A, rs, cs, B + n, ldb, C + n, ldc, acc);
    if (n < N)
        rows(1, M, K, A, rs, cs, B + n, ldb, C + n, ldc, acc);
}

INLINE void square(float *dst, int64_t ldd, arr src, int64_t lds)
{
    vf a[W], b[W];
#pragma GCC unroll 16
    for (int i = 0; i < W; i++)
        a[i] = ld(src, i * lds, W);
#pragma GCC unroll 4
    for (int stage = 1; stage < W; stage *= 2) {
#pragma GCC unroll 8
        for (int i = 0; i < W / 2; i++)
            interleave(a[i], a[i + W / 2], &b[2 * i], &b[2 * i + 1]);
#pragma GCC unroll 16
        for (int i = 0; i < W; i++)
            a[i] = b[i];
    }
#pragma GCC unroll 16
    for (int i = 0; i < W; i++)
        vstore(dst + i * ldd, a[i]);
}

void mm_transpose(float *dst, int64_t ldd, arr src, int64_t lds, int64_t n_rows, int64_t n_cols)
{
    int64_t whole_rows = n_rows / W * W, whole_cols = n_cols / W * W;
    for (int64_t c = 0; c < whole_cols; c += W)
        for (int64_t r = 0; r < whole_rows; r += W) {
            if (src.bf)
                square(dst + c * ldd + r, ldd, arr_at((arr){ src.p, 1 }, r * lds + c), lds);
            else
                square(dst + c * ldd + r, ldd, arr_at((arr){ src.p, 0 }, r * lds + c), lds);
        }
    for (int64_t r = 0; r < n_rows; r++)
        for (int64_t c = r < whole_rows ? whole_cols : 0; c < n_cols; c++)
            dst[c * ldd + r] = get(src, r * lds + c);
}

/* ---- any matrix ------------------------------------------------------------------------- */
static int64_t strip_width(int64_t K)
{
    int64_t n = STRIP / (K > 0 ? K : 1) / (2 * W) * (2 * W);
    return n < 2 * W ? 2 * W : n > WIDEST ? WIDEST : n;
}

static int64_t block_rows(int64_t K)
{
    return K <= 1024 ? BLOCK_M : K <= 4096 ? BLOCK_M / 2 : BLOCK_M / 4;
}

/* A bound for every depth up to K, since ragged products run at any of them. */
uint64_t mm_room(int64_t K)
{
    int64_t strip = 2 * W * K > STRIP ? 2 * W * K : STRIP;
    int64_t few = BLOCK_M / 2 * 4096, block = K <= 1024 ? BLOCK_M * 1024
                                            : BLOCK_M / 4 * K > few ? BLOCK_M / 4 * K : few;
    return cpu_round((uint64_t)(strip + block + BLOCK_M * WIDEST) * 4);
}

/* B's columns [0, n) in panels of 2W: panel, k, column; columns past n are zeros */
static void pack_strip(float *dst, struct mat B, int64_t K, int64_t n)
{
    for (int64_t j = 0; j < n; j += 2 * W, dst += K * 2 * W) {
        int64_t w = n - j < 2 * W ? n - j : 2 * W;
        struct mat p = mat_at(B, 0, j);
        if (B.cs == 1) {
            for (int64_t k = 0; k < K; k++)
                to_f32(dst + k * 2 * W, p.a, k * B.rs, w, 2 * W);
            continue;
        }
        if (w < 2 * W)
            memset(dst, 0, (size_t)K * 2 * W * 4);
        mm_transpose(dst, 2 * W, p.a, B.cs, w, K);
    }
}

static void write_tile(arr C, int64_t ldc, const float *tile_, int64_t ldt, int64_t m, int64_t n,
                       int acc, arr bias)
{
    for (int64_t i = 0; i < m; i++) {
        arr src = { (void *)(uintptr_t)(tile_ + i * ldt), 0 }, dst = arr_at(C, i * ldc);
        for (int64_t j = 0; j < n; j += W) {
            int l = LANES(j, n);
            vf v = ld(src, j, l);
            if (bias.p)
                v += ld(bias, j, l);
            st(dst, j, l, acc ? ld(dst, j, l) + v : v);
        }
    }
}

static void thin(int64_t M, int64_t N, int64_t K, struct mat A, struct mat B, arr C, int64_t ldc,
                 int acc, arr bias, float *a, float *out)
{
    int dots = B.cs != 1;
    for (int64_t i = 0; i < M; i++) {
        to_f32(a + i * K, A.a, i * A.rs, K, K);
        if (dots && B.a.bf)
            mm_apart(a + i * K, K);
    }
    if (!dots)
        mm_thin_sums(M, N, K, a, K, B.a, B.rs, C, ldc, acc, bias, out);
    else
        mm_thin_dots(M, N, K, a, K, B.a, B.cs, C, ldc, bias);
}

void mm_packed(int64_t M, int64_t N, int64_t K, struct mat A, struct mat B, arr C, int64_t ldc,
               int acc, arr bias, void *room)
{
    int64_t nc = strip_width(K), mc = block_rows(K);
    float *strip = room, *block = strip + K * nc, *out = block + mc * K;
    if (M <= THIN && A.cs == 1 && (B.cs == 1 || !acc)) {
        thin(M, N, K, A, B, C, ldc, acc, bias, block, out);
        return;
    }
    for (int64_t j = 0; j < N; j += nc) {
        int64_t n = N - j < nc ? N - j : nc;
        pack_strip(strip, mat_at(B, 0, j), K, n);
        for (int64_t i = 0; i < M; i += mc) {
            int64_t m = M - i < mc ? M - i : mc, rs = A.rs;
            struct mat a = mat_at(A, i, 0);
            const float *rows_of_a = a.a.p;
            if (A.cs != 1) {
                mm_transpose(block, K, a.a, A.cs, K, m);
                rows_of_a = block, rs = K;
            } else if (A.a.bf) {
                for (int64_t r = 0; r < m; r++)
                    to_f32(block + r * K, a.a, r * A.rs, K, K);
                rows_of_a = block, rs = K;
            }
            /* whole panels go straight to an f32 C. Panels begin at the same columns for any
             * strip, so the order of an accumulated sum is the same too. */
            int64_t c = 0, ready = C.bf || bias.p ? 0 : n / (2 * W) * (2 * W);
            float *to = ready ? (float *)C.p + i * ldc + j : NULL;
            for (; c < ready; c += 2 * W)
                mm(m, 2 * W, K, rows_of_a, rs, 1, strip + c * K, 2 * W, to + c, ldc, acc);
            for (; c < n; c += 2 * W)
                mm(m, 2 * W, K, rows_of_a, rs, 1, strip + c * K, 2 * W, out + c, nc, 0);
            if (ready < n)
                write_tile(arr_at(C, i * ldc + j + ready), ldc, out + ready, nc, m, n - ready, acc,
                           bias.p ? arr_at(bias, j + ready) : bias);
        }
    }
}
