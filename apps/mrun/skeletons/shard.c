/*
 * skeleton - a shard plugin for mrun: optimizer states are split over the ranks of data
 * parallelism, each block's parameters of a group in a bucket of their own.
 */
#include "mrun/shard.h"
#include <stdlib.h>

typedef struct skeleton {
    int32_t overlap;
} skeleton;

/* [shard.skeleton] */
static const mr_opt opts[] = {
    MR_OPT(skeleton, MR_T_BOOL, overlap, "overlap", "true",
           "sum gradients and gather weights beside the blocks that run"),
};

static mr_status create(const mr_host *host, const void *config, void **shard, mr_err *err)
{
    skeleton *s = malloc(sizeof *s);
    (void)host;
    if (!s)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for shard/skeleton");
    *s = *(const skeleton *)config;
    *shard = s;
    return MR_OK;
}

static void destroy(void *shard)
{
    free(shard);
}

/* Every part is in one bucket, in order. What is possible for a part its flags say. */
static mr_status plan(void *shard, const mr_shard_model *m, const mr_shard_builder *b, void *out,
                      mr_err *err)
{
    const skeleton *s = shard;
    mr_status st = 0;
    if (s->overlap)
        st = b->overlap(out, MR_SHARD_OVERLAP_REDUCE | MR_SHARD_OVERLAP_GATHER, err);
    for (uint32_t i = 0; i < m->n_parts && !st; i++)
        st = b->bucket(out, i, 1, MR_SHARD_OPTIM, err);
    return st;
}

static const mr_shard_ops table = {
    .size = sizeof table,
    .create = create,
    .destroy = destroy,
    .plan = plan,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "shard",
    .name = "skeleton",
    .doc = "splits optimizer states",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(skeleton),
    .table = &table,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "shard/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "a shard plugin",
    .units = &unit,
    .n_units = 1,
};
