/* SPDX-License-Identifier: Apache-2.0
 *
 * ranks.h - ranks of a test, as threads or as processes: mri_peers over shared memory, and a made
 * up model that they cut in any of several ways.
 *
 * Invariant: every element's value follows from (name, element, step), so whoever reads a share
 * can tell whether it is right without asking who wrote it.
 */
#ifndef RANKS_H
#define RANKS_H
#include "core/store/shards.h"
#include "scratch.h"
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

enum { RANKS_MOST = 8, RANKS_ROOM = 256 << 10 };

typedef struct ranks_shared {
    uint32_t n;
    _Atomic uint32_t come, turn, dead;
    mr_err err[RANKS_MOST];
    mr_status st[RANKS_MOST];
    char slot[RANKS_MOST][RANKS_ROOM];
} ranks_shared;

typedef struct ranks_self {
    ranks_shared *all;
    uint32_t rank;
} ranks_self;

static inline ranks_shared *ranks_make(uint32_t n)
{
    ranks_shared *s = mmap(NULL, sizeof *s, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1,
                           0);
    cr_assert_neq(s, MAP_FAILED);
    s->n = n;
    return s;
}

static inline void ranks_drop(ranks_shared *s)
{
    munmap(s, sizeof *s);
}

/* all are here; or one of them will never come */
static inline mr_status ranks_meet(ranks_shared *s, mr_err *err)
{
    uint32_t turn = atomic_load(&s->turn);
    if (atomic_fetch_add(&s->come, 1) + 1 == s->n) {
        atomic_store(&s->come, 0);
        atomic_fetch_add(&s->turn, 1);
    }
    while (atomic_load(&s->turn) == turn) {
        if (atomic_load(&s->dead))
            return mr_fail(err, MR_E_COMM, MR_BLAME_ENV, "a rank is dead");
        sched_yield();
    }
    return 0;
}

static inline mr_status ranks_gather(void *ctx, const void *mine, uint64_t bytes, void *all,
                                     mr_err *err)
{
    ranks_self *x = ctx;
    ranks_shared *s = x->all;
    mr_status st = 0;
    MRI_ASSERT(bytes <= RANKS_ROOM);
    memcpy(s->slot[x->rank], mine, bytes);
    MR_TRY(ranks_meet(s, err));
    for (uint32_t r = 0; r < s->n; r++)
        memcpy((char *)all + r * bytes, s->slot[r], bytes);
    MR_TRY(ranks_meet(s, err));
out:
    return st;
}

static inline mr_status ranks_agree(void *ctx, mr_status mine, mr_err *err)
{
    ranks_self *x = ctx;
    ranks_shared *s = x->all;
    mr_status st = 0;
    s->st[x->rank] = mine;
    s->err[x->rank] = *err;
    MR_TRY(ranks_meet(s, err));
    for (uint32_t r = s->n; r-- > 0;)
        if (s->st[r]) {
            st = s->st[r];
            *err = s->err[r];
        }
    mr_err none = MR_ERR_INIT;
    mr_status met = ranks_meet(s, &none);
    if (!st && met) {
        st = met;
        *err = none;
    }
out:
    return st;
}

static inline mri_peers ranks_peers(ranks_self *x)
{
    return (mri_peers){ x->rank, x->all->n, ranks_gather, ranks_agree, x };
}

/* ---- a model in parts -------------------------------------------------------------------- */
typedef struct layout {
    const char *name;
    uint32_t tp, pp, ep, dp; /* ep divides dp */
    bool optim, params;      /* states, and weights too, in ranges over dp */
} layout;

MR_UNUSED static const layout layouts[] = {
    { "one", 1, 1, 1, 1, false, false },   { "tp2", 2, 1, 1, 1, false, false },
    { "pp2", 1, 2, 1, 1, false, false },   { "ep2", 1, 1, 2, 2, false, false },
    { "dp2 optim", 1, 1, 1, 2, true, false }, { "fsdp3", 1, 1, 1, 3, true, true },
    { "tp2 pp2", 2, 2, 1, 1, false, false }, { "tp2 pp2 ep2", 2, 2, 2, 2, true, false },
};
enum { LAYOUTS = sizeof layouts / sizeof *layouts };

