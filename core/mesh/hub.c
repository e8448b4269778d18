/* SPDX-License-Identifier: Apache-2.0
 * hub.c - see hub.h. One thread, one poll() over all ranks. */
#include "hub.h"
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

typedef struct member {
    int fd; /* -1: not there */
    bool came, left;
    double heard;
    wire_beat beat;
    char wants[WIRE_KEY]; /* the key that it waits for; "" none */
    wire_word part;       /* of the gather under way; kind 0: none yet */
} member;

typedef struct entry {
    char key[WIRE_KEY];
    void *data;
    uint64_t bytes;
} entry;

struct mri_hub {
    int listening;
    uint32_t world, here; /* members that have come */
    double opened, patience, silence;
    member *member;
    MRI_VEC(int) strangers; /* connected, no HELLO yet */
    MRI_VEC(entry) entries;
    bool judged;
    mr_err verdict;
    pthread_t thread;
    atomic_bool stop;
    _Atomic double stop_at;
};

/* ---- the verdict ----------------------------------------------------------------------------- */

static void judge(mri_hub *h, const mr_err *e)
{
    if (h->judged)
        return;
    h->judged = true;
    h->verdict = *e;
    for (uint32_t r = 0; r < h->world; r++)
        if (h->member[r].fd >= 0)
            mri_wire_send(h->member[r].fd, WIRE_VERDICT, 0, NULL, &h->verdict, sizeof h->verdict);
}

/* Who keeps the others waiting: one that computes while others wait; else who came to least. */
static uint32_t laggard(const mri_hub *h)
{
    uint32_t worst = h->world;
    for (uint32_t r = 0; r < h->world; r++) {
        const member *m = &h->member[r];
        const member *w = worst < h->world ? &h->member[worst] : NULL;
        if (m->left || (w && m->beat.waits > w->beat.waits))
            continue;
        if (!w || m->beat.waits < w->beat.waits || m->beat.jobs < w->beat.jobs)
            worst = r;
    }
    return worst;
}

/* A rank that gave up waiting knows for what; the hub knows for whom. */
static void name_laggard(const mri_hub *h, uint32_t from, mr_err *e)
{
    uint32_t r = laggard(h);
    if (e->code != MR_E_COMM || !strstr(e->what, "waited") || r == h->world || r == from)
        return;
    char what[sizeof e->what];
    memcpy(what, e->what, sizeof what);
    snprintf(e->what, sizeof e->what, "rank %u does not come (%s): %.*s", r,
             h->member[r].beat.waits ? "it waits elsewhere" : "it is busy or hangs",
             (int)sizeof what - 60, what);
}

static void lost(mri_hub *h, uint32_t r, const char *how)
{
    mr_err e = MR_ERR_INIT;
    mr_fail(&e, MR_E_COMM, MR_BLAME_ENV, "rank %u %s", r, how);
    mr_hint(&e, "its own output, or its host's log, says why; the same command resumes from the "
                "last "
                "checkpoint");
    judge(h, &e);
}

/* ---- words ----------------------------------------------------------------------------------- */

static void answer(mri_hub *h, member *m)
{
    for (size_t i = 0; i < h->entries.n && *m->wants; i++) {
        const entry *e = &h->entries.v[i];
        if (strcmp(e->key, m->wants))
            continue;
        mri_wire_send(m->fd, WIRE_VALUE, 0, e->key, e->data, e->bytes);
        *m->wants = 0;
    }
}

static void keep(mri_hub *h, wire_word *w)
{
    entry *e = NULL;
    for (size_t i = 0; i < h->entries.n; i++)
        if (!strcmp(h->entries.v[i].key, w->key))
            e = &h->entries.v[i];
    if (!e) {
        MRI_PUSH(&h->entries, (entry){ 0 });
        e = &h->entries.v[h->entries.n - 1];
        memcpy(e->key, w->key, sizeof e->key);
    }
    free(e->data);
    e->data = w->data;
    e->bytes = w->bytes;
    w->data = NULL;
    for (uint32_t r = 0; r < h->world; r++)
        if (h->member[r].fd >= 0)
            answer(h, &h->member[r]);
}

