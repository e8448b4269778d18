/* SPDX-License-Identifier: Apache-2.0
 *
 * Biases of routers that follow the load of their experts: the rule of a step, the same on one rank
 * and on many, with blank micro-batches, captured in a graph, and across a checkpoint; a model whose
 * routers have none is refused.
 */
#include "steps.h"
#include <math.h>

#define RATE "train.moe_router_bias_update_rate=0.01"
#define KIMI STEPS_MODEL, "model.plugin=kimi_k2", "model.kimi_k2.expert_hidden=12", \
        "train.micro_batch=2", RATE
static const char tiny[] = "profiles/parity-tiny.ini";
static const char *const kimi[] = { KIMI, "train.global_batch=8", NULL };
static const char *const blank[] = { KIMI, "train.global_batch=8", "train.rampup_start=2",
                                     "train.rampup_increment=2", "train.rampup_samples=18", NULL };
static const char *const drop[] = { KIMI, "train.global_batch=8", "mesh.capacity_factor=0.9", NULL };
#define MESH(...) (const char *const[]){ __VA_ARGS__, NULL }
static const mri_session_options needs = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE |
                                                    MRI_NEED_DATA };

static void moved(const steps *s, const char *what)
{
    double most = 0;
    for (size_t i = 0; i < s->tensors.n; i++)
        if (strstr(s->tensors.v[i].name, "e_score_correction_bias"))
            for (uint64_t k = 0; k < s->tensors.v[i].n; k++)
                most = fmax(most, fabs((double)s->tensors.v[i].x[k]));
    cr_assert(most > 0.015, "%s: no bias went further than %g", what, most);
}

static void same(const char *const *model, uint32_t ranks, const char *what,
                 const char *const *mesh)
{
    steps a = steps_run(1, model, NULL), b = steps_run(ranks, model, mesh);
    moved(&a, what);
    steps_same(&a, &b, 1e-5, what);
    steps_free(&a);
    steps_free(&b);
}

Test(router_bias, is_the_same_on_one_rank_and_on_many)
{
    same(kimi, 4, "ep 2, edp 2", MESH("mesh.ep=2"));
    same(kimi, 4, "cp 2, tp 2", MESH("mesh.cp=2", "mesh.tp=2"));
    same(kimi, 2, "tp 2 without sequence parallelism",
         MESH("mesh.tp=2", "mesh.sequence_parallel=false"));
    same(kimi, 4, "pp 2, ep 2", MESH("mesh.pp=2", "mesh.ep=2"));
}

Test(router_bias, counts_a_rank_s_own_tokens_once)
{
    same(blank, 4, "a blank micro-batch", MESH("mesh.ep=2"));
    same(blank, 2, "a blank micro-batch, gathered tokens",
         MESH("mesh.ep=2", "mesh.dispatcher=allgather"));
    same(blank, 4, "a blank micro-batch that takes turns with another",
         MESH("mesh.ep=2", "mesh.overlap_moe_expert_parallel_comm=true"));
    same(drop, 2, "dropped tokens", MESH("mesh.ep=2", "mesh.dispatcher=alltoall_padded"));
}

typedef struct look {
    char what[200];
    uint64_t routers;
} look;