static inline uint32_t layout_ranks(const layout *l)
{
    return l->tp * l->pp * l->dp;
}

static const struct shape {
    const char *name, *dtype;
    uint32_t rank, stage; /* stage 2: the first and the last have it */
    int64_t dim[3];
    int tp, ep;           /* the dim that is cut; -1: none */
} shapes[] = {
    { "embed.weight", "f32", 2, 2, { 20, 6 }, 0, -1 },
    { "a.column", "f32", 2, 0, { 12, 10 }, 0, -1 },
    { "a.row", "f32", 2, 0, { 10, 12 }, 1, -1 },
    { "a.norm", "f32", 1, 0, { 7 }, -1, -1 },
    { "a.experts", "f64", 3, 0, { 4, 6, 5 }, -1, 0 },
    { "b.column", "f32", 2, 1, { 8, 3 }, 0, -1 },
    { "b.norm", "bf16", 1, 1, { 9 }, -1, -1 },
    { "b.experts", "f32", 3, 1, { 2, 3, 4 }, -1, 0 },
    { "b.scale", "f32", 0, 1, { 0 }, -1, -1 },
    { "b.empty", "f32", 2, 1, { 0, 5 }, -1, -1 },
};
enum { SHAPES = sizeof shapes / sizeof *shapes };

/* element i's bytes */
static inline void value_of(const char *name, uint64_t i, int64_t step, size_t width, void *out)
{
    uint64_t h = mri_hash_str((uint64_t)step, name) + i * 0x9e3779b97f4a7c15u;
    h ^= h >> 29;
    h *= 0xbf58476d1ce4e5b9u;
    memcpy(out, &h, width);
}

static inline void fill_share(const mri_share *f, int64_t step, char *out)
{
    size_t width = mr_dtype_bytes(f->dtype);
    for (uint64_t i = f->from; i < f->to; i++) {
        uint64_t left = i, at = 0, step_of_dim = 1;
        for (uint32_t d = f->box.rank; d-- > 0;) {
            at += (left % (uint64_t)f->box.dim[d] + (uint64_t)f->box.at[d]) * step_of_dim;
            left /= (uint64_t)f->box.dim[d];
            step_of_dim *= (uint64_t)f->box.full[d];
        }
        value_of(f->name, at, step, width, out + (i - f->from) * width);
    }
}

typedef struct holding { /* of one rank */
    mri_share f[2][SHAPES];
    char name[2][SHAPES][40];
    mri_shard_group group[2];
} holding;

/* What rank r of l has. Without data (step < 0), for reading. */
static inline holding *hold(const layout *l, uint32_t r, int64_t step)
{
    holding *h = mri_alloc(sizeof *h);
    uint32_t i_tp = r % l->tp, i_dp = r / l->tp % l->dp, i_pp = r / l->tp / l->dp;
    uint32_t i_ep = i_dp % l->ep, edp = l->dp / l->ep, i_edp = i_dp / l->ep;
    for (int g = 0; g < 2; g++) {
        size_t n = 0;
        for (size_t i = 0; i < SHAPES; i++) {
            const struct shape *s = &shapes[i];
            bool first = i_pp == 0, last = i_pp + 1 == l->pp;
            if (s->stage == 2 ? !first && !last : s->stage ? !last : !first)
                continue;
            mri_share *f = &h->f[g][n];
            snprintf(h->name[g][n], sizeof h->name[g][n], "%s%s", g ? "exp_avg." : "", s->name);
            *f = (mri_share){ .name = h->name[g][n], .dtype = s->dtype };
            f->box.rank = s->rank;
            for (uint32_t d = 0; d < s->rank; d++) {
                uint32_t parts = (int)d == s->tp ? l->tp : (int)d == s->ep ? l->ep : 1;
                uint32_t part = (int)d == s->tp ? i_tp : (int)d == s->ep ? i_ep : 0;
                f->box.full[d] = s->dim[d];
                f->box.dim[d] = s->dim[d] / parts;
                f->box.at[d] = f->box.dim[d] * part;
            }
            uint64_t all = mri_box_count(&f->box);
            bool ranges = g ? l->optim : l->params;
            uint32_t cuts = !ranges ? 1 : s->ep >= 0 ? edp : l->dp;
            uint32_t cut = !ranges ? 0 : s->ep >= 0 ? i_edp : i_dp;
            uint64_t shift = i_pp; /* stages cut a tied tensor at other places */
            f->from = cut ? (all * cut + shift) / cuts : 0;
            f->to = cut + 1 == cuts ? all : (all * (cut + 1) + shift) / cuts;
            if (f->from == f->to && all)
                continue;
            if (step >= 0) {
                char *data = mri_alloc((f->to - f->from) * mr_dtype_bytes(f->dtype) + 1);
                fill_share(f, step, data);
                f->data = data;
            }
            n++;
        }
        h->group[g] = (mri_shard_group){ g ? "optimizer" : "model", h->f[g], n };
    }
    return h;
}

