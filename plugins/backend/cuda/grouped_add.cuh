// SPDX-License-Identifier: Apache-2.0
//
// grouped_add.cuh - a part of grouped_wgmma.cuh: the weight gradient that is added to c, where
// memory has as much to do as the tensor cores and must never wait for them. So the two warpgroups
// share nothing: halves of tiles, 128 x 128, go to them in turn, and one multiplies while the other
// adds. c comes and goes by the copy engine as slips of 64 rows by 32 columns, through a ring of
// them for each warpgroup, which a warp of its own keeps full: the first slips are there before the
// products are, and no register waits for them. An element is added to once, by one thread: equal
// bits every time.
//
// A slip's lines are 128 bytes with the 128-byte swizzle: 16 bytes i of line r lie at i ^ r % 8.

DEV char *slip_at(char *room, int group, uint32_t n)
{
    return room + (group * SLIPS + n % SLIPS) * SLIP_BYTES;
}

template <class P> DEV uint64_t *slip_full(char *shared, int group, uint32_t n)
{
    return (uint64_t *)(shared + P::SLIPS_AT) + group * SLIPS + n % SLIPS;
}

template <class P> DEV uint64_t *slip_empty(char *shared, int group, uint32_t n)
{
    return slip_full<P>(shared, group, n) + GROUPS * SLIPS;
}

template <class P> DEV void init_slips(char *shared) // and the turns, which lie behind
{
    for (int i = 0; i < 2 * GROUPS * SLIPS + GROUPS; i++)
        barrier_init((uint64_t *)(shared + P::SLIPS_AT) + i, 1);
}

// A warp: c's slips for warpgroup `group`, half by half.
template <class P>
DEV void fetch_slips(const CUtensorMap *c, const grouped_args &p, char *shared, int group)
{
    const int *starts = (const int *)(shared + P::STARTS_AT);
    int e = 0, rank = (int)cluster_rank(), seen = 0;
    uint32_t n = 0;
    work w;
    for (int u = blockIdx.x / 2; find<P>(p, starts, u, rank, e, w); u += gridDim.x / 2) {
        for (int first = 0; first < w.boxes; first += P::WIDE)
            if (seen++ % GROUPS == group && threadIdx.x % 32 == 0)
                for (int i = 0; i < w.pieces * (HALF / SLIP); i++, n++) {
                    uint64_t *full = slip_full<P>(shared, group, n);
                    barrier_wait(slip_empty<P>(shared, group, n), (n / SLIPS & 1) ^ 1);
                    barrier_expect(full, SLIP_BYTES);
                    box_load(slip_at(shared + P::ROOM_AT, group, n), c,
                             w.col0 + first * BOX + i % (HALF / SLIP) * SLIP,
                             w.row0 + i / (HALF / SLIP) * BOX, w.expert, full);
                }
        __syncwarp();
    }
}

// acc[s] = piece s of the product of half a tile, for s < N. Else as multiply().
template <class P, int N>
DEV uint64_t *multiply_half(float acc[2][64], const work &w, int group, ring<P> &r)
{
    int steps = (w.inner + BOX - 1) / BOX;
    uint64_t *before = NULL;
    for (int k = 0; k < steps; k++) {
        int lines = w.inner - k * BOX;
        barrier_wait(r.full(), r.phase);
        if (lines < BOX) { // what lies behind the expert's rows may be no number
            for (int box = 0; box < GROUPS + P::WIDE; box++)
                for (int i = threadIdx.x % 128; i < (BOX - lines) * 128 / 16; i += 128)
                    ((uint4 *)(r.a(box) + lines * 128))[i] = uint4{ 0, 0, 0, 0 };
            shared_stores_visible();
            group_meet(1 + group, 128);
        }
        if (N) {
            uint64_t a = operand_at(r.a(0)), b = operand_at(r.b(0));
            products_begin();
#pragma unroll
            for (int i = 0; i < BOX / 16; i++)
#pragma unroll
                for (int s = 0; s < N; s++)
                    product<P::INNER, P::B_TURNED>(
                        acc[s], a + s * (BOX_BYTES >> 4) + i * k_step<P::INNER>(),
                        b + i * k_step<P::B_TURNED>(), k | i);
            products_end();
            products_wait<1>();
        } else {
            group_meet(1 + group, 128); // products do that else: nobody lags
        }
        if (before)
            release(before);
        before = r.empty();
        r.next();
    }
    return before;
}

