// SPDX-License-Identifier: Apache-2.0
//
// patches.cu - rows of pictures: tiles cut into patches, positions and class rows added, patches
// shuffled into wider rows, rotated in two dimensions. Packs of 16 bytes where rows are whole ones.
// Bytes: operands once each way; floor: bytes / the copy bandwidth (64 tiles of 577 rows, 1408
// wide, bf16: 208 MB, 49 us at 4.27 TB/s). The gradient that sums over rows is added in the order of
// the rows by the thread that owns the column.

#include "pack.cuh"
#include "rope.h"

struct patches {
    struct kernel base;
    int64_t rows, d;      // rows that lie apart, their width
    int64_t tile;         // rows of a tile
    int first, at;        // of a tile: patch 0, the class row (-1: none)
    int high, wide, ratio, inverse;
    int channels, side, patch;
    rope_args turn;
};

struct grid_args { // by value in a launch
    int64_t rows, tile;
    int first, at, high, wide, ratio, inverse;
};

#define SELF const struct patches *k = (const struct patches *)base
#define KERNEL __global__ void __launch_bounds__(THREADS)

static grid_args grid_of(const struct patches *k)
{
    return grid_args{ k->rows, k->tile, k->first, k->at, k->high, k->wide, k->ratio, k->inverse };
}

// ---- patchify: a thread some values of one tile's patches, 32-bit indices inside the tile ---------
template <typename F, int U>
KERNEL patchify(const F *x, F *y, uint32_t n, uint32_t channels, uint32_t side, uint32_t p)
{
    uint32_t g = side / p, width = channels * p * p, first = blockIdx.x * U * THREADS + threadIdx.x;
    F v[U];
    x += blockIdx.y * (int64_t)n;
    y += blockIdx.y * (int64_t)n;
#pragma unroll
    for (int u = 0; u < U; u++)
        if (uint32_t i = first + u * THREADS; i < n) {
            uint32_t cell = i / width, at = i - cell * width, row = at / p, c = at - row * p;
            uint32_t ch = row / p, r = row - ch * p, down = cell / g, across = cell - down * g;
            v[u] = x[(ch * side + down * p + r) * side + across * p + c];
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (uint32_t i = first + u * THREADS; i < n)
            y[i] = v[u];
}

static mr_status patchify_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    int64_t n = (int64_t)k->channels * k->side * k->side, tiles = n ? k->rows * k->d / n : 0;
    dim3 grid((unsigned)cuda_ceil(n, 4 * THREADS), (unsigned)tiles);
    if (tiles)
        WITH_TYPE(base->in_kind[0], (patchify<F, 4><<<grid, THREADS, 0, stream>>>(
            (const F *)in[0].data, (F *)out[0].data, (uint32_t)n, (uint32_t)k->channels,
            (uint32_t)k->side, (uint32_t)k->patch)));
    return cuda_launched(base, err);
}

// ---- patch_positions ----------------------------------------------------------------------------
template <typename F, int V, int U>
KERNEL positions(const F *x, const F *pos, const F *cls, F *y, const grid_args a, uint32_t packs)
{
    row_packs<U> mine(packs);
    int64_t patches = a.tile - (a.at >= 0);
    pack<F, V> p[U], q[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows) {
            int64_t n = s.row / a.tile;
            int at = (int)(s.row - n * a.tile);
            if (at == a.at)
                p[u].load(cls, (int64_t)s.col * V);
            else
                p[u].load(x, ((n * patches + at - a.first) * packs + s.col) * V);
            q[u].load(pos, ((int64_t)at * packs + s.col) * V);
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows) {
            float v[V], w[V];
            p[u].widen(v);
            q[u].widen(w);
#pragma unroll
            for (int j = 0; j < V; j++)
                v[j] += w[j];
            p[u].narrow(v);
            p[u].store(y, (s.row * packs + s.col) * V);
        }
}

