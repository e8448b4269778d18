/* SPDX-License-Identifier: Apache-2.0
 * update.c - see update.h. */
#include "update.h"
#include "graphs.h"
#include "masters.h"
#include <stdlib.h>
#include <string.h>

/* ---- small programs of core's own ---------------------------------------------------------- */

static mr_prog *prog_sumsq(const mr_type *t)
{
    mr_prog *p = mri_prog_new("sumsq", "f32");
    mr_net n = { &mri_builder, p };
    mr_val g = n.b->input(p, "grad", t), acc = n.b->scalar(p, "sumsq");
    mr_val in[2] = { g, acc };
    n.b->op(p, "sumsq", in, 2, NULL, 0, NULL, 0, __FILE__, __LINE__);
    return p;
}

static mr_prog *prog_clip(double max_norm)
{
    mr_prog *p = mri_prog_new("clip", "f32");
    const mr_builder *b = &mri_builder;
    mr_val in[4] = { b->scalar(p, "sumsq"), b->scalar(p, "grad_scale"), b->scalar(p, "norm"),
                     b->scalar(p, "ok") };
    mr_attr a = mr_af("max_norm", max_norm);
    b->op(p, "clip_scale", in, 4, &a, 1, NULL, 0, __FILE__, __LINE__);
    return p;
}

static mr_prog *prog_store(const mr_type *master, const char *dtype)
{
    mr_prog *p = mri_prog_new("store", dtype);
    const mr_builder *b = &mri_builder;
    mr_type t = *master;
    mr_val in[3];
    in[0] = b->input(p, "master", master);
    t.dtype = dtype;
    in[1] = b->state(p, "weights", &t, 0);
    in[2] = b->scalar(p, "ok");
    b->op(p, "store", in, 3, NULL, 0, NULL, 0, __FILE__, __LINE__);
    return p;
}

static mr_status compile(mri_update *u, mr_prog *p, bool deterministic, mri_plan **out, mr_err *err)
{
    mri_plan_options opt = { .deterministic = deterministic,
                             .host_fallback = u->device->host_memory };
    if (p->failed) {
        mr_status st = p->failed;
        *err = p->err;
        mri_prog_free(p);
        return st;
    }
    mr_status st = mri_plan_compile(p, &opt, u->device->ops, u->device->dev, out, err);
    if (!st && (*out)->scratch_bytes > u->scratch_bytes)
        u->scratch_bytes = (*out)->scratch_bytes;
    return st;
}

/* ---- the optimizer's program ---------------------------------------------------------------- */

static mr_status build_program(const mri_update *u, const mri_pgroup *g,
                               const mr_optimizer_ops *ops, void *optimizer, mr_prog **out,
                               mr_err *err)
{
    mr_type t = mr_type1(u->params->acc_dtype, (int64_t)g->n);
    mr_prog *p = mri_prog_new("update", u->params->acc_dtype);
    const mr_builder *b = &mri_builder;
    b->state(p, "master", &t, 0);
    b->input(p, "grad", &t);
    static const char *const scalars[] = { "lr", "weight_decay", "step", "grad_scale", "ok" };
    for (size_t i = 0; i < sizeof scalars / sizeof *scalars; i++)
        b->scalar(p, scalars[i]);
    mr_status st = ops->build(optimizer, &t, b, p, err);
    if (p->failed) {
        st = p->failed;
        *err = p->err;
    }
    if (st)
        mri_prog_free(p);
    *out = st ? NULL : p;
    return st;
}

/* What becomes of a group's masters, for the program that the plugin built for it. */
static mr_status choose_masters(const mri_update *u, const mri_pgroup *g, const mr_prog *p,
                                enum mri_masters *how, mr_err *err)
{
    const char *op;
    bool can = mri_masters_can(p, &op);
    *how = MRI_MASTERS_SEPARATE;
    if (g->f32 || mri_params_one_copy(u->params) || strcmp(u->params->dtype, "bf16"))
        return 0;
    if (can)
        *how = u->params->split ? MRI_MASTERS_SPLIT : MRI_MASTERS_WRITTEN;
    if (can || !u->params->split)
        return 0;
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "[precision] masters = remainder: this optimizer's op %s needs masters in f32", op);
    mr_hint(err, "set [precision] masters = f32, or choose adamw or sgd");
    return MR_E_PROFILE_CONFLICT;
}

