/* SPDX-License-Identifier: Apache-2.0
 * collective.c - one job of a step: its bytes, and the plugin's function that does it. */
#include "channel.h"
#include <stdlib.h>

static uint64_t sum(const uint64_t *x, uint32_t n)
{
    uint64_t s = 0;
    for (uint32_t i = 0; i < n; i++)
        s += x[i];
    return s;
}

void mri_comm_span(const mri_comm_job *j, uint32_t n, uint64_t *in, uint64_t *out)
{
    uint64_t part = j->dtype ? j->n * mr_dtype_bytes(j->dtype) : j->n;
    *in = *out = part;
    switch (j->kind) {
    case MRI_COMM_ALL_GATHER: *out = n * part; break;
    case MRI_COMM_REDUCE_SCATTER: *in = n * part; break;
    case MRI_COMM_BROADCAST: *in = 0; break;
    case MRI_COMM_ALL_TO_ALL:
        *in = j->send ? sum(j->send, n) : n * part;
        *out = j->receive ? sum(j->receive, n) : n * part;
        break;
    case MRI_COMM_SEND: *out = 0; break;
    case MRI_COMM_RECEIVE: *in = 0; break;
    }
}

uint64_t mri_comm_bytes(const mri_comm_job *j, uint32_t n, uint32_t index)
{
    uint64_t in, out;
    mri_comm_span(j, n, &in, &out);
    switch (j->kind) {
    case MRI_COMM_ALL_REDUCE: return 2 * in / n * (n - 1) + 2 * in % n * (n - 1) / n;
    case MRI_COMM_ALL_GATHER: return in * (n - 1);
    case MRI_COMM_REDUCE_SCATTER: return out * (n - 1);
    case MRI_COMM_BROADCAST: return out / n * (n - 1) + out % n * (n - 1) / n;
    case MRI_COMM_ALL_TO_ALL: return in - (j->send ? j->send[index] : in / n);
    case MRI_COMM_SEND: return in;
    case MRI_COMM_SHIFT: return j->peer % n ? in : 0;
    }
    return 0;
}

/* One message each way, as an exchange in which all other parts are empty: plugins start all of
 * its sends and receives before they wait for one, so a ring of them cannot lock. */
static mr_status shift(mri_world *w, const mri_comm_job *j, void *stream, const void *in, void *out,
                       mr_err *err)
{
    const mri_group *g = &w->group[j->group];
    uint64_t *send = mri_alloc(2 * (size_t)g->n * sizeof *send), *receive = send + g->n;
    uint64_t bytes = j->n * mr_dtype_bytes(j->dtype);
    send[(g->index + j->peer) % g->n] = bytes;
    receive[(g->index + g->n - j->peer % g->n) % g->n] = bytes;
    mr_status st = w->ops->all_to_all(g->handle, stream, in, send, NULL, out, receive, NULL, err);
    free(send);
    return st;
}

/* an all-to-all of as many elements to each */
static mr_status equal_parts(mri_world *w, const mri_comm_job *j, void *stream, const void *in,
                             void *out, mr_err *err)
{
    const mri_group *g = &w->group[j->group];
    uint64_t *bytes = mri_alloc(g->n * sizeof *bytes);
    for (uint32_t i = 0; i < g->n; i++)
        bytes[i] = j->n * mr_dtype_bytes(j->dtype);
    mr_status st = w->ops->all_to_all(g->handle, stream, in, bytes, NULL, out, bytes, NULL, err);
    free(bytes);
    return st;
}

mr_status mri_comm_do(mri_world *w, const mri_comm_job *j, void *stream, const void *in, void *out,
                      mr_err *err)
{
    const mr_comm_ops *o = w->ops;
    void *g = w->group[j->group].handle;
    switch (j->kind) {
    case MRI_COMM_ALL_REDUCE: return o->all_reduce(g, stream, in, out, j->n, j->dtype, j->op, err);
    case MRI_COMM_ALL_GATHER: return o->all_gather(g, stream, in, out, j->n, j->dtype, err);
    case MRI_COMM_REDUCE_SCATTER:
        return o->reduce_scatter(g, stream, in, out, j->n, j->dtype, j->op, err);
    case MRI_COMM_BROADCAST: return o->broadcast(g, stream, out, j->n, j->dtype, j->peer, err);
    case MRI_COMM_ALL_TO_ALL:
        return j->send ? o->all_to_all(g, stream, in, j->send, NULL, out, j->receive, NULL, err)
                       : equal_parts(w, j, stream, in, out, err);
    case MRI_COMM_SHIFT: return shift(w, j, stream, in, out, err);
    case MRI_COMM_SEND: return o->send(g, stream, in, j->n * mr_dtype_bytes(j->dtype), j->peer,
                                       err);
    case MRI_COMM_RECEIVE:
        return o->receive(g, stream, out, j->n * mr_dtype_bytes(j->dtype), j->peer, err);
    }
    return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "a collective of kind %u", j->kind);
}

mr_status mri_comm_alone(mri_world *w, const mri_comm_job *j, mr_err *err)
{
    const mri_comm_device *d = &w->device;
    uint64_t in, out;
    mri_comm_span(j, 1, &in, &out);
    if (j->kind == MRI_COMM_SEND || j->kind == MRI_COMM_RECEIVE)
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "rank %u sends to itself in group %s",
                       w->mesh.rank, mri_group_name(j->group));
    if (!in || !out || j->in == j->out)
        return 0;
    return d->ops->copy(d->dev, d->stream, j->out, j->in, out, err);
}

void mri_comm_count(mri_world *w, const mri_comm_job *j)
{
    const mri_group *g = &w->group[j->group];
    uint64_t in, out;
    w->sent[j->group] += mri_comm_bytes(j, g->n, g->index);
    mri_comm_span(j, g->n, &in, &out);
    bool uneven = j->kind == MRI_COMM_ALL_TO_ALL && j->receive;
    uint64_t own = uneven ? j->receive[g->index] : out / g->n;
    w->received[j->group] += j->kind == MRI_COMM_ALL_TO_ALL ? out - own
                             : j->kind == MRI_COMM_RECEIVE  ? out
                             : j->kind == MRI_COMM_SEND     ? 0
                                                            : mri_comm_bytes(j, g->n, g->index);
}
