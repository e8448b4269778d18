/* SPDX-License-Identifier: Apache-2.0
 *
 * dp_plan.c - from a shard plugin's plan to buckets: what the plugin is shown, the builder that
 * it tells its plan to, and the checks; see dp.h.
 *
 * Invariant: every part is in exactly one bucket, buckets are in the order of parts, and a bucket
 * of which blocks get whole values in buffers belongs to one block.
 */
#include "dp.h"
#include <stdlib.h>
#include <string.h>

typedef struct dp_plan {
    mri_dp *dp;
    const mri_mesh *mesh;
    MRI_VEC(mr_shard_part) parts;
    MRI_VEC(mri_bucket) buckets;
    uint32_t next; /* the first part that is in no bucket yet */
} dp_plan;

static mr_status wrong(mr_err *err, const char *fmt, ...) MR_PRINTF(2, 3);

static mr_status wrong(mr_err *err, const char *fmt, ...)
{
    char text[240];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "the shard plugin's plan is wrong: %s",
                   text);
}

/* ---- what the plugin sees ------------------------------------------------------------------- */

/* Ranks that may split a group between them, and those that have a whole copy each of it. */
static uint32_t comm_of(const mri_mesh *m, const mri_pgroup *g, uint32_t strategy)
{
    return g->expert                                      ? MRI_GROUP_EDP
           : m->copies > 1 && strategy != MR_SHARD_NONE ? MRI_GROUP_DP_IN
                                                          : MRI_GROUP_DP_CP;
}

static void add_part(dp_plan *p, uint32_t group, uint32_t instance, const mri_assembly *a)
{
    const mri_params *params = p->dp->params;
    const mri_pgroup *g = &params->groups.v[group];
    bool shared = instance == MRI_SHARED;
    mr_shard_part x = { .instance = instance, .group = group,
                        .block = shared ? "" : a->instances.v[instance].prefix };
    x.flags = (g->expert ? MR_SHARD_EXPERT : 0) | (shared ? MR_SHARD_SHARED : 0) |
              (g->f32 ? MR_SHARD_F32 : 0);
    x.ranks = mri_mesh_group_size(p->mesh, comm_of(p->mesh, g, MR_SHARD_OPTIM));
    for (size_t i = 0; i < params->slots.n; i++)
        if (params->slots.v[i].group == group && params->slots.v[i].instance == instance)
            x.elements += (params->slots.v[i].n + MRI_PARAM_ALIGN - 1) / MRI_PARAM_ALIGN *
                          MRI_PARAM_ALIGN;
    if (x.elements)
        MRI_PUSH(&p->parts, x);
}

static void list_parts(dp_plan *p, const mri_assembly *a)
{
    const mri_params *params = p->dp->params;
    for (uint32_t g = 0; g < params->groups.n && !params->groups.v[g].frozen; g++) {
        for (uint32_t i = 0; i < a->instances.n; i++)
            add_part(p, g, i, a);
        add_part(p, g, MRI_SHARED, a);
    }
}

/* ---- what the plugin says ------------------------------------------------------------------- */

static mr_status check_bucket(const dp_plan *p, uint32_t first, uint32_t n, uint32_t strategy,
                              mr_err *err)
{
    const mr_shard_part *x = &p->parts.v[first];
    if (first != p->next || !n || n > p->parts.n - first)
        return wrong(err, "a bucket of parts %u to %u, where part %u of %zu is the next", first,
                     first + n, p->next, p->parts.n);
    if (strategy > MR_SHARD_OPTIM_GRADS_PARAMS)
        return wrong(err, "strategy %u of part %u; there are %d", strategy, first,
                     MR_SHARD_OPTIM_GRADS_PARAMS + 1);
    if ((x->flags & MR_SHARD_F32 && strategy > MR_SHARD_OPTIM_GRADS) ||
        (x->flags & MR_SHARD_SHARED && strategy > MR_SHARD_OPTIM))
        return wrong(err, "strategy %u for part %u (%s), which %s", strategy, first, x->block,
                     x->flags & MR_SHARD_SHARED ? "several blocks bind" : "blocks read as masters");
    for (uint32_t i = first; i < first + n; i++) {
        const mr_shard_part *y = &p->parts.v[i];
        bool unit = strategy >= MR_SHARD_OPTIM_GRADS;
        if (y->group != x->group || (y->flags & MR_SHARD_SHARED) != (x->flags & MR_SHARD_SHARED) ||
            (unit && y->instance != x->instance))
            return wrong(err, "parts %u (%s) and %u (%s) are of different %s", first, x->block, i,
                         y->block, y->group != x->group ? "groups" : "blocks");
    }
    return 0;
}

