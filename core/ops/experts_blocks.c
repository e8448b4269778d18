/* SPDX-License-Identifier: Apache-2.0
 *
 * experts_blocks.c - routed rows on their way to other ranks' experts in blocks of equal size: every
 * rank sends `block` rows to every other, those that it has and then zeros. So no count is read on
 * the host, all sizes are known beforehand, and a device graph can hold the whole exchange:
 *
 *   all = comm.gather(offsets)             the offsets [E+1] of every rank, end to end
 *   ep_blocks    the orders that take_rows goes between: rows as this rank has them and as they are
 *                sent (send, sent), as they come and as the experts want them (order, back)
 *   comm.exchange                          block n goes to rank n
 *   ep_room      where a block has too little room: ok = 0, and wanted says how much it takes
 *
 * Rows that a block has no room for are left behind by sender and receiver alike, and such a step
 * changes nothing (ok is over all ranks before the update). `all` is as of ep_counts.
 */
#include "core/ops/experts_parallel.h"
#include "core/ops/common.h"

#define BLOCK_ATTRS "ranks:i index:i block:i rows:i"

/* E + 1 of ranks' offsets, end to end; the failure names the op */
static mr_status check(const mr_call *c, const char *op, int64_t *width, mr_err *err)
{
    const mr_type *all = mri_in(c, 0);
    int64_t N = mr_attr_i(c, "ranks", 1), n = mr_attr_i(c, "index", 0), room[2], E;
    room[0] = mr_attr_i(c, "block", 0);
    room[1] = mr_attr_i(c, "rows", 0);
    if (N < 1 || n < 0 || n >= N)
        return mri_op_fail(err, op, "index is %lld of %lld ranks", (long long)n, (long long)N);
    for (int i = 0; i < 2; i++)
        if (room[i] < 1 || room[i] > INT32_MAX / N)
            return mri_op_fail(err, op, "%s is %lld, must be 1 or more, and over all ranks an index "
                               "reaches them", i ? "rows" : "block", (long long)room[i]);
    if (!mr_is(all, "i32") || all->rank != 1 || all->dim[0] % N)
        return mri_op_fail(err, op, "all must be i32 [ranks (experts + 1)]");
    *width = all->dim[0] / N;
    E = *width - 1;
    return E >= N && !(E % N) ? MR_OK
                              : mri_op_fail(err, op, "%lld ranks must divide the %lld experts",
                                            (long long)N, (long long)E);
}

static mri_exchange exchange(const mr_call *c, const mr_buf *in)
{
    int64_t N = mr_attr_i(c, "ranks", 1);
    return (mri_exchange){ in[0].data, N, mr_attr_i(c, "index", 0), c->in[0]->dim[0] / N - 1,
                           INT64_MAX };
}

static void small_cost(const mr_call *c, mr_cost *cost)
{
    mri_cost(c, cost, 0, 0);
}

/* ---- ep_blocks ------------------------------------------------------------------------------ */
static mr_status blocks_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t width = 0, N = mr_attr_i(c, "ranks", 1);
    mr_status st = check(c, "ep_blocks", &width, err);
    return st ? st
              : mri_infer(c, out, err, "ep_blocks",
                          "all:i32[A] -> offsets:i32[L+1] order:i32[B] back:i32[B] send:i32[B] "
                          "sent:i32[R]",
                          MRI_GIVEN({ "B", N * mr_attr_i(c, "block", 1) },
                                    { "R", mr_attr_i(c, "rows", 1) }, { "L", (width - 1) / N }));
}

/* Block n of what is sent: this rank's rows for the experts of rank n. */
static void fill_sent(const mri_exchange *x, int64_t block, int32_t *send, int32_t *sent, int64_t R)
{
    const int32_t *own = x->all + x->index * (x->experts + 1);
    int64_t each = x->experts / x->ranks;
    for (int64_t i = 0; i < x->ranks * block; i++)
        send[i] = -1;
    for (int64_t r = 0; r < R; r++)
        sent[r] = -1;
    for (int64_t n = 0; n < x->ranks; n++)
        for (int64_t i = 0; i < block && own[n * each] + i < own[(n + 1) * each]; i++) {
            int32_t r = own[n * each] + (int32_t)i;
            send[n * block + i] = r;
            sent[r] = (int32_t)(n * block + i);
        }
}

