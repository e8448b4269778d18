// SPDX-License-Identifier: Apache-2.0
//
// mm.cu - see mm.h. Bytes: each operand once a tile row or column of the other. Time: the plain
// kernel reaches a third of the fp32 peak (67 TFLOP/s on an H100), the bf16 one a third of what
// wgmma would (it issues mma.sync m16n8k16): floors are 2 m n k / 67e12 and / 990e12 seconds.
//
// Tiles are cut by sizes, the inner dim is walked in order by one block: equal bits every time.
// In mode ROWS block y finds its (expert, tile) by walking the offsets, which stay on the device:
// at most m / BM + experts tiles exist, so the grid needs no host knowledge. Blocks past the
// last tile clear the rows that no expert owns.

#include "mma.cuh"
#include "mm.h"

// ---- where a block's tile lies ------------------------------------------------------------
struct tile {
    int64_t row0, row1, col0; // of c: rows [row0, row1), one expert's
    int64_t k0, k1;
    int expert;
    bool clear; // rows of no expert
};

// Expert offsets are clamped to 0..m and to rising order: rubbish there reads nothing outside.
DEV int64_t offset_at(const cuda_mm &p, int64_t e, int64_t bound)
{
    int64_t o = p.offsets[e];
    return o < 0 ? 0 : o > bound ? bound : o;
}

// Block (x: column tile, y: row tile, z: expert in mode INNER). False: nothing to do.
template <int BM, int BN> DEV bool find_tile(const cuda_mm &p, tile &t)
{
    t = tile{ (int64_t)blockIdx.y * BM, p.m, (int64_t)blockIdx.x * BN, 0, p.k, 0, false };
    if (p.mode == CUDA_MM_INNER) {
        t.expert = blockIdx.z;
        t.k0 = offset_at(p, t.expert, p.k);
        t.k1 = offset_at(p, t.expert + 1, p.k);
        return t.k1 > t.k0; // no rows: nothing to add
    }
    if (p.mode == CUDA_MM_PLAIN)
        return true;
    int64_t seen = 0;
    for (int e = 0; e < p.experts; e++) {
        int64_t lo = offset_at(p, e, p.m), hi = offset_at(p, e + 1, p.m);
        int64_t n = hi > lo ? (hi - lo + BM - 1) / BM : 0;
        if ((int64_t)blockIdx.y < seen + n) {
            t.row0 = lo + ((int64_t)blockIdx.y - seen) * BM;
            t.row1 = hi;
            t.expert = e;
            return true;
        }
        seen += n;
    }
    // what is left: rows before the first expert, then rows behind the last
    int64_t head = offset_at(p, 0, p.m), heads = (head + BM - 1) / BM;
    int64_t y = (int64_t)blockIdx.y - seen, tail = offset_at(p, p.experts, p.m);
    t.clear = true;
    t.row0 = y < heads ? y * BM : tail + (y - heads) * BM;
    t.row1 = y < heads ? head : p.m;
    return t.row0 < t.row1;
}

DEV void clear_tile(const cuda_mm &p, const tile &t, int bm, int bn)
{
    arr c = { p.c.data, p.c.kind };
    for (int i = threadIdx.x; i < bm * bn; i += blockDim.x) {
        int64_t row = t.row0 + i / bn, col = t.col0 + i % bn;
        if (row < t.row1 && col < p.n)
            put(c, row * p.c.stride_i + col * p.c.stride_j, 0);
    }
}

DEV void store(const cuda_mm &p, const tile &t, int64_t row, int64_t col, float x)
{
    if (row >= t.row1 || col >= p.n)
        return;
    int64_t at = t.expert * p.c.expert + row * p.c.stride_i + col * p.c.stride_j;
    if (p.bias)
        x += get(arr{ p.bias, p.bias_kind }, col);
    if (p.add)
        x += get(arr{ p.c.data, p.c.kind }, at);
    put(arr{ p.c.data, p.c.kind }, at, x);
}

// ---- any kinds: 64 x 64 x 16 tiles, 4 x 4 results a thread ------------------------------------
enum { PM = 64, PN = 64, PK = 16 };

// an element of a operand's tile, 0 outside; `fast` runs along the stride of 1
struct place {
    int i, j;
};
DEV place place_of(int e, int ni, int nj, bool j_fast)
{
    return j_fast ? place{ e / nj, e % nj } : place{ e % ni, e / ni };
}

