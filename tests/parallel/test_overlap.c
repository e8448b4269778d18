/* SPDX-License-Identifier: Apache-2.0
 *
 * What stands beside the exchanges of experts: a shared expert and weight gradients within a block,
 * and another micro-batch's other direction. The order of steps changes no bit, and no buffer is
 * reused while a collective still reads it.
 */
#include "core/run/comm_order.h"
#include "core/run/stages.h"
#include "core/run/timeline.h"
#include "steps.h"

static const char *const llama4[] = { STEPS_MODEL, "model.llama4.experts_per_token=2",
                                      "train.micro_batch=2", "train.global_batch=8", NULL };
static const char *const kimi[] = { STEPS_MODEL, "model.plugin=kimi_k2",
                                    "model.kimi_k2.expert_hidden=12", "train.micro_batch=2",
                                    "train.global_batch=8", NULL };

#define MESH(...) (const char *const[]){ __VA_ARGS__, NULL }

/* ---- within a block -------------------------------------------------------------------------- */

typedef struct beside { /* of rank 0: steps of the shared expert while rows travel, by phase */
    uint32_t there[2], back[2], weights;
} beside;

static void count(const mri_plan *p, int phase, beside *out)
{
    for (size_t k = 0; k < p->steps[phase].n; k++) {
        const mri_step *s = &p->steps[phase].v[k];
        const char *id = p->prog->nodes.v[s->node].def->id;
        if (s->comm != MRI_STEP_EXCHANGE || !strcmp(id, "ep_counts"))
            continue;
        for (size_t i = k + 1; i <= s->done; i++) {
            const mri_node *n = &p->prog->nodes.v[p->steps[phase].v[i].node];
            bool shared = strstr(p->prog->regions.v[n->region].path, "shared_experts") != NULL;
            uint32_t *at = !strcmp(id, "ep_send") ? out->there : out->back;
            at[phase] += shared && n->phase != MRI_W;
            out->weights += n->phase == MRI_W;
        }
    }
}

static mr_status look(par_rank *r, void *ctx, mr_err *err)
{
    const mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mr_status st = par_session(r, &o, err);
    for (size_t k = 0; !st && !r->rank && k < r->session->train->plans.n; k++)
        for (int phase = MRI_F; phase <= MRI_B; phase++)
            count(r->session->train->plans.v[k], phase, ctx);
    return st;
}

static beside counted(const char *more)
{
    beside b = { 0 };
    const char *sets[16] = { NULL };
    size_t n = 0;
    for (; llama4[n]; n++)
        sets[n] = llama4[n];
    sets[n++] = "mesh.ep=2";
    sets[n] = more;
    par_run(par_source("profiles/parity-tiny.ini"), sets, 2, look, &b);
    return b;
}

Test(overlap, a_shared_expert_is_computed_while_rows_travel)
{
    beside on = counted(NULL), weights = counted("mesh.moe_shared_expert_overlap=false");
    beside off = counted("mesh.overlap=false");
    for (int phase = MRI_F; phase <= MRI_B; phase++) {
        cr_assert_gt(on.there[phase], 0, "phase %d", phase);
        cr_assert_eq(weights.there[phase], 0, "phase %d", phase);
        cr_assert_eq(off.there[phase] + off.back[phase], 0, "phase %d", phase);
    }
    cr_assert_gt(on.weights, 0);
    cr_assert_gt(weights.weights, 0);
    cr_assert_eq(off.weights, 0);
}

static void same_bits(const char *const *model, uint32_t ranks, const char *what,
                      const char *const *a, const char *const *b)
{
    steps x = steps_run(ranks, model, a), y = steps_run(ranks, model, b);
    steps_same(&x, &y, 0, what);
    for (int k = 0; k < STEPS; k++)
        cr_assert_eq(x.norm[k], y.norm[k], "%s, step %d: norm", what, k + 1);
    steps_free(&x);
    steps_free(&y);
}

Test(overlap, the_order_within_blocks_changes_no_bit)
{
    same_bits(llama4, 2, "llama4 ep 2", MESH("mesh.ep=2"), MESH("mesh.ep=2", "mesh.overlap=false"));
    same_bits(llama4, 2, "llama4 ep 2, weights alone", MESH("mesh.ep=2"),
              MESH("mesh.ep=2", "mesh.moe_shared_expert_overlap=false"));
    same_bits(kimi, 4, "kimi tp 2, ep 2", MESH("mesh.tp=2", "mesh.ep=2"),
              MESH("mesh.tp=2", "mesh.ep=2", "mesh.overlap=false"));
}

/* ---- two micro-batches ------------------------------------------------------------------------ */

#define ZIP "mesh.overlap_moe_expert_parallel_comm=true"

