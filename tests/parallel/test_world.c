/* SPDX-License-Identifier: Apache-2.0
 * A world's channel: collectives beside compute run in order, give what the plugin gives, count
 * their bytes, and report the first error at the wait; sums of the host are in order of ranks; a
 * world for planning has a mesh and moves nothing. */
#include "world.h"

enum { N = 4, COUNT = 64 };

static mr_status jobs(par_rank *r, void *ctx, mr_err *err)
{
    mr_status st = 0;
    int *wrong = ctx;
    float *a = NULL, *b = NULL;
    uint64_t ticket[3];
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    MR_TRY(par_session(r, &o, err));
    const mri_device *d = &r->session->device;
    MR_TRY(d->ops->alloc(d->dev, COUNT * 4, MR_MEM_COMM, (void **)&a, err));
    MR_TRY(d->ops->alloc(d->dev, N * COUNT * 4, MR_MEM_COMM, (void **)&b, err));
    for (int i = 0; i < COUNT; i++)
        a[i] = (float)(r->rank + 1);
    mri_comm_job sum = { MRI_COMM_ALL_REDUCE, MRI_GROUP_WORLD, MR_COMM_SUM, 0, a, a, COUNT, "f32",
                         NULL, NULL };
    mri_comm_job gather = { MRI_COMM_ALL_GATHER, MRI_GROUP_TP, 0, 0, a, b, COUNT, "f32", NULL,
                            NULL };
    MR_TRY(mri_comm_submit(r->world, &sum, &ticket[0], err)); /* 10 */
    MR_TRY(mri_comm_submit(r->world, &sum, &ticket[1], err)); /* 40 */
    MR_TRY(mri_comm_submit(r->world, &gather, &ticket[2], err));
    MR_TRY(mri_comm_wait(r->world, ticket[2], err));
    for (int i = 0; i < 2 * COUNT; i++)
        wrong[r->rank] += b[i] != 40;
    wrong[r->rank] += ticket[0] >= ticket[1] || ticket[1] >= ticket[2];
    wrong[r->rank] += r->world->sent[MRI_GROUP_WORLD] != 2 * 2 * 3 * COUNT * 4 / N;
    wrong[r->rank] += r->world->sent[MRI_GROUP_TP] != COUNT * 4;
    double x[2] = { r->rank, 1 };
    MR_TRY(mri_world_sum(r->world, MRI_GROUP_DP, x, 2, err)); /* ranks r and r +- 2 */
    wrong[r->rank] += x[0] != 2 * (r->rank % 2) + 2 || x[1] != 2;
out:
    if (a)
        r->session->device.ops->free(r->session->device.dev, a, COUNT * 4);
    if (b)
        r->session->device.ops->free(r->session->device.dev, b, N * COUNT * 4);
    return st;
}

Test(world, jobs_run_in_order_beside_the_compute)
{
    int wrong[N] = { 0 };
    par_run(par_source("profiles/parity-tiny.ini"), (const char *[]){ "mesh.tp=2", NULL }, N, jobs,
            wrong);
    for (int r = 0; r < N; r++)
        cr_expect_eq(wrong[r], 0, "rank %d: %d wrong", r, wrong[r]);
}

/* what the rank `by` places before has, round a ring; of one's own, without a message */
static mr_status passes_on(par_rank *r, void *ctx, mr_err *err)
{
    mr_status st = 0;
    int *wrong = ctx;
    float a[COUNT], b[COUNT];
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    MR_TRY(par_session(r, &o, err));
    for (uint32_t by = 0; by <= N; by++) {
        uint64_t sent = r->world->sent[MRI_GROUP_WORLD];
        for (int i = 0; i < COUNT; i++)
            a[i] = (float)(r->rank * COUNT) + (float)i;
        mri_comm_job job = { MRI_COMM_SHIFT, MRI_GROUP_WORLD, 0, by, a, b, COUNT, "f32", NULL,
                             NULL };
        MR_TRY(mri_comm_run(r->world, &job, err));
        for (int i = 0; i < COUNT; i++)
            wrong[r->rank] += b[i] != (float)((r->rank + N - by) % N * COUNT) + (float)i;
        wrong[r->rank] += r->world->sent[MRI_GROUP_WORLD] - sent != (by % N ? COUNT * 4 : 0);
    }
out:
    return st;
}

