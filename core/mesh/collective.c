/* SPDX-License-Identifier: Apache-2.0
 * collective.c - one job of a step: its bytes, and the plugin's function that does it. */
#include "channel.h"

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
        *in = sum(j->send, n);
        *out = sum(j->receive, n);
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
    case MRI_COMM_ALL_TO_ALL: return in - j->send[index];
    case MRI_COMM_SEND: return in;
    }
    return 0;
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
        return o->all_to_all(g, stream, in, j->send, NULL, out, j->receive, NULL, err);
    case MRI_COMM_SEND: return o->send(g, stream, in, j->n * mr_dtype_bytes(j->dtype), j->peer,
                                       err);
    case MRI_COMM_RECEIVE:
        return o->receive(g, stream, out, j->n * mr_dtype_bytes(j->dtype), j->peer, err);
    }
    return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "a collective of kind %u", j->kind);
}
