/* SPDX-License-Identifier: Apache-2.0
 * balance.c - see balance.h. */
#include "balance.h"
#include "core/plan/router_load.h"
#include "graphs.h"
#include <stdlib.h>
#include <string.h>

typedef struct router { /* a load of the exec, and the bias that it is for */
    mri_state *load;
    const mri_tensor_slot *bias;
} router;

typedef MRI_VEC(router) routers;

static int by_place(const void *x, const void *y)
{
    const router *a = x, *b = y;
    return a->bias->at < b->bias->at ? -1 : a->bias->at > b->bias->at;
}

/* In the order of the biases. */
static mr_status find(const mri_params *p, mri_exec *e, routers *out, mr_err *err)
{
    const size_t suffix = strlen(MRI_ROUTER_LOAD);
    for (size_t i = 0; i < e->states.n; i++) {
        mri_state *s = &e->states.v[i];
        size_t n = strlen(s->name);
        if (n <= suffix || strcmp(s->name + n - suffix, MRI_ROUTER_LOAD))
            continue;
        char *name = mri_format("%.*s", (int)(n - suffix), s->name);
        int64_t at = mri_params_find(p, name);
        const mri_tensor_slot *slot = at >= 0 ? &p->slots.v[at] : NULL;
        bool frozen = slot && p->groups.v[slot->group].frozen && slot->f32;
        if (!frozen) {
            mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                    "the bias %s of a router is no parameter in f32 without gradient, as one that "
                    "balances the load must be", name);
            free(name);
            return MR_E_PROGRAM;
        }
        free(name);
        MRI_PUSH(out, ((router){ s, slot }));
    }
    if (out->n)
        qsort(out->v, out->n, sizeof *out->v, by_place);
    return 0;
}

static uint64_t stride(const router *r)
{
    return (r->bias->n + MRI_PARAM_ALIGN - 1) / MRI_PARAM_ALIGN * MRI_PARAM_ALIGN;
}

static mr_status compile(mri_balance *b, int64_t rows, const router *first, double rate,
                         bool deterministic, mr_err *err)
{
    mr_prog *p = mri_prog_new("balance", "f32");
    mr_type t = mr_type2("f32", rows, (int64_t)stride(first));
    mr_val in[] = { mri_builder.state(p, "bias", &t, 0), mri_builder.input(p, "load", &t),
                    mri_builder.scalar(p, "ok") };
    mr_attr at[] = { mr_ai("experts", (int64_t)first->bias->n), mr_af("rate", rate) };
    mri_plan_options opt = { .deterministic = deterministic,
                             .host_fallback = b->device->host_memory };
    mri_plan *plan;
    mri_builder.op(p, "balance_bias", in, 3, at, 2, NULL, 0, __FILE__, __LINE__);
    if (p->failed) {
        mr_status st = p->failed;
        *err = p->err;
        mri_prog_free(p);
        return st;
    }
    mr_status st = mri_plan_compile(p, &opt, b->device->ops, b->device->dev, &plan, err);
    if (st)
        return st;
    MRI_PUSH(&b->plans, plan);
    MRI_PUSH(&b->runs, ((mri_balance_run){ plan, first->bias, b->n }));
    if (plan->scratch_bytes > b->scratch_bytes)
        b->scratch_bytes = plan->scratch_bytes;
    return 0;
}

mr_status mri_balance_create(mri_device *d, mri_world *world, mri_params *params,
                             mri_scalars *scalars, mri_exec *train, double rate, bool deterministic,
                             mri_balance **out, mr_err *err)
{
    routers all = { 0 };
    mri_balance *b = mri_alloc(sizeof *b);
    mr_status st = 0;
    *b = (mri_balance){ .device = d, .params = params, .scalars = scalars, .world = world,
                        .train = train };
    MR_TRY(find(params, train, &all, err));
    for (size_t i = 0, n; i < all.n; i += n) {
        n = 1;
        while (i + n < all.n && all.v[i + n].bias->n == all.v[i].bias->n &&
               all.v[i + n].bias->at == all.v[i].bias->at + n * stride(&all.v[i]))
            n++;
        MR_TRY(compile(b, (int64_t)n, &all.v[i], rate, deterministic, err));
        b->n += n * stride(&all.v[i]);
    }
out:
    free(all.v);
    if (st || !b->runs.n) {
        mri_balance_free(b);
        b = NULL;
    }
    *out = b;
    return st;
}

