/* SPDX-License-Identifier: Apache-2.0
 * channel.c - see channel.h. Tickets number the submissions; ticket t lies in slot t % SLOTS. */
#include "channel.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { SLOTS = 256 }; /* submitted and not yet done, at most */

typedef struct slot {
    mri_comm_job job;
    mri_channel_fn fn; /* a call of core's instead of a job */
    void *ctx;
    mr_err *call_err;
    mr_status *call_st;
    void *ready, *done; /* events: operands are there; results are (stream plugins) */
    uint64_t *lengths;  /* of an exchange: the job's copy of both */
} slot;

typedef struct staging { /* pinned host memory for devices whose memory the host cannot reach */
    void *p;
    uint64_t bytes;
} staging;

struct mri_channel {
    mri_world *w;
    bool streams; /* the plugin enqueues: no thread */
    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t submitted_one, done_one;
    slot slot[SLOTS];
    uint64_t submitted, done; /* tickets 1 .. submitted were given, 1 .. done are done */
    bool stop;
    mr_status st; /* the first failure; for the rest of the channel's life */
    mr_err err;
    void *stream; /* of copies, or of the collectives */
    const mri_comm_watch *watch;
    staging in, out;
};

static void failed(struct mri_channel *c, mr_status st, const mr_err *err)
{
    pthread_mutex_lock(&c->lock);
    if (!c->st) {
        c->st = st;
        c->err = *err;
    }
    pthread_mutex_unlock(&c->lock);
}

static mr_status first_failure(struct mri_channel *c, mr_err *err)
{
    pthread_mutex_lock(&c->lock);
    mr_status st = c->st;
    if (st && err)
        *err = c->err;
    pthread_mutex_unlock(&c->lock);
    return st;
}

static void tell(struct mri_channel *c, const mri_comm_job *job, void *stream, bool ends)
{
    pthread_mutex_lock(&c->lock);
    const mri_comm_watch *w = c->watch;
    pthread_mutex_unlock(&c->lock);
    if (w)
        w->fn(w->ctx, job, stream, ends);
}

void mri_comm_watch_with(mri_world *w, const mri_comm_watch *watch)
{
    if (!w->channel)
        return;
    pthread_mutex_lock(&w->channel->lock);
    w->channel->watch = watch;
    pthread_mutex_unlock(&w->channel->lock);
}

/* ---- host plugins: the thread -------------------------------------------------------------- */

static mr_status room(mri_world *w, staging *s, uint64_t bytes, mr_err *err)
{
    const mri_comm_device *d = &w->device;
    if (bytes <= s->bytes)
        return 0;
    if (s->p)
        d->ops->free(d->dev, s->p, s->bytes);
    s->p = NULL;
    s->bytes = 0;
    mr_status st = d->ops->alloc(d->dev, bytes, MR_MEM_PINNED, &s->p, err);
    if (!st)
        s->bytes = bytes;
    return st;
}

static mr_status copy(struct mri_channel *c, void *to, const void *from, uint64_t n, mr_err *err)
{
    const mri_comm_device *d = &c->w->device;
    mr_status st = d->ops->copy(d->dev, c->stream, to, from, n, err);
    return st ? st : d->ops->sync(d->dev, c->stream, err);
}

/* The operands are ready when the event is; the results are in device memory on return. */
static mr_status run_staged(struct mri_channel *c, const slot *s, mr_err *err)
{
    const mri_comm_job *j = &s->job;
    const mri_comm_device *d = &c->w->device;
    uint64_t in, out;
    mr_status st = 0;
    mri_comm_span(j, c->w->group[j->group].n, &in, &out);
    if (MR_CAN(d->ops, event_sync)) {
        MR_TRY(d->ops->event_sync(d->dev, s->ready, err));
    } else {
        MR_TRY(d->ops->wait(d->dev, c->stream, s->ready, err));
        MR_TRY(d->ops->sync(d->dev, c->stream, err));
    }
    MR_TRY(room(c->w, &c->in, in, err));
    MR_TRY(room(c->w, &c->out, out, err));
    if (in)
        MR_TRY(copy(c, c->in.p, j->in, in, err));
    if (j->kind == MRI_COMM_BROADCAST && c->w->group[j->group].index == j->peer)
        MR_TRY(copy(c, c->out.p, j->out, out, err));
    MR_TRY(mri_comm_do(c->w, j, NULL, c->in.p, c->out.p, err));
    if (out)
        MR_TRY(copy(c, j->out, c->out.p, out, err));
out:
    return st;
}