static inline void let_go(holding *h)
{
    for (int g = 0; g < 2; g++)
        for (size_t i = 0; i < h->group[g].n; i++)
            free((void *)(uintptr_t)h->f[g][i].data);
    free(h);
}

static inline mr_status ranks_save(const mri_peers *p, const char *dir, const layout *l,
                                   int64_t step, int64_t keep, mr_err *err)
{
    holding *h = hold(l, p->rank, step);
    mri_checkpoint_meta m = { .step = step, .samples = 2 * step, .profile_text = "[run]\n" };
    mri_shards_save *s;
    mr_status st = mri_shards_begin(p, dir, &m, h->group, 2, "fully_reshardable", NULL, &s, err);
    if (!st)
        st = mri_shards_end(s, mri_shards_write(s, err), keep, err);
    let_go(h);
    return st;
}

/* Reads what rank r of l has; returns how many elements are not as of `step`. */
static inline mr_status ranks_read(const mri_checkpoint *c, const layout *l, uint32_t r,
                                   int64_t step, uint64_t *wrong, mr_err *err)
{
    holding *h = hold(l, r, -1);
    mr_status st = 0;
    *wrong = 0;
    for (int g = 0; g < 2 && !st; g++)
        for (size_t i = 0; i < h->group[g].n && !st; i++) {
            const mri_share *f = &h->f[g][i];
            size_t bytes = (f->to - f->from) * mr_dtype_bytes(f->dtype);
            char *want = mri_alloc(bytes + 1), *got = mri_alloc(bytes + 1);
            fill_share(f, step, want);
            st = mri_checkpoint_read(c, h->group[g].name, f, f->from, f->to - f->from, got, err);
            *wrong += !st && memcmp(want, got, bytes);
            free(want);
            free(got);
        }
    let_go(h);
    return st;
}

/* ---- ranks as threads -------------------------------------------------------------------- */
typedef struct ranks_thread {
    ranks_self self;
    mr_status (*job)(const mri_peers *p, void *arg, mr_err *err);
    void *arg;
    mr_status st;
    mr_err err;
} ranks_thread;

static inline void *ranks_thread_main(void *arg)
{
    ranks_thread *t = arg;
    mri_peers p = ranks_peers(&t->self);
    t->st = t->job(&p, t->arg, &t->err);
    return NULL;
}

/* Runs `job` on n ranks; all must end with the same status, which is returned with its error. */
static inline mr_status ranks_run(uint32_t n, mr_status (*job)(const mri_peers *, void *, mr_err *),
                                  void *arg, mr_err *err)
{
    ranks_shared *s = ranks_make(n);
    ranks_thread t[RANKS_MOST] = { 0 };
    pthread_t thread[RANKS_MOST];
    for (uint32_t r = 0; r < n; r++) {
        t[r] = (ranks_thread){ { s, r }, job, arg, 0, MR_ERR_INIT };
        cr_assert_eq(pthread_create(&thread[r], NULL, ranks_thread_main, &t[r]), 0);
    }
    for (uint32_t r = 0; r < n; r++)
        pthread_join(thread[r], NULL);
    for (uint32_t r = 1; r < n; r++) {
        cr_assert_eq(t[r].st, t[0].st, "rank %u: %d %s; rank 0: %d %s", r, t[r].st, t[r].err.what,
                     t[0].st, t[0].err.what);
        cr_assert_str_eq(t[r].err.what, t[0].err.what);
    }
    *err = t[0].err;
    ranks_drop(s);
    return t[0].st;
}

#endif
