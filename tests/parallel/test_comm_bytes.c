/* SPDX-License-Identifier: Apache-2.0
 * The bytes that a rank sends in a step are those that arithmetic predicts, to the byte: a sum of
 * all gradients everywhere, or of each rank's piece and then the weights that others updated; and
 * under tensor parallelism, and where keys pass round the ranks of sequences, what the plans of the
 * blocks say; of rows that travel to experts, what the step's own counts say. */
#include "bytes.h"
#include "world.h"

typedef struct figures {
    uint64_t sent[4], elements[4]; /* by rank: of one step, the norm's left out */
} figures;

static mr_status step(par_rank *r, void *ctx, mr_err *err)
{
    figures *f = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA |
                                       MRI_NEED_TOKENIZER };
    mri_step_result x;
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    MR_TRY(mri_session_init_weights(r->session, err));
    memset(r->world->sent, 0, sizeof r->world->sent);
    MR_TRY(mri_session_train_step(r->session, &x, err));
    for (uint32_t g = 0; g < MRI_GROUPS; g++)
        f->sent[r->rank] += g == MRI_GROUP_WORLD ? 0 : r->world->sent[g];
    for (size_t i = 0; i < r->session->params.buckets.n; i++)
        f->elements[r->rank] += r->session->params.buckets.v[i].n;
out:
    return st;
}

/* n ranks; `times` (n - 1) / n of all f32 gradients or weights are sent */
static void sends(const char *shard, uint32_t n, uint64_t times)
{
    figures f = { 0 };
    char set[64];
    snprintf(set, sizeof set, "shard.plugin=%s", shard);
    const char *const sets[] = { "train.micro_batch=1", "backend.plugin=cpu", set, NULL };
    par_run(par_source("profiles/parity-tiny.ini"), sets, n, step, &f);
    for (uint32_t r = 0; r < n; r++) {
        cr_expect_gt(f.elements[r], 0);
        cr_expect_eq(f.sent[r], times * 4 * f.elements[r] / n * (n - 1),
                     "%s, rank %u of %u: %llu bytes for %llu elements", shard, r, n,
                     (unsigned long long)f.sent[r], (unsigned long long)f.elements[r]);
    }
}

Test(comm_bytes, gradients_summed_everywhere)
{
    sends("none", 2, 2);
    sends("none", 4, 2);
}

Test(comm_bytes, pieces_summed_and_weights_gathered)
{
    sends("distopt", 2, 2);
    sends("distopt", 4, 2);
}

static mr_status planned_step(par_rank *r, void *ctx, mr_err *err)
{
    figures *f = ctx;
    mr_status st = step(r, ctx, err);
    f->sent[r->rank] = r->world->sent[r->world->mesh.tp > 1 ? MRI_GROUP_TP : MRI_GROUP_CP];
    if (!st)
        f->elements[r->rank] = bytes_planned(r->session, 2);
    return st;
}

static void as_planned(uint32_t ranks, const char *mesh, const char *how)
{
    figures f = { 0 };
    const char *const sets[] = { "backend.plugin=cpu", mesh, how, NULL };
    par_run(par_source("profiles/parity-tiny.ini"), sets, ranks, planned_step, &f);
    for (uint32_t r = 0; r < ranks; r++) {
        cr_expect_gt(f.sent[r], 0);
        cr_expect_eq(f.sent[r], f.elements[r], "%s, rank %u: %llu bytes, planned %llu", how, r,
                     (unsigned long long)f.sent[r], (unsigned long long)f.elements[r]);
    }
}

Test(comm_bytes, tensor_parallel_as_planned)
{
    as_planned(2, "mesh.tp=2", "mesh.sequence_parallel=true");
    as_planned(2, "mesh.tp=2", "mesh.sequence_parallel=false");
}

Test(comm_bytes, sequences_over_ranks_as_planned)
{
    as_planned(4, "mesh.cp=4", "mesh.cp_comm_type=all_gather");
    as_planned(4, "mesh.cp=4", "mesh.cp_comm_type=p2p");
}

/* The step after it, watched: what leaves for experts, by its recorded counts. */
static mr_status experts_step(par_rank *r, void *ctx, mr_err *err)
{
    figures *f = ctx;
    bytes_watch seen = { 0 };
    mri_trace trace = { .fn = bytes_see, .ctx = &seen };
    mri_step_result x;
    mr_status st = step(r, ctx, err);
    if (st)
        return st;
    r->session->train->trace = &trace;
    uint64_t before = r->world->sent[MRI_GROUP_EP];
    st = mri_session_train_step(r->session, &x, err);
    f->sent[r->rank] = r->world->sent[MRI_GROUP_EP] - before;
    f->elements[r->rank] = seen.bytes;
    return st;
}

Test(comm_bytes, rows_of_experts_as_counted)
{
    figures f = { 0 };
    const char *const sets[] = { "train.micro_batch=1", "backend.plugin=cpu", "mesh.ep=2", NULL };
    par_run(par_source("profiles/parity-tiny.ini"), sets, 2, experts_step, &f);
    for (uint32_t r = 0; r < 2; r++) {
        cr_expect_gt(f.sent[r], 0);
        cr_expect_eq(f.sent[r], f.elements[r], "rank %u: %llu bytes, counted %llu", r,
                     (unsigned long long)f.sent[r], (unsigned long long)f.elements[r]);
    }
}