// The sums of `pieces` pieces onto the slips of c from number n on.
template <class P>
DEV void add_slips(const float acc[2][64], const CUtensorMap *c, const work &w, int col0,
                   char *shared, int group, uint32_t &n)
{
    const int each = HALF / SLIP; // slips of a piece
    int t = threadIdx.x % 128, l = t % 32, row = t / 32 * WARP_ROWS + l / 4;
#pragma unroll
    for (int i = 0; i < GROUPS * each; i++) {
        if (i >= w.pieces * each)
            continue;
        char *slip = slip_at(shared + P::ROOM_AT, group, n), *line = slip + row * SLIP * 4;
        barrier_wait(slip_full<P>(shared, group, n), n / SLIPS & 1);
#pragma unroll
        for (int j = 0; j < SLIP / 8; j++) {
            const float *v = acc[i / each] + 4 * (i % each * (SLIP / 8) + j);
            float2 *at = (float2 *)(line + ((2 * j + l % 4 / 2) ^ row % 8) * 16 + l % 2 * 8);
            float2 *below = at + 8 * SLIP / 2; // 8 lines further
            *at = float2{ at->x + v[0], at->y + v[1] };
            *below = float2{ below->x + v[2], below->y + v[3] };
        }
        shared_stores_visible();
        group_meet(1 + group, 128);
        if (t == 0) {
            box_store(c, col0 + i % each * SLIP, w.row0 + i / each * BOX, w.expert, slip);
            stores_read<1>(); // so the slip before may be filled again
            if (i)
                barrier_arrive(slip_empty<P>(shared, group, n - 1));
        }
        n++;
    }
    if (t == 0 && w.pieces) {
        stores_read<0>();
        barrier_arrive(slip_empty<P>(shared, group, n - 1));
    }
}

template <class P>
DEV void compute_adding(const CUtensorMap *c, const grouped_args &p, char *shared)
{
    const int *starts = (const int *)(shared + P::STARTS_AT);
    int t = threadIdx.x - 128, group = t / 128, rank = (int)cluster_rank(), e = 0, seen = 0;
    uint64_t *turns = (uint64_t *)(shared + P::TURNS_AT);
    ring<P> r = { shared, 0, 0 };
    uint32_t slips = 0;
    float acc[2][64];
    work w;
    for (int u = blockIdx.x / 2; find<P>(p, starts, u, rank, e, w); u += gridDim.x / 2)
        for (int first = 0; first < w.boxes; first += P::WIDE, seen++) {
            if (seen % GROUPS != group) {
                r.skip((w.inner + BOX - 1) / BOX);
                continue;
            }
            // The ring's barriers tell a stage's use from the one before, no further back: so a
            // warpgroup starts when the other has seen all of its stages filled.
            barrier_wait(turns + group, (seen / GROUPS & 1) ^ !group);
            uint64_t *last = w.pieces >= 2   ? multiply_half<P, 2>(acc, w, group, r)
                             : w.pieces == 1 ? multiply_half<P, 1>(acc, w, group, r)
                                             : multiply_half<P, 0>(acc, w, group, r);
            if (t % 128 == 0)
                barrier_arrive(turns + !group);
            products_wait<0>();
            hold(acc[0]);
            hold(acc[1]);
            release(last);
            add_slips<P>(acc, c, w, w.col0 + first * BOX, shared, group, slips);
        }
    if (t % 128 == 0)
        stores_wait();
}
