// SPDX-License-Identifier: Apache-2.0
//
// attn.cuh - the geometry that the attention kernels share, tiles of rows in shared memory, and
// dot products of them. A block of 256 threads has a tile of 32 queries by 32 keys: thread (r, x) =
// (id / 8, id % 8) makes the products of row r with rows x, x + 8, x + 16, x + 24, and owns the
// columns x, x + 8 ... of row r of a result. A row has one value of padding, so that the 8
// threads of a row, and the 4 rows of a warp, touch different banks.

#ifndef MRUN_CUDA_ATTN_CUH
#define MRUN_CUDA_ATTN_CUH
#include "dev.cuh"

enum { TILE = 32, ATTN_MAX_WIDTH = 256, PPITCH = TILE + 1 };

struct attn_args { // by value in a launch
    int64_t tokens, chunk;
    int heads, kv, group, c, cv; // group: query heads a kv head
    float scale;
    int whole; // tokens of each sequence, all of which a token sees; 0: causal
    int64_t keys; // rows of k and v: tokens, or those of all ranks
    int cut, ranks, index; // attention.cp and .part: tokens of a sequence that ranks share; else 0
    int part; // attention.part: 1 + the rank whose keys alone are here; else 0
};

struct attn {
    struct kernel base;
    attn_args a;
    int64_t slots, positions; // of a cache
    int splits;               // blocks that share the keys of a row
    size_t shared;
};

static inline mr_status attn_shape(struct attn *k, const mr_call *c, const mr_type *q,
                                   const mr_type *v, mr_err *err)
{
    k->a.tokens = q->dim[0];
    k->a.heads = (int)mr_attr_i(c, "heads", 1);
    k->a.kv = (int)mr_attr_i(c, "kv_heads", k->a.heads);
    k->a.group = k->a.kv > 0 ? k->a.heads / k->a.kv : 0;
    k->a.chunk = mr_attr_i(c, "chunk", 0);
    k->a.whole = mr_attr_i(c, "causal", 1) ? 0 : (int)mr_attr_i(c, "seq", 0);
    k->a.keys = k->a.tokens;
    bool part = strstr(k->base.op, ".part");
    if (part || strstr(k->base.op, ".cp")) {
        k->a.cut = (int)mr_attr_i(c, "seq", 0);
        k->a.ranks = (int)mr_attr_i(c, "ranks", 1);
        k->a.index = (int)mr_attr_i(c, "index", 0);
        k->a.keys *= part ? 1 : k->a.ranks;
        k->a.part = part ? (int)mr_attr_i(c, "from", 0) + 1 : 0;
        if (k->a.cut < 1 || k->a.ranks < 1 || k->a.cut % (2 * k->a.ranks))
            return cuda_refuse(&k->base, err, "sequences that are not cut in equal pieces");
    }
    if (k->a.group < 1 || mr_last(q) / k->a.heads > ATTN_MAX_WIDTH ||
        mr_last(v) / k->a.kv > ATTN_MAX_WIDTH)
        return cuda_refuse(&k->base, err, "a head is wider than 256");
    if (k->a.keys > INT32_MAX / 2)
        return cuda_refuse(&k->base, err, "more tokens than 32-bit positions hold");
    k->a.c = (int)(mr_last(q) / k->a.heads);
    k->a.cv = (int)(mr_last(v) / k->a.kv);
    k->a.scale = (float)mr_attr_f(c, "scale", 1 / sqrt((double)k->a.c));
    return MR_OK;
}

// The row of the whole that row i of a rank is. Of sequences that ranks share each has two pieces,
// one from the front and one from the back (zig-zag); rows rise with i.
DEV int row_of(int i, int rank, const attn_args &a)
{
    if (!a.cut)
        return i;
    int piece = a.cut / (2 * a.ranks), in = i % (2 * piece);
    return i / (2 * piece) * a.cut +
           (in < piece ? rank * piece + in : (2 * a.ranks - 2 - rank) * piece + in);
}

