/* SPDX-License-Identifier: Apache-2.0
 * comm/sim does what mrun/comm.h says: every collective against what arithmetic gives, in groups of
 * every axis; and ranks that fail, leave, disagree or are late are named, and nobody hangs. */
#include "claims.h"
#include "world.h"

enum { N = CLAIM_RANKS };

static mr_status each(par_rank *r, void *ctx, mr_err *err)
{
    return claims_of(r->world, &((claims *)ctx)[r->rank], err);
}

Test(sim, every_collective_in_every_group)
{
    claims c[N] = { 0 };
    par_run(par_source("profiles/parity-tiny.ini"), (const char *[]){ "mesh.tp=2", NULL }, N, each,
            c);
    for (int r = 0; r < N; r++)
        cr_expect_eq(c[r].wrong, 0, "rank %d: %s", r, c[r].note);
}

/* ---- faults ---------------------------------------------------------------------------------- */

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
    mr_err ignored = MR_ERR_INIT;
    (void)ctx;
    while (r->rank == 2 && !r->world->ops->check(r->world->comm, &ignored))
        usleep(5000); /* until the others have given it up */
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
    fails_with(one_differs, MR_E_COMM, "rank 0 calls all_reduce of 8 f32, rank 2 all_reduce of 7",
               NULL);
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
    fails_with(one_is_late, MR_E_COMM, "rank 2 did not come", "comm.timeout=1500ms");
}

Test(sim, all_agree_on_the_first_error)
{
    fails_with(agree, MR_E_NOMEM, "rank 2: no room here", NULL);
}
