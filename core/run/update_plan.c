/* SPDX-License-Identifier: Apache-2.0
 *
 * update_plan.c - what an update runs: the optimizer's program for every part of the parameters,
 * and the sums of squares of this rank's gradients; see update.h. A part is a group's flat range,
 * or the piece of a bucket that this rank updates.
 *
 * Invariant: over all ranks every element of every gradient is counted once in the norm.
 */
#include "core/mesh/world.h"
#include "fragments.h"
#include "masters.h"
#include "update.h"
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

static mr_status compile(mri_update *u, mr_prog *p, mri_plan **out, mr_err *err)
{
    mri_plan_options opt = { .deterministic = u->deterministic,
                             .host_fallback = u->device->host_memory };
    if (p->failed) {
        mr_status st = p->failed;
        *err = p->err;
        mri_prog_free(p);
        return st;
    }
    mr_status st = mri_plan_compile(p, &opt, u->device->ops, u->device->dev, out, err);
    if (st)
        return st;
    MRI_PUSH(&u->plans, *out);
    if ((*out)->scratch_bytes > u->scratch_bytes)
        u->scratch_bytes = (*out)->scratch_bytes;
    return 0;
}

/* ---- the optimizer's program ---------------------------------------------------------------- */

static mr_status build_program(const mri_update *u, uint64_t n, const mr_optimizer_ops *ops,
                               void *optimizer, mr_prog **out, mr_err *err)
{
    mr_type t = mr_type1(u->params->acc_dtype, (int64_t)n);
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

static mr_status compile_store(mri_update *u, uint64_t n, mri_plan **out, mr_err *err)
{
    mr_type t = mr_type1(u->params->acc_dtype, (int64_t)n);
    return compile(u, prog_store(&t, u->params->dtype), out, err);
}

/* Compiles the update of n elements of a group. A backend that knows the update but not with
 * weights gets it without, and a pass that stores them. */
static mr_status compile_update(mri_update *u, mri_update_part *part, const mr_optimizer_ops *ops,
                                void *optimizer, mr_err *err)
{
    const mri_pgroup *g = &u->params->groups.v[part->group];
    mr_status st = 0;
    mr_prog *p = NULL;
    enum mri_masters how;
    MR_TRY(build_program(u, part->n, ops, optimizer, &p, err));
    if ((st = choose_masters(u, g, p, &how, err)) || (st = mri_masters_fit(p, how, err))) {
        mri_prog_free(p);
        goto out;
    }
    st = compile(u, p, &part->update, err);
    if (st == MR_E_UNSUPPORTED && how == MRI_MASTERS_WRITTEN) {
        how = MRI_MASTERS_SEPARATE;
        *err = (mr_err)MR_ERR_INIT;
        MR_TRY(build_program(u, part->n, ops, optimizer, &p, err));
        st = compile(u, p, &part->update, err);
    }
    if (st)
        goto out;
    if (how == MRI_MASTERS_SEPARATE && !g->f32 && !mri_params_one_copy(u->params))
        MR_TRY(compile_store(u, part->n, &part->store, err));
out:
    return st;
}

/* Parts of one length and one kind of masters run the same plans. */
static mr_status add_part(mri_update *u, uint32_t group, uint64_t at, uint64_t n,
                          const mr_optimizer_ops *ops, void *optimizer, mr_err *err)
{
    mri_update_part part = { group, at, n, NULL, NULL };
    mr_status st = 0;
    for (size_t i = 0; i < u->parts.n && !part.update; i++) {
        const mri_update_part *x = &u->parts.v[i];
        if (x->n == n && u->params->groups.v[x->group].f32 == u->params->groups.v[group].f32) {
            part.update = x->update;
            part.store = x->store;
        }
    }
    if (!part.update && n)
        st = compile_update(u, &part, ops, optimizer, err);
    if (!st && n)
        MRI_PUSH(&u->parts, part);
    return st;
}

/* Every state that the program declares beside the masters gets memory of its own, in
 * mri_update_alloc(). */
static mr_status list_states(mri_update *u, uint32_t group, const mri_update_part *part,
                             mr_err *err)
{
    const mri_plan *pl = part->update;
    for (size_t i = 0; i < pl->states.n; i++) {
        mri_opt_state s = { pl->states.v[i].name, group, NULL };
        if (!strcmp(s.name, "master") || !strcmp(s.name, "weights"))
            continue;
        if ((uint64_t)mr_numel(&pl->states.v[i].type) != part->n)
            return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                           "optimizer state %s must have the parameter's type", s.name);
        u->state_bytes += mri_params_states(u->params, group) *
                          mr_dtype_bytes(u->params->acc_dtype);
        MRI_PUSH(&u->states, s);
    }
    return 0;
}

