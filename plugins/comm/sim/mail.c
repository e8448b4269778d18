/* SPDX-License-Identifier: Apache-2.0
 * mail.c - point to point: a message is copied into a list of its pair, and waits there. */
#include "sim.h"
#include <stdlib.h>
#include <string.h>

mr_status sim_send(void *group, void *stream, const void *data, uint64_t bytes, uint32_t to,
                   mr_err *err)
{
    sim_group *g = group;
    sim_world *w = g->self->world;
    sim_message *m = malloc(sizeof *m + bytes);
    (void)stream;
    if (!m)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a message of %llu bytes",
                       (unsigned long long)bytes);
    m->next = NULL;
    m->bytes = bytes;
    memcpy(m->data, data, bytes);
    pthread_mutex_lock(&w->lock);
    mr_status st = sim_failed(w, err);
    if (st) {
        free(m);
    } else {
        sim_message **end = &g->team->mail[g->index][to];
        while (*end)
            end = &(*end)->next;
        *end = m;
        pthread_cond_broadcast(&w->changed);
    }
    pthread_mutex_unlock(&w->lock);
    return st;
}

mr_status sim_receive(void *group, void *stream, void *data, uint64_t bytes, uint32_t from,
                      mr_err *err)
{
    sim_group *g = group;
    sim_world *w = g->self->world;
    sim_message **box = &g->team->mail[from][g->index], *m;
    struct timespec deadline;
    mr_status st;
    (void)stream;
    sim_deadline(g->self->timeout_s, &deadline);
    pthread_mutex_lock(&w->lock);
    st = sim_failed(w, err);
    while (!st && !*box)
        st = sim_wait(g, &deadline, g->team->rank[from], "send", err);
    m = st ? NULL : *box;
    if (m)
        *box = m->next;
    pthread_mutex_unlock(&w->lock);
    if (m && m->bytes != bytes)
        st = mr_fail(err, MR_E_COMM, MR_BLAME_HOST, "group %s: rank %u waits for %llu bytes of "
                                                    "rank "
                     "%u, which sent %llu", g->team->name, g->self->rank,
                     (unsigned long long)bytes, g->team->rank[from], (unsigned long long)m->bytes);
    else if (m)
        memcpy(data, m->data, bytes);
    free(m);
    return st;
}