Test(overlap, micro_batches_in_turn_change_no_bit)
{
    same_bits(llama4, 2, "llama4 ep 2", MESH("mesh.ep=2"), MESH("mesh.ep=2", ZIP));
    same_bits(kimi, 4, "kimi tp 2, ep 2, distopt",
              MESH("mesh.tp=2", "mesh.ep=2", "shard.plugin=distopt"),
              MESH("mesh.tp=2", "mesh.ep=2", "shard.plugin=distopt", ZIP));
}

Test(overlap, micro_batches_in_turn_on_stages)
{
#define STAGES "mesh.pp=2", "mesh.vpp=2", "mesh.ep=2", "model.layers=4", "train.global_batch=16"
    same_bits(llama4, 4, "llama4 pp 2, vpp 2, ep 2", MESH(STAGES), MESH(STAGES, ZIP));
}

Test(overlap, what_is_recomputed_sends_again)
{
    same_bits(kimi, 2, "kimi ep 2, recompute full", MESH("mesh.ep=2", "train.recompute=full"),
              MESH("mesh.ep=2", "train.recompute=full", ZIP));
}

static mr_status open_alone(par_rank *r, void *ctx, mr_err *err)
{
    const mri_session_options o = { .needs = MRI_NEED_TRAIN };
    (void)ctx;
    return par_session(r, &o, err);
}

Test(overlap, what_does_not_go_together_is_refused_by_name)
{
    static const struct {
        const char *sets[4], *says;
    } bad[] = {
        { { "mesh.ep=1" }, "experts are on one rank" },
        { { "mesh.ep=2", "mesh.overlap=false" }, "overlap = false" },
        { { "mesh.ep=2", "mesh.dispatcher=allgather" }, "allgather" },
        { { "mesh.ep=2", "mesh.pp=2", "model.layers=4" }, "pp stages" },
        { { "mesh.ep=2", "mesh.pp=2", "model.layers=4", "mesh.schedule=zero_bubble" },
          "zero_bubble" },
        { { "mesh.ep=2", "train.split_weight_gradient=true" }, "weight gradients" },
        { { "mesh.ep=2", "shard.plugin=fsdp" }, "in pieces" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        const char *sets[24] = { ZIP };
        mr_err err = MR_ERR_INIT;
        size_t n = 1;
        for (size_t k = 0; llama4[k]; k++)
            sets[n++] = llama4[k];
        for (size_t k = 0; k < 4 && bad[i].sets[k]; k++)
            sets[n++] = bad[i].sets[k];
        mr_status st = par_try(par_source("profiles/parity-tiny.ini"), sets, 4, open_alone, NULL,
                               &err);
        cr_expect_eq(st, MR_E_PROFILE_CONFLICT, "%s: %s", bad[i].says, err.what);
        cr_expect(strstr(err.what, "overlap_moe_expert_parallel_comm: ") &&
                  strstr(err.what, bad[i].says), "%s: %s", bad[i].says, err.what);
    }
}

/* Two ranks that would submit the collectives of another number of micro-batches. */
static mr_status disagree(par_rank *r, void *ctx, mr_err *err)
{
    const mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mri_schedule s = { 0 };
    mri_seams *seams = NULL;
    mr_status st = 0;
    (void)ctx;
    MR_TRY(par_session(r, &o, err));
    seams = mri_stages_seams(r->session->train);
    for (uint32_t less = 0; less < 2 && !st; less++) {
        mri_schedule_zipped(&s, seams, mri_exec_instances(r->session->train), 4 - less * r->rank);
        st = mri_comm_order_agree(r->session->world, r->session->train, &s, err);
        mri_schedule_free(&s);
        if (st && !less)
            st = mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "equal schedules differ");
    }
out:
    free(seams);
    return st;
}

Test(overlap, ranks_that_would_wait_for_ever_are_found)
{
    const char *sets[24] = { ZIP, "mesh.ep=2" };
    mr_err err = MR_ERR_INIT;
    for (size_t k = 0; llama4[k]; k++)
        sets[k + 2] = llama4[k];
    cr_assert_eq(par_try(par_source("profiles/parity-tiny.ini"), sets, 2, disagree, NULL, &err),
                 MR_E_PLAN_VERIFY, "%s", err.what);
    cr_assert(strstr(err.what, "group ep submit"), "%s", err.what);
}

/* ---- memory ---------------------------------------------------------------------------------- */

static mr_status poisoned(par_rank *r, void *ctx, mr_err *err)
{
    const mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA };
    const mri_trace poison = { .poison = true };
    double *loss = ctx;
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    MR_TRY(mri_session_init_weights(r->session, err));
    for (int k = 0; k < 4; k++) { /* two as they are, two in which buffers die visibly */
        mri_step_result x;
        r->session->train->trace = k & 1 ? &poison : NULL;
        r->session->done = (mri_progress){ 0 };
        if (k < 2)
            MR_TRY(mri_session_gradients(r->session, &x, err));
        else
            MR_TRY(mri_session_train_step(r->session, &x, err));
        if (!r->rank)
            loss[2 * k] = x.loss, loss[2 * k + 1] = x.grad_norm;
    }
