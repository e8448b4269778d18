// SPDX-License-Identifier: Apache-2.0
//
// comm.cu - the n parts of every row as n blocks of rows, and back: what is cut along its last dim,
// around collectives along the first (comm.pack, comm.unpack). Bytes: what it moves, twice; floor:
// bytes / the copy bandwidth.

#include "pack.cuh"

struct parts {
    struct kernel base;
    int64_t rows, ranks, width; // of the blocks: [ranks rows, width]
};

#define SELF const struct parts *k = (const struct parts *)base

// row r rows + a of the blocks is part r of row a
template <typename F, int V, int U>
__global__ void __launch_bounds__(THREADS)
    exchange(const F *from, F *to, int64_t rows, int64_t ranks, uint32_t packs, bool pack_up)
{
    row_packs<U> mine(packs);
    pack<F, V> p[U];
    int64_t wide[U], n = rows * ranks;
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < n) {
            wide[u] = (s.row % rows * ranks + s.row / rows) * packs + s.col;
            p[u].load(from, (pack_up ? wide[u] : s.row * packs + s.col) * V);
        }
#pragma unroll
    for (int u = 0; u < U; u++)
        if (spot s = mine.at(u); s.row < n)
            p[u].store(to, (pack_up ? s.row * packs + s.col : wide[u]) * V);
}

static mr_status parts_run(RUN_ARGS)
{
    SELF;
    bool up = base->op[5] == 'p'; // comm.pack
    (void)ws;
    if (k->rows && k->width)
        WITH_PACK(base->in_kind[0], k->width % WIDE_V == 0 && aligned16(in[0].data, out[0].data), (
            exchange<F, V, 4><<<pack_grid<4>(k->rows * k->ranks * (k->width / V)), THREADS, 0,
                                stream>>>((const F *)in[0].data, (F *)out[0].data, k->rows,
                                          k->ranks, (uint32_t)(k->width / V), up)));
    return cuda_launched(base, err);
}

static mr_status parts_prepare(struct kernel *base, const mr_call *c, mr_err *err)
{
    struct parts *k = (struct parts *)base;
    const mr_type *blocks = base->op[5] == 'p' ? c->out[0] : c->in[0];
    k->ranks = mr_attr_i(c, "ranks", 1);
    k->rows = blocks->dim[0] / k->ranks;
    k->width = blocks->dim[1];
    base->run = parts_run;
    mr_status bad = same_kinds(base, 1, err);
    return bad ? bad : packs_fit(base, mr_numel(blocks), k->width, err);
}

const struct op_row cuda_comm_rows[] = {
    { "comm.pack", "x>x", sizeof(struct parts), parts_prepare, 0, 0 },
    { "comm.unpack", "x>x", sizeof(struct parts), parts_prepare, 0, 0 },
    {},
};
