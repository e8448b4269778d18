/* SPDX-License-Identifier: Apache-2.0
 * meet.c - how ranks wait for each other, and how they fail; see sim.h. */
#include "sim.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

sim_team *sim_team_make(sim_world *w, const char *name, uint64_t split, int32_t color)
{
    sim_team *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->split = split;
    t->color = color;
    snprintf(t->name, sizeof t->name, "%s", name);
    t->next = w->teams;
    w->teams = t;
    return t;
}

void sim_team_free(sim_team *t)
{
    for (uint32_t from = 0; from < t->n; from++)
        for (uint32_t to = 0; to < t->n; to++)
            for (sim_message *m = t->mail[from][to], *next; m; m = next) {
                next = m->next;
                free(m);
            }
    free(t->sum);
    free(t);
}

/* ---- failing --------------------------------------------------------------------------------- */

mr_status sim_failed(sim_world *w, mr_err *err)
{
    if (w->failed && err)
        *err = w->why;
    return w->failed ? w->why.code : 0;
}

mr_status sim_fail(sim_world *w, mr_err *err)
{
    if (!w->failed) {
        w->failed = true;
        w->why = *err;
        pthread_cond_broadcast(&w->changed);
    }
    return sim_failed(w, err);
}

/* ---- waiting --------------------------------------------------------------------------------- */

void sim_deadline(double seconds, struct timespec *at)
{
    clock_gettime(CLOCK_MONOTONIC, at);
    at->tv_sec += (time_t)seconds;
    at->tv_nsec += (long)(1e9 * (seconds - (double)(time_t)seconds));
    if (at->tv_nsec >= 1000000000) {
        at->tv_nsec -= 1000000000;
        at->tv_sec++;
    }
}

static bool over(const struct timespec *deadline)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec > deadline->tv_sec ||
           (now.tv_sec == deadline->tv_sec && now.tv_nsec >= deadline->tv_nsec);
}

mr_status sim_wait(sim_group *g, const struct timespec *deadline, uint32_t who, const char *what,
                   mr_err *err)
{
    sim_world *w = g->self->world;
    mr_err e = MR_ERR_INIT;
    if (w->failed)
        return sim_failed(w, err);
    if (w->gone[who]) {
        mr_fail(&e, MR_E_COMM, MR_BLAME_ENV, "rank %u has left, and rank %u waits for it in %s of "
                "group %s", who, g->self->rank, what, g->team->name);
    } else if (over(deadline)) {
        mr_fail(&e, MR_E_COMM, MR_BLAME_ENV, "rank %u did not come to %s of group %s, for which "
                "rank %u waited %.3g s", who, what, g->team->name, g->self->rank,
                g->self->timeout_s);
        mr_hint(&e, "[comm] timeout is how long ranks wait: mrun explain comm.timeout");
    } else {
        pthread_cond_timedwait(&w->changed, &w->lock, deadline); /* the caller looks what it was */
        return sim_failed(w, err);
    }
    if (err)
        *err = e;
    return sim_fail(w, err ? err : &e);
}

/* ---- meetings -------------------------------------------------------------------------------- */

static bool alike(const sim_call *a, const sim_call *b)
{
    return !strcmp(a->what, b->what) && a->n == b->n && !strcmp(a->dtype, b->dtype) &&
           a->op == b->op && a->root == b->root;
}

static void describe(const sim_call *c, char *text, size_t room)
{
    snprintf(text, room, "%s of %llu %s", c->what, (unsigned long long)c->n, c->dtype);
}

/* The last to come looks at all calls. */
static mr_status check_calls(sim_group *g, mr_err *err)
{
    const sim_team *t = g->team;
    char first[80], other[80];
    mr_err e = MR_ERR_INIT;
    for (uint32_t i = 1; i < t->n; i++) {
        if (alike(&t->call[0], &t->call[i]))
            continue;
        describe(&t->call[0], first, sizeof first);
        describe(&t->call[i], other, sizeof other);
        mr_fail(&e, MR_E_COMM, MR_BLAME_HOST, "group %s: rank %u calls %s, rank %u %s", t->name,
                t->rank[0], first, t->rank[i], other);
        if (err)
            *err = e;
        return sim_fail(g->self->world, err ? err : &e);
    }
    return 0;
}

static uint32_t missing(const sim_team *t)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (!t->here[i])
            return t->rank[i];
    return t->rank[0];
}

/* One who has gone is named before one who is only late. */
static uint32_t waited_for(const sim_team *t, const sim_world *w)
{
    for (uint32_t i = 0; i < t->n; i++)
        if (!t->here[i] && w->gone[t->rank[i]])
            return t->rank[i];
    return missing(t);
}

mr_status sim_meet(sim_group *g, const sim_call *call, mr_err *err)
{
    sim_world *w = g->self->world;
    sim_team *t = g->team;
    struct timespec deadline;
    sim_deadline(g->self->timeout_s, &deadline);
    pthread_mutex_lock(&w->lock);
    mr_status st = sim_failed(w, err);
    uint64_t round = t->round;
    if (!st) {
        if (call)
            t->call[g->index] = *call;
        t->here[g->index] = true;
        if (++t->arrived == t->n) {
            st = call ? check_calls(g, err) : 0;
            t->arrived = 0;
            memset(t->here, 0, sizeof t->here);
            t->round++;
            pthread_cond_broadcast(&w->changed);
        }
    }
    while (!st && t->round == round)
        st = sim_wait(g, &deadline, waited_for(t, w), t->call[g->index].what, err);
    pthread_mutex_unlock(&w->lock);
    return st;
}