__global__ void __launch_bounds__(256) mm_any(cuda_mm p)
{
    __shared__ float as[PK][PM + 4], bs[PK][PN + 4];
    tile t;
    if (!find_tile<PM, PN>(p, t))
        return;
    if (t.clear) {
        clear_tile(p, t, PM, PN);
        return;
    }
    arr a = { p.a.data, p.a.kind }, b = { p.b.data, p.b.kind };
    int64_t ea = t.expert * p.a.expert, eb = t.expert * p.b.expert;
    int ty = threadIdx.x / 16, tx = threadIdx.x % 16;
    float acc[4][4] = {};
    for (int64_t k0 = t.k0; k0 < t.k1; k0 += PK) {
        for (int e = threadIdx.x; e < PM * PK; e += 256) {
            place at = place_of(e, PM, PK, p.a.stride_j == 1);
            int64_t i = t.row0 + at.i, k = k0 + at.j;
            as[at.j][at.i] = i < t.row1 && k < t.k1
                ? get(a, ea + i * p.a.stride_i + k * p.a.stride_j) : 0;
        }
        for (int e = threadIdx.x; e < PK * PN; e += 256) {
            place at = place_of(e, PK, PN, p.b.stride_j == 1);
            int64_t k = k0 + at.i, j = t.col0 + at.j;
            bs[at.i][at.j] = k < t.k1 && j < p.n
                ? get(b, eb + k * p.b.stride_i + j * p.b.stride_j) : 0;
        }
        __syncthreads();
#pragma unroll
        for (int k = 0; k < PK; k++) {
            float x[4], y[4];
#pragma unroll
            for (int i = 0; i < 4; i++) {
                x[i] = as[k][ty * 4 + i];
                y[i] = bs[k][tx * 4 + i];
            }
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    acc[i][j] += x[i] * y[j];
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
            store(p, t, t.row0 + ty * 4 + i, t.col0 + tx * 4 + j, acc[i][j]);
}

// ---- bf16: 128 x 128 x 32 tiles, 8 warps of 64 x 32, tensor cores -----------------------------
// A tile lies in shared memory as its operand does in memory: [row or column][k] if k is fastest,
// else [k][row or column], and ldmatrix turns that on the way to the registers. Rows have 8 halves
// of padding: the 8 rows that one load touches start in different banks.
enum { TM = 128, TN = 128, TK = 32, PITCH_K = TK + 8, PITCH_T = TM + 8, ROOM = TM * PITCH_K };

// 8 elements along the operand's stride of 1, from (major, minor); 0 outside
DEV uint4 load8(const uint16_t *p, int64_t stride, int64_t major, int64_t n_major, int64_t minor,
                int64_t n_minor, bool whole)
{
    uint4 v = { 0, 0, 0, 0 };
    if (major >= n_major || minor >= n_minor)
        return v;
    const uint16_t *q = p + major * stride + minor;
    if (whole)
        return *(const uint4 *)q;
    uint16_t h[8];
#pragma unroll
    for (int i = 0; i < 8; i++)
        h[i] = minor + i < n_minor ? q[i] : 0;
    v.x = h[0] | (uint32_t)h[1] << 16;
    v.y = h[2] | (uint32_t)h[3] << 16;
    v.z = h[4] | (uint32_t)h[5] << 16;
    v.w = h[6] | (uint32_t)h[7] << 16;
    return v;
}

// One operand's tile of 128 (rows of a, columns of b) x 32: the two vectors of this thread.
struct side {
    const uint16_t *p;
    int64_t stride, outer0, n_outer, n_k; // outer: the dim that is not k
    bool k_fast, whole;
};

DEV void side_load(const side &s, int64_t k0, uint4 v[2])
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int u = threadIdx.x + 256 * i; // 512 vectors of 8
        if (s.k_fast)
            v[i] = load8(s.p, s.stride, s.outer0 + u / 4, s.n_outer, k0 + u % 4 * 8, s.n_k,
                         s.whole);
        else
            v[i] = load8(s.p, s.stride, k0 + u / 16, s.n_k, s.outer0 + u % 16 * 8, s.n_outer,
                         s.whole);
    }
}

DEV void side_store(const side &s, const uint4 v[2], uint16_t *tile)
{
#pragma unroll
    for (int i = 0; i < 2; i++) {
        int u = threadIdx.x + 256 * i;
        int at = s.k_fast ? u / 4 * PITCH_K + u % 4 * 8 : u / 16 * PITCH_T + u % 16 * 8;
        *(uint4 *)(tile + at) = v[i];
    }
}