/* All ranks' parts, end to end, to all of them once the last has come. */
static void gather(mri_hub *h, uint32_t r, wire_word *w)
{
    uint64_t bytes = w->bytes;
    free(h->member[r].part.data);
    h->member[r].part = *w;
    w->data = NULL;
    for (uint32_t i = 0; i < h->world; i++)
        if (!h->member[i].part.kind || h->member[i].part.bytes != bytes)
            return; /* other sizes: who waits is told when its time is over */
    if (bytes > WIRE_MAX / h->world)
        return;
    char *all = mri_alloc(bytes * h->world + 1);
    for (uint32_t i = 0; i < h->world; i++) {
        wire_word *part = &h->member[i].part;
        if (bytes)
            memcpy(all + i * bytes, part->data, bytes);
        free(part->data);
        *part = (wire_word){ 0 };
    }
    for (uint32_t i = 0; i < h->world; i++)
        if (h->member[i].fd >= 0)
            mri_wire_send(h->member[i].fd, WIRE_VALUE, 0, "gather", all, bytes * h->world);
    free(all);
}

static void gone(mri_hub *h, uint32_t r)
{
    member *m = &h->member[r];
    close(m->fd);
    m->fd = -1;
    if (!m->left)
        lost(h, r, "died: its connection closed without a word");
    m->left = true;
}

static void listen_to(mri_hub *h, uint32_t r)
{
    member *m = &h->member[r];
    wire_word w;
    if (!mri_wire_read(m->fd, &w)) {
        gone(h, r);
        return;
    }
    m->heard = mri_wire_now();
    if (w.kind == WIRE_PUT) {
        keep(h, &w);
    } else if (w.kind == WIRE_GET) {
        memcpy(m->wants, w.key, sizeof m->wants);
        answer(h, m);
    } else if (w.kind == WIRE_BEAT && w.bytes == sizeof m->beat) {
        memcpy(&m->beat, w.data, sizeof m->beat);
    } else if (w.kind == WIRE_FAIL && w.bytes == sizeof(mr_err)) {
        mr_err e;
        memcpy(&e, w.data, sizeof e);
        e.size = sizeof e;
        e.what[sizeof e.what - 1] = e.detail[sizeof e.detail - 1] = e.hint[sizeof e.hint - 1] = 0;
        name_laggard(h, r, &e);
        judge(h, &e);
    } else if (w.kind == WIRE_GATHER) {
        gather(h, r, &w);
    } else if (w.kind == WIRE_BYE) {
        m->left = true;
    }
    free(w.data);
}

/* While the ranks gather, one that does not fit ends the job; later it is a stranger. */
static void refuse(mri_hub *h, int fd, const char *what, uint32_t a, uint32_t b)
{
    mr_err e = MR_ERR_INIT;
    mr_fail(&e, MR_E_COMM, MR_BLAME_ENV, what, a, b);
    mri_wire_send(fd, WIRE_VERDICT, 0, NULL, &e, sizeof e);
    close(fd);
    if (h->here < h->world)
        judge(h, &e);
}

static void greet(mri_hub *h, size_t stranger)
{
    int fd = h->strangers.v[stranger];
    uint32_t world;
    wire_word w;
    h->strangers.v[stranger] = h->strangers.v[--h->strangers.n];
    if (!mri_wire_read(fd, &w)) { /* someone who looks for open ports */
        close(fd);
        return;
    }
    bool polite = w.kind == WIRE_HELLO && w.bytes == sizeof world;
    if (polite)
        memcpy(&world, w.data, sizeof world);
    free(w.data);
    if (!polite) {
        close(fd);
    } else if (world != h->world || w.from >= h->world) {
        refuse(h, fd, "rank %u was told of another number of ranks than rank 0: %u", w.from, world);
    } else if (h->member[w.from].came) {
        refuse(h, fd, "two processes say that they are rank %u (of %u)", w.from, world);
    } else {
        h->member[w.from] = (member){ .fd = fd, .came = true, .heard = mri_wire_now() };
        h->here++;
        if (h->judged)
            mri_wire_send(fd, WIRE_VERDICT, 0, NULL, &h->verdict, sizeof h->verdict);
    }
}

