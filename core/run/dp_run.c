/* SPDX-License-Identifier: Apache-2.0
 *
 * dp_run.c - the collectives of a step: weights gathered before blocks that read them and ahead
 * of the next, gradients summed behind blocks that wrote them; see dp.h.
 *
 * Invariant: a buffer's next unit is gathered, and its next gradients are written, after what
 * reads the last ones was enqueued: submitted work waits for the compute stream, and the compute
 * stream for what it awaits here.
 */
#include "bind.h"
#include "dp.h"
#include <string.h>

static const mri_bucket *bucket(const mri_dp *dp, size_t i)
{
    return &dp->params->buckets.v[i];
}

static bool gathers(const mri_bucket *b) /* around every use */
{
    return b->strategy == MR_SHARD_OPTIM_GRADS_PARAMS;
}

static mr_status submit(mri_dp *dp, uint32_t kind, uint32_t group, const void *in, void *out,
                        uint64_t n, const char *dtype, uint64_t *ticket, mr_err *err)
{
    mri_comm_job j = { .kind = kind, .group = group, .op = MR_COMM_SUM, .in = in, .out = out,
                       .n = n, .dtype = dtype };
    return dp->world->group[group].n < 2 ? 0 : mri_comm_submit(dp->world, &j, ticket, err);
}

static mr_status await(mri_dp *dp, uint64_t *ticket, mr_err *err)
{
    mr_status st = *ticket ? mri_comm_wait(dp->world, *ticket, err) : 0;
    *ticket = 0;
    return st;
}

/* ---- weights --------------------------------------------------------------------------------- */

/* In a world of one the piece is the whole, and is copied. */
static mr_status gather_unit(mri_dp *dp, uint32_t unit, mr_err *err)
{
    const mri_params *p = dp->params;
    mr_status st = 0;
    dp->weight_tenant[unit % dp->n_weights] = unit;
    for (size_t i = 0; i < dp->runs.n && !st; i++) {
        const mri_bucket *b = bucket(dp, i);
        if (dp->runs.v[i].unit != unit || !gathers(b))
            continue;
        const void *own = mri_params_kept_weight(p, b->own);
        st = b->ranks > 1 ? submit(dp, MRI_COMM_ALL_GATHER, b->comm, own, b->unit_weights, b->own_n,
                                   p->dtype, &dp->runs.v[i].gather, err)
                          : dp->device->ops->copy(dp->device->dev, dp->device->stream,
                                                  b->unit_weights, own,
                                                  b->n * mr_dtype_bytes(p->dtype), err);
    }
    return st;
}

/* the unit of weights that an instance reads, or MRI_NO_UNIT */
static uint32_t weights_of(const mri_dp *dp, const mri_exec *e, uint32_t instance)
{
    const mri_bucket_list *l = &e->uses[instance];
    for (size_t i = 0; i < l->bucket.n; i++)
        if (gathers(bucket(dp, l->bucket.v[i])))
            return dp->runs.v[l->bucket.v[i]].unit;
    return MRI_NO_UNIT;
}

static bool resident(const mri_dp *dp, uint32_t unit)
{
    return dp->weight_tenant[unit % dp->n_weights] == unit;
}

/* Gathers ahead, in the direction of the phase, until a buffer would be taken from a unit that is
 * needed before. */
static mr_status prefetch(mri_dp *dp, const mri_exec *e, uint32_t instance, uint32_t unit,
                          uint8_t phase, mr_err *err)
{
    uint32_t ahead = 0, n = (uint32_t)e->assembly->instances.n;
    mr_status st = 0;
    for (uint32_t i = instance; !st && ahead + 1 < dp->n_weights;) {
        i = phase == MRI_F ? i + 1 : i - 1; /* below 0 it is above n */
        uint32_t next = i < n ? weights_of(dp, e, i) : MRI_NO_UNIT;
        if (i >= n)
            break;
        if (next == MRI_NO_UNIT || next == unit)
            continue;
        if ((phase == MRI_F ? next - unit : unit - next) >= dp->n_weights)
            break;
        ahead++;
        if (!resident(dp, next))
            st = gather_unit(dp, next, err);
    }
    return st;
}

static mr_status enter_weights(mri_dp *dp, const mri_exec *e, uint32_t instance, uint8_t phase,
                               mr_err *err)
{
    const mri_bucket_list *l = &e->uses[instance];
    uint32_t unit = weights_of(dp, e, instance);
    mr_status st = 0;
    if (unit != MRI_NO_UNIT && !resident(dp, unit))
        MR_TRY(gather_unit(dp, unit, err));
    for (size_t i = 0; i < l->bucket.n; i++)
        MR_TRY(await(dp, &dp->runs.v[l->bucket.v[i]].gather, err));
    if (unit != MRI_NO_UNIT && phase != MRI_W && dp->overlap & MR_SHARD_OVERLAP_GATHER)
        MR_TRY(prefetch(dp, e, instance, unit, phase, err));
out:
    return st;
}

