/* SPDX-License-Identifier: Apache-2.0
 * update.c - memory and running; see update.h. What is run: update_plan.c. */
#include "update.h"
#include "core/mesh/world.h"
#include "core/plan/shard_experts.h"
#include "graphs.h"
#include <stdlib.h>
#include <string.h>

static uint64_t state_bytes(const mri_update *u, const mri_opt_state *s)
{
    return mri_params_states(u->params, s->group) * mr_dtype_bytes(u->params->acc_dtype);
}

mr_status mri_update_alloc(mri_update *u, mr_err *err)
{
    const mri_device *d = u->device;
    mr_status st = 0;
    for (size_t i = 0; i < u->states.n && !st; i++)
        st = d->ops->alloc(d->dev, state_bytes(u, &u->states.v[i]), MR_MEM_WEIGHTS,
                           &u->states.v[i].data, err);
    if (!st && u->scratch_bytes)
        st = d->ops->alloc(d->dev, u->scratch_bytes, MR_MEM_ARENA, (void **)&u->scratch, err);
    return st ? st : mri_update_rearm(u, err);
}

void mri_update_free(mri_update *u)
{
    if (!u)
        return;
    for (size_t i = 0; i < u->states.n; i++)
        if (u->states.v[i].data)
            u->device->ops->free(u->device->dev, u->states.v[i].data,
                                 state_bytes(u, &u->states.v[i]));
    if (u->scratch)
        u->device->ops->free(u->device->dev, u->scratch, u->scratch_bytes);
    for (size_t i = 0; i < u->plans.n; i++)
        mri_plan_free(u->plans.v[i]);
    free(u->plans.v);
    free(u->sumsq.v);
    free(u->parts.v);
    free(u->states.v);
    free(u);
}

/* ---- running -------------------------------------------------------------------------------- */

void *mri_update_state(const mri_update *u, const mri_opt_state *x, uint64_t at)
{
    uint64_t i = mri_params_state_at(u->params, at);
    return i == UINT64_MAX || !x->data
               ? NULL
               : (char *)x->data + i * mr_dtype_bytes(u->params->acc_dtype);
}

static void *bind(mri_update *u, const char *name, uint32_t group, uint64_t at)
{
    const mri_params *p = u->params;
    if (!strcmp(name, "grad"))
        return mri_params_kept_grad(p, at);
    if (!strcmp(name, "master"))
        return mri_params_masters(p, at);
    if (!strcmp(name, "weights"))
        return mri_params_kept_weight(p, at);
    for (size_t i = 0; i < u->states.n; i++)
        if (u->states.v[i].group == group && !strcmp(u->states.v[i].name, name))
            return mri_update_state(u, &u->states.v[i], at);
    return NULL;
}

/* at: the first element of the flat space that the plan is for */
static mr_status launch(mri_update *u, const mri_plan *pl, uint32_t group, uint64_t at, mr_err *err)
{
    void *state[16] = { 0 }, *input[16] = { 0 }, *scalar[16] = { 0 };
    char label[32];
    MRI_ASSERT(pl->states.n <= 16 && pl->inputs.n <= 16 && pl->scalars.n <= 16);
    snprintf(label, sizeof label, "group %u ", group);
    for (size_t i = 0; i < pl->states.n; i++)
        state[i] = bind(u, pl->states.v[i].name, group, at);
    for (size_t i = 0; i < pl->inputs.n; i++)
        input[i] = bind(u, pl->inputs.v[i].name, group, at);
    for (size_t i = 0; i < pl->scalars.n; i++) {
        char name[64];
        const char *s = pl->scalars.v[i].name;
        bool own = !strcmp(s, "lr") || !strcmp(s, "weight_decay"); /* a group has its own */
        snprintf(name, sizeof name, own ? "%s.%u" : "%s", s, group);
        scalar[i] = mri_scalar(u->scalars, name);
    }
    mri_frame f = { .plan = pl, .label = label, .state = state, .scalar = scalar, .input = input,
                    .scratch = u->scratch };
    return mri_launch(u->device, &f, MRI_F, NULL, err);
}

