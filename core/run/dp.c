/* SPDX-License-Identifier: Apache-2.0
 *
 * dp.c - what a plan takes: buffers for units, the programs that add arrived pieces,
 * and which buckets each block of an exec needs; see dp.h.
 */
#include "dp.h"
#include "bind.h"
#include <stdlib.h>
#include <string.h>

/* ---- programs -------------------------------------------------------------------------------- */

static const struct {
    const char *op;
    bool from_narrow, to_narrow;
} ops[] = { /* by mri_dp_op */
    { "accumulate", false, false },
    { "store", false, true },
    { "store", true, false },
    { "accumulate", true, false },
};

static const mri_dp_plan *find(const mri_dp *dp, enum mri_dp_op op, uint64_t n)
{
    for (size_t i = 0; i < dp->plans.n; i++)
        if (dp->plans.v[i].op == op && dp->plans.v[i].n == n)
            return &dp->plans.v[i];
    return NULL;
}

static mr_status compile(mri_dp *dp, enum mri_dp_op op, uint64_t n, mr_err *err)
{
    const mr_builder *b = &mri_builder;
    const char *wide = dp->params->acc_dtype;
    mr_prog *p = mri_prog_new("gradients", wide);
    mr_type from = mr_type1(ops[op].from_narrow ? "bf16" : wide, (int64_t)n);
    mr_type to = mr_type1(ops[op].to_narrow ? "bf16" : wide, (int64_t)n);
    mri_plan_options opt = { .deterministic = true, .host_fallback = dp->device->host_memory };
    mri_dp_plan made = { op, n, NULL };
    mr_val in[2];
    if (find(dp, op, n)) {
        mri_prog_free(p);
        return 0;
    }
    in[0] = b->input(p, "from", &from);
    in[1] = b->state(p, "to", &to, 0);
    b->op(p, ops[op].op, in, 2, NULL, 0, NULL, 0, __FILE__, __LINE__);
    mr_status st = mri_plan_compile(p, &opt, dp->device->ops, dp->device->dev, &made.plan, err);
    if (st)
        return st;
    MRI_PUSH(&dp->plans, made);
    if (made.plan->scratch_bytes)
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_PLUGIN,
                       "the backend's op %s wants scratch memory", ops[op].op);
    return 0;
}

mr_status mri_dp_run(mri_dp *dp, enum mri_dp_op op, uint64_t n, void *from, void *to, mr_err *err)
{
    mri_frame f = { .plan = find(dp, op, n)->plan, .label = "pieces ", .state = &to,
                    .input = &from };
    return mri_launch(dp->device, &f, MRI_F, NULL, err);
}

/* What is whole is narrowed and widened as a whole, or its piece is; what is a piece is added. */
mr_status mri_dp_compile(mri_dp *dp, mr_err *err)
{
    const mri_bucket *b = dp->params->buckets.v;
    mr_status st = 0;
    for (size_t i = 0; i < dp->runs.n; i++) {
        const mri_bucket_run *run = &dp->runs.v[i];
        bool piece = run->unit != MRI_NO_UNIT;
        if (run->narrow) {
            MR_TRY(compile(dp, MRI_DP_NARROW, b[i].n, err));
            MR_TRY(compile(dp, MRI_DP_WIDEN, b[i].own_n, err));
        }
        if (piece)
            MR_TRY(compile(dp, run->narrow ? MRI_DP_ADD_NARROW : MRI_DP_ADD, b[i].own_n, err));
    }
out:
    return st;
}

bool mri_dp_pieces(const mri_dp *dp)
{
    return dp && dp->units.n;
}

/* ---- memory --------------------------------------------------------------------------------- */

static uint64_t weight_bytes(const mri_dp *dp)
{
    return dp->n_weights * dp->weight_room * mr_dtype_bytes(dp->params->dtype);
}

static uint64_t grad_bytes(const mri_dp *dp)
{
    return dp->n_grads * dp->grad_room * mr_dtype_bytes(dp->params->acc_dtype);
}

static uint64_t arrived_bytes(const mri_dp *dp)
{
    return dp->n_grads * dp->piece_room * mr_dtype_bytes(dp->params->acc_dtype);
}

static uint64_t wire_bytes(const mri_dp *dp)
{
    return dp->wire_room * mr_dtype_bytes("bf16");
}

uint64_t mri_dp_bytes(const mri_dp *dp)
{
    return dp ? weight_bytes(dp) + grad_bytes(dp) + arrived_bytes(dp) + wire_bytes(dp) : 0;
}

