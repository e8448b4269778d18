/* SPDX-License-Identifier: Apache-2.0
 * saver.c - see saver.h. */
#include "saver.h"
#include <pthread.h>
#include <stdlib.h>

enum state { IDLE, WRITING, WRITTEN };

struct mri_saver {
    mri_session *session;
    /* of the save under way */
    mri_peers peers;
    bool alone;
    mri_session_shares shares;
    mri_checkpoint_meta meta;
    mri_str profile;
    mri_shards_save *save;
    int64_t keep;
    /* host memory that stays from one save to the next: pinned where the device is another's */
    void *room;
    uint64_t room_bytes;
    /* the thread */
    pthread_t thread;
    bool started, stop;
    pthread_mutex_t lock;
    pthread_cond_t moved;
    enum state state;
    mr_status st; /* of the write */
    mr_err err;
};

mri_saver *mri_saver_create(mri_session *s)
{
    mri_saver *x = mri_alloc(sizeof *x);
    x->session = s;
    pthread_mutex_init(&x->lock, NULL);
    pthread_cond_init(&x->moved, NULL);
    return x;
}

/* ---- the thread ---------------------------------------------------------------------------- */

static void *work(void *arg)
{
    mri_saver *x = arg;
    pthread_mutex_lock(&x->lock);
    while (!x->stop) {
        if (x->state != WRITING) {
            pthread_cond_wait(&x->moved, &x->lock);
            continue;
        }
        mr_err err = MR_ERR_INIT;
        pthread_mutex_unlock(&x->lock);
        mr_status st = mri_shards_write(x->save, &err);
        pthread_mutex_lock(&x->lock);
        x->st = st;
        x->err = err;
        x->state = WRITTEN;
        pthread_cond_broadcast(&x->moved);
    }
    pthread_mutex_unlock(&x->lock);
    return NULL;
}

static void set_state(mri_saver *x, enum state state)
{
    pthread_mutex_lock(&x->lock);
    x->state = state;
    pthread_cond_broadcast(&x->moved);
    pthread_mutex_unlock(&x->lock);
}

static enum state state_of(mri_saver *x, bool wait)
{
    pthread_mutex_lock(&x->lock);
    while (wait && x->state == WRITING)
        pthread_cond_wait(&x->moved, &x->lock);
    enum state s = x->state;
    pthread_mutex_unlock(&x->lock);
    return s;
}

static mr_status hand_over(mri_saver *x, mr_err *err)
{
    if (!x->started && pthread_create(&x->thread, NULL, work, x))
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_ENV, "no thread can be started to save with");
    x->started = true;
    set_state(x, WRITING);
    return 0;
}

/* ---- host memory --------------------------------------------------------------------------- */

static void free_room(mri_saver *x)
{
    mri_device *d = &x->session->device;
    if (x->room && d->host_memory)
        free(x->room);
    else if (x->room)
        d->ops->free(d->dev, x->room, x->room_bytes);
    x->room = NULL;
    x->room_bytes = 0;
}

static mr_status make_room(mri_saver *x, uint64_t bytes, mr_err *err)
{
    mri_device *d = &x->session->device;
    mr_status st = 0;
    if (bytes <= x->room_bytes)
        return 0;
    free_room(x);
    if (!d->host_memory)
        st = d->ops->alloc(d->dev, bytes, MR_MEM_PINNED, &x->room, err);
    else if (!(x->room = malloc(bytes)))
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for the copy of what is saved");
    if (st)
        mr_hint(err, "a checkpoint that is written behind training needs as much host memory as "
                     "this rank writes: [checkpoint] async = false needs none");
    else
        x->room_bytes = bytes;
    return st;
}

/* ---- saves --------------------------------------------------------------------------------- */

static const mri_peers *peers(const mri_saver *x)
{
    return x->alone ? NULL : &x->peers;
}

static void forget(mri_saver *x)
{
    mri_shares_free(&x->shares);
    mri_str_free(&x->profile);
    x->save = NULL;
}

mr_status mri_saver_begin(mri_saver *x, const mri_peers *p, const mri_mesh *mesh,
                          enum mri_shares_kind kind, const char *dir, int64_t keep, bool behind,
                          mr_err *err)
{
    mri_session *s = x->session;
    int64_t before;
    mr_status st = mri_saver_poll(x, true, &before, err);
    if (st)
        return st;
    x->alone = mri_peers_alone(p);
    if (!x->alone)
        x->peers = *p;
    x->keep = keep;
    mri_shares_make(s, mesh, kind, &x->shares);
    mri_profile_print(s->config->profile, false, &x->profile);
    x->meta = mri_session_meta(s, x->profile.s);
    MR_TRY(mri_shards_begin(peers(x), dir, &x->meta, x->shares.group, x->shares.n_groups,
                            mri_shares_kind_name(kind), x->shares.layout, &x->save, err));
    if (behind) {
        st = make_room(x, mri_shards_bytes(x->save), err);
        if (!st)
            st = mri_shards_stage(x->save, x->room, err);
        if (!st)
            st = hand_over(x, err);
        st = mri_peers_agree(peers(x), st, err);
        if (!st)
            return 0;
        state_of(x, true); /* another rank could not: what ours writes is in vain */
    } else {
        st = mri_shards_write(x->save, err);
    }
    set_state(x, IDLE);
    st = mri_shards_end(x->save, st, keep, err);
out:
    forget(x);
    return st;
}

/* all ranks' answer to "have you written it?" */
static mr_status all_written(mri_saver *x, bool *all, mr_err *err)
{
    uint32_t n = x->alone ? 1 : x->peers.n;
    uint8_t mine = state_of(x, false) == WRITTEN, *each = mri_alloc(n);
    mr_status st = mri_peers_gather(peers(x), &mine, 1, each, err);
    *all = true;
    for (uint32_t r = 0; r < n; r++)
        *all &= each[r] != 0;
    free(each);
    return st;
}

mr_status mri_saver_poll(mri_saver *x, bool wait, int64_t *step, mr_err *err)
{
    bool all;
    mr_status st;
    *step = -1;
    if (!x->save)
        return 0;
    if (wait)
        state_of(x, true);
    st = all_written(x, &all, err);
    if (st) { /* ranks are lost */
        mri_saver_abort(x);
        return st;
    }
    if (!all)
        return 0;
    if (x->st && err)
        *err = x->err;
    st = mri_shards_end(x->save, x->st, x->keep, err);
    *step = st ? -1 : x->meta.step;
    set_state(x, IDLE);
    forget(x);
    return st;
}

void mri_saver_abort(mri_saver *x)
{
    if (!x->save)
        return;
    mri_shards_cancel(x->save);
    state_of(x, true);
    set_state(x, IDLE);
    mri_shards_abandon(x->save);
    forget(x);
}

void mri_saver_free(mri_saver *x)
{
    if (!x)
        return;
    mri_saver_abort(x);
    if (x->started) {
        pthread_mutex_lock(&x->lock);
        x->stop = true;
        pthread_cond_broadcast(&x->moved);
        pthread_mutex_unlock(&x->lock);
        pthread_join(x->thread, NULL);
    }
    free_room(x);
    pthread_cond_destroy(&x->moved);
    pthread_mutex_destroy(&x->lock);
    free(x);
}
