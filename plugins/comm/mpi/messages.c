/* SPDX-License-Identifier: Apache-2.0
 * messages.c - point to point, and the exchange that is made of it. A sent message is copied, so
 * that send() need not wait for the receiver. */
#include "rank.h"
#include <stdlib.h>
#include <string.h>

enum { TAG_MESSAGE = 1, TAG_EXCHANGE = 2 };

mr_status mpi_flush(mpi_rank *self, bool all, mr_err *err)
{
    mr_status st = 0;
    for (mpi_sent **at = &self->sent; *at && !st;) {
        mpi_sent *m = *at;
        int done = 0;
        if (all)
            st = mpi_wait(self, &m->request, 1, "send", "world", err);
        else
            st = mpi_check(self, MPI_Test(&m->request, &done, MPI_STATUS_IGNORE), "send", "world",
                           err);
        if (st || (!all && !done)) {
            at = &m->next;
            continue;
        }
        *at = m->next;
        free(m);
    }
    return st;
}

/* Starts a message of any size; the buffer stays until it is taken. */
static mr_status start(mpi_group *g, bool send, void *data, uint64_t bytes, uint32_t peer, int tag,
                       MPI_Request *r, const char *what, mr_err *err)
{
    MPI_Datatype type;
    int count;
    bool made;
    if (!mpi_span(bytes, &type, &count, &made))
        return mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "MPI makes no type for %llu bytes",
                       (unsigned long long)bytes);
    int rc = send ? MPI_Isend(data, count, type, (int)peer, tag, g->comm, r)
                  : MPI_Irecv(data, count, type, (int)peer, tag, g->comm, r);
    if (made)
        MPI_Type_free(&type); /* MPI keeps it while it is in use */
    return mpi_check(g->self, rc, what, g->name, err);
}

mr_status mpi_send(void *group, void *stream, const void *data, uint64_t bytes, uint32_t to,
                   mr_err *err)
{
    mpi_group *g = group;
    mpi_sent *m = NULL;
    mr_status st = 0;
    (void)stream;
    MR_TRY(mpi_usable(g->self, err));
    MR_TRY(mpi_flush(g->self, false, err));
    m = malloc(sizeof *m + bytes);
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a message of %llu bytes",
                       (unsigned long long)bytes);
    memcpy(m->data, data, bytes);
    MR_TRY(start(g, true, m->data, bytes, to, TAG_MESSAGE, &m->request, "send", err));
    mpi_sent **end = &g->self->sent;
    while (*end)
        end = &(*end)->next;
    m->next = NULL;
    *end = m;
out:
    if (st)
        free(m);
    return st;
}

mr_status mpi_receive(void *group, void *stream, void *data, uint64_t bytes, uint32_t from,
                      mr_err *err)
{
    mpi_group *g = group;
    MPI_Request r;
    mr_status st = 0;
    (void)stream;
    MR_TRY(mpi_usable(g->self, err));
    MR_TRY(start(g, false, data, bytes, from, TAG_MESSAGE, &r, "receive", err));
    MR_TRY(mpi_wait(g->self, &r, 1, "receive", g->name, err));
    MR_TRY(mpi_flush(g->self, false, err));
out:
    return st;
}

/* ---- all to all ------------------------------------------------------------------------------ */

static uint64_t place(const uint64_t *bytes, const uint64_t *at, uint32_t part)
{
    uint64_t sum = 0;
    if (at)
        return at[part];
    for (uint32_t i = 0; i < part; i++)
        sum += bytes[i];
    return sum;
}

/* Beginning with the next rank, so that not all send to the same at once. */
mr_status mpi_all_to_all(void *group, void *stream, const void *in, const uint64_t *send,
                         const uint64_t *send_at, void *out, const uint64_t *receive,
                         const uint64_t *receive_at, mr_err *err)
{
    mpi_group *g = group;
    MPI_Request *r = malloc(2 * g->n * sizeof *r);
    char *from = (char *)(uintptr_t)in;
    int n = 0;
    mr_status st = 0;
    (void)stream;
    if (!r)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for %u requests", 2 * g->n);
    MR_TRY(mpi_usable(g->self, err));
    for (uint32_t k = 1; k < g->n; k++) {
        uint32_t p = (g->index + g->n - k) % g->n;
        if (receive[p])
            MR_TRY(start(g, false, (char *)out + place(receive, receive_at, p), receive[p], p,
                         TAG_EXCHANGE, &r[n++], "all_to_all", err));
    }
    for (uint32_t k = 1; k < g->n; k++) {
        uint32_t p = (g->index + k) % g->n;
        if (send[p])
            MR_TRY(start(g, true, from + place(send, send_at, p), send[p], p, TAG_EXCHANGE, &r[n++],
                         "all_to_all", err));
    }
    if (send[g->index])
        memcpy((char *)out + place(receive, receive_at, g->index),
               from + place(send, send_at, g->index), send[g->index]);
    MR_TRY(mpi_wait(g->self, r, n, "all_to_all", g->name, err));
out:
    free(r);
    return st;
}