/* Buckets that are whole on every rank are updated together where they are neighbours. */
static mr_status add_pieces(mri_update *u, uint32_t group, const mr_optimizer_ops *ops,
                            void *optimizer, mr_err *err)
{
    const mri_params *p = u->params;
    mr_status st = 0;
    for (size_t i = 0; i < p->buckets.n && !st; i++) {
        const mri_bucket *b = &p->buckets.v[i];
        uint64_t at = b->own, n = b->own_n;
        if (b->group != group)
            continue;
        while (b->own_n == b->n && i + 1 < p->buckets.n && b[1].group == group &&
               b[1].own_n == b[1].n) {
            n += (++b)->n;
            i++;
        }
        st = add_part(u, group, at, n, ops, optimizer, err);
    }
    return st;
}

/* ---- the norm -------------------------------------------------------------------------------- */

static mr_status add_sumsq(mri_update *u, uint64_t at, uint64_t end, bool in_steps, mr_err *err)
{
    mri_sumsq s = { NULL, at, in_steps };
    mr_type t = mr_type1(u->params->acc_dtype, (int64_t)(end - at));
    mr_status st = 0;
    for (size_t i = 0; i < u->sumsq.n && !s.plan; i++)
        if (mr_same_type(&u->sumsq.v[i].plan->inputs.v[0].type, &t))
            s.plan = u->sumsq.v[i].plan;
    if (!s.plan && end > at)
        st = compile(u, prog_sumsq(&t), &s.plan, err);
    if (s.plan)
        MRI_PUSH(&u->sumsq, s);
    return st;
}

/* A group's gradients, cut where the backward's own sums begin and end. */
static mr_status group_sumsq(mri_update *u, uint32_t group, const mri_exec *train, mr_err *err)
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
        MR_TRY(add_sumsq(u, at, from, true, err));
        MR_TRY(add_sumsq(u, from, to, false, err));
        at = to;
    }
    MR_TRY(add_sumsq(u, at, end, true, err));
out:
    return st;
}

static int by_place(const void *x, const void *y)
{
    const mri_tensor_slot *a = *(mri_tensor_slot *const *)x, *b = *(mri_tensor_slot *const *)y;
    return a->at < b->at ? -1 : a->at > b->at;
}

/* A range without the parameters that another stage counts. */
static mr_status add_own_sumsq(mri_update *u, uint64_t at, uint64_t end, mr_err *err)
{
    MRI_VEC(const mri_tensor_slot *) twins = { 0 };
    mr_status st = 0;
    for (size_t i = 0; i < u->params->slots.n; i++)
        if (u->params->slots.v[i].twin)
            MRI_PUSH(&twins, &u->params->slots.v[i]);
    if (twins.n)
        qsort(twins.v, twins.n, sizeof *twins.v, by_place);
    for (size_t i = 0; i < twins.n && !st; i++) {
        uint64_t from = twins.v[i]->at, to = from + twins.v[i]->n;
        if (to <= at || from >= end)
            continue;
        st = from > at ? add_sumsq(u, at, from, true, err) : 0;
        at = to < end ? to : end;
    }
    free(twins.v);
    return st ? st : add_sumsq(u, at, end, true, err);
}

/* Over ranks: what this one is the first to keep. */
static mr_status piece_sumsq(mri_update *u, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < u->parts.n && !st; i++) {
        const mri_update_part *x = &u->parts.v[i];
        if (mri_piece_first(u->params, x->at, &u->world->mesh))
            st = add_own_sumsq(u, x->at, x->at + x->n, err);
    }
    return st;
}

mr_status mri_update_create(mri_device *d, struct mri_world *world, mri_params *params,
                            mri_scalars *scalars, const mri_exec *train,
                            const mr_optimizer_ops *ops, void *optimizer, double max_norm,
                            bool deterministic, mri_update **out, mr_err *err)
{
    mr_status st = 0;
    mri_update *u = mri_alloc(sizeof *u);
    u->device = d;
    u->world = world;
    u->params = params;
    u->scalars = scalars;
    u->max_norm = max_norm;
    u->deterministic = deterministic;
    if (!(ops->flags & MR_OPTIM_FLAT)) {
        st = mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_PLUGIN,
                     "this mrun runs flat optimizers only (MR_OPTIM_FLAT)");
        goto out;
    }
    MR_TRY(compile(u, prog_clip(max_norm), &u->norm, err));
    for (uint32_t g = 0; g < params->groups.n; g++) {
        const mri_pgroup *group = &params->groups.v[g];
        if (group->frozen) /* frozen groups come last: indices stay those of groups */
            continue;
        size_t first = u->parts.n;
        MR_TRY(params->buckets.n ? add_pieces(u, g, ops, optimizer, err)
                                 : add_part(u, g, group->at, group->n, ops, optimizer, err));
        if (!params->buckets.n)
            MR_TRY(group_sumsq(u, g, train, err));
        if (first < u->parts.n)
            MR_TRY(list_states(u, g, &u->parts.v[first], err));
    }
    if (params->buckets.n)
        MR_TRY(piece_sumsq(u, err));
out:
    if (st) {
        mri_update_free(u);
        u = NULL;
    }
    *out = u;
    return st;
}