mr_status mri_balance_alloc(mri_balance *b, mr_err *err)
{
    const mri_device *d = b->device;
    routers all = { 0 };
    uint64_t at = 0;
    mr_status st = 0;
    MR_TRY(d->ops->alloc(d->dev, b->n * sizeof *b->loads, MR_MEM_WEIGHTS, (void **)&b->loads, err));
    if (b->scratch_bytes)
        MR_TRY(d->ops->alloc(d->dev, b->scratch_bytes, MR_MEM_ARENA, (void **)&b->scratch, err));
    MR_TRY(find(b->params, b->train, &all, err));
    for (size_t i = 0; i < all.n; i++) {
        all.v[i].load->data = b->loads + at;
        all.v[i].load->borrowed = true;
        at += stride(&all.v[i]);
    }
    st = mri_balance_zero(b, err);
out:
    free(all.v);
    return st;
}

void mri_balance_free(mri_balance *b)
{
    if (!b)
        return;
    if (b->loads)
        b->device->ops->free(b->device->dev, b->loads, b->n * sizeof *b->loads);
    if (b->scratch)
        b->device->ops->free(b->device->dev, b->scratch, b->scratch_bytes);
    for (size_t i = 0; i < b->plans.n; i++)
        mri_plan_free(b->plans.v[i]);
    free(b->plans.v);
    free(b->runs.v);
    free(b);
}

/* ---- a step --------------------------------------------------------------------------------- */

mr_status mri_balance_zero(mri_balance *b, mr_err *err)
{
    return b ? b->device->ops->fill(b->device->dev, b->device->stream, b->loads, 0,
                                    b->n * sizeof *b->loads, err) : 0;
}

/* The ranks that have other tokens of the step: whole numbers, in any order the same sum. */
static mr_status sum(mri_balance *b, uint32_t group, mr_err *err)
{
    mri_comm_job j = { .kind = MRI_COMM_ALL_REDUCE, .group = group, .op = MR_COMM_SUM,
                       .in = b->loads, .out = b->loads, .n = b->n, .dtype = "f32" };
    return mri_comm_run(b->world, &j, err);
}

static mr_status launch(mri_balance *b, const mri_balance_run *r, mr_err *err)
{
    void *state = mri_params_weight(b->params, r->first_bias), *load = b->loads + r->first;
    void *ok = mri_scalar(b->scalars, "ok");
    mri_frame f = { .plan = r->plan, .scratch = b->scratch, .state = &state, .input = &load,
                    .scalar = &ok, .label = "" };
    return mri_launch(b->device, &f, MRI_F, NULL, err);
}

mr_status mri_balance_launch(mri_balance *b, mr_err *err)
{
    mr_status st = 0;
    if (!b)
        return 0;
    if (!mri_world_alone(b->world)) {
        MR_TRY(sum(b, MRI_GROUP_DP_CP, err));
        if (b->world->mesh.sequence)
            MR_TRY(sum(b, MRI_GROUP_TP, err));
    }
    for (size_t i = 0; i < b->runs.n; i++)
        MR_TRY(launch(b, &b->runs.v[i], err));
out:
    return st;
}

char *mri_balance_obstacle(const mri_balance *b)
{
    char *why = NULL;
    for (size_t i = 0; b && i < b->plans.n && !why; i++)
        why = mri_plan_obstacle(b->plans.v[i], MRI_F);
    return why;
}
