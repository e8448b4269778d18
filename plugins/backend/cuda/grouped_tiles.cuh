// SPDX-License-Identifier: Apache-2.0
//
// grouped_tiles.cuh - which work a block of the experts' products does, found on the device: the
// offsets say how many tiles of rows each expert has, every block counts them for itself, and unit
// u of the work follows from the counts. Pure arithmetic, the same in every warp that asks: the
// warp that fetches and those that multiply walk the same list without a word between them.
//
// A unit is a tile of 256 rows by 256 columns, shared by the two blocks of a cluster: half of its
// pieces of 64 rows each, so that a short tile is no longer for one than for the other.

#ifndef MRUN_CUDA_GROUPED_TILES_CUH
#define MRUN_CUDA_GROUPED_TILES_CUH
#include "wgmma.cuh"

enum {
    GROUP = 8,    // row tiles that are walked together through all columns, for the L2
    TILE = 256,   // rows, and columns, of a unit
    HALF = 128,   // columns: where no more are left, the other half of a tile is left out
};

struct grouped_args {
    const int32_t *offsets; // [experts + 1]
    void *c;
    int32_t rows, m, n, k, experts; // m: inner alone; k: rows alone
    int32_t columns;                // tiles of columns
    double *squares;                // written c: its squares' sum of each warp, or NULL
};

#ifdef HAS_WGMMA
struct span {
    int lo, hi;
};

// An expert's rows, clamped: rubbish in the offsets reads nothing outside.
DEV span rows_of(const grouped_args &p, int e)
{
    int lo = min(max(p.offsets[e], 0), p.rows), hi = min(max(p.offsets[e + 1], 0), p.rows);
    return span{ lo, max(lo, hi) };
}

// One warp: starts[e] = row tiles of the experts before e.
template <class P> DEV void count_tiles(const grouped_args &p, int *starts)
{
    int lane = threadIdx.x % 32, total = 0;
    for (int e0 = 0; e0 < p.experts; e0 += 32) {
        int e = e0 + lane, n = 0;
        if (e < p.experts) {
            span s = rows_of(p, e);
            n = P::INNER ? (s.hi > s.lo ? (p.m + TILE - 1) / TILE : 0)
                         : (s.hi - s.lo + TILE - 1) / TILE;
        }
        for (int d = 1; d < 32; d *= 2) {
            int before = __shfl_up_sync(~0u, n, d);
            n += lane >= d ? before : 0;
        }
        if (e < p.experts)
            starts[e + 1] = total + n;
        total += __shfl_sync(~0u, n, 31);
    }
    if (!lane)
        starts[0] = 0;
}

// What a block does of a unit: `pieces` of 64 rows from row0, `boxes` of 64 columns from col0;
// `lo` is the expert's first row.
struct work {
    int expert, lo, inner, row0, end, col0, pieces, boxes;
};

// Unit u, by a whole warp; e: the expert of an earlier unit. False: there are no more.
template <class P>
DEV bool find(const grouped_args &p, const int *starts, int u, int rank, int &e, work &w)
{
    int tile = u / p.columns, lane = threadIdx.x % 32;
    if (tile >= starts[p.experts])
        return false;
    if (starts[e] > tile)
        e = 0;
    for (;;) {
        unsigned beyond = __ballot_sync(~0u, starts[min(e + lane, p.experts - 1) + 1] > tile);
        if (beyond) {
            e += __ffs(beyond) - 1;
            break;
        }
        e += 32;
    }
    int at = u - starts[e] * p.columns, first = at / (GROUP * p.columns) * GROUP;
    int high = min(starts[e + 1] - starts[e] - first, (int)GROUP);
    at -= first * p.columns;
    span s = rows_of(p, e);
    w.expert = e;
    w.lo = s.lo;
    w.inner = P::INNER ? s.hi - s.lo : p.k;
    w.end = P::INNER ? p.m : s.hi;
    w.row0 = (P::INNER ? 0 : s.lo) + (first + at % high) * TILE;
    w.col0 = at / high * TILE;
    w.boxes = p.n - w.col0 > HALF ? TILE / BOX : HALF / BOX;
    int pieces = (min(w.end - w.row0, (int)TILE) + BOX - 1) / BOX, half = (pieces + 1) / 2;
    w.row0 += rank * half * BOX;
    w.pieces = rank ? pieces - half : half;
    return true;
}
#endif
#endif