static mr_status positions_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    bool whole = k->d % WIDE_V == 0 && aligned16(in[0].data, in[1].data, in[2].data, out[0].data);
    if (k->rows && k->d)
        WITH_PACK(base->in_kind[0], whole, (
            positions<F, V, 2><<<pack_grid<2>(k->rows * (k->d / V)), THREADS, 0, stream>>>(
                (const F *)in[0].data, (const F *)in[1].data, (const F *)in[2].data,
                (F *)out[0].data, grid_of(k), (uint32_t)(k->d / V))));
    return cuda_launched(base, err);
}

// a block a row of a tile and THREADS columns, over the tiles
template <typename F>
KERNEL positions_wgrad(const F *dy, float *dpos, float *dcls, const grid_args a, int64_t width)
{
    int64_t col = blockIdx.y * (int64_t)THREADS + threadIdx.x, row = blockIdx.x;
    if (col >= width || (!dpos && row != a.at))
        return;
    float sum = 0;
    for (int64_t r = row; r < a.rows; r += a.tile)
        sum += ld(dy, r * width + col);
    if (dpos)
        dpos[row * width + col] += sum;
    if (dcls && row == a.at)
        dcls[col] += sum;
}

static mr_status positions_wgrad_run(RUN_ARGS)
{
    SELF;
    (void)ws, (void)out;
    dim3 grid((unsigned)k->tile, (unsigned)cuda_ceil(k->d, THREADS));
    if (k->rows && k->d)
        WITH_TYPE(base->in_kind[0], (positions_wgrad<F><<<grid, THREADS, 0, stream>>>(
            (const F *)in[0].data, (float *)in[1].data, (float *)in[2].data, grid_of(k), k->d)));
    return cuda_launched(base, err);
}

// ---- shuffle_patches: by the rows that lie apart ------------------------------------------------
template <typename F, int V, int U>
KERNEL shuffle(const F *x, F *y, const grid_args a, uint32_t packs)
{
    row_packs<U> mine(packs);
    pack<F, V> p[U];
    int q = a.ratio, outs = a.high * a.wide / (q * q);
    int64_t joined[U];
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows) {
            int64_t n = s.row / a.tile;
            int at = (int)(s.row - n * a.tile), patch = at - a.first;
            int row = patch / a.wide, col = patch % a.wide;
            joined[u] = -1;
            if (at != a.at)
                joined[u] = ((n * outs + row / q * (a.wide / q) + col / q) * q * q + row % q * q +
                             col % q) * packs + s.col;
            if (at != a.at)
                p[u].load(x, (a.inverse ? joined[u] : s.row * packs + s.col) * V);
            else {
                float zero[V] = {};
                p[u].narrow(zero);
            }
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows && (a.inverse || joined[u] >= 0))
            p[u].store(y, (a.inverse ? s.row * packs + s.col : joined[u]) * V);
}

static mr_status shuffle_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    if (k->rows && k->d)
        WITH_PACK(base->in_kind[0], k->d % WIDE_V == 0 && aligned16(in[0].data, out[0].data), (
            shuffle<F, V, 4><<<pack_grid<4>(k->rows * (k->d / V)), THREADS, 0, stream>>>(
                (const F *)in[0].data, (F *)out[0].data, grid_of(k), (uint32_t)(k->d / V))));
    return cuda_launched(base, err);
}

// ---- rope_2d ------------------------------------------------------------------------------------
// cosine and sine of pair i (of both directions) of a tile's row; the class row is not turned
DEV float2 turn_of(const grid_args &a, const rope_args &r, int row, int i)
{
    int patch = row - a.first, place = (i < r.pairs ? patch % a.wide : patch / a.wide) + 1;
    float2 t;
    cos_sin(r, i % r.pairs, row == a.at ? 0 : place, t.x, t.y);
    return t;
}

// Wide rows of whole packs: a block has U packs a thread, which lie in at most TABLE_ROWS rows; they
// are under way while those rows' turns are made.
enum { TABLE_ROWS = 8, TABLE_PAIRS = 64 };