static mr_status take(mri_dp *dp, uint64_t bytes, char **out, mr_err *err)
{
    return bytes ? dp->device->ops->alloc(dp->device->dev, bytes, MR_MEM_COMM, (void **)out, err)
                 : 0;
}

static uint32_t *nobody(uint32_t n)
{
    uint32_t *v = mri_alloc(n * sizeof *v);
    memset(v, 0xff, n * sizeof *v);
    return v;
}

/* A unit's buckets lie one behind the other in its buffer. */
static void place_units(mri_dp *dp)
{
    mri_params *p = dp->params;
    uint64_t *weights = mri_alloc((dp->units.n + 1) * sizeof *weights);
    uint64_t *grads = mri_alloc((dp->units.n + 1) * sizeof *grads);
    for (size_t i = 0; i < p->buckets.n; i++) {
        mri_bucket *b = &p->buckets.v[i];
        uint32_t u = dp->runs.v[i].unit;
        if (u == MRI_NO_UNIT)
            continue;
        uint64_t w = u % dp->n_weights * dp->weight_room + weights[u];
        uint64_t g = u % dp->n_grads * dp->grad_room + grads[u];
        if (b->strategy == MR_SHARD_OPTIM_GRADS_PARAMS) {
            b->unit_weights = dp->weights + w * mr_dtype_bytes(p->dtype);
            weights[u] += b->n;
        }
        b->unit_grads = dp->grads + g * mr_dtype_bytes(p->acc_dtype);
        grads[u] += b->n;
    }
    free(weights);
    free(grads);
}

mr_status mri_dp_alloc(mri_dp *dp, mr_err *err)
{
    mr_status st = 0;
    MR_TRY(take(dp, weight_bytes(dp), &dp->weights, err));
    MR_TRY(take(dp, grad_bytes(dp), &dp->grads, err));
    MR_TRY(take(dp, arrived_bytes(dp), &dp->arrived, err));
    MR_TRY(take(dp, wire_bytes(dp), &dp->wire, err));
    dp->weight_tenant = nobody(dp->n_weights);
    dp->grad_tenant = nobody(dp->n_grads);
    place_units(dp);
out:
    return st;
}

void mri_dp_close(mri_dp *dp)
{
    if (!dp)
        return;
    const mr_backend_ops *d = dp->device->ops;
    if (dp->weights)
        d->free(dp->device->dev, dp->weights, weight_bytes(dp));
    if (dp->grads)
        d->free(dp->device->dev, dp->grads, grad_bytes(dp));
    if (dp->arrived)
        d->free(dp->device->dev, dp->arrived, arrived_bytes(dp));
    if (dp->wire)
        d->free(dp->device->dev, dp->wire, wire_bytes(dp));
    for (size_t i = 0; i < dp->plans.n; i++)
        mri_plan_free(dp->plans.v[i].plan);
    if (dp->plugin)
        dp->ops->destroy(dp->plugin);
    free(dp->plans.v);
    free(dp->weight_tenant);
    free(dp->grad_tenant);
    free(dp->units.v);
    free(dp->runs.v);
    free(dp);
}

/* ---- execs ----------------------------------------------------------------------------------- */

static bool use(mri_bucket_list *l, uint32_t bucket)
{
    for (size_t i = 0; i < l->bucket.n; i++)
        if (l->bucket.v[i] == bucket)
            return false;
    MRI_PUSH(&l->bucket, bucket);
    return true;
}

void mri_dp_attach(mri_dp *dp, mri_exec *e)
{
    const mri_params *p = dp->params;
    const mri_tensor_slot *s;
    e->dp = dp;
    e->uses = mri_alloc((e->assembly->instances.n + 1) * sizeof *e->uses);
    for (uint32_t i = 0; i < e->assembly->instances.n; i++)
        for (size_t j = 0; j < mri_exec_plan(e, i)->params.n; j++)
            for (uint32_t k = 0; (s = mri_exec_slot(e, i, j, k)); k++) {
                const mri_bucket *b = mri_params_bucket(p, s->at);
                uint32_t at = b ? (uint32_t)(b - p->buckets.v) : 0;
                if (b && use(&e->uses[i], at))
                    dp->runs.v[at].users += e->opt.plan.train;
            }
}

void mri_dp_detach(mri_exec *e)
{
    for (uint32_t i = 0; e->uses && i < e->assembly->instances.n; i++)
        free(e->uses[i].bucket.v);
    free(e->uses);
    e->uses = NULL;
}
