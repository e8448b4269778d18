/* SPDX-License-Identifier: Apache-2.0
 *
 * shard/fsdp - fully sharded data parallelism (ZeRO stages 0 to 3; Zhao et al. 2023), one block a
 * unit. Between its forward and its backward a rank keeps a d-th part of a block's weights; whole
 * weights and gradients exist for the blocks that run, in a few buffers.
 *
 * Bytes of a bf16 parameter with fp32 gradients over d ranks, beside the buffers:
 *     no_shard 18, optim 6 + 12/d, optim_grads 2 + 16/d, optim_grads_params 18/d
 *
 * This folder builds by itself against an installed mrun: meson setup build && ninja -C build.
 */
#include "mrun/shard.h"
#include <stdlib.h>
#include <string.h>

typedef struct fsdp {
    const char *strategy;
    int64_t bucket_size, prefetch, gradient_buffers;
    int32_t overlap_grad_reduce, overlap_param_gather, reduce_in_bf16;
    uint32_t number; /* of the strategy; not an option */
} fsdp;

static const char *const strategies[] = { "no_shard", "optim", "optim_grads",
                                          "optim_grads_params" }; /* as MR_SHARD_* */

/* [shard.fsdp] */
static const mr_opt opts[] = {
    MR_OPT_CHOICE(fsdp, strategy, "strategy", "optim_grads_params",
                  "no_shard|optim|optim_grads|optim_grads_params",
                  "what is split: nothing, optimizer states, gradients too, weights too"),
    MR_OPT_RANGE(fsdp, MR_T_INT, bucket_size, "bucket_size", "40000000", 1, 1e15,
                 "no_shard and optim: elements from which on a bucket is full"),
    MR_OPT_RANGE(fsdp, MR_T_INT, prefetch, "prefetch", "1", 0, 1023,
                 "blocks whose weights are gathered ahead; each takes a buffer, as does the block "
                 "that runs"),
    MR_OPT_RANGE(fsdp, MR_T_INT, gradient_buffers, "gradient_buffers", "2", 1, 1024,
                 "blocks whose whole gradients exist at a time"),
    MR_OPT(fsdp, MR_T_BOOL, overlap_grad_reduce, "overlap_grad_reduce", "true",
           "sum gradients while earlier blocks run backward"),
    MR_OPT(fsdp, MR_T_BOOL, overlap_param_gather, "overlap_param_gather", "true",
           "gather weights ahead of their use"),
    MR_OPT(fsdp, MR_T_BOOL, reduce_in_bf16, "reduce_in_bf16", "false",
           "sums of gradients over ranks travel in bf16, at half the bytes; they are kept in f32"),
};

static mr_status create(const mr_host *host, const void *config, void **shard, mr_err *err)
{
    fsdp *f = malloc(sizeof *f);
    (void)host;
    if (!f)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for shard/fsdp");
    *f = *(const fsdp *)config;
    f->number = 0;
    while (strcmp(strategies[f->number], f->strategy))
        f->number++;
    *shard = f;
    return MR_OK;
}

/* What can be split of a part: blocks read masters as they are, shared ones at several times. */
static uint32_t strategy_of(const fsdp *f, const mr_shard_part *x)
{
    uint32_t most = x->flags & MR_SHARD_SHARED ? MR_SHARD_OPTIM
                  : x->flags & MR_SHARD_F32    ? MR_SHARD_OPTIM_GRADS
                                               : MR_SHARD_OPTIM_GRADS_PARAMS;
    return f->number < most ? f->number : most;
}

/* How many parts from i on are one bucket: a block's own, or several blocks' where all is whole. */
static uint32_t bucket_at(const fsdp *f, const mr_shard_model *m, uint32_t i)
{
    const mr_shard_part *x = &m->part[i];
    uint64_t elements = x->elements;
    uint32_t n = 1;
    if (strategy_of(f, x) >= MR_SHARD_OPTIM_GRADS || x->flags & MR_SHARD_SHARED)
        return 1;
    while (i + n < m->n_parts && elements < (uint64_t)f->bucket_size && x[n].group == x->group &&
           !(x[n].flags & MR_SHARD_SHARED))
        elements += x[n++].elements;
    return n;
}

static mr_status plan(void *shard, const mr_shard_model *m, const mr_shard_builder *b, void *out,
                      mr_err *err)
{
    const fsdp *f = shard;
    uint32_t overlap = (f->overlap_grad_reduce ? MR_SHARD_OVERLAP_REDUCE : 0) |
                       (f->overlap_param_gather ? MR_SHARD_OVERLAP_GATHER : 0);
    mr_status st = b->overlap(out, overlap, err);
    if (!st)
        st = b->buffers(out, (uint32_t)f->prefetch + 1, (uint32_t)f->gradient_buffers, err);
    if (!st && f->reduce_in_bf16)
        st = b->reduce_in(out, "bf16", err);
    for (uint32_t i = 0, n; i < m->n_parts && !st; i += n) {
        n = bucket_at(f, m, i);
        st = b->bucket(out, i, n, strategy_of(f, &m->part[i]), err);
    }
    return st;
}

static const mr_shard_ops table = {
    .size = sizeof table, .create = create, .destroy = free, .plan = plan,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "shard",
    .name = "fsdp",
    .doc = "states, gradients and weights split over data parallelism (ZeRO-0 to 3)",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(fsdp),
    .table = &table,
};

MR_PLUGIN_NOTE("org.mrun.shard_fsdp", "0.1.0", "shard/fsdp");

MR_EXPORT extern const mr_plugin MR_PLUGIN_SYMBOL;
const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.shard_fsdp",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "fully sharded data parallelism",
    .units = &unit,
    .n_units = 1,
};