template <typename F, int V, int U>
KERNEL rope_2d_packs(const F *x, F *y, const grid_args a, const __grid_constant__ rope_args r,
                     uint32_t packs)
{
    __shared__ float2 table[TABLE_ROWS][TABLE_PAIRS];
    row_packs<U> mine(packs);
    pack<F, V> p[U];
    int pairs = 2 * r.pairs;
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows)
            p[u].load(x, (s.row * packs + s.col) * V);
    for (int e = threadIdx.x; e < TABLE_ROWS * pairs; e += THREADS)
        table[e / pairs][e % pairs] = turn_of(a, r, (int)((mine.row0 + e / pairs) % a.tile),
                                              e % pairs);
    __syncthreads();
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < a.rows) {
            float v[V];
            int first = (int)(s.col * V % r.head_dim) / 2;
            const float2 *turns = table[s.row - mine.row0];
            p[u].widen(v);
#pragma unroll
            for (int j = 0; j < V; j += 2)
                if (first + j / 2 < pairs) {
                    float2 t = turns[first + j / 2];
                    float v0 = v[j], v1 = v[j + 1 < V ? j + 1 : j];
                    v[j] = v0 * t.x - v1 * t.y;
                    v[j + 1 < V ? j + 1 : j] = v0 * t.y + v1 * t.x;
                }
            p[u].narrow(v);
            p[u].store(y, (s.row * packs + s.col) * V);
        }
}

// any other: a block a row, whose turns serve all heads
template <typename F>
KERNEL rope_2d(const F *x, F *y, const grid_args a, const __grid_constant__ rope_args r)
{
    __shared__ float2 table[MAX_PAIRS];
    int64_t row = blockIdx.x;
    int pairs = 2 * r.pairs;
    for (int i = threadIdx.x; i < pairs; i += THREADS)
        table[i] = turn_of(a, r, (int)(row % a.tile), i);
    __syncthreads();
    x += row * r.width;
    y += row * r.width;
    int half = (r.head_dim + 1) / 2; // a thread does a pair, or two values that pass unchanged
    for (int e = threadIdx.x; e < r.width / r.head_dim * half; e += THREADS) {
        int i = e % half, ia = e / half * r.head_dim + 2 * i;
        bool two = 2 * i + 1 < r.head_dim;
        float p = ld(x, ia), q = two ? ld(x, ia + 1) : 0;
        if (i < pairs) {
            float2 t = table[i];
            float p0 = p;
            p = p0 * t.x - q * t.y;
            q = p0 * t.y + q * t.x;
        }
        st(y, ia, p);
        if (two)
            st(y, ia + 1, q);
    }
}

static mr_status rope_2d_run(RUN_ARGS)
{
    SELF;
    (void)ws;
    enum { U = 4 };
    int64_t v = base->in_kind[0] == CUDA_BF16 ? 8 : 4, packs = k->d / v;
    bool whole = k->d % WIDE_V == 0 && k->turn.head_dim % WIDE_V == 0 &&
                 aligned16(in[0].data, out[0].data) && 2 * k->turn.pairs <= TABLE_PAIRS &&
                 U * THREADS / (packs ? packs : 1) + 2 <= TABLE_ROWS;
    if (k->rows && whole)
        WITH_PACK(base->in_kind[0], whole, (
            rope_2d_packs<F, V, U><<<pack_grid<U>(k->rows * packs), THREADS, 0, stream>>>(
                (const F *)in[0].data, (F *)out[0].data, grid_of(k), k->turn, (uint32_t)packs)));
    else if (k->rows)
        WITH_TYPE(base->in_kind[0], (rope_2d<F><<<(unsigned)k->rows, THREADS, 0, stream>>>(
            (const F *)in[0].data, (F *)out[0].data, grid_of(k), k->turn)));
    return cuda_launched(base, err);
}

// ---- from types to kernels ----------------------------------------------------------------------
// of a tile of `patches` patches, beside which there may be a class row
static void classes(struct patches *k, const mr_call *c, int64_t patches)
{
    const char *where = mr_attr_s(c, "class", "none");
    int first = !strcmp(where, "first"), last = !strcmp(where, "last");
    k->tile = patches + (first || last);
    k->first = first;
    k->at = first ? 0 : last ? (int)patches : -1;
}