mr_status mri_dp_updated(mri_dp *dp, mr_err *err)
{
    const mri_params *p = dp->params;
    mr_status st = 0;
    memset(dp->weight_tenant, 0xff, dp->n_weights * sizeof *dp->weight_tenant);
    for (uint32_t first = 0; first <= dp->instances; first++) /* as blocks will need them */
        for (size_t i = 0; i < p->buckets.n; i++) {
            const mri_bucket *b = bucket(dp, i);
            bool f32 = p->groups.v[b->group].f32 && !mri_params_one_copy(p);
            const char *dtype = f32 ? p->acc_dtype : p->dtype;
            uint64_t from = b->first == MRI_SHARED ? dp->instances : b->first;
            if (from != first || b->strategy == MR_SHARD_NONE || gathers(b))
                continue;
            char *whole = f32 ? mri_params_master(p, b->at) : mri_params_kept_weight(p, b->at);
            MR_TRY(submit(dp, MRI_COMM_ALL_GATHER, b->comm,
                          whole + (b->own - b->at) * mr_dtype_bytes(dtype), whole, b->own_n, dtype,
                          &dp->runs.v[i].gather, err));
        }
    for (size_t i = 0; i < dp->runs.n && !(dp->overlap & MR_SHARD_OVERLAP_GATHER); i++)
        MR_TRY(await(dp, &dp->runs.v[i].gather, err));
out:
    return st;
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* The sum over ranks of a bucket's gradients: everywhere, or of each piece where it is kept. */
static mr_status reduce_bucket(mri_dp *dp, size_t i, mr_err *err)
{
    const mri_params *p = dp->params;
    const mri_bucket *b = bucket(dp, i);
    mri_bucket_run *run = &dp->runs.v[i];
    const char *dtype = run->narrow ? "bf16" : p->acc_dtype;
    size_t width = mr_dtype_bytes(dtype);
    bool piece = run->unit != MRI_NO_UNIT;
    const mri_unit *u = piece ? &dp->units.v[run->unit] : NULL;
    char *whole = mri_params_grad_at(p, b->at), *own = mri_params_kept_grad(p, b->own);
    mr_status st = 0;
    if (run->narrow) {
        char *wire = dp->wire + run->wire * width;
        MR_TRY(mri_dp_run(dp, MRI_DP_NARROW, b->n, whole, wire, err));
        whole = wire;
        own = wire + (b->own - b->at) * width;
    } else if (piece && !u->fresh)
        own = dp->arrived + (run->unit % dp->n_grads * dp->piece_room + run->arrived) * width;
    if (p->groups.v[b->group].partial & MRI_AXIS_TP)
        MR_TRY(submit(dp, MRI_COMM_ALL_REDUCE, MRI_GROUP_TP, whole, whole, b->n, dtype,
                      &run->reduce, err));
    if (b->strategy == MR_SHARD_NONE)
        st = submit(dp, MRI_COMM_ALL_REDUCE, b->comm, whole, whole, b->n, dtype, &run->reduce,
                    err);
    else if (b->ranks > 1)
        st = submit(dp, MRI_COMM_REDUCE_SCATTER, b->comm, whole, own, b->own_n, dtype,
                    &run->reduce, err);
    else if (piece && !(st = await(dp, &run->reduce, err))) /* the piece is all of it */
        st = dp->device->ops->copy(dp->device->dev, dp->device->stream, own, whole, b->n * width,
                                   err);
    if (!st && !piece && b->comm == MRI_GROUP_DP_IN)
        st = submit(dp, MRI_COMM_ALL_REDUCE, MRI_GROUP_DP_OUT, own, own, b->own_n, dtype,
                    &run->reduce, err);
    run->reduced = true;
out:
    return st;
}

/* From where a bucket's sums have arrived to where they are kept, if that is elsewhere. */
static mr_status keep(mri_dp *dp, size_t i, bool fresh, mr_err *err)
{
    const mri_params *p = dp->params;
    const mri_bucket_run *run = &dp->runs.v[i];
    const mri_bucket *b = bucket(dp, i);
    void *kept = mri_params_kept_grad(p, b->own);
    if (run->narrow)
        return mri_dp_run(dp, fresh ? MRI_DP_WIDEN : MRI_DP_ADD_NARROW, b->own_n,
                          dp->wire + (run->wire + b->own - b->at) * mr_dtype_bytes("bf16"), kept,
                          err);
    uint64_t from = run->unit % dp->n_grads * dp->piece_room + run->arrived;
    return fresh ? 0
                 : mri_dp_run(dp, MRI_DP_ADD, b->own_n,
                              dp->arrived + from * mr_dtype_bytes(p->acc_dtype), kept, err);
}

/* The unit's sums are in what is kept, and its buffer is free. */
static mr_status settle(mri_dp *dp, uint32_t unit, mr_err *err)
{
    mri_unit *u = &dp->units.v[unit];
    mr_status st = 0;
    if (!u->reducing)
        return 0;
    for (size_t i = 0; i < dp->runs.n; i++) {
        if (dp->runs.v[i].unit != unit)
            continue;
        MR_TRY(await(dp, &dp->runs.v[i].reduce, err));
        MR_TRY(keep(dp, i, u->fresh, err));
    }
    u->fresh = u->reducing = false;
out:
    return st;
}

static uint32_t grads_of(const mri_dp *dp, const mri_exec *e, uint32_t instance)
{
    const mri_bucket_list *l = &e->uses[instance];
    for (size_t i = 0; i < l->bucket.n; i++)
        if (dp->runs.v[l->bucket.v[i]].unit != MRI_NO_UNIT)
            return dp->runs.v[l->bucket.v[i]].unit;
    return MRI_NO_UNIT;
}

static mr_status enter_grads(mri_dp *dp, uint32_t unit, mr_err *err)
{
    uint32_t *tenant = &dp->grad_tenant[unit % dp->n_grads];
    mr_status st = *tenant == MRI_NO_UNIT ? 0 : settle(dp, *tenant, err);
    *tenant = unit;
    return st;
}

static mr_status leave_unit(mri_dp *dp, uint32_t unit, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < dp->runs.n && !st; i++)
        if (dp->runs.v[i].unit == unit)
            st = reduce_bucket(dp, i, err);
    dp->units.v[unit].reducing = true;
    if (!st && !(dp->overlap & MR_SHARD_OVERLAP_REDUCE))
        st = settle(dp, unit, err);
    return st;
}

