/* SPDX-License-Identifier: Apache-2.0
 *
 * shard/distopt - the distributed optimizer (ZeRO stage 1, Rajbhandari et al. 2020): weights and
 * gradients are whole on every rank, masters and optimizer states are split. A rank that holds d-th
 * parts needs 6 + 12/d bytes a bf16 parameter instead of 18.
 *
 * Neighbouring blocks share a bucket until it is large enough to use a link well; it is summed
 * as soon as the first of its blocks has run backward, and its new weights are gathered while the
 * next step's first blocks run forward.
 */
#include "mrun/shard.h"
#include <stdlib.h>

typedef struct distopt {
    int64_t bucket_size;
    int32_t overlap_grad_reduce, overlap_param_gather, reduce_in_bf16;
} distopt;

/* [shard.distopt] */
static const mr_opt opts[] = {
    MR_OPT_RANGE(distopt, MR_T_INT, bucket_size, "bucket_size", "40000000", 1, 1e15,
                 "elements from which on a bucket is full"),
    MR_OPT(distopt, MR_T_BOOL, overlap_grad_reduce, "overlap_grad_reduce", "true",
           "sum a bucket's gradients while earlier blocks run backward"),
    MR_OPT(distopt, MR_T_BOOL, overlap_param_gather, "overlap_param_gather", "true",
           "gather a bucket's new weights while the next step begins"),
    MR_OPT(distopt, MR_T_BOOL, reduce_in_bf16, "reduce_in_bf16", "false",
           "sums of gradients over ranks travel in bf16, at half the bytes; they are kept in f32"),
};

static mr_status create(const mr_host *host, const void *config, void **shard, mr_err *err)
{
    distopt *d = malloc(sizeof *d);
    (void)host;
    if (!d)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for shard/distopt");
    *d = *(const distopt *)config;
    *shard = d;
    return MR_OK;
}

/* how many parts from i on are one bucket */
static uint32_t bucket_at(const distopt *d, const mr_shard_model *m, uint32_t i)
{
    const mr_shard_part *x = &m->part[i];
    uint64_t elements = x->elements;
    uint32_t n = 1;
    while (i + n < m->n_parts && elements < (uint64_t)d->bucket_size && x[n].group == x->group &&
           !(x[n].flags & MR_SHARD_SHARED) && !(x->flags & MR_SHARD_SHARED))
        elements += x[n++].elements;
    return n;
}

static mr_status plan(void *shard, const mr_shard_model *m, const mr_shard_builder *b, void *out,
                      mr_err *err)
{
    const distopt *d = shard;
    mr_status st = b->overlap(out, (d->overlap_grad_reduce ? MR_SHARD_OVERLAP_REDUCE : 0) |
                                       (d->overlap_param_gather ? MR_SHARD_OVERLAP_GATHER : 0),
                              err);
    if (!st && d->reduce_in_bf16)
        st = b->reduce_in(out, "bf16", err);
    for (uint32_t i = 0, n; i < m->n_parts && !st; i += n) {
        n = bucket_at(d, m, i);
        st = b->bucket(out, i, n, MR_SHARD_OPTIM, err);
    }
    return st;
}

static const mr_shard_ops table = {
    .size = sizeof table, .create = create, .destroy = free, .plan = plan,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "shard",
    .name = "distopt",
    .doc = "optimizer states and masters split over data parallelism (ZeRO-1)",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(distopt),
    .table = &table,
};

MR_PLUGIN_NOTE("org.mrun.shard_distopt", "0.1.0", "shard/distopt");

MR_EXPORT extern const mr_plugin MR_PLUGIN_SYMBOL;
const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.shard_distopt",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "the distributed optimizer",
    .units = &unit,
    .n_units = 1,
};