static mr_status add_bucket(void *plan, uint32_t first, uint32_t n, uint32_t strategy, mr_err *err)
{
    dp_plan *p = plan;
    if (first >= p->parts.n)
        return wrong(err, "a bucket from part %u of %zu", first, p->parts.n);
    mr_status st = check_bucket(p, first, n, strategy, err);
    if (st)
        return st;
    const mr_shard_part *x = &p->parts.v[first];
    uint32_t comm = comm_of(p->mesh, &p->dp->params->groups.v[x->group], strategy);
    mri_bucket b = { .group = x->group, .first = x->instance, .last = x[n - 1].instance,
                     .strategy = strategy, .comm = comm,
                     .ranks = mri_mesh_group_size(p->mesh, comm),
                     .index = mri_mesh_group_index(p->mesh, comm) };
    p->next = first + n;
    MRI_PUSH(&p->buckets, b);
    return 0;
}

static mr_status set_buffers(void *plan, uint32_t weights, uint32_t grads, mr_err *err)
{
    dp_plan *p = plan;
    if (!weights || !grads || weights > 1024 || grads > 1024)
        return wrong(err, "%u buffers for weights and %u for gradients; 1 to 1024 are possible",
                     weights, grads);
    p->dp->n_weights = weights;
    p->dp->n_grads = grads;
    return 0;
}

static mr_status set_overlap(void *plan, uint32_t flags, mr_err *err)
{
    if (flags & ~(uint32_t)(MR_SHARD_OVERLAP_REDUCE | MR_SHARD_OVERLAP_GATHER))
        return wrong(err, "overlap flags 0x%x", flags);
    ((dp_plan *)plan)->dp->overlap = flags;
    return 0;
}

static mr_status set_reduce_in(void *plan, const char *dtype, mr_err *err)
{
    const dp_plan *p = plan;
    p->dp->narrow = !strcmp(dtype, "bf16") && strcmp(p->dp->params->acc_dtype, dtype);
    if (p->dp->narrow || !strcmp(dtype, p->dp->params->acc_dtype))
        return 0;
    return wrong(err, "gradients travel in %.20s; bf16 and %s are possible", dtype,
                 p->dp->params->acc_dtype);
}

static const mr_shard_builder builder = { sizeof builder, 0, add_bucket, set_buffers, set_overlap,
                                          set_reduce_in };

/* Without a plugin: neighbours of a group are one bucket. */
static mr_status plan_whole(dp_plan *p, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = 0, n; i < p->parts.n && !st; i += n) {
        const mr_shard_part *x = &p->parts.v[i];
        for (n = 1; i + n < p->parts.n && x[n].group == x->group &&
                    (x[n].flags & MR_SHARD_SHARED) == (x->flags & MR_SHARD_SHARED); n++)
            ;
        st = add_bucket(p, i, n, MR_SHARD_NONE, err);
    }
    return st;
}

/* ---- units ----------------------------------------------------------------------------------- */

static uint32_t unit_of(mri_dp *dp, uint32_t instance)
{
    for (uint32_t u = 0; u < dp->units.n; u++)
        if (dp->units.v[u].instance == instance)
            return u;
    MRI_PUSH(&dp->units, ((mri_unit){ .instance = instance }));
    return (uint32_t)dp->units.n - 1;
}

/* Narrow gradients lie as the wide ones do: in a unit's buffer, or each bucket by itself. Whole ones
 * of a pipeline's stage stay wide: tied ones are summed over its ends before they are kept. */
static void place_wire(mri_dp *dp)
{
    uint64_t *in_unit = mri_alloc((dp->units.n + 1) * sizeof *in_unit);
    dp->wire_room = dp->narrow ? dp->n_grads * dp->grad_room : 0;
    for (size_t i = 0; i < dp->runs.n && dp->narrow; i++) {
        const mri_bucket *b = &dp->params->buckets.v[i];
        mri_bucket_run *run = &dp->runs.v[i];
        run->narrow = b->ranks > 1 && (b->strategy != MR_SHARD_NONE || dp->world->mesh.pp == 1);
        if (run->unit != MRI_NO_UNIT) {
            run->wire = run->unit % dp->n_grads * dp->grad_room + in_unit[run->unit];
            in_unit[run->unit] += b->n;
        } else if (run->narrow) {
            run->wire = dp->wire_room;
            dp->wire_room += b->n;
        }
    }
    free(in_unit);
}