/* ---- around the work ------------------------------------------------------------------------- */

void mri_dp_begin(mri_dp *dp, bool fresh)
{
    dp->last = false;
    for (size_t u = 0; u < dp->units.n; u++)
        dp->units.v[u].fresh = fresh;
    for (size_t i = 0; i < dp->runs.n; i++) {
        dp->runs.v[i].reduced = false;
        dp->runs.v[i].pending = dp->runs.v[i].users;
    }
}

mr_status mri_dp_enter(mri_dp *dp, const mri_exec *e, uint32_t instance, uint8_t phase,
                          mr_err *err)
{
    mr_status st = enter_weights(dp, e, instance, phase, err);
    uint32_t unit = phase == MRI_B ? grads_of(dp, e, instance) : MRI_NO_UNIT;
    return st || unit == MRI_NO_UNIT ? st : enter_grads(dp, unit, err);
}

mr_status mri_dp_leave(mri_dp *dp, const mri_exec *e, uint32_t instance, uint8_t phase,
                          mr_err *err)
{
    const mri_bucket_list *l = &e->uses[instance];
    mr_status st = 0;
    if (phase != (e->opt.plan.split_w ? MRI_W : MRI_B))
        return 0;
    uint32_t unit = grads_of(dp, e, instance);
    if (unit != MRI_NO_UNIT)
        st = leave_unit(dp, unit, err);
    for (size_t i = 0; i < l->bucket.n && dp->last && !st; i++) {
        uint32_t k = l->bucket.v[i];
        if (dp->runs.v[k].unit == MRI_NO_UNIT && !--dp->runs.v[k].pending &&
            dp->overlap & MR_SHARD_OVERLAP_REDUCE)
            st = reduce_bucket(dp, k, err);
    }
    return st;
}

mr_status mri_dp_finish(mri_dp *dp, mr_err *err)
{
    const mri_params *p = dp->params;
    mr_status st = 0;
    for (size_t i = 0; i < dp->runs.n; i++)
        if (dp->runs.v[i].unit == MRI_NO_UNIT && !dp->runs.v[i].reduced)
            MR_TRY(reduce_bucket(dp, i, err));
    for (uint32_t u = 0; u < dp->units.n; u++)
        MR_TRY(settle(dp, u, err));
    for (size_t i = 0; i < dp->runs.n; i++) {
        const mri_bucket *b = bucket(dp, i);
        void *own = mri_params_kept_grad(p, b->own);
        if (dp->runs.v[i].unit != MRI_NO_UNIT && b->comm == MRI_GROUP_DP_IN)
            MR_TRY(submit(dp, MRI_COMM_ALL_REDUCE, MRI_GROUP_DP_OUT, own, own, b->own_n,
                          p->acc_dtype, &dp->runs.v[i].reduce, err));
    }
    for (size_t i = 0; i < dp->runs.n; i++) {
        MR_TRY(await(dp, &dp->runs.v[i].reduce, err));
        if (dp->runs.v[i].unit == MRI_NO_UNIT && dp->runs.v[i].narrow)
            MR_TRY(keep(dp, i, true, err));
    }
out:
    return st;
}
