/* SPDX-License-Identifier: Apache-2.0
 *
 * collectives.c - what members do between two meetings. Each reads the others' memory and writes
 * its own alone; a sum over all is made in pieces, one a member, in a buffer of the team.
 */
#include "sim.h"
#include <stdlib.h>
#include <string.h>

static mr_status no_type(const char *dtype, uint32_t op, mr_err *err)
{
    return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_HOST, "comm/sim reduces no %.20s by op %u",
                   dtype,
                   op);
}

/* Room for the sum: by whoever comes first after the meeting, for the call that all have made. */
static mr_status sum_room(sim_group *g, uint64_t bytes, mr_err *err)
{
    sim_world *w = g->self->world;
    sim_team *t = g->team;
    mr_status st = 0;
    pthread_mutex_lock(&w->lock);
    if (t->sum_bytes < bytes) {
        free(t->sum);
        t->sum = malloc(bytes);
        t->sum_bytes = t->sum ? bytes : 0;
        if (!t->sum)
            st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a sum of %llu bytes",
                         (unsigned long long)bytes);
    }
    pthread_mutex_unlock(&w->lock);
    return st;
}

mr_status sim_all_reduce(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, uint32_t op, mr_err *err)
{
    sim_group *g = group;
    sim_team *t = g->team;
    uint64_t width = sim_width(dtype), share = n / t->n, from = share * g->index;
    uint64_t to = g->index + 1 == t->n ? n : from + share;
    sim_call call = { .what = "all_reduce", .n = n, .dtype = dtype, .op = op, .in = in };
    mr_status st = 0;
    (void)stream;
    if (!width)
        return no_type(dtype, op, err);
    MR_TRY(sim_meet(g, &call, err));
    MR_TRY(sum_room(g, n * width, err));
    if (!sim_reduce(t->sum, t->call, t->n, from, to, dtype, op))
        return no_type(dtype, op, err);
    MR_TRY(sim_meet(g, NULL, err));
    memcpy(out, t->sum, n * width); /* the sum stays until all come to the next call */
out:
    return st;
}

mr_status sim_reduce_scatter(void *group, void *stream, const void *in, void *out, uint64_t n,
                             const char *dtype, uint32_t op, mr_err *err)
{
    sim_group *g = group;
    sim_team *t = g->team;
    uint64_t width = sim_width(dtype);
    sim_call call = { .what = "reduce_scatter", .n = n, .dtype = dtype, .op = op, .in = in };
    sim_call part[SIM_MAX_RANKS];
    mr_status st = 0;
    (void)stream;
    if (!width)
        return no_type(dtype, op, err);
    MR_TRY(sim_meet(g, &call, err));
    for (uint32_t r = 0; r < t->n; r++)
        part[r].in = (const char *)t->call[r].in + g->index * n * width;
    if (!sim_reduce(out, part, t->n, 0, n, dtype, op))
        return no_type(dtype, op, err);
    MR_TRY(sim_meet(g, NULL, err));
out:
    return st;
}

static mr_status gather(sim_group *g, const sim_call *call, uint64_t bytes, void *out, mr_err *err)
{
    sim_team *t = g->team;
    mr_status st = sim_meet(g, call, err);
    for (uint32_t r = 0; r < t->n && !st; r++)
        if (bytes && t->call[r].in != (char *)out + r * bytes)
            memcpy((char *)out + r * bytes, t->call[r].in, bytes);
    return st ? st : sim_meet(g, NULL, err);
}

mr_status sim_all_gather(void *group, void *stream, const void *in, void *out, uint64_t n,
                         const char *dtype, mr_err *err)
{
    sim_call call = { .what = "all_gather", .n = n, .dtype = dtype, .in = in };
    (void)stream;
    if (!sim_width(dtype))
        return no_type(dtype, 0, err);
    return gather(group, &call, n * sim_width(dtype), out, err);
}

mr_status sim_host_gather(void *comm, const void *mine, uint64_t bytes, void *all, mr_err *err)
{
    sim_rank *self = comm;
    sim_group g = { self, self->world->all, self->rank };
    sim_call call = { .what = "host_gather", .n = bytes, .dtype = "u8", .in = mine };
    return gather(&g, &call, bytes, all, err);
}

mr_status sim_broadcast(void *group, void *stream, void *data, uint64_t n, const char *dtype,
                        uint32_t root, mr_err *err)
{
    sim_group *g = group;
    sim_call call = { .what = "broadcast", .n = n, .dtype = dtype, .root = root, .in = data };
    mr_status st = 0;
    (void)stream;
    MR_TRY(sim_meet(g, &call, err));
    if (g->index != root)
        memcpy(data, g->team->call[root].in, n * sim_width(dtype));
    MR_TRY(sim_meet(g, NULL, err));
out:
    return st;
}

/* ---- all to all ------------------------------------------------------------------------------ */

static uint64_t begin_of(const uint64_t *bytes, const uint64_t *at, uint32_t part)
{
    uint64_t sum = 0;
    if (at)
        return at[part];
    for (uint32_t i = 0; i < part; i++)
        sum += bytes[i];
    return sum;
}

static mr_status take_part(sim_group *g, uint32_t from, const uint64_t *receive,
                           const uint64_t *receive_at, char *out, mr_err *err)
{
    const sim_call *c = &g->team->call[from];
    uint64_t bytes = c->send[g->index];
    mr_err e = MR_ERR_INIT;
    if (bytes == receive[from]) {
        if (bytes)
            memcpy(out + begin_of(receive, receive_at, from),
                   (const char *)c->in + begin_of(c->send, c->send_at, g->index), bytes);
        return 0;
    }
    mr_fail(&e, MR_E_COMM, MR_BLAME_HOST, "all_to_all of group %s: rank %u sends %llu bytes to "
                                          "rank "
            "%u, which expects %llu", g->team->name, g->team->rank[from],
            (unsigned long long)bytes, g->self->rank, (unsigned long long)receive[from]);
    pthread_mutex_lock(&g->self->world->lock);
    mr_status st = sim_fail(g->self->world, &e);
    pthread_mutex_unlock(&g->self->world->lock);
    if (err)
        *err = e;
    return st;
}

mr_status sim_all_to_all(void *group, void *stream, const void *in, const uint64_t *send,
                         const uint64_t *send_at, void *out, const uint64_t *receive,
                         const uint64_t *receive_at, mr_err *err)
{
    sim_group *g = group;
    sim_call call = { .what = "all_to_all", .dtype = "u8", .in = in, .send = send,
                      .send_at = send_at };
    (void)stream;
    mr_status st = sim_meet(g, &call, err);
    for (uint32_t r = 0; r < g->team->n && !st; r++)
        st = take_part(g, r, receive, receive_at, out, err);
    return st ? st : sim_meet(g, NULL, err);
}
