/* SPDX-License-Identifier: Apache-2.0
 *
 * trip.c - see trip.h. In the words of core/ops/experts_parallel.c and experts_blocks.c:
 *
 *   ragged   take_rows(ep_send(x, all), order, back)
 *   blocks   take_rows(comm.exchange(take_rows(x, send, sent)), order, back)
 *   padded   take_rows(x, order, back)
 */
#include "trip.h"
#include "shard_experts.h"

static mr_val take(mri_rewrite *w, const mri_node *n, mr_val x, mr_val index, mr_val inverse)
{
    return mri_rewrite_op(w, n, "take_rows", MR_IN(x, index, inverse), MR_NOAT, NULL, 1);
}

/* ---- ragged --------------------------------------------------------------------------------- */

static int64_t experts_of(const mri_rewrite *w, mr_val offsets) /* in the old block */
{
    return mri_val(w->from, offsets)->type.dim[0] - 1;
}

static int64_t round_up(double x, int64_t most)
{
    return x >= (double)most ? most : (int64_t)x < x ? (int64_t)x + 1 : (int64_t)x;
}

static void make_ragged(mri_rewrite *w, const mri_mesh *mesh, const mri_node *n, mri_trip *t)
{
    const mr_attr ranks = mr_ai("ranks", mesh->ep), index = mr_ai("index", mesh->i_ep);
    mr_val out[3] = { 0 };
    t->bound = t->rows * mesh->ep;
    if (mesh->dispatch_bound > 0)
        t->bound = round_up(mesh->dispatch_bound * (double)t->rows, t->bound);
    if (mesh->capacity_factor > 0) {
        int64_t E = experts_of(w, t->of);
        int64_t most = mesh->pad_to_capacity ? t->rows : mri_expert_capacity(mesh, t->rows, E) * E;
        t->bound = most < t->bound ? most : t->bound;
    }
    t->all = mri_rewrite_op(w, n, "ep_counts", MR_IN(*mri_rewrite_at(w, t->of)),
                            MR_AT(ranks, index), NULL, 1);
    mri_rewrite_op(w, n, "ep_plan", MR_IN(t->all), MR_AT(ranks, index, mr_ai("bound", t->bound)),
                   out, 3);
    t->offsets = out[0];
    t->order = out[1];
    t->back = out[2];
}

static mr_val send_ragged(mri_rewrite *w, const mri_mesh *mesh, const mri_trip *t,
                          const mri_node *n, mr_val v)
{
    const mr_attr ranks = mr_ai("ranks", mesh->ep), index = mr_ai("index", mesh->i_ep);
    return mri_rewrite_op(w, n, "ep_send", MR_IN(v, t->all),
                          MR_AT(ranks, index, mr_ai("bound", t->bound)), NULL, 1);
}

static mr_val return_ragged(mri_rewrite *w, const mri_mesh *mesh, const mri_trip *t,
                            const mri_node *n, mr_val v)
{
    const mr_attr ranks = mr_ai("ranks", mesh->ep), index = mr_ai("index", mesh->i_ep);
    return mri_rewrite_op(w, n, "ep_return", MR_IN(v, t->all),
                          MR_AT(ranks, index, mr_ai("rows", t->rows)), NULL, 1);
}

/* ---- blocks --------------------------------------------------------------------------------- */

/* Rows that one rank has room for from another; *most: that there can be. */
static int64_t block_rows(const mri_rewrite *w, const mri_mesh *mesh, const mri_trip *t,
                          int64_t *most)
{
    int64_t E = experts_of(w, t->of);
    *most = t->rows;
    if (mesh->capacity_factor > 0) {
        int64_t all = t->rows / mesh->ep;
        if (!mesh->pad_to_capacity)
            all = mri_expert_capacity(mesh, t->rows, E) * (E / mesh->ep);
        *most = all < *most ? all : *most;
    }
    return mesh->dispatch_bound > 0
               ? round_up(mesh->dispatch_bound * (double)t->rows / mesh->ep, *most) : *most;
}