static void invite(mri_hub *h)
{
    struct timeval patience = { 5, 0 }; /* half a word is no reason to wait for ever */
    int fd = accept4(h->listening, NULL, NULL, SOCK_CLOEXEC);
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience);
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience);
    MRI_PUSH(&h->strangers, fd);
}

/* ---- time ------------------------------------------------------------------------------------ */

static void look_at_clock(mri_hub *h)
{
    double now = mri_wire_now();
    char how[80];
    if (h->judged)
        return;
    for (uint32_t r = 0; r < h->world; r++) {
        const member *m = &h->member[r];
        if (!m->came && now - h->opened > h->patience) {
            snprintf(how, sizeof how, "never came; waited %.3g s", h->patience);
            lost(h, r, how);
            return;
        }
        if (m->came && !m->left && now - m->heard > h->silence) {
            snprintf(how, sizeof how, "has not been heard of for %.3g s", h->silence);
            lost(h, r, how);
            return;
        }
    }
}

static bool all_left(const mri_hub *h)
{
    for (uint32_t r = 0; r < h->world; r++)
        if (h->member[r].fd >= 0 && !h->member[r].left)
            return false;
    return true;
}

static void *serve(void *arg)
{
    mri_hub *h = arg;
    struct pollfd *p = NULL;
    while (!atomic_load(&h->stop) || (!all_left(h) && mri_wire_now() < atomic_load(&h->stop_at))) {
        size_t n = 0, strangers = h->strangers.n;
        p = mri_grow(p, (h->world + strangers + 1) * sizeof *p);
        p[n++] = (struct pollfd){ h->listening, POLLIN, 0 };
        for (size_t i = 0; i < strangers; i++)
            p[n++] = (struct pollfd){ h->strangers.v[i], POLLIN, 0 };
        for (uint32_t r = 0; r < h->world; r++)
            p[n++] = (struct pollfd){ h->member[r].fd, POLLIN, 0 }; /* -1 is passed over */
        if (poll(p, n, 50) > 0) {
            for (uint32_t r = 0; r < h->world; r++)
                if (p[1 + strangers + r].revents && h->member[r].fd == p[1 + strangers + r].fd)
                    listen_to(h, r);
            for (size_t i = strangers; i-- > 0;)
                if (p[1 + i].revents)
                    greet(h, i);
            if (p[0].revents)
                invite(h);
        }
        look_at_clock(h);
    }
    free(p);
    return NULL;
}

/* ---- opening --------------------------------------------------------------------------------- */

mr_status mri_hub_open(int listening, uint32_t world, double patience, double silence,
                       mri_hub **out,
                       mr_err *err)
{
    mri_hub *h = mri_alloc(sizeof *h);
    h->listening = listening;
    h->world = world;
    h->patience = patience;
    h->silence = silence;
    h->opened = mri_wire_now();
    h->member = mri_alloc(world * sizeof *h->member);
    for (uint32_t r = 0; r < world; r++)
        h->member[r].fd = -1;
    *out = h;
    if (!pthread_create(&h->thread, NULL, serve, h))
        return 0;
    *out = NULL;
    free(h->member);
    free(h);
    return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no thread for the ranks' meeting point");
}

void mri_hub_close(mri_hub *h, double grace)
{
    if (!h)
        return;
    atomic_store(&h->stop_at, mri_wire_now() + grace);
    atomic_store(&h->stop, true);
    pthread_join(h->thread, NULL);
    for (uint32_t r = 0; r < h->world; r++) {
        free(h->member[r].part.data);
        if (h->member[r].fd >= 0)
            close(h->member[r].fd);
    }
    for (size_t i = 0; i < h->strangers.n; i++)
        close(h->strangers.v[i]);
    for (size_t i = 0; i < h->entries.n; i++)
        free(h->entries.v[i].data);
    close(h->listening);
    free(h->strangers.v);
    free(h->entries.v);
    free(h->member);
    free(h);
}
