/* SPDX-License-Identifier: Apache-2.0
 *
 * Experts' rows in blocks of equal size: nothing of a step waits for the host, so that a device
 * graph can hold it; and a block with too little room stops all ranks by name, before any weight
 * has changed, in training and in validation.
 */
#include "core/plan/shard_experts.h"
#include "core/run/bind.h"
#include "world.h"

#define SMALL "backend.plugin=ref", "model.plugin=kimi_k2", "train.micro_batch=2", \
        "train.global_batch=8"
#define OWN SMALL, "mesh.ep=2"
#define BLOCKS OWN, "mesh.dispatcher=alltoall_padded"
static const char tiny[] = "profiles/parity-tiny.ini";

typedef struct seen {
    pthread_mutex_t lock;
    char op[64];            /* one that a graph cannot hold; "": none */
    uint32_t refused, kept; /* ranks whose step was, and whose weights did not change */
    char what[300];
} seen;

static const char *waits(const mri_plan *p)
{
    for (int phase = 0; phase < MRI_PHASES; phase++)
        for (size_t i = 0; i < p->steps[phase].n; i++) {
            const mri_step *s = &p->steps[phase].v[i];
            if (s->ref || (!s->comm && !(s->info.flags & MR_K_CAPTURABLE)))
                return p->prog->nodes.v[s->node].def->id;
        }
    return NULL;
}

static mr_status look(par_rank *r, void *ctx, mr_err *err)
{
    seen *x = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_EVAL };
    mr_status st = par_session(r, &o, err);
    const mri_exec *both[] = { r->session->train, r->session->eval };
    for (int k = 0; k < 2 && !st; k++)
        for (uint32_t i = 0; i < mri_exec_instances(both[k]); i++) {
            const char *op = waits(mri_exec_plan(both[k], i));
            pthread_mutex_lock(&x->lock);
            if (op)
                snprintf(x->op, sizeof x->op, "%s", op);
            pthread_mutex_unlock(&x->lock);
        }
    return st;
}

Test(moe_blocks, nothing_waits_for_the_host)
{
    seen x = { .lock = PTHREAD_MUTEX_INITIALIZER };
    par_run(par_source(tiny), (const char *[]){ BLOCKS, "mesh.dispatch_bound=1.5", NULL }, 2, look,
            &x);
    cr_assert_str_empty(x.op, "op %s cannot be recorded", x.op);
    par_run(par_source(tiny), (const char *[]){ OWN, NULL }, 2, look, &x);
    cr_assert(!strncmp(x.op, "ep_", 3), "the exact dispatcher waits for its counts, found \"%s\"",
              x.op);
}

typedef struct work { /* of the first rank's products of experts */
    double flops;
    int64_t rows;
} work;

static mr_status products(par_rank *r, void *ctx, mr_err *err)
{
    work *x = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mr_status st = par_session(r, &o, err);
    for (uint32_t i = 0; !st && !r->rank && i < mri_exec_instances(r->session->train); i++) {
        const mri_plan *p = mri_exec_plan(r->session->train, i);
        for (size_t k = 0; k < p->steps[MRI_F].n; k++) {
            const mri_node *n = &p->prog->nodes.v[p->steps[MRI_F].v[k].node];
            if (strcmp(n->def->id, "grouped_linear"))
                continue;
            x->flops += p->steps[MRI_F].v[k].cost.flops;
            x->rows = mri_val(p->prog, n->in[0])->type.dim[0];
        }
    }
    return st;
}

Test(moe_blocks, tp_ranks_with_the_same_tokens_share_the_products_of_experts)
{
    work one = { 0 }, part = { 0 };
    par_run(par_source(tiny), (const char *[]){ SMALL, NULL }, 1, products, &one);
    par_run(par_source(tiny), (const char *[]){ SMALL, "mesh.tp=2", "mesh.sequence_parallel=false",
                                                NULL }, 2, products, &part);
    cr_assert_gt(one.rows, 0);
    cr_assert_eq(part.rows * 2, one.rows);
    cr_assert_float_eq(part.flops * 2, one.flops, 1e-6 * one.flops);
}

static mr_status refused(par_rank *r, void *ctx, mr_err *err)
{
    seen *x = ctx;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA };
    mri_step_result step;
    mr_err why = MR_ERR_INIT;
    void *before = NULL, *after = NULL;
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    mri_session *s = r->session;
    uint64_t bytes = s->params.slots.v[0].n * mr_dtype_bytes(s->params.dtype);
    const void *weights = mri_params_weight(&s->params, &s->params.slots.v[0]);
    MR_TRY(mri_session_init_weights(s, err));
    before = mri_alloc(bytes);
    after = mri_alloc(bytes);
    MR_TRY(mri_device_read(&s->device, before, weights, bytes, err));
    mr_status got = mri_session_train_step(s, &step, &why);
    MR_TRY(mri_device_read(&s->device, after, weights, bytes, err));
    pthread_mutex_lock(&x->lock);
    x->refused += got == MR_E_EXPERT_ROOM;
    x->kept += !memcmp(before, after, bytes);
    snprintf(x->what, sizeof x->what, "%s", why.what);
    pthread_mutex_unlock(&x->lock);
out:
    free(before);
    free(after);
    return st;
}

Test(moe_blocks, too_little_room_stops_all_ranks_before_a_weight_changes)
{
    seen x = { .lock = PTHREAD_MUTEX_INITIALIZER };
    par_run(par_source(tiny), (const char *[]){ BLOCKS, "mesh.dispatch_bound=0.7", NULL }, 4,
            refused, &x);
    cr_assert_eq(x.refused, 4, "%u of 4 ranks refused the step: %s", x.refused, x.what);
    cr_assert_eq(x.kept, 4);
    cr_assert(strstr(x.what, "dispatch_bound") && strstr(x.what, "0.7"), "%s", x.what);
}

static mr_status validated(par_rank *r, void *ctx, mr_err *err)
{
    seen *x = ctx;
    mri_session_options o = { .needs = MRI_NEED_EVAL | MRI_NEED_DATA };
    mr_err why = MR_ERR_INIT;
    mr_data_set info;
    double nll, bits;
    mr_status st = 0;
    MR_TRY(par_session(r, &o, err));
    MR_TRY(mri_session_init_weights(r->session, err));
    uint32_t set = mri_session_find_set(r->session, "train", &info);
    mr_status got = mri_session_evaluate(r->session, set, 1, &nll, &bits, &why);
    pthread_mutex_lock(&x->lock);
    x->refused += got == MR_E_EXPERT_ROOM;
    pthread_mutex_unlock(&x->lock);
out:
    return st;
}

Test(moe_blocks, too_little_room_stops_validation_on_all_ranks)
{
    seen x = { .lock = PTHREAD_MUTEX_INITIALIZER };
    par_run(par_source(tiny), (const char *[]){ BLOCKS, "mesh.dispatch_bound=0.7", NULL }, 4,
            validated, &x);
    cr_assert_eq(x.refused, 4);
}

Test(moe_blocks, a_capacity_is_needed_to_pad_to_it)
{
    mri_mesh m;
    mr_err err = MR_ERR_INIT;
    mri_cfg_mesh c = { .dp = 1, .tp = 1, .pp = 1, .vpp = 1, .cp = 1, .ep = 1, .etp = 1,
                       .copies = 1, .pad_to_capacity = true };
    cr_assert_eq(mri_mesh_make(&c, 1, 0, &m, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, "capacity_factor"), "%s", err.what);
}
