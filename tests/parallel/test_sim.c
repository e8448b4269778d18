/* SPDX-License-Identifier: Apache-2.0
 * comm/sim does what mrun/comm.h says: every collective against what arithmetic gives, in groups of
 * every axis; and ranks that fail, leave, disagree or are late are named, and nobody hangs. */
#include "world.h"
#include <math.h>

enum { N = 4, COUNT = 37 };

typedef struct results {
    int wrong[N];
    char note[N][200];
} results;

static void expect(par_rank *r, results *x, bool right, const char *what)
{
    if (right)
        return;
    x->wrong[r->rank]++;
    snprintf(x->note[r->rank], sizeof x->note[r->rank], "%s", what);
}

static void no_wrong(const results *x)
{
    for (int r = 0; r < N; r++)
        cr_expect_eq(x->wrong[r], 0, "rank %d: %s", r, x->note[r]);
}

/* f(rank, i): exact in f32, and in bf16 */
static float value(uint32_t rank, int i)
{
    return (float)((int)(rank * 7 + (uint32_t)i) % 13 - 6);
}

static mr_status sums(par_rank *r, void *ctx, mr_err *err)
{
    results *x = ctx;
    mr_status st = 0;
    const mri_world *w = r->world;
    const uint32_t groups[] = { MRI_GROUP_TP, MRI_GROUP_DP, MRI_GROUP_WORLD };
    for (int k = 0; k < 3; k++) {
        uint32_t *ranks, n, index;
        float a[N * COUNT], out[N * COUNT];
        void *g = w->group[groups[k]].handle;
        mri_mesh_group(&w->mesh, groups[k], &ranks, &n, &index);
        for (int i = 0; i < N * COUNT; i++)
            a[i] = value(r->rank, i);
        MR_TRY(w->ops->all_reduce(g, NULL, a, out, COUNT, "f32", MR_COMM_SUM, err));
        for (int i = 0; i < COUNT; i++) {
            float s = 0;
            for (uint32_t m = 0; m < n; m++)
                s += value(ranks[m], i);
            expect(r, x, out[i] == s, "all_reduce sum");
        }
        MR_TRY(w->ops->all_reduce(g, NULL, a, a, COUNT, "f32", MR_COMM_MAX, err));
        for (int i = 0; i < COUNT; i++) {
            float s = -1e9f;
            for (uint32_t m = 0; m < n; m++)
                s = fmaxf(s, value(ranks[m], i));
            expect(r, x, a[i] == s, "all_reduce max in place");
            a[i] = value(r->rank, i);
        }
        MR_TRY(w->ops->reduce_scatter(g, NULL, a, out, COUNT, "f32", MR_COMM_SUM, err));
        for (int i = 0; i < COUNT; i++) {
            float s = 0;
            for (uint32_t m = 0; m < n; m++)
                s += value(ranks[m], (int)index * COUNT + i);
            expect(r, x, out[i] == s, "reduce_scatter");
        }
        MR_TRY(w->ops->all_gather(g, NULL, a, out, COUNT, "f32", err));
        for (uint32_t m = 0; m < n; m++)
            for (int i = 0; i < COUNT; i++)
                expect(r, x, out[m * COUNT + (uint32_t)i] == value(ranks[m], i), "all_gather");
        MR_TRY(w->ops->broadcast(g, NULL, a, COUNT, "f32", n - 1, err));
        for (int i = 0; i < COUNT; i++)
            expect(r, x, a[i] == value(ranks[n - 1], i), "broadcast");
        free(ranks);
    }
out:
    return st;
}

Test(sim, collectives_in_every_group)
{
    results x = { 0 };
    par_run(par_source("profiles/parity-tiny.ini"), (const char *[]){ "mesh.tp=2", NULL }, N, sums,
            &x);
    no_wrong(&x);
}