/* After one step from zero: each bias is the rate by the side of the mean on which its load was. */
static mr_status one_step(par_rank *r, void *ctx, mr_err *err)
{
    look *x = ctx;
    mri_step_result step;
    float *load = NULL, *bias = NULL;
    mr_status st = 0;
    MR_TRY(par_session(r, &needs, err));
    mri_session *s = r->session;
    MR_TRY(mri_session_init_weights(s, err));
    MR_TRY(mri_session_train_step(s, &step, err));
    for (size_t i = 0; i < s->train->states.n; i++) {
        const mri_state *state = &s->train->states.v[i];
        uint64_t n = (uint64_t)mr_numel(&state->type);
        char *name = mri_format("%.*s", (int)strlen(state->name) - 5, state->name);
        int64_t at = mri_params_find(&s->params, name);
        free(name);
        double sum = 0;
        load = mri_alloc(n * sizeof *load);
        bias = mri_alloc(n * sizeof *bias);
        MR_TRY(mri_device_read(&s->device, load, state->data, n * sizeof *load, err));
        MR_TRY(mri_params_get(&s->params, &s->device, &s->params.slots.v[at], bias, err));
        for (uint64_t e = 0; e < n; e++)
            sum += load[e];
        if (sum != (double)step.tokens * 2) /* two experts a token */
            snprintf(x->what, sizeof x->what, "%g choices of %lld tokens", sum,
                     (long long)step.tokens);
        for (uint64_t e = 0; e < n; e++) {
            float side = load[e] < sum / n ? 0.01f : load[e] > sum / n ? -0.01f : 0;
            if (bias[e] != side)
                snprintf(x->what, sizeof x->what, "bias %g of load %g, mean %g", bias[e], load[e],
                         sum / n);
        }
        x->routers++;
        free(load);
        free(bias);
        load = bias = NULL;
    }
out:
    free(load);
    free(bias);
    return st;
}

Test(router_bias, goes_up_where_the_load_is_below_the_mean)
{
    look x = { "", 0 };
    par_run(par_source(tiny), kimi, 1, one_step, &x);
    cr_assert_gt(x.routers, 0);
    cr_assert_str_empty(x.what, "%s", x.what);
}

typedef struct run { /* six steps in all; `at`: a session of its own from the third on */
    const char *dir;
    bool again;
    float bias[64];
    double loss;
} run;

static mr_status six_steps(par_rank *r, void *ctx, mr_err *err)
{
    run *x = ctx;
    mri_step_result step;
    mr_status st = 0;
    bool found;
    int64_t at;
    for (int k = 0; k < 6; k++) {
        if (!k || (x->again && k == 3)) {
            if (k) {
                MR_TRY(mri_session_save(r->session, x->dir, 0, err));
                mri_session_close(r->session);
                r->session = NULL;
            }
            MR_TRY(par_session(r, &needs, err));
            MR_TRY(k ? mri_session_resume(r->session, x->dir, &found, &at, err)
                     : mri_session_init_weights(r->session, err));
        }
        MR_TRY(mri_session_train_step(r->session, &step, err));
    }
    x->loss = step.loss;
    mri_session *s = r->session;
    for (size_t i = 0; i < s->params.slots.n; i++)
        if (strstr(s->params.slots.v[i].name, "e_score_correction_bias"))
            MR_TRY(mri_params_get(&s->params, &s->device, &s->params.slots.v[i], x->bias, err));
out:
    return st;
}

static run six(bool again, const char *const *sets)
{
    char dir[] = "/tmp/router-bias-XXXXXX";
    run x = { .dir = mkdtemp(dir), .again = again };
    cr_assert(x.dir);
    par_run(par_source(tiny), sets, 1, six_steps, &x);
    char *rm = mri_format("rm -rf %s", dir);
    cr_assert_eq(system(rm), 0);
    free(rm);
    x.dir = NULL;
    return x;
}

Test(router_bias, goes_on_from_a_checkpoint_and_in_a_graph_with_the_same_bits)
{
    const char *const graph[] = { KIMI, "train.global_batch=8", "graph.plugin=full", NULL };
    run a = six(false, kimi), b = six(true, kimi), c = six(false, graph);
    cr_assert(a.bias[0] != 0);
    cr_assert_arr_eq(a.bias, b.bias, sizeof a.bias);
    cr_assert_eq(a.loss, b.loss);
    cr_assert_arr_eq(a.bias, c.bias, sizeof a.bias);
    cr_assert_eq(a.loss, c.loss);
}

static mr_status open_it(par_rank *r, void *ctx, mr_err *err)
{
    (void)ctx;
    return par_session(r, &needs, err);
}

Test(router_bias, is_refused_where_no_router_has_one)
{
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(par_try(par_source(tiny), (const char *[]){ STEPS_MODEL, RATE, NULL }, 1, open_it,
                         NULL, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, "moe_router_bias_update_rate"), "%s", err.what);
}