static mr_status blocks_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_exchange x = exchange(c, in);
    int64_t each = x.experts / x.ranks, first = x.index * each, R = mr_attr_i(c, "rows", 1);
    int64_t block = mr_attr_i(c, "block", 1);
    int32_t *offsets = out[0].data, *order = out[1].data, *back = out[2].data, sorted = 0;
    mr_status st = mri_exchange_check(&x, err);
    if (!st && x.all[(x.index + 1) * (x.experts + 1) - 1] > R)
        st = mri_op_fail(err, "ep_blocks", "rank %lld has %d rows of %lld", (long long)x.index,
                         x.all[(x.index + 1) * (x.experts + 1) - 1], (long long)R);
    if (st)
        return st;
    fill_sent(&x, block, out[3].data, out[4].data, R);
    for (int64_t i = 0; i < x.ranks * block; i++)
        order[i] = back[i] = -1;
    for (int64_t e = 0; e < each; e++) {
        offsets[e] = sorted;
        for (int64_t n = 0; n < x.ranks; n++) {
            const int32_t *own = x.all + n * (x.experts + 1) + first;
            for (int32_t i = own[e] - own[0]; i < own[e + 1] - own[0] && i < block; i++) {
                order[sorted] = (int32_t)(n * block) + i;
                back[order[sorted]] = sorted;
                sorted++;
            }
        }
    }
    offsets[each] = sorted;
    return MR_OK;
}

/* ---- ep_room -------------------------------------------------------------------------------- */
static mr_status room_shape(const mr_call *c, mr_type *const *out, mr_err *err)
{
    int64_t width;
    mr_status st = check(c, "ep_room", &width, err);
    return st ? st
              : mri_infer(c, out, err, "ep_room", "all:i32[A] ok:f32[1] wanted:f32[1] ->", NULL);
}

static mr_status room_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mri_exchange x = exchange(c, in);
    float *ok = in[1].data, *wanted = in[2].data;
    int64_t most = 0;
    (void)out, (void)err;
    for (int64_t from = 0; from < x.ranks; from++)
        for (int64_t to = 0; to < x.ranks; to++) {
            int64_t rows = mri_exchange_rows(&x, from, to);
            most = rows > most ? rows : most;
        }
    if (most > mr_attr_i(c, "block", 1)) {
        *ok = 0;
        *wanted = fmaxf(*wanted, (float)most * (float)x.ranks / (float)mr_attr_i(c, "rows", 1));
    }
    return MR_OK;
}

const mr_op_def mri_ops_experts_blocks[] = {
    { MRI_OP, .id = "ep_blocks", .flags = MR_OP_NO_VJP,
      .doc = "orders of rows that go in blocks of equal size: as they are sent, as they come, and "
             "as this rank's experts want them",
      .sig = "all -> offsets order back send sent", .attrs = BLOCK_ATTRS, .shape = blocks_shape,
      .ref = blocks_ref, .cost = small_cost,
      .cases = MRI_CASES("all=i32[4]{0,4,4,9} @ranks=1 @index=0 @block=9 @rows=9",
                         "all=i32[10]{0,2,3,5,6,0,1,1,4,7} @ranks=2 @index=1 @block=6 @rows=7",
                         "all=i32[10]{0,2,3,5,6,0,1,1,4,7} @ranks=2 @index=0 @block=2 @rows=7") },
    { MRI_OP, .id = "ep_room", .flags = MR_OP_NO_VJP,
      .doc = "a rank sends another more than block rows: ok = 0, wanted = the most of these by the "
             "rows that a rank sends to each on average",
      .sig = "all ok! wanted! ->", .attrs = BLOCK_ATTRS, .shape = room_shape, .ref = room_ref,
      .cost = small_cost,
      .cases = MRI_CASES("all=i32[10]{0,2,3,5,6,0,1,1,4,7} ok=f32[1]{1} wanted=f32[1]zero @ranks=2 "
                         "@index=1 @block=5 @rows=7",
                         "all=i32[10]{0,2,3,5,6,0,1,1,4,7} ok=f32[1]{1} wanted=f32[1]pos @ranks=2 "
                         "@index=0 @block=6 @rows=7") },
    MRI_OPS_END
};