void mri_update_scalars(const mri_update *u, double lr, double weight_decay, int64_t step,
                        void (*put)(void *ctx, const char *name, double value), void *ctx)
{
    put(ctx, "sumsq", 0);
    put(ctx, "step", (double)step);
    for (uint32_t g = 0; g < u->params->groups.n && !u->params->groups.v[g].frozen; g++) {
        char name[64];
        snprintf(name, sizeof name, "lr.%u", g);
        put(ctx, name, lr * u->params->groups.v[g].lr_mult);
        snprintf(name, sizeof name, "weight_decay.%u", g);
        put(ctx, name, weight_decay * u->params->groups.v[g].decay_mult);
    }
}

static mr_status over_ranks(mri_update *u, const char *scalar, uint32_t op, mr_err *err)
{
    void *x = mri_scalar(u->scalars, scalar);
    mri_comm_job j = { .kind = MRI_COMM_ALL_REDUCE, .group = MRI_GROUP_WORLD, .op = op, .in = x,
                       .out = x, .n = 1, .dtype = "f32" };
    return mri_comm_run(u->world, &j, err);
}

/* The squares of all ranks, and whether all are fine: so all do the same. */
static mr_status agree(mri_update *u, mr_err *err)
{
    mr_status st = 0;
    if (mri_world_alone(u->world))
        return 0;
    MR_TRY(over_ranks(u, "sumsq", MR_COMM_SUM, err));
    MR_TRY(over_ranks(u, "ok", MR_COMM_MIN, err));
    if (u->world->mesh.equal_blocks)
        MR_TRY(over_ranks(u, MRI_ROOM_WANTED, MR_COMM_MAX, err));
out:
    return st;
}

mr_status mri_update_launch(mri_update *u, bool summed, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < u->sumsq.n; i++) {
        const mri_sumsq *s = &u->sumsq.v[i];
        if (s->in_steps || !summed)
            MR_TRY(launch(u, s->plan, 0, s->at, err));
    }
    MR_TRY(agree(u, err));
    MR_TRY(launch(u, u->norm, 0, 0, err));
    for (size_t i = 0; i < u->parts.n; i++)
        MR_TRY(launch(u, u->parts.v[i].update, u->parts.v[i].group, u->parts.v[i].at, err));
    for (size_t i = 0; i < u->parts.n; i++)
        if (u->parts.v[i].store)
            MR_TRY(launch(u, u->parts.v[i].store, u->parts.v[i].group, u->parts.v[i].at, err));
out:
    return st;
}

mr_status mri_update_rearm(mri_update *u, mr_err *err)
{
    return mri_scalar_set(u->scalars, u->device, "ok", 1, err);
}

/* mri_update_scalars()'s put: writes at once and keeps the first error. */
typedef struct writer {
    mri_update *update;
    mr_status status;
    mr_err *err;
} writer;

static void write_scalar(void *ctx, const char *name, double value)
{
    writer *w = ctx;
    if (!w->status)
        w->status = mri_scalar_set(w->update->scalars, w->update->device, name, value, w->err);
}

mr_status mri_update_run(mri_update *u, double lr, double weight_decay, int64_t step,
                         mri_update_result *out, mr_err *err)
{
    writer w = { u, 0, err };
    mr_status st = 0;
    double ok;
    mri_update_scalars(u, lr, weight_decay, step, write_scalar, &w);
    MR_TRY(w.status);
    MR_TRY(mri_update_launch(u, false, err));
    MR_TRY(mri_scalar_get(u->scalars, u->device, "norm", &out->grad_norm, err));
    MR_TRY(mri_scalar_get(u->scalars, u->device, "ok", &ok, err));
    out->ok = ok != 0;
    if (!out->ok)
        MR_TRY(mri_update_rearm(u, err));
out:
    return st;
}

char *mri_update_obstacle(const mri_update *u)
{
    char *why = NULL;
    for (size_t i = 0; i < u->plans.n && !why; i++)
        why = mri_plan_obstacle(u->plans.v[i], MRI_F);
    return why;
}