static mr_status fits(const struct patches *k, uint32_t inputs, mr_err *err)
{
    mr_status bad = same_kinds(&k->base, inputs, err);
    if (!bad && (k->rows > INT32_MAX || k->tile > INT32_MAX || cuda_ceil(k->d, THREADS) > 65535))
        bad = cuda_refuse(&k->base, err, "more rows or columns than the launch grid counts");
    return bad ? bad : packs_fit(&k->base, k->rows * k->d, k->d, err);
}

static mr_status patchify_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    k->rows = mr_rows(c->out[0]);
    k->d = mr_last(c->out[0]);
    k->channels = (int)c->in[0]->dim[1];
    k->side = (int)c->in[0]->dim[2];
    k->patch = (int)mr_attr_i(c, "patch", 1);
    base->run = patchify_run;
    if (c->in[0]->dim[0] > 65535 || c->in[0]->dim[2] > 1 << 14 || c->in[0]->dim[1] > 4)
        return cuda_refuse(base, err, "over 65535 tiles, 4 channels, or 16384 pixels a side");
    return fits(k, 1, err);
}

static mr_status positions_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    int wgrad = !c->n_out, has_class = strcmp(mr_attr_s(c, "class", "none"), "none") != 0;
    int64_t tile = wgrad ? mr_attr_i(c, "rows", 1) : c->in[1]->dim[0];
    classes(k, c, tile - has_class);
    k->rows = mr_rows(wgrad ? c->in[0] : c->out[0]);
    k->d = mr_last(c->in[0]);
    base->run = wgrad ? positions_wgrad_run : positions_run;
    return fits(k, wgrad ? 1 : 7, err);
}

static mr_status shuffle_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    int64_t wide = mr_attr_i(c, "grid", 1), runs = mr_attr_i(c, "runs", 0);
    k->wide = (int)wide;
    k->high = (int)(runs ? runs : wide);
    k->ratio = (int)mr_attr_i(c, "ratio", 1);
    k->inverse = mr_attr_i(c, "inverse", 0) != 0;
    classes(k, c, (int64_t)k->high * k->wide);
    const mr_type *apart = k->inverse ? c->out[0] : c->in[0];
    k->rows = mr_rows(apart);
    k->d = mr_last(apart);
    base->run = shuffle_run;
    return fits(k, 1, err);
}

static mr_status rope_2d_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct patches *k = (struct patches *)base;
    const mr_attr *f = mr_attr_find(c, "inv_freq");
    const double tau = 6.283185307179586476925;
    int64_t wide = mr_attr_i(c, "grid", 1);
    if (!f || f->n > MAX_PAIRS / 2 || mr_last(c->in[0]) > 1 << 30)
        return cuda_refuse(base, err, "more than 128 frequencies, or rows above 2^30 values");
    k->wide = (int)wide;
    classes(k, c, wide * wide);
    k->rows = mr_rows(c->in[0]);
    k->d = mr_last(c->in[0]);
    k->turn.width = (int)k->d;
    k->turn.head_dim = (int)mr_attr_i(c, "head_dim", k->d);
    k->turn.pairs = (int)f->n;
    k->turn.factor = 1;
    for (uint32_t i = 0; i < f->n; i++)
        k->turn.turns[i] = (mr_attr_i(c, "inverse", 0) ? -1 : 1) * f->u.fs[i] / tau;
    base->run = rope_2d_run;
    return fits(k, 1, err);
}

const struct op_row cuda_patches_rows[] = {
    { "patchify", "x>x", sizeof(struct patches), patchify_prepare, 0, 0 },
    { "patch_positions", "xxX>x", sizeof(struct patches), positions_prepare, 0, 0 },
    { "patch_positions.wgrad", "xFF>", sizeof(struct patches), positions_prepare, 0, 0 },
    { "shuffle_patches", "x>x", sizeof(struct patches), shuffle_prepare, 0, 0 },
    { "rope_2d", "x>x", sizeof(struct patches), rope_2d_prepare, MR_K_INPLACE0, 0 },
    {},
};