static uint64_t larger(uint64_t a, uint64_t b)
{
    return a > b ? a : b;
}

/* Units in the order of instances, so that those that run one after the other take turns. */
static void make_units(mri_dp *dp)
{
    const mri_params *p = dp->params;
    for (uint32_t i = 0; i < dp->instances; i++)
        for (size_t k = 0; k < p->buckets.n; k++)
            if (p->buckets.v[k].first == i && p->buckets.v[k].strategy >= MR_SHARD_OPTIM_GRADS)
                unit_of(dp, i);
    for (size_t k = 0; k < p->buckets.n; k++) {
        const mri_bucket *b = &p->buckets.v[k];
        mri_bucket_run run = { .unit = MRI_NO_UNIT };
        if (b->strategy >= MR_SHARD_OPTIM_GRADS) {
            run.unit = unit_of(dp, b->first);
            mri_unit *u = &dp->units.v[run.unit];
            run.arrived = u->pieces;
            u->grads += b->n;
            u->pieces += b->own_n;
            u->weights += b->strategy == MR_SHARD_OPTIM_GRADS_PARAMS ? b->n : 0;
        }
        MRI_PUSH(&dp->runs, run);
    }
    for (size_t u = 0; u < dp->units.n; u++) {
        dp->weight_room = larger(dp->weight_room, dp->units.v[u].weights);
        dp->grad_room = larger(dp->grad_room, dp->units.v[u].grads);
        dp->piece_room = larger(dp->piece_room, dp->units.v[u].pieces);
    }
}

/* A block's gradients are whole from its backward to its weight gradients, which come later. */
static mr_status check_split(const mri_dp *dp, const mri_config *config, mr_err *err)
{
    bool late = dp->world->mesh.pp > 1 && !strcmp(config->mesh.schedule, "zero_bubble");
    if (!(config->train.split_weight_gradient || late) || !dp->units.n)
        return 0;
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "%s, while [shard] keeps gradients as pieces",
            late ? "[mesh] schedule = zero_bubble puts weight gradients off"
                 : "[train] split_weight_gradient");
    mr_hint(err, "choose strategy = optim, or %s", late ? "schedule = 1f1b"
                                                        : "split_weight_gradient = false");
    return MR_E_PROFILE_CONFLICT;
}

mr_status mri_dp_open(mri_world *w, mri_device *d, mri_params *params, const mri_assembly *a,
                      uint32_t micro_batches, const mri_config *config, const mr_host *host,
                      mri_dp **out, mr_err *err)
{
    const mri_choice *choice = mri_config_choice(config, "shard", 0);
    mri_dp *dp = mri_alloc(sizeof *dp);
    dp_plan p = { .dp = dp, .mesh = &w->mesh };
    mr_status st = 0;
    *dp = (mri_dp){ .world = w, .device = d, .params = params, .n_weights = 1, .n_grads = 1,
                       .instances = (uint32_t)a->instances.n };
    list_parts(&p, a);
    if (choice) {
        mr_shard_model model = { sizeof model, (uint32_t)p.parts.n, p.parts.v, dp->instances,
                                 micro_batches, params->dtype, params->acc_dtype };
        dp->ops = choice->unit->table;
        MR_TRY(dp->ops->create(host, choice->config, &dp->plugin, err));
        MR_TRY(dp->ops->plan(dp->plugin, &model, &builder, &p, err));
        if (p.next != p.parts.n)
            st = wrong(err, "parts from %u of %zu on are in no bucket", p.next, p.parts.n);
    } else {
        st = plan_whole(&p, err);
    }
    if (st)
        goto out;
    mri_params_cut(params, p.buckets.v, p.buckets.n);
    p.buckets.v = NULL;
    make_units(dp);
    place_wire(dp);
    MR_TRY(check_split(dp, config, err));
    st = mri_dp_compile(dp, err);
out:
    free(p.parts.v);
    free(p.buckets.v);
    if (st) {
        mri_dp_close(dp);
        dp = NULL;
    }
    *out = dp;
    return st;
}
