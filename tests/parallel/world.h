/* SPDX-License-Identifier: Apache-2.0
 *
 * world.h - for tests of many ranks: a function on each of N ranks of comm/sim, every one with a
 * registry, a profile and a world of its own, as `mrun` starts them.
 *
 *     static mr_status each(par_rank *r, void *ctx, mr_err *err)
 *     {
 *         MR_TRY(par_session(r, &options, err)); ... results[r->rank] = ...;
 *     }
 *     par_run("profiles/parity-tiny.ini", (const char *[]){ "mesh.tp=2", NULL }, 2, each, &ctx);
 *
 * Criterion's assertions belong to the main thread: each() returns an error, or puts its results
 * where the test looks after par_run().
 */
#ifndef TEST_PARALLEL_WORLD_H
#define TEST_PARALLEL_WORLD_H
#include "core/base/json.h"
#include "core/run/session.h"
#include "core/run/step.h"
#include <criterion/criterion.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct par_rank {
    uint32_t rank, n;
    mri_registry *registry;
    mri_config *config;
    mri_world *world;
    mri_session *session; /* of par_session(); closed by par_run() */
} par_rank;

typedef mr_status (*par_fn)(par_rank *r, void *ctx, mr_err *err);

typedef struct par_thread {
    par_rank r;
    const char *profile;
    const char **sets;
    size_t n_sets;
    void *threads, *ctx;
    pthread_barrier_t *loaded; /* loading takes each its time; worlds open together */
    par_fn fn;
    mr_status st;
    mr_err err;
    pthread_t thread;
} par_thread;

static inline mr_status par_load(par_thread *t, mr_err *err)
{
    mr_status st = 0;
    t->r.registry = mri_registry_create(NULL);
    mri_registry_offer(t->r.registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(t->r.registry, MR_EXT_JSON, &mri_json_service);
    MR_TRY(mri_registry_set_op_hook(t->r.registry, mri_op_register, err));
    MR_TRY(mri_config_load(t->r.registry, t->profile, t->sets, t->n_sets, &t->r.config, err));
out:
    return st;
}

static inline void *par_thread_main(void *arg)
{
    par_thread *t = arg;
    par_rank *r = &t->r;
    mr_err *err = &t->err;
    mr_status st = r->registry ? 0 : par_load(t, err);
    pthread_barrier_wait(t->loaded);
    if (!st)
        st = mri_world_open(r->registry, r->config, r->rank, t->threads, r->n, &r->world, err);
    if (!st)
        st = mri_world_agree(r->world, mri_world_settle(r->world, r->config, err), err);
    if (!st)
        st = t->fn(r, t->ctx, err);
    if (st && r->world)
        st = mri_world_fail(r->world, st, err);
    mri_session_close(r->session);
    mri_world_close(r->world);
    if (r->config)
        mri_config_free(r->config);
    mri_registry_free(r->registry);
    t->st = st;
    return NULL;
}

/* *err: of the lowest rank that failed. The sets are NULL-ended "section.key=value". */
static inline mr_status par_try(const char *profile, const char *const *sets, uint32_t n, par_fn fn,
                                void *ctx, mr_err *err)
{
    char ranks[64];
    MRI_VEC(const char *) all = { 0 };
    par_thread *t = mri_alloc(n * sizeof *t);
    void *threads = NULL;
    mr_status st = 0;
    snprintf(ranks, sizeof ranks, "comm.sim.ranks=%u", n);
    const char *own[] = { "comm.plugin=sim", ranks, "run.threads=1", "comm.timeout=60s" };
    for (size_t i = 0; i < 4; i++)
        MRI_PUSH(&all, own[i]);
    for (size_t i = 0; sets && sets[i]; i++)
        MRI_PUSH(&all, sets[i]);
    for (uint32_t r = 0; r < n; r++)
        t[r] = (par_thread){ .r = { .rank = r, .n = n }, .profile = profile, .sets = all.v,
                             .n_sets = all.n, .ctx = ctx, .fn = fn, .err = MR_ERR_INIT };
    st = par_load(&t[0], err);
    cr_assert_eq(st, 0, "%s | %s", err->what, err->detail);
    const mri_choice *comm = mri_config_choice(t[0].r.config, "comm", 0);
    const mr_comm_ops *ops = comm->unit->table;
    cr_assert_eq(ops->world_create(comm->config, &threads, err), 0, "%s", err->what);
    pthread_barrier_t loaded;
    pthread_barrier_init(&loaded, NULL, n);
    for (uint32_t r = 0; r < n; r++) {
        t[r].threads = threads;
        t[r].loaded = &loaded;
    }
    for (uint32_t r = 1; r < n; r++)
        cr_assert_eq(pthread_create(&t[r].thread, NULL, par_thread_main, &t[r]), 0);
    par_thread_main(&t[0]);
    for (uint32_t r = 1; r < n; r++)
        pthread_join(t[r].thread, NULL);
    for (uint32_t r = n; r-- > 0;)
        if (t[r].st) {
            st = t[r].st;
            *err = t[r].err;
        }
    pthread_barrier_destroy(&loaded);
    ops->world_destroy(threads);
    free(all.v);
    free(t);
    return st;
}

static inline void par_run(const char *profile, const char *const *sets, uint32_t n, par_fn fn,
                           void *ctx)
{
    mr_err err = MR_ERR_INIT;
    mr_status st = par_try(profile, sets, n, fn, ctx, &err);
    cr_assert_eq(st, 0, "%u ranks: %s | %s | %s", n, err.what, err.detail, err.hint);
}

static inline mr_status par_session(par_rank *r, const mri_session_options *options, mr_err *err)
{
    mri_session_options o = *options;
    o.world = r->world;
    return mri_session_open(r->registry, r->config, &o, &r->session, err);
}

static inline const char *par_source(const char *path) /* of the source tree; static buffer */
{
    static char full[4096];
    snprintf(full, sizeof full, "%s/%s", getenv("MRUN_SOURCE"), path);
    return full;
}

#endif
