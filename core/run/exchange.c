/* SPDX-License-Identifier: Apache-2.0
 *
 * exchange.c - see exchange.h. What every rank sends to every other follows from `all`, which all
 * ranks of the group have alike: it is checked before anything is sent, so that all of them stop
 * at the same step, or none.
 */
#include "exchange.h"
#include "core/mesh/world.h"
#include "core/ops/experts_parallel.h"
#include <stdlib.h>
#include <string.h>

/* ---- counts ---------------------------------------------------------------------------------- */

/* `all` of a block and slot, as it lies at an address until ep_counts writes there again. */
typedef struct counts {
    const void *at;
    uint64_t bytes;
    int32_t *all;
    bool known;
} counts;

struct mri_counts {
    MRI_VEC(counts) list;
};

static counts *counts_at(mri_device *d, const void *at)
{
    if (!d->counts)
        d->counts = mri_alloc(sizeof *d->counts);
    for (size_t i = 0; i < d->counts->list.n; i++)
        if (d->counts->list.v[i].at == at)
            return &d->counts->list.v[i];
    MRI_PUSH(&d->counts->list, (counts){ .at = at });
    return &d->counts->list.v[d->counts->list.n - 1];
}

/* Reading waits for the device, so what was read once is kept. */
static mr_status read_counts(mri_device *d, const void *at, const mr_type *t, const int32_t **all,
                             mr_err *err)
{
    counts *x = counts_at(d, at);
    mr_status st = 0;
    if (x->bytes != mr_bytes(t)) {
        free(x->all);
        *x = (counts){ .at = at, .bytes = mr_bytes(t), .all = mri_alloc(mr_bytes(t)) };
    }
    if (!x->known)
        st = mri_device_read(d, x->all, at, x->bytes, err);
    x->known = !st;
    *all = x->all;
    return st;
}

void mri_exchange_forget(mri_device *d)
{
    for (size_t i = 0; d->counts && i < d->counts->list.n; i++)
        free(d->counts->list.v[i].all);
    if (d->counts)
        free(d->counts->list.v);
    free(d->counts);
    d->counts = NULL;
}

/* ---- collectives ----------------------------------------------------------------------------- */

static mr_status gather_counts(mri_device *d, mri_world *w, const mr_call *c, const mr_buf *in,
                               const mr_buf *out, uint64_t *ticket, mr_err *err)
{
    mri_comm_job job = { .kind = MRI_COMM_ALL_GATHER, .group = MRI_GROUP_EP, .in = in[0].data,
                         .out = out[0].data, .n = (uint64_t)mr_numel(c->in[0]), .dtype = "i32" };
    counts_at(d, out[0].data)->known = false;
    return mri_comm_submit(w, &job, ticket, err);
}

/* Rows to the experts, or (back) what became of them; behind the last that came, zeros. */
static mr_status move_rows(mri_device *d, mri_world *w, const mr_call *c, const mr_buf *in,
                           const mr_buf *out, bool back, uint64_t *ticket, mr_err *err)
{
    const mr_type *x = c->in[0], *y = c->out[0], *t = c->in[1];
    int64_t N = t->dim[0], me = mr_attr_i(c, "index", 0);
    uint64_t row = mr_bytes(x) / (uint64_t)x->dim[0], came = 0;
    uint64_t *send = mri_alloc((size_t)N * 2 * sizeof *send), *receive = send + N;
    mri_exchange e = { NULL, N, me, t->dim[1] - 1, back ? x->dim[0] : y->dim[0] };
    mr_status st = 0;
    MR_TRY(read_counts(d, in[1].data, t, &e.all, err));
    MR_TRY(mri_exchange_check(&e, err));
    for (int64_t n = 0; n < N; n++) {
        send[n] = row * (uint64_t)(back ? mri_exchange_rows(&e, n, me)
                                        : mri_exchange_rows(&e, me, n));
        receive[n] = row * (uint64_t)(back ? mri_exchange_rows(&e, me, n)
                                           : mri_exchange_rows(&e, n, me));
        came += receive[n];
    }
    MRI_ASSERT(came <= mr_bytes(y));
    mri_comm_job job = { .kind = MRI_COMM_ALL_TO_ALL, .group = MRI_GROUP_EP, .in = in[0].data,
                         .out = out[0].data, .n = mr_bytes(x), .dtype = "u8", .send = send,
                         .receive = receive };
    MR_TRY(mri_comm_submit(w, &job, ticket, err));
    if (came < mr_bytes(y))
        MR_TRY(d->ops->fill(d->dev, d->stream, (char *)out[0].data + came, 0, mr_bytes(y) - came,
                            err));
out:
    free(send);
    return st;
}

mr_status mri_exchange_submit(mri_device *d, const mr_op_def *def, const mr_call *c,
                              const mr_buf *in, const mr_buf *out, uint64_t *ticket,
                              mr_err *err)
{
    mri_world *w = d->world;
    uint32_t ranks = w ? w->group[MRI_GROUP_EP].n : 1;
    if (ranks != (uint64_t)mr_attr_i(c, "ranks", 1))
        return mr_fail(err, MR_E_COMM, MR_BLAME_HOST,
                       "%s is planned for %lld ranks of ep, this world has %u", def->id,
                       (long long)mr_attr_i(c, "ranks", 1), ranks);
    if (!strcmp(def->id, "ep_counts"))
        return gather_counts(d, w, c, in, out, ticket, err);
    return move_rows(d, w, c, in, out, !strcmp(def->id, "ep_return"), ticket, err);
}