static void make_blocks(mri_rewrite *w, const mri_mesh *mesh, const mri_node *n, mri_trip *t)
{
    int64_t most, block = block_rows(w, mesh, t, &most);
    const mr_attr at[] = { mr_ai("ranks", mesh->ep), mr_ai("index", mesh->i_ep),
                           mr_ai("block", block), mr_ai("rows", t->rows) };
    mr_val out[5] = { 0 };
    t->bound = block * mesh->ep;
    t->all = mri_rewrite_op(w, n, "comm.gather", MR_IN(*mri_rewrite_at(w, t->of)),
                            MR_AT(mr_as("group", mri_group_name(MRI_GROUP_EP)), at[0], at[1],
                                  mr_as("grad", "slice")), NULL, 1);
    if (block < most)
        mri_rewrite_op(w, n, "ep_room",
                       MR_IN(t->all, mri_builder.scalar(w->to, "ok"),
                             mri_builder.scalar(w->to, MRI_ROOM_WANTED)), at, 4, NULL, 0);
    mri_rewrite_op(w, n, "ep_blocks", MR_IN(t->all), at, 4, out, 5);
    t->offsets = out[0];
    t->order = out[1];
    t->back = out[2];
    t->send = out[3];
    t->sent = out[4];
}

static mr_val exchange(mri_rewrite *w, const mri_mesh *mesh, const mri_node *n, mr_val v)
{
    return mri_rewrite_op(w, n, "comm.exchange", MR_IN(v),
                          MR_AT(mr_as("group", mri_group_name(MRI_GROUP_EP)),
                                mr_ai("ranks", mesh->ep), mr_ai("index", mesh->i_ep)), NULL, 1);
}

static mr_val send_blocks(mri_rewrite *w, const mri_mesh *mesh, const mri_trip *t,
                          const mri_node *n, mr_val v)
{
    return exchange(w, mesh, n, take(w, n, v, t->send, t->sent));
}

static mr_val return_blocks(mri_rewrite *w, const mri_mesh *mesh, const mri_trip *t,
                            const mri_node *n, mr_val v)
{
    return take(w, n, exchange(w, mesh, n, v), t->sent, t->send);
}

/* ---- padded --------------------------------------------------------------------------------- */

static void make_padded(mri_rewrite *w, const mri_mesh *mesh, const mri_node *n, mri_trip *t)
{
    int64_t E = experts_of(w, t->of), capacity = mri_expert_capacity(mesh, t->rows, E);
    mr_val out[3] = { 0 };
    t->bound = E * capacity;
    mri_rewrite_op(w, n, "route_pad", MR_IN(*mri_rewrite_at(w, t->of)),
                   MR_AT(mr_ai("capacity", capacity), mr_ai("rows", t->rows)), out, 3);
    t->offsets = out[0];
    t->order = out[1];
    t->back = out[2];
}

static mr_val stay(mri_rewrite *w, const mri_mesh *mesh, const mri_trip *t, const mri_node *n,
                   mr_val v)
{
    (void)w, (void)mesh, (void)t, (void)n;
    return v;
}

/* ---- of all kinds --------------------------------------------------------------------------- */

typedef mr_val move_fn(mri_rewrite *, const mri_mesh *, const mri_trip *, const mri_node *, mr_val);

static const struct {
    void (*make)(mri_rewrite *, const mri_mesh *, const mri_node *, mri_trip *);
    move_fn *send, *receive;
} kinds[] = { [MRI_TRIP_RAGGED] = { make_ragged, send_ragged, return_ragged },
              [MRI_TRIP_BLOCKS] = { make_blocks, send_blocks, return_blocks },
              [MRI_TRIP_PADDED] = { make_padded, stay, stay } };

mri_trip mri_trip_make(mri_rewrite *w, const mri_mesh *mesh, mri_trip_kind kind, const mri_node *n,
                       mr_val of, int64_t rows)
{
    mri_trip t = { .of = of, .rows = rows };
    kinds[kind].make(w, mesh, n, &t);
    return t;
}

mr_val mri_trip_go(mri_rewrite *w, const mri_mesh *mesh, mri_trip_kind kind, const mri_trip *t,
                   const mri_node *n, mr_val v)
{
    return take(w, n, kinds[kind].send(w, mesh, t, n, v), t->order, t->back);
}

mr_val mri_trip_come(mri_rewrite *w, const mri_mesh *mesh, mri_trip_kind kind, const mri_trip *t,
                     const mri_node *n, mr_val v)
{
    return kinds[kind].receive(w, mesh, t, n, take(w, n, v, t->back, t->order));
}