static void run_slot(struct mri_channel *c, slot *s)
{
    mr_err err = MR_ERR_INIT;
    mr_status st = first_failure(c, &err);
    bool broken = st != 0;
    atomic_store(&c->w->pulse.waits, !broken);
    if (!st && s->fn) {
        st = s->fn(s->ctx, &err);
    } else if (!st) {
        tell(c, &s->job, NULL, false);
        st = c->w->device.host_memory
                 ? mri_comm_do(c->w, &s->job, NULL, s->job.in, s->job.out, &err)
                 : run_staged(c, s, &err);
        tell(c, &s->job, NULL, true);
    }
    atomic_store(&c->w->pulse.waits, 0);
    atomic_fetch_add(&c->w->pulse.jobs, 1);
    if (st && !broken)
        failed(c, st, &err);
    if (s->fn) {
        *s->call_st = st;
        if (st && s->call_err)
            *s->call_err = err;
    }
}

static void *serve(void *arg)
{
    struct mri_channel *c = arg;
    pthread_mutex_lock(&c->lock);
    for (;;) {
        while (c->done == c->submitted && !c->stop)
            pthread_cond_wait(&c->submitted_one, &c->lock);
        if (c->done == c->submitted)
            break;
        slot *s = &c->slot[(c->done + 1) % SLOTS];
        pthread_mutex_unlock(&c->lock);
        run_slot(c, s);
        pthread_mutex_lock(&c->lock);
        c->done++;
        pthread_cond_broadcast(&c->done_one);
    }
    pthread_mutex_unlock(&c->lock);
    return NULL;
}

static void wait_done(struct mri_channel *c, uint64_t ticket)
{
    pthread_mutex_lock(&c->lock);
    while (c->done < ticket)
        pthread_cond_wait(&c->done_one, &c->lock);
    pthread_mutex_unlock(&c->lock);
}

/* The slot of the next ticket, free and known to the caller alone until give(). */
static slot *take(struct mri_channel *c)
{
    if (c->submitted >= SLOTS)
        wait_done(c, c->submitted + 1 - SLOTS);
    return &c->slot[(c->submitted + 1) % SLOTS];
}

static uint64_t give(struct mri_channel *c)
{
    pthread_mutex_lock(&c->lock);
    uint64_t ticket = ++c->submitted;
    pthread_cond_signal(&c->submitted_one);
    pthread_mutex_unlock(&c->lock);
    return ticket;
}

mr_status mri_channel_call(mri_world *w, mri_channel_fn fn, void *ctx, mr_err *err)
{
    struct mri_channel *c = w->channel;
    mr_status st = 0;
    if (c->streams)
        return fn(ctx, err);
    slot *s = take(c);
    s->fn = fn;
    s->ctx = ctx;
    s->call_st = &st;
    s->call_err = err;
    wait_done(c, give(c));
    return st;
}

/* ---- jobs of the step ------------------------------------------------------------------------ */

static void keep_lengths(slot *s, uint32_t n)
{
    if (s->job.kind != MRI_COMM_ALL_TO_ALL || !s->job.send)
        return;
    free(s->lengths);
    s->lengths = mri_alloc(2 * (size_t)n * sizeof *s->lengths);
    memcpy(s->lengths, s->job.send, n * sizeof *s->lengths);
    memcpy(s->lengths + n, s->job.receive, n * sizeof *s->lengths);
    s->job.send = s->lengths;
    s->job.receive = s->lengths + n;
}

static mr_status submit_host(struct mri_channel *c, const mri_comm_job *job, uint64_t *ticket,
                             mr_err *err)
{
    const mri_comm_device *d = &c->w->device;
    slot *s = take(c);
    s->fn = NULL;
    s->job = *job;
    keep_lengths(s, c->w->group[job->group].n);
    mr_status st = d->host_memory ? d->ops->sync(d->dev, d->stream, err)
                                  : d->ops->record(d->dev, d->stream, &s->ready, err);
    if (!st)
        *ticket = give(c);
    return st;
}

static mr_status submit_stream(struct mri_channel *c, const mri_comm_job *job, uint64_t *ticket,
                               mr_err *err)
{
    const mri_comm_device *d = &c->w->device;
    slot *s = &c->slot[(c->submitted + 1) % SLOTS]; /* its old events come before the new ones */
    mr_status st = 0;
    MR_TRY(d->ops->record(d->dev, d->stream, &s->ready, err));
    MR_TRY(d->ops->wait(d->dev, c->stream, s->ready, err));
    tell(c, job, c->stream, false);
    MR_TRY(mri_comm_do(c->w, job, c->stream, job->in, job->out, err));
    tell(c, job, c->stream, true);
    MR_TRY(d->ops->record(d->dev, c->stream, &s->done, err));
    *ticket = ++c->submitted;
    atomic_store(&c->w->pulse.jobs, c->submitted);
out:
    if (st)
        failed(c, st, err);
    return st;
}