static mr_status exchange(par_rank *r, void *ctx, mr_err *err)
{
    results *x = ctx;
    mr_status st = 0;
    void *g = r->world->group[MRI_GROUP_WORLD].handle;
    uint64_t send[N], receive[N];
    unsigned char in[64], out[64];
    size_t n = 0, m = 0;
    for (uint32_t p = 0; p < N; p++) { /* r * p bytes from r to p: none from and to rank 0 */
        send[p] = receive[p] = r->rank * p;
        for (uint64_t i = 0; i < send[p]; i++)
            in[n++] = (unsigned char)(16 * r->rank + p);
    }
    MR_TRY(r->world->ops->all_to_all(g, NULL, in, send, NULL, out, receive, NULL, err));
    for (uint32_t p = 0; p < N; p++)
        for (uint64_t i = 0; i < receive[p]; i++)
            expect(r, x, out[m++] == 16 * p + r->rank, "all_to_all");
    for (uint32_t k = 0; k < 3; k++) { /* messages of a pair keep their order */
        uint32_t to = (r->rank + 1) % N, word = 100 * r->rank + k;
        MR_TRY(r->world->ops->send(g, NULL, &word, sizeof word, to, err));
    }
    for (uint32_t k = 0; k < 3; k++) {
        uint32_t from = (r->rank + N - 1) % N, word = 0;
        MR_TRY(r->world->ops->receive(g, NULL, &word, sizeof word, from, err));
        expect(r, x, word == 100 * from + k, "send and receive");
    }
out:
    return st;
}

Test(sim, all_to_all_and_messages)
{
    results x = { 0 };
    par_run(par_source("profiles/parity-tiny.ini"), (const char *[]){ "train.micro_batch=1", NULL },
            N, exchange, &x);
    no_wrong(&x);
}

/* ---- faults ------------------------------------------------------------------------------------ */

static mr_status one_differs(par_rank *r, void *ctx, mr_err *err)
{
    float a[8] = { 0 };
    (void)ctx;
    return r->world->ops->all_reduce(r->world->group[MRI_GROUP_WORLD].handle, NULL, a, a,
                                     r->rank == 2 ? 7 : 8, "f32", MR_COMM_SUM, err);
}

static mr_status one_leaves(par_rank *r, void *ctx, mr_err *err)
{
    double x = 1;
    (void)ctx;
    return r->rank == 2 ? 0 : mri_world_sum(r->world, MRI_GROUP_WORLD, &x, 1, err);
}

static mr_status one_fails(par_rank *r, void *ctx, mr_err *err)
{
    double x = 1;
    (void)ctx;
    return r->rank == 2 ? mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "no more samples")
                        : mri_world_sum(r->world, MRI_GROUP_WORLD, &x, 1, err);
}

static mr_status one_is_late(par_rank *r, void *ctx, mr_err *err)
{
    double x = 1;
    (void)ctx;
    if (r->rank == 2)
        usleep(700000);
    return mri_world_sum(r->world, MRI_GROUP_WORLD, &x, 1, err);
}

static mr_status agree(par_rank *r, void *ctx, mr_err *err)
{
    mr_status st = r->rank == 2 ? mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no room here") : 0;
    (void)ctx;
    return mri_world_agree(r->world, st, err);
}

static void fails_with(par_fn fn, mr_status code, const char *part, const char *set)
{
    mr_err err = MR_ERR_INIT;
    mr_status st = par_try(par_source("profiles/parity-tiny.ini"), (const char *[]){ "train.micro_batch=1", set, NULL }, N,
                           fn, NULL, &err);
    cr_expect_eq(st, code, "status %d: %s", st, err.what);
    cr_expect(strstr(err.what, part), "'%s' lacks '%s'", err.what, part);
}

Test(sim, a_call_that_differs_is_named)
{
    fails_with(one_differs, MR_E_COMM, "rank 0 calls all_reduce of 8 f32, rank 2 all_reduce of 7", NULL);
}

Test(sim, a_rank_that_leaves_is_named)
{
    fails_with(one_leaves, MR_E_COMM, "rank 2 has left", NULL);
}

Test(sim, a_rank_that_fails_tells_the_others)
{
    fails_with(one_fails, MR_E_DATA_SHORT, "rank 2: no more samples", NULL);
}

Test(sim, a_late_rank_is_named_with_the_time_waited)
{
    fails_with(one_is_late, MR_E_COMM, "rank 2 did not come", "comm.timeout=200ms");
}

Test(sim, all_agree_on_the_first_error)
{
    fails_with(agree, MR_E_NOMEM, "rank 2: no room here", NULL);
}
