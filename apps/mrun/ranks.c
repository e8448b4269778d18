/* SPDX-License-Identifier: Apache-2.0
 *
 * ranks.c - see ranks.h. Ranks share nothing but the world: each thread has a registry, a resolved
 * profile and a session of its own. Only rank 0 prints.
 */
#include "ranks.h"
#include "core/run/source.h"
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { SPEAK_US = 500000 };

/* The job, in a world that is open or could not be opened. */
static int run_in(app *a, mri_config *c, mri_world *w, mr_status st, mr_err *err,
                  const app_start *start)
{
    if (!st)
        st = mri_world_agree(w, mri_world_settle(w, c, err), err);
    if (w)
        st = mri_world_fail(w, st, err);
    a->world = w;
    int rc = st ? app_fail(a, err) : start->job(a, c, start->user);
    mri_world_close(w);
    a->world = NULL;
    return rc;
}

/* ---- ranks that are processes ---------------------------------------------------------------- */

static int run_process(app *a, mri_config *c, const app_start *start)
{
    mr_err err = MR_ERR_INIT;
    mri_launcher l;
    mri_world *w = NULL;
    mr_status st = mri_launch_find(&l, &err);
    a->silent = !st && l.rank;
    if (!st)
        st = mri_world_open(a->registry, c, 0, NULL, 0, &w, &err);
    if (!st && !l.rank && !a->quiet && w->mesh.world > 1)
        fprintf(stderr, "mrun: %u ranks, as %s says (%s)%s%s\n", w->mesh.world, l.name, l.source,
                w->info.version ? ", over " : "", w->info.version ? w->info.version : "");
    int rc = run_in(a, c, w, st, &err, start);
    if (rc && a->silent) /* launchers stop all ranks when one exits: the first speaks before */
        usleep(SPEAK_US);
    return rc;
}

/* ---- ranks that are threads ------------------------------------------------------------------ */

typedef struct rank_thread {
    app app;
    const app_start *start;
    void *threads;
    uint32_t rank, n;
    pthread_t thread;
    int rc;
} rank_thread;

static void *run_thread(void *arg)
{
    rank_thread *t = arg;
    app *a = &t->app;
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    mri_world *w = NULL;
    mr_status st = 0;
    if (!a->registry && !(a->registry = app_registry(a, &err)))
        st = err.code;
    if (!st)
        st = mri_source_config(a->registry, t->start->profile, t->start->hf, t->start->sets,
                               t->start->n_sets, &c, &err);
    if (!st)
        st = mri_world_open(a->registry, c, t->rank, t->threads, t->n, &w, &err);
    t->rc = run_in(a, c, w, st, &err, t->start);
    if (c)
        mri_config_free(c);
    return NULL;
}

/* Signals are the main thread's, which is rank 0. */
static void start_thread(rank_thread *t)
{
    sigset_t all, before;
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    int failed = pthread_create(&t->thread, NULL, run_thread, t);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (failed)
        mri_assert_fail("pthread_create", __FILE__, __LINE__);
}

/* Threads of kernels that each rank may have, where the profile leaves it open. */
static char *share_of_cores(const mri_config *c, uint32_t n)
{
    cpu_set_t mine;
    long cores = sched_getaffinity(0, sizeof mine, &mine) ? 1 : CPU_COUNT(&mine), share = cores / n;
    return c->run.threads ? NULL : mri_format("run.threads=%ld", share > 1 ? share : 1);
}

static int run_threads(app *a, mri_config *c, const mri_choice *comm, const app_start *start)
{
    const mr_comm_ops *ops = comm->unit->table;
    uint32_t n = ops->world_size(comm->config);
    mr_err err = MR_ERR_INIT;
    void *threads = NULL;
    MRI_VEC(const char *) sets = { 0 };
    app_start own = *start;
    if (ops->world_create(comm->config, &threads, &err))
        return app_fail(a, &err);
    char *share = share_of_cores(c, n);
    for (size_t i = 0; i < start->n_sets; i++)
        MRI_PUSH(&sets, start->sets[i]);
    if (share)
        MRI_PUSH(&sets, share);
    own.sets = sets.v;
    own.n_sets = sets.n;
    rank_thread *t = mri_alloc(n * sizeof *t);
    for (uint32_t r = n; r-- > 0;) {
        t[r] = (rank_thread){ .app = *a, .start = &own, .threads = threads, .rank = r, .n = n };
        t[r].app.silent = r > 0;
        if (r) {
            t[r].app.registry = NULL;
            start_thread(&t[r]);
        }
    }
    run_thread(&t[0]);
    int rc = t[0].rc;
    for (uint32_t r = 1; r < n; r++) {
        pthread_join(t[r].thread, NULL);
        rc = rc ? rc : t[r].rc;
        if (t[r].app.registry)
            mri_registry_free(t[r].app.registry);
    }
    ops->world_destroy(threads);
    free(t);
    free(sets.v);
    free(share);
    return rc;
}

/* Jobs that have one share of the work for each rank; the others are one rank's. */
static bool over_ranks(const char *job)
{
    static const char *const jobs[] = { "train", "score", "generate", "bench" };
    for (size_t i = 0; i < sizeof jobs / sizeof *jobs; i++)
        if (!strcmp(job, jobs[i]))
            return true;
    return false;
}

int app_run_ranks(app *a, mri_config *c, const app_start *start)
{
    const mri_choice *comm = mri_config_choice(c, "comm", 0);
    if (!comm || !over_ranks(c->job.run))
        return start->job(a, c, start->user);
    const mr_comm_ops *ops = comm->unit->table;
    return ops->flags & MR_COMM_THREADS ? run_threads(a, c, comm, start) : run_process(a, c, start);
}

mr_status app_as_first(mri_world *w, void *x, size_t bytes, mr_err *err)
{
    if (mri_world_alone(w))
        return 0;
    char *all = mri_alloc(w->mesh.world * bytes);
    mr_status st = mri_world_gather(w, x, bytes, all, err);
    memcpy(x, all, bytes);
    free(all);
    return st;
}