// How many rows of a rank lie before that row of the whole.
DEV int rows_before(int row, int rank, const attn_args &a)
{
    int piece = a.cut / (2 * a.ranks), in = row % a.cut;
    int front = in - rank * piece, behind = in - (2 * a.ranks - 1 - rank) * piece;
    return row / a.cut * (2 * piece) + min(max(front, 0), piece) + min(max(behind, 0), piece);
}

// The first key that token t sees. Starts outside 0..t are taken as the nearer end. Of a part it
// may lie behind the last: then there is none.
DEV int first_seen(const int32_t *seq_start, int t, const attn_args &a)
{
    if (a.whole)
        return t - t % a.whole;
    int s = seq_start[t], row = row_of(t, a.index, a);
    s = s < 0 ? 0 : s > row ? row : s;
    s = a.chunk ? s + (int)((row - s) / a.chunk * a.chunk) : s;
    return a.part ? rows_before(s, a.part - 1, a) : s;
}

// The last one; it does not fall as t rises.
DEV int last_seen(int t, const attn_args &a)
{
    if (a.whole)
        return (int)min((int64_t)(t - t % a.whole + a.whole), a.tokens) - 1;
    int row = row_of(t, a.index, a);
    return a.part ? rows_before(row + 1, a.part - 1, a) - 1 : row;
}

// The first query that may see key j.
DEV int first_query(int j, const attn_args &a)
{
    if (!a.cut)
        return a.whole ? j - j % a.whole : j;
    return rows_before(a.part ? row_of(j, a.part - 1, a) : j, a.index, a);
}

// Rows row0 .. row0 + 31 of a [tokens, stride] operand, `n` values from column `col`; rows
// past the end are 0.
template <typename F>
DEV void load_tile(const F *p, int64_t stride, int64_t col, int row0, int64_t tokens, int n,
                   float *tile)
{
    for (int e = threadIdx.x; e < TILE * n; e += 256) {
        int r = e / n, i = e % n;
        tile[r * (n + 1) + i] = row0 + r < tokens ? ld(p, (row0 + r) * stride + col + i) : 0;
    }
}

// z[i] = <a row r, b row x + 8 i>
DEV void dots(const float *a, const float *b, int n, int r, int x, float z[4])
{
    const float *p = a + r * (n + 1), *q = b + x * (n + 1);
    int step = 8 * (n + 1);
    z[0] = z[1] = z[2] = z[3] = 0;
    for (int i = 0; i < n; i++) {
        float v = p[i];
        z[0] += v * q[i];
        z[1] += v * q[i + step];
        z[2] += v * q[i + 2 * step];
        z[3] += v * q[i + 3 * step];
    }
}

// over the 8 threads of a row
DEV float row_sum(float v)
{
    for (int d = 4; d; d >>= 1)
        v += __shfl_xor_sync(~0u, v, d);
    return v;
}

DEV float row_max(float v)
{
    for (int d = 4; d; d >>= 1)
        v = fmaxf(v, __shfl_xor_sync(~0u, v, d));
    return v;
}

DEV int block_min_first(const int *first) // of the tile's rows
{
    int m = first[threadIdx.x % 32];
    for (int d = 16; d; d >>= 1)
        m = min(m, __shfl_xor_sync(~0u, m, d));
    return m;
}

static inline size_t tile_bytes(int n)
{
    return (size_t)TILE * (size_t)(n + 1) * sizeof(float);
}

// Runs STATEMENT with F the element type and NV the columns a thread owns: 8 NV covers a head.
#define WITH_ATTN(kind, width, ...) \
    do { \
        if ((width) <= 128) { \
            constexpr int NV = 16; \
            WITH_TYPE(kind, __VA_ARGS__); \
        } else { \
            constexpr int NV = 32; \
            WITH_TYPE(kind, __VA_ARGS__); \
        } \
    } while (0)

// Runs STATEMENT with O the element type of results: f32 of a part, else F.
#define WITH_RESULT(args, same, ...) \
    do { \
        if ((args).part) { \
            using O = float; \
            __VA_ARGS__; \
        } else { \
            using O = same; \
            __VA_ARGS__; \
        } \
    } while (0)

#endif