mr_status mri_comm_submit(mri_world *w, const mri_comm_job *job, uint64_t *ticket, mr_err *err)
{
    struct mri_channel *c = w->channel;
    uint64_t own, *t = ticket ? ticket : &own;
    *t = 0;
    if (w->group[job->group].n == 1)
        return mri_comm_alone(w, job, err);
    if (!w->group[job->group].handle || !c)
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST,
                       "a collective on group %s in a world that is for planning alone",
                       mri_group_name(job->group));
    if (!w->device.ops)
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "a collective on group %s before the "
                       "device is open", mri_group_name(job->group));
    mr_status st = first_failure(c, err);
    if (st)
        return st;
    mri_comm_count(w, job);
    return c->streams ? submit_stream(c, job, t, err) : submit_host(c, job, t, err);
}

mr_status mri_comm_wait(mri_world *w, uint64_t ticket, mr_err *err)
{
    struct mri_channel *c = w->channel;
    if (!c || !c->submitted)
        return 0;
    if (!ticket)
        ticket = c->submitted;
    if (!c->streams) {
        wait_done(c, ticket);
        return first_failure(c, err);
    }
    const mri_comm_device *d = &w->device;
    mr_status st = d->ops->wait(d->dev, d->stream, c->slot[ticket % SLOTS].done, err);
    return !st && MR_CAN(w->ops, check) ? w->ops->check(w->comm, err) : st;
}

mr_status mri_comm_run(mri_world *w, const mri_comm_job *job, mr_err *err)
{
    uint64_t ticket;
    mr_status st = mri_comm_submit(w, job, &ticket, err);
    return st || !ticket ? st : mri_comm_wait(w, ticket, err);
}

const char *mri_comm_obstacle(const mri_world *w)
{
    if (mri_world_alone(w))
        return NULL;
    if (!w->ops || !(w->ops->flags & MR_COMM_STREAM))
        return "collectives run on the host";
    return w->ops->flags & MR_COMM_CAPTURABLE ? NULL : "collectives cannot be captured";
}

/* ---- opening --------------------------------------------------------------------------------- */

mr_status mri_channel_open(mri_world *w, mr_err *err)
{
    struct mri_channel *c = mri_alloc(sizeof *c);
    c->w = w;
    c->streams = w->ops->flags & MR_COMM_STREAM;
    pthread_mutex_init(&c->lock, NULL);
    pthread_cond_init(&c->submitted_one, NULL);
    pthread_cond_init(&c->done_one, NULL);
    if (!c->streams && pthread_create(&c->thread, NULL, serve, c)) {
        free(c);
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no thread for rank %u's collectives",
                       w->mesh.rank);
    }
    w->channel = c;
    return 0;
}

mr_status mri_channel_device(mri_world *w, mr_err *err)
{
    const mri_comm_device *d = &w->device;
    return w->channel->streams || !d->host_memory
               ? d->ops->stream_create(d->dev, 1, &w->channel->stream, err)
               : 0;
}

static void drop(const mri_comm_device *d, void **event)
{
    if (*event && !d->host_memory)
        d->ops->event_destroy(d->dev, *event);
    *event = NULL;
}

void mri_channel_leave(mri_world *w)
{
    struct mri_channel *c = w->channel;
    mri_comm_device *d = &w->device;
    mr_err ignored = MR_ERR_INIT;
    if (!d->ops)
        return;
    if (!c->streams)
        wait_done(c, c->submitted);
    else if (c->stream)
        d->ops->sync(d->dev, c->stream, &ignored);
    for (int i = 0; i < SLOTS; i++) {
        drop(d, &c->slot[i].ready);
        drop(d, &c->slot[i].done);
    }
    if (c->in.p)
        d->ops->free(d->dev, c->in.p, c->in.bytes);
    if (c->out.p)
        d->ops->free(d->dev, c->out.p, c->out.bytes);
    if (c->stream)
        d->ops->stream_destroy(d->dev, c->stream);
    c->in = c->out = (staging){ NULL, 0 };
    c->stream = NULL;
    *d = (mri_comm_device){ 0 };
}

void mri_channel_close(mri_world *w)
{
    struct mri_channel *c = w->channel;
    if (!c)
        return;
    mri_channel_leave(w);
    if (!c->streams) {
        pthread_mutex_lock(&c->lock);
        c->stop = true;
        pthread_cond_signal(&c->submitted_one);
        pthread_mutex_unlock(&c->lock);
        pthread_join(c->thread, NULL);
    }
    for (int i = 0; i < SLOTS; i++)
        free(c->slot[i].lengths);
    pthread_mutex_destroy(&c->lock);
    pthread_cond_destroy(&c->submitted_one);
    pthread_cond_destroy(&c->done_one);
    free(c);
    w->channel = NULL;
}