static mr_status compile_store(mri_update *u, const mri_pgroup *g, bool deterministic,
                               mri_plan **out, mr_err *err)
{
    mr_type t = mr_type1(u->params->acc_dtype, (int64_t)g->n);
    return compile(u, prog_store(&t, u->params->dtype), deterministic, out, err);
}

/* Compiles a group's update over its flat range. A backend that knows the update but not with
 * weights gets it without, and a pass that stores them. */
static mr_status compile_update(mri_update *u, const mri_pgroup *g, const mr_optimizer_ops *ops,
                                void *optimizer, bool deterministic, mr_err *err)
{
    mr_status st = 0;
    mr_prog *p = NULL;
    mri_plan *pl = NULL, *store = NULL;
    enum mri_masters how;
    MR_TRY(build_program(u, g, ops, optimizer, &p, err));
    if ((st = choose_masters(u, g, p, &how, err)) || (st = mri_masters_fit(p, how, err))) {
        mri_prog_free(p);
        goto out;
    }
    st = compile(u, p, deterministic, &pl, err);
    if (st == MR_E_UNSUPPORTED && how == MRI_MASTERS_WRITTEN) {
        how = MRI_MASTERS_SEPARATE;
        *err = (mr_err)MR_ERR_INIT;
        MR_TRY(build_program(u, g, ops, optimizer, &p, err));
        st = compile(u, p, deterministic, &pl, err);
    }
    if (st)
        goto out;
    MRI_PUSH(&u->update, pl);
    if (how == MRI_MASTERS_SEPARATE && !g->f32 && !mri_params_one_copy(u->params))
        MR_TRY(compile_store(u, g, deterministic, &store, err));
    MRI_PUSH(&u->store, store);
out:
    return st;
}

/* Every state that the program declares beside the masters gets memory of its own, in
 * mri_update_alloc(). */
static mr_status list_states(mri_update *u, uint32_t group, mr_err *err)
{
    const mri_plan *pl = u->update.v[group];
    for (size_t i = 0; i < pl->states.n; i++) {
        mri_opt_state s = { pl->states.v[i].name, group, NULL };
        if (!strcmp(s.name, "master") || !strcmp(s.name, "weights"))
            continue;
        if ((uint64_t)mr_numel(&pl->states.v[i].type) != u->params->groups.v[group].n)
            return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                           "optimizer state %s must have the parameter's type", s.name);
        u->state_bytes += mr_bytes(&pl->states.v[i].type);
        MRI_PUSH(&u->states, s);
    }
    return 0;
}

static mr_status add_sumsq(mri_update *u, uint32_t group, uint64_t at, uint64_t end, bool in_steps,
                           bool deterministic, mr_err *err)
{
    mri_sumsq s = { NULL, at - u->params->groups.v[group].at, group, in_steps };
    mr_type t = mr_type1(u->params->acc_dtype, (int64_t)(end - at));
    mr_status st = end > at ? compile(u, prog_sumsq(&t), deterministic, &s.plan, err) : 0;
    if (s.plan)
        MRI_PUSH(&u->sumsq, s);
    return st;
}

/* A group's gradients, cut where the backward's own sums begin and end. */
static mr_status compile_sumsq(mri_update *u, uint32_t group, const mri_exec *train,
                               bool deterministic, mr_err *err)
{
    const mri_pgroup *g = &u->params->groups.v[group];
    uint64_t at = g->at, end = g->at + g->n;
    mr_status st = 0;
    for (size_t i = 0; train && i < train->summed.n; i++) {
        uint64_t from = train->summed.v[i].at, to = from + train->summed.v[i].n;
        from = from > at ? from : at;
        to = to < end ? to : end;
        if (from >= to)
            continue;
        MR_TRY(add_sumsq(u, group, at, from, true, deterministic, err));
        MR_TRY(add_sumsq(u, group, from, to, false, deterministic, err));
        at = to;
    }
    MR_TRY(add_sumsq(u, group, at, end, true, deterministic, err));
out:
    return st;
}

mr_status mri_update_create(mri_device *d, mri_params *params, mri_scalars *scalars,
                            const mri_exec *train, const mr_optimizer_ops *ops, void *optimizer,
                            double max_norm, bool deterministic, mri_update **out, mr_err *err)
{
    mr_status st = 0;
    mri_update *u = mri_alloc(sizeof *u);
    u->device = d;
    u->params = params;
    u->scalars = scalars;
    u->max_norm = max_norm;
    if (!(ops->flags & MR_OPTIM_FLAT)) {
        st = mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_PLUGIN,
                     "this mrun runs flat optimizers only (MR_OPTIM_FLAT)");
        goto out;
    }
    MR_TRY(compile(u, prog_clip(max_norm), deterministic, &u->norm, err));
    for (uint32_t g = 0; g < params->groups.n; g++) {
        if (params->groups.v[g].frozen) /* frozen groups come last: indices stay those of groups */
            continue;
        MR_TRY(compile_sumsq(u, g, train, deterministic, err));
        MR_TRY(compile_update(u, &params->groups.v[g], ops, optimizer, deterministic, err));
        MR_TRY(list_states(u, g, err));
    }
