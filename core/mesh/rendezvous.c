/* SPDX-License-Identifier: Apache-2.0
 * rendezvous.c - see rendezvous.h. One thread reads the line and sends the heartbeat. */
#include "rendezvous.h"
#include "hub.h"
#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

struct mri_rendezvous {
    mr_rendezvous service;
    mri_meeting m;
    mri_hub *hub; /* rank 0 */
    int fd;
    pthread_t thread;
    pthread_mutex_t lock, sending, asking;
    pthread_cond_t changed;
    wire_word value; /* the last that came, until it is taken */
    bool has_value, judged, orphan;
    mr_err verdict;
    atomic_bool stop, leaving; /* leaving: nothing waits any more that would have to end */
};

static bool say(mri_rendezvous *r, uint32_t kind, const char *key, const void *data, uint64_t bytes)
{
    pthread_mutex_lock(&r->sending);
    bool sent = mri_wire_send(r->fd, kind, r->m.rank, key, data, bytes);
    pthread_mutex_unlock(&r->sending);
    return sent;
}

/* ---- the thread ------------------------------------------------------------------------------ */

static void judged(mri_rendezvous *r, const mr_err *e, bool orphan)
{
    pthread_mutex_lock(&r->lock);
    bool first = !r->judged;
    if (first) {
        r->judged = true;
        r->verdict = *e;
    }
    r->orphan |= orphan;
    pthread_cond_broadcast(&r->changed);
    pthread_mutex_unlock(&r->lock);
    if (first && r->m.ended && !atomic_load(&r->leaving))
        r->m.ended(r->m.ctx);
}

static void line_closed(mri_rendezvous *r)
{
    mr_err e = MR_ERR_INIT;
    mr_fail(&e, MR_E_COMM, MR_BLAME_ENV, "rank 0 died: its connection to rank %u closed without a "
            "word", r->m.rank);
    mr_hint(&e, "its own output, or its host's log, says why; the same command resumes from the "
                "last "
                "checkpoint");
    judged(r, &e, true);
}

static bool hear(mri_rendezvous *r)
{
    wire_word w;
    mr_err e;
    if (!mri_wire_read(r->fd, &w))
        return false;
    if (w.kind == WIRE_VERDICT && w.bytes == sizeof e) {
        memcpy(&e, w.data, sizeof e);
        judged(r, &e, false);
    } else if (w.kind == WIRE_VALUE) {
        pthread_mutex_lock(&r->lock);
        free(r->value.data);
        r->value = w;
        r->has_value = true;
        pthread_cond_broadcast(&r->changed);
        pthread_mutex_unlock(&r->lock);
        return true; /* whoever asked has the data now */
    }
    free(w.data);
    return true;
}

static void *serve(void *arg)
{
    mri_rendezvous *r = arg;
    double every = r->m.silence_s / 5 < 1 ? r->m.silence_s / 5 : 1, next = 0;
    while (!atomic_load(&r->stop)) {
        struct pollfd p = { r->fd, POLLIN, 0 };
        double now = mri_wire_now();
        if (now >= next) {
            wire_beat b = { atomic_load(&r->m.pulse->jobs), atomic_load(&r->m.pulse->waits), 0 };
            say(r, WIRE_BEAT, NULL, &b, sizeof b);
            next = now + every;
        }
        if (poll(&p, 1, 50) > 0 && !hear(r)) {
            if (!atomic_load(&r->stop))
                line_closed(r);
            break;
        }
    }
    return NULL;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static void deadline(double seconds, struct timespec *at)
{
    clock_gettime(CLOCK_REALTIME, at);
    double t = (double)at->tv_nsec * 1e-9 + seconds;
    at->tv_sec += (time_t)t;
    at->tv_nsec = (long)((t - (double)(time_t)t) * 1e9);
}

mr_status mri_rendezvous_check(mri_rendezvous *r, mr_err *err)
{
    pthread_mutex_lock(&r->lock);
    mr_status st = r->judged ? r->verdict.code : 0;
    if (st && err)
        *err = r->verdict;
    pthread_mutex_unlock(&r->lock);
    return st;
}

/* The next value of that key, into data. A value of another size is the peer's fault. */
static mr_status await_value(mri_rendezvous *r, const char *key, void *data, uint64_t bytes,
                             mr_err *err)
{
    struct timespec end;
    int timed = 0;
    mr_status st = 0;
    deadline(r->m.timeout_s, &end);
    pthread_mutex_lock(&r->lock);
    while (!r->judged && timed != ETIMEDOUT && !(r->has_value && !strcmp(r->value.key, key)))
        timed = pthread_cond_timedwait(&r->changed, &r->lock, &end);
    if (r->has_value && !strcmp(r->value.key, key)) {
        if (r->value.bytes == bytes)
            memcpy(data, r->value.data, bytes);
        else
            st = mr_fail(err, MR_E_COMM, MR_BLAME_HOST, "'%s' has %llu bytes, rank %u expects %llu",
                         key, (unsigned long long)r->value.bytes, r->m.rank,
                         (unsigned long long)bytes);
        free(r->value.data);
        r->value = (wire_word){ 0 };
        r->has_value = false;
    } else if (r->judged) {
        st = r->verdict.code;
        if (err)
            *err = r->verdict;
    } else {
        st = MR_E_COMM;
    }
    pthread_mutex_unlock(&r->lock);
    return st;
}

static mr_status put(void *self, const char *key, const void *data, uint64_t bytes, mr_err *err)
{
    mri_rendezvous *r = self;
    if (strlen(key) >= WIRE_KEY || bytes > WIRE_MAX)
        return mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN, "rendezvous: a key of %zu letters with %llu "
                       "bytes; limits are %d and %d", strlen(key), (unsigned long long)bytes,
                       WIRE_KEY - 1, WIRE_MAX);
    if (say(r, WIRE_PUT, key, data, bytes))
        return 0;
    mr_status st = mri_rendezvous_check(r, err);
    return st ? st : mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "rank %u cannot reach rank 0 any more",
                             r->m.rank);
}