DEV side side_of(const cuda_mat &m, int64_t expert, bool k_is_j, int64_t outer0, int64_t n_outer,
                 int64_t n_k, int64_t k0)
{
    int64_t s_outer = k_is_j ? m.stride_i : m.stride_j, s_k = k_is_j ? m.stride_j : m.stride_i;
    side s = { (const uint16_t *)m.data + expert * m.expert, s_k == 1 ? s_outer : s_k, outer0,
               n_outer, n_k, s_k == 1, false };
    // a vector may be read whole if every row starts aligned and no vector crosses an end
    int64_t minor = s.k_fast ? n_k : n_outer, first = s.k_fast ? k0 : outer0;
    s.whole = s.stride % 8 == 0 && minor % 8 == 0 && first % 8 == 0 && (uintptr_t)s.p % 16 == 0;
    return s;
}

__global__ void __launch_bounds__(256, 2) mm_bf16(cuda_mm p)
{
    __shared__ __align__(16) uint16_t as[ROOM], bs[ROOM];
    tile t;
    if (!find_tile<TM, TN>(p, t))
        return;
    if (t.clear) {
        clear_tile(p, t, TM, TN);
        return;
    }
    side a = side_of(p.a, t.expert, true, t.row0, t.row1, t.k1, t.k0);
    side b = side_of(p.b, t.expert, false, t.col0, p.n, t.k1, t.k0);
    int warp = threadIdx.x / 32, lane = threadIdx.x % 32, g = lane / 4, q = lane % 4 * 2;
    int m0 = warp / 4 * 64, n0 = warp % 4 * 32;
    float acc[4][4][4] = {};
    uint4 va[2], vb[2];
    side_load(a, t.k0, va);
    side_load(b, t.k0, vb);
    for (int64_t k0 = t.k0; k0 < t.k1; k0 += TK) {
        side_store(a, va, as);
        side_store(b, vb, bs);
        __syncthreads();
        if (k0 + TK < t.k1) { // the next tile is on its way while this one is multiplied
            side_load(a, k0 + TK, va);
            side_load(b, k0 + TK, vb);
        }
#pragma unroll
        for (int k = 0; k < TK; k += 16) {
            uint32_t fa[4][4], fb[2][4];
#pragma unroll
            for (int i = 0; i < 4; i++)
                if (a.k_fast)
                    fragment_a(fa[i], as, PITCH_K, m0 + i * 16, k);
                else
                    fragment_a_turned(fa[i], as, PITCH_T, k, m0 + i * 16);
#pragma unroll
            for (int j = 0; j < 2; j++)
                if (b.k_fast)
                    fragment_b(fb[j], bs, PITCH_K, n0 + j * 16, k);
                else
                    fragment_b_turned(fb[j], bs, PITCH_T, k, n0 + j * 16);
#pragma unroll
            for (int i = 0; i < 4; i++)
#pragma unroll
                for (int j = 0; j < 4; j++)
                    mma(acc[i][j], fa[i], fb[j / 2] + j % 2 * 2);
        }
        __syncthreads();
    }
#pragma unroll
    for (int i = 0; i < 4; i++)
#pragma unroll
        for (int j = 0; j < 4; j++)
#pragma unroll
            for (int e = 0; e < 4; e++)
                store(p, t, t.row0 + m0 + i * 16 + g + e / 2 * 8, t.col0 + n0 + j * 8 + q + e % 2,
                      acc[i][j][e]);
}

// ---- launching ----------------------------------------------------------------------------
static bool on_tensor_cores(int kind_a, int kind_b)
{
    return kind_a == CUDA_BF16 && kind_b == CUDA_BF16;
}

extern "C" const char *cuda_mm_name(int kind_a, int kind_b)
{
    return on_tensor_cores(kind_a, kind_b) ? "own mma bf16" : "own fp32";
}

extern "C" cudaError_t cuda_mm_run(const struct cuda_mm *p, cudaStream_t stream)
{
    bool cores = on_tensor_cores(p->a.kind, p->b.kind);
    int bm = cores ? (int)TM : (int)PM, bn = cores ? (int)TN : (int)PN;
    int64_t rows = cuda_ceil(p->m, bm);
    if (p->m < 1 || p->n < 1)
        return cudaSuccess;
    if (p->mode == CUDA_MM_ROWS) // a part of a tile an expert, and at both ends
        rows += p->experts + 2;
    dim3 grid((unsigned)cuda_ceil(p->n, bn), (unsigned)rows,
              p->mode == CUDA_MM_INNER ? (unsigned)p->experts : 1);
    if (cores)
        mm_bf16<<<grid, 256, 0, stream>>>(*p);
    else
        mm_any<<<grid, 256, 0, stream>>>(*p);
    return cudaGetLastError();
}

static __global__ void nothing(void)
{
}

extern "C" cudaError_t cuda_has_code(void)
{
    cudaFuncAttributes a;
    return cudaFuncGetAttributes(&a, nothing);
}