out:
    if (st) {
        mri_update_free(u);
        u = NULL;
    }
    *out = u;
    return st;
}

static uint64_t state_bytes(const mri_update *u, const mri_opt_state *s)
{
    return u->params->groups.v[s->group].n * mr_dtype_bytes(u->params->acc_dtype);
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
    for (size_t i = 0; i < u->sumsq.n; i++)
        mri_plan_free(u->sumsq.v[i].plan);
    for (size_t i = 0; i < u->update.n; i++)
        mri_plan_free(u->update.v[i]);
    for (size_t i = 0; i < u->store.n; i++)
        mri_plan_free(u->store.v[i]);
    mri_plan_free(u->norm);
    free(u->sumsq.v);
    free(u->update.v);
    free(u->store.v);
    free(u->states.v);
    free(u);
}

/* ---- running -------------------------------------------------------------------------------- */

static void *bind(mri_update *u, const char *name, uint32_t group, uint64_t from,
                  const char *state)
{
    const mri_params *p = u->params;
    uint64_t at = p->groups.v[group].at + from;
    if (!strcmp(name, "grad"))
        return p->grads + at * mr_dtype_bytes(p->acc_dtype);
    if (!strcmp(name, "master"))
        return mri_params_masters(p, at);
    if (!strcmp(name, "weights"))
        return p->weights + at * mr_dtype_bytes(p->dtype);
    for (size_t i = 0; state && i < u->states.n; i++)
        if (u->states.v[i].group == group && !strcmp(u->states.v[i].name, state))
            return u->states.v[i].data;
    return NULL;
}

/* from: elements of the group before those that the plan is for */
static mr_status launch(mri_update *u, const mri_plan *pl, uint32_t group, uint64_t from,
                        mr_err *err)
{
    void *state[16] = { 0 }, *input[16] = { 0 }, *scalar[16] = { 0 };
    char label[32];
    MRI_ASSERT(pl->states.n <= 16 && pl->inputs.n <= 16 && pl->scalars.n <= 16);
    snprintf(label, sizeof label, "group %u ", group);
    for (size_t i = 0; i < pl->states.n; i++)
        state[i] = bind(u, pl->states.v[i].name, group, from, pl->states.v[i].name);
    for (size_t i = 0; i < pl->inputs.n; i++)
        input[i] = bind(u, pl->inputs.v[i].name, group, from, NULL);
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
    for (uint32_t g = 0; g < u->update.n; g++) {
        char name[64];
        snprintf(name, sizeof name, "lr.%u", g);
        put(ctx, name, lr * u->params->groups.v[g].lr_mult);
        snprintf(name, sizeof name, "weight_decay.%u", g);
        put(ctx, name, weight_decay * u->params->groups.v[g].decay_mult);
    }
}

mr_status mri_update_launch(mri_update *u, bool summed, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < u->sumsq.n; i++) {
        const mri_sumsq *s = &u->sumsq.v[i];
        if (s->in_steps || !summed)
            MR_TRY(launch(u, s->plan, s->group, s->at, err));
    }
    MR_TRY(launch(u, u->norm, 0, 0, err));
    for (uint32_t g = 0; g < u->update.n; g++)
        MR_TRY(launch(u, u->update.v[g], g, 0, err));
    for (uint32_t g = 0; g < u->store.n; g++)
        if (u->store.v[g])
            MR_TRY(launch(u, u->store.v[g], g, 0, err));
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
    char *why = mri_plan_obstacle(u->norm, MRI_F);
    for (size_t i = 0; i < u->sumsq.n && !why; i++)
        why = mri_plan_obstacle(u->sumsq.v[i].plan, MRI_F);
    for (size_t g = 0; g < u->update.n && !why; g++) {
        why = mri_plan_obstacle(u->update.v[g], MRI_F);
        why = why || !u->store.v[g] ? why : mri_plan_obstacle(u->store.v[g], MRI_F);
    }
    return why;
}