static mr_status get(void *self, const char *key, uint32_t from, void *data, uint64_t bytes,
                     mr_err *err)
{
    mri_rendezvous *r = self;
    mr_err e = MR_ERR_INIT;
    pthread_mutex_lock(&r->asking);
    say(r, WIRE_GET, key, NULL, 0);
    mr_status st = await_value(r, key, data, bytes, &e);
    pthread_mutex_unlock(&r->asking);
    if (st && !*e.what)
        mr_fail(&e, st, MR_BLAME_ENV, "rank %u did not give '%s', for which rank %u waited %.3g s",
                from, key, r->m.rank, r->m.timeout_s);
    if (st && err)
        *err = e;
    return st;
}

mr_status mri_rendezvous_gather(mri_rendezvous *r, const void *mine, uint64_t bytes, void *all,
                                mr_err *err)
{
    mr_err e = MR_ERR_INIT;
    pthread_mutex_lock(&r->asking);
    say(r, WIRE_GATHER, NULL, mine, bytes);
    mr_status st = await_value(r, "gather", all, bytes * r->m.world, &e);
    pthread_mutex_unlock(&r->asking);
    if (st && !*e.what)
        mr_fail(&e, st, MR_BLAME_ENV, "rank %u waited %.3g s for the others' word", r->m.rank,
                r->m.timeout_s);
    if (st && err)
        *err = e;
    return st;
}

void mri_rendezvous_fail(mri_rendezvous *r, mr_err *err)
{
    struct timespec end;
    int timed = 0;
    deadline(5, &end);
    say(r, WIRE_FAIL, NULL, err, sizeof *err);
    pthread_mutex_lock(&r->lock);
    while (!r->judged && timed != ETIMEDOUT)
        timed = pthread_cond_timedwait(&r->changed, &r->lock, &end);
    if (r->judged)
        *err = r->verdict;
    pthread_mutex_unlock(&r->lock);
}

bool mri_rendezvous_orphan(mri_rendezvous *r)
{
    pthread_mutex_lock(&r->lock);
    bool orphan = r->orphan;
    pthread_mutex_unlock(&r->lock);
    return orphan;
}

const mr_rendezvous *mri_rendezvous_service(const mri_rendezvous *r)
{
    return &r->service;
}

/* ---- opening --------------------------------------------------------------------------------- */

static mr_status open_hub(mri_rendezvous *r, mr_err *err)
{
    mr_status st = 0;
    if (r->m.listening < 0)
        st = mri_wire_listen(&r->m.port, &r->m.listening, err);
    if (!st)
        st = mri_hub_open(r->m.listening, r->m.world, r->m.timeout_s, r->m.silence_s, &r->hub, err);
    r->m.host = "127.0.0.1";
    return st;
}

mr_status mri_rendezvous_open(const mri_meeting *m, mri_rendezvous **out, mr_err *err)
{
    mri_rendezvous *r = mri_alloc(sizeof *r);
    mr_status st = 0;
    r->m = *m;
    r->fd = -1;
    r->service = (mr_rendezvous){ sizeof r->service, 0, r, put, get };
    pthread_mutex_init(&r->lock, NULL);
    pthread_mutex_init(&r->sending, NULL);
    pthread_mutex_init(&r->asking, NULL);
    pthread_cond_init(&r->changed, NULL);
    if (!m->rank)
        MR_TRY(open_hub(r, err));
    MR_TRY(mri_wire_connect(r->m.host, r->m.port, m->timeout_s, &r->fd, err));
    say(r, WIRE_HELLO, NULL, &m->world, sizeof m->world);
    if (pthread_create(&r->thread, NULL, serve, r)) {
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no thread for rank %u's heartbeat", m->rank);
        close(r->fd);
        r->fd = -1;
    }
out:
    if (st) {
        mri_rendezvous_close(r, true);
        r = NULL;
    }
    *out = r;
    return st;
}

static void await_end_of_line(mri_rendezvous *r)
{
    double end = mri_wire_now() + 5;
    while (!mri_rendezvous_orphan(r) && mri_wire_now() < end)
        usleep(10000);
}

void mri_rendezvous_close(mri_rendezvous *r, bool lost)
{
    if (!r)
        return;
    atomic_store(&r->leaving, true);
    if (r->fd >= 0) {
        if (lost && r->m.rank)
            await_end_of_line(r);
        atomic_store(&r->stop, true);
        say(r, WIRE_BYE, NULL, NULL, 0);
        pthread_join(r->thread, NULL);
        close(r->fd);
    }
    mri_hub_close(r->hub, lost ? 0 : 10);
    free(r->value.data);
    pthread_mutex_destroy(&r->lock);
    pthread_mutex_destroy(&r->sending);
    pthread_mutex_destroy(&r->asking);
    pthread_cond_destroy(&r->changed);
    free(r);
}