Test(world, a_ring_passes_on)
{
    int wrong[N] = { 0 };
    par_run(par_source("profiles/parity-tiny.ini"), (const char *[]){ "mesh.tp=2", NULL }, N,
            passes_on, wrong);
    for (int r = 0; r < N; r++)
        cr_expect_eq(wrong[r], 0, "rank %d: %d wrong", r, wrong[r]);
}

static mr_status broken(par_rank *r, void *ctx, mr_err *err)
{
    mr_status st = 0;
    float a[4] = { 0 };
    int *late = ctx;
    uint64_t ticket;
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    MR_TRY(par_session(r, &o, err));
    mri_comm_job job = { MRI_COMM_ALL_REDUCE, MRI_GROUP_WORLD, MR_COMM_SUM, 0, a, a,
                         r->rank ? 4 : 3, "f32", NULL, NULL };
    MR_TRY(mri_comm_submit(r->world, &job, &ticket, err)); /* says nothing yet */
    late[r->rank] = 1;
    MR_TRY(mri_comm_wait(r->world, ticket, err));
    late[r->rank] = 2;
out:
    return st;
}

Test(world, an_error_comes_back_at_the_wait)
{
    int late[N] = { 0 };
    mr_err err = MR_ERR_INIT;
    const char *const sets[] = { "train.micro_batch=1", NULL };
    mr_status st = par_try(par_source("profiles/parity-tiny.ini"), sets, N, broken, late, &err);
    cr_expect_eq(st, MR_E_COMM, "%s", err.what);
    for (int r = 0; r < N; r++)
        cr_expect_eq(late[r], 1, "rank %d got to %d", r, late[r]);
}

Test(world, a_mesh_without_peers_moves_nothing)
{
    mr_err err = MR_ERR_INIT;
    mri_config c = { 0 };
    mri_world *w = NULL;
    float a[4];
    c.mesh = (mri_cfg_mesh){ .tp = 8, .pp = 4, .vpp = 1, .cp = 1, .ep = 1, .etp = 1, .copies = 1,
                             .sequence_parallel = 1 };
    cr_assert_eq(mri_world_fake(&c, 77, 512, &w, &err), 0, "%s", err.what);
    cr_expect_eq(w->group[MRI_GROUP_TP].n, 8);
    cr_expect_eq(w->group[MRI_GROUP_DP].n, 16);
    cr_expect_eq(w->mesh.rank, 77);
    mri_comm_job job = { MRI_COMM_ALL_REDUCE, MRI_GROUP_TP, MR_COMM_SUM, 0, a, a, 4, "f32", NULL,
                         NULL };
    cr_expect_neq(mri_comm_run(w, &job, &err), 0);
    cr_expect(strstr(err.what, "for planning"), "%s", err.what);
    mri_world_close(w);
    cr_expect_neq(mri_world_fake(&c, 0, 500, &w, &err), 0, "500 ranks are no multiple of 32");
    cr_expect_null(w);
}

Test(world, experts_are_whole_on_their_ranks)
{
    mr_err err = MR_ERR_INIT;
    mri_config c = { 0 };
    mri_world *w = NULL;
    c.mesh = (mri_cfg_mesh){ .tp = 1, .pp = 1, .vpp = 1, .cp = 1, .ep = 1, .etp = 2, .copies = 1 };
    cr_expect_eq(mri_world_fake(&c, 0, 4, &w, &err), MR_E_UNSUPPORTED);
    cr_expect(strstr(err.what, "etp = 2"), "%s", err.what);
    cr_expect_null(w);
}

Test(world, bytes_are_those_of_a_ring)
{
    const uint64_t send[4] = { 1, 2, 3, 4 };
    mri_comm_job j = { MRI_COMM_ALL_REDUCE, 0, 0, 0, NULL, NULL, 1000, "f32", send, send };
    cr_expect_eq(mri_comm_bytes(&j, 4, 0), 2 * 3 * 4000 / 4);
    j.kind = MRI_COMM_ALL_GATHER;
    cr_expect_eq(mri_comm_bytes(&j, 4, 0), 3 * 4000);
    j.kind = MRI_COMM_REDUCE_SCATTER;
    cr_expect_eq(mri_comm_bytes(&j, 4, 0), 3 * 4000);
    j.kind = MRI_COMM_ALL_TO_ALL;
    cr_expect_eq(mri_comm_bytes(&j, 4, 2), 7);
    j.kind = MRI_COMM_SEND;
    cr_expect_eq(mri_comm_bytes(&j, 4, 0), 4000);
    j.kind = MRI_COMM_RECEIVE;
    cr_expect_eq(mri_comm_bytes(&j, 4, 0), 0);
}
