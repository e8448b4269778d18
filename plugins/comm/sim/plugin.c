/* SPDX-License-Identifier: Apache-2.0
 *
 * plugin.c - comm/sim: N ranks as threads of one process, deterministic: the rig on which every
 * kind of parallelism is tested without a launcher. Opening, splitting into teams, leaving.
 */
#include "sim.h"
#include <stdlib.h>
#include <string.h>

typedef struct sim_config {
    int64_t ranks;
} sim_config;

/* [comm.sim] */
static const mr_opt opts[] = {
    MR_OPT_RANGE(sim_config, MR_T_INT, ranks, "ranks", "2", 1, SIM_MAX_RANKS,
                 "ranks, each a thread of this process"),
};

/* ---- the world that the threads share ------------------------------------------------------- */

static uint32_t world_size(const void *config)
{
    return (uint32_t)((const sim_config *)config)->ranks;
}

static mr_status world_create(const void *config, void **threads, mr_err *err)
{
    sim_world *w = calloc(1, sizeof *w);
    pthread_condattr_t clock;
    *threads = NULL;
    if (!w)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a world of threads");
    w->n = world_size(config);
    sim_team *all = sim_team_make(w, "world", 0, 0);
    if (!all) {
        free(w);
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a world of threads");
    }
    w->all = all;
    all->n = w->n;
    for (uint32_t r = 0; r < w->n; r++)
        all->rank[r] = r;
    pthread_mutex_init(&w->lock, NULL);
    pthread_condattr_init(&clock);
    pthread_condattr_setclock(&clock, CLOCK_MONOTONIC);
    pthread_cond_init(&w->changed, &clock);
    pthread_condattr_destroy(&clock);
    *threads = w;
    return MR_OK;
}

static void world_destroy(void *threads)
{
    sim_world *w = threads;
    for (sim_team *t = w->teams, *next; t; t = next) {
        next = t->next;
        sim_team_free(t);
    }
    pthread_cond_destroy(&w->changed);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

/* ---- one rank -------------------------------------------------------------------------------- */

static mr_status open_rank(const mr_host *host, const void *config, const mr_comm_env *env,
                           void **comm, mr_err *err)
{
    sim_world *w = env->threads;
    (void)host, (void)config;
    *comm = NULL;
    if (!w || env->rank >= w->n)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "comm/sim: rank %u without a world of threads",
                       env->rank);
    sim_rank *self = calloc(1, sizeof *self);
    if (!self)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for rank %u", env->rank);
    *self = (sim_rank){ w, env->rank, 0, env->timeout_s > 0 ? env->timeout_s : 60 };
    *comm = self;
    return MR_OK;
}

static void close_rank(void *comm)
{
    sim_rank *self = comm;
    pthread_mutex_lock(&self->world->lock);
    self->world->gone[self->rank] = true;
    pthread_cond_broadcast(&self->world->changed);
    pthread_mutex_unlock(&self->world->lock);
    free(self);
}

static mr_status info(void *comm, mr_comm_info *out, mr_err *err)
{
    const sim_rank *self = comm;
    (void)err;
    out->rank = self->rank;
    out->world = self->world->n;
    out->version = "threads";
    return MR_OK;
}

/* ---- groups ---------------------------------------------------------------------------------- */

/* The team of this split and color: made by the first who asks. Lock held. */
static sim_team *find_team(sim_world *w, const sim_team *all, uint64_t split, int32_t color,
                           const char *name)
{
    for (sim_team *t = w->teams; t; t = t->next)
        if (t->split == split && t->color == color)
            return t;
    sim_team *t = sim_team_make(w, name, split, color);
    for (uint32_t r = 0; t && r < w->n; r++)
        if (all->call[r].color == color)
            t->rank[t->n++] = r;
    if (t)
        t->users = t->n;
    return t;
}

static mr_status split(void *comm, int32_t color, const char *name, void **group, mr_err *err)
{
    sim_rank *self = comm;
    sim_world *w = self->world;
    sim_team *all = w->all, *team = NULL;
    sim_group *g = NULL;
    mr_status st;
    *group = NULL;
    sim_group whole = { self, all, self->rank };
    sim_call call = { .what = "split", .n = ++self->splits, .dtype = name, .color = color };
    MR_TRY(sim_meet(&whole, &call, err));
    if (color >= 0) {
        g = calloc(1, sizeof *g);
        pthread_mutex_lock(&w->lock);
        team = find_team(w, all, self->splits, color, name);
        pthread_mutex_unlock(&w->lock);
        if (!g || !team) {
            st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for group %s", name);
            goto out;
        }
        *g = (sim_group){ self, team, 0 };
        while (team->rank[g->index] != self->rank)
            g->index++;
    }
    MR_TRY(sim_meet(&whole, NULL, err)); /* colors are read */
out:
    if (st)
        free(g);
    else
        *group = g;
    return st;
}

static void group_free(void *group)
{
    sim_group *g = group;
    sim_world *w = g->self->world;
    pthread_mutex_lock(&w->lock);
    if (!--g->team->users) {
        sim_team **at = &w->teams;
        while (*at != g->team)
            at = &(*at)->next;
        *at = g->team->next;
        sim_team_free(g->team);
    }
    pthread_mutex_unlock(&w->lock);
    free(g);
}

/* ---- failing --------------------------------------------------------------------------------- */

static mr_status check(void *comm, mr_err *err)
{
    sim_world *w = ((sim_rank *)comm)->world;
    pthread_mutex_lock(&w->lock);
    mr_status st = sim_failed(w, err);
    pthread_mutex_unlock(&w->lock);
    return st;
}

static mr_status fail(void *comm, mr_err *why)
{
    sim_world *w = ((sim_rank *)comm)->world;
    pthread_mutex_lock(&w->lock);
    mr_status st = sim_fail(w, why);
    pthread_mutex_unlock(&w->lock);
    return st;
}

static void abort_rank(void *comm)
{
    mr_err err = MR_ERR_INIT;
    mr_fail(&err, MR_E_COMM, MR_BLAME_ENV, "rank %u gave up", ((sim_rank *)comm)->rank);
    fail(comm, &err);
}

static const mr_comm_ops ops = {
    .size = sizeof ops,
    .flags = MR_COMM_DETERMINISTIC | MR_COMM_THREADS,
    .world_size = world_size,
    .world_create = world_create,
    .world_destroy = world_destroy,
    .open = open_rank,
    .close = close_rank,
    .info = info,
    .split = split,
    .group_free = group_free,
    .all_reduce = sim_all_reduce,
    .all_gather = sim_all_gather,
    .reduce_scatter = sim_reduce_scatter,
    .broadcast = sim_broadcast,
    .all_to_all = sim_all_to_all,
    .send = sim_send,
    .receive = sim_receive,
    .host_gather = sim_host_gather,
    .check = check,
    .abort = abort_rank,
    .fail = fail,
};

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "comm", "sim", "ranks as threads of one process, deterministic", opts,
      sizeof opts / sizeof *opts, sizeof(sim_config), &ops, NULL },
};

MR_PLUGIN_NOTE("org.mrun.comm.sim", "0.1.0", "comm/sim");
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.mrun.comm.sim", "0.1.0", "Apache-2.0", "ranks as threads", units, 1, 0,
    NULL, NULL,
};