out:
    if (r->session)
        r->session->train->trace = NULL;
    return st;
}

static void poison(const char *more)
{
    const char *sets[24] = { NULL };
    double x[8] = { 0 };
    size_t n = 0;
    for (; llama4[n]; n++)
        sets[n] = llama4[n];
    sets[n++] = "mesh.ep=2";
    sets[n] = more;
    par_run(par_source("profiles/parity-tiny.ini"), sets, 2, poisoned, x);
    cr_assert_eq(x[0], x[2], "loss %.17g and %.17g", x[0], x[2]);
    cr_assert_eq(x[4], x[0], "loss %.17g and %.17g", x[4], x[0]);
    cr_assert(isfinite(x[6]) && isfinite(x[7]) && x[6] < x[4], "loss %g, norm %g", x[6], x[7]);
}

Test(overlap, buffers_live_as_long_as_what_travels)
{
    poison(NULL);
    poison(ZIP);
}

/* ---- what is at work at a time ----------------------------------------------------------------- */

/* An exchange of which every rank knows that it takes a while. */
static mr_status (*exchange)(void *, void *, const void *, const uint64_t *, const uint64_t *, void *,
                             const uint64_t *, const uint64_t *, mr_err *);

static mr_status slow_exchange(void *group, void *stream, const void *in, const uint64_t *n_in,
                               const uint64_t *at_in, void *out, const uint64_t *n_out,
                               const uint64_t *at_out, mr_err *err)
{
    usleep(3000);
    return exchange(group, stream, in, n_in, at_in, out, n_out, at_out, err);
}

static mr_status record(par_rank *r, void *ctx, mr_err *err)
{
    const mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA };
    const mr_comm_ops *plain = r->world->ops;
    mr_comm_ops slow = *plain;
    mri_timeline t = { 0 };
    mri_step_result x;
    mr_err ignored = MR_ERR_INIT;
    mr_status st = 0;
    slow.all_to_all = slow_exchange;
    if (!r->rank)
        exchange = plain->all_to_all;
    MR_TRY(mri_world_agree(r->world, par_session(r, &o, err), err));
    MR_TRY(mri_session_init_weights(r->session, err));
    MR_TRY(mri_session_train_step(r->session, &x, err));
    r->world->ops = &slow;
    MR_TRY(mri_timeline_begin(&t, &r->session->device, r->session->world, err));
    st = mri_session_train_step(r->session, &x, err);
    MR_TRY(mri_timeline_end(&t, st ? &ignored : err));
    if (!r->rank)
        *(double *)ctx = mri_timeline_shared(&t);
out:
    r->world->ops = plain;
    if (t.device)
        mri_timeline_free(&t);
    return st;
}

static double shared_seconds(const char *more)
{
    const char *sets[24] = { NULL };
    double seconds = -1;
    size_t n = 0;
    for (; llama4[n]; n++)
        sets[n] = llama4[n];
    sets[n++] = "mesh.ep=2";
    sets[n] = more;
    par_run(par_source("profiles/parity-tiny.ini"), sets, 2, record, &seconds);
    return seconds;
}

Test(overlap, a_timeline_shows_it)
{
    double on = shared_seconds(ZIP), within = shared_seconds(NULL);
    double off = shared_seconds("mesh.overlap=false");
    cr_expect_gt(on, 0);
    cr_expect_gt(within, 0);
    cr_expect_eq(off, 0, "%g s", off);
}

Test(overlap, a_job_writes_the_timeline_of_all_ranks)
{
    char dir[] = "/tmp/mrun-timeline-XXXXXX";
    cr_assert_not_null(mkdtemp(dir));
    char *run = mri_format("run.dir=%s", dir), *path = mri_format("%s/timeline.json", dir);
    steps s = steps_run(2, llama4, (const char *const[]){ run, "run.timeline=2", "mesh.ep=2", ZIP,
                                                          NULL });
    steps_free(&s);
    mr_err err = MR_ERR_INIT;
    mri_json *doc = NULL;
    FILE *f = fopen(path, "r");
    cr_assert_not_null(f);
    enum { ROOM = 1 << 20 };
    char *text = mri_alloc(ROOM);
    size_t n = fread(text, 1, ROOM - 1, f);
    fclose(f);
    cr_assert_lt(n, ROOM - 1);
    cr_expect_eq(mri_json_parse(text, n, path, &doc, &err), 0, "%s", err.what);
    static const char *const has[] = { "rank 1", "communication", "all_to_all", "grouped_linear" };
    for (size_t i = 0; i < 4; i++)
        cr_expect(strstr(text, has[i]), "no %s in %.300s", has[i], text);
    mri_json_free(doc);
    free(text);
    unlink(path);
    rmdir(dir);
    free(run);
    free(path);
}
