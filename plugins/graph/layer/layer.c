/* SPDX-License-Identifier: Apache-2.0
 *
 * graph/layer - each block instance's forward, backward and weight gradients as device graphs of
 * their own, and the update as one more. Micro-batches share a block's graphs. What lies between
 * (loading tokens, storing losses) and blocks with an op that cannot be recorded run eagerly, so
 * this serves where graph/full is refused.
 */
#include "mrun/graph.h"
#include <stdlib.h>

typedef struct layer {
    int64_t warmup;
} layer;

/* [graph.layer] */
static const mr_opt opts[] = {
    MR_OPT_RANGE(layer, MR_T_INT, warmup, "warmup", "2", 0, 1e6,
                 "steps (and forwards of each kind) that run eagerly before they are captured"),
};

static mr_status create(const mr_host *host, const void *config, void **graph, mr_err *err)
{
    layer *g = malloc(sizeof *g);
    (void)host;
    if (!g)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for graph/layer");
    *g = *(const layer *)config;
    *graph = g;
    return MR_OK;
}

static uint32_t warmup(void *graph)
{
    return (uint32_t)((const layer *)graph)->warmup;
}

static mr_status cut(void *graph, const mr_work *w, uint32_t *piece, mr_err *err)
{
    (void)graph, (void)err;
    for (uint32_t i = 0; i < w->n_items; i++) {
        const mr_work_item *it = &w->item[i];
        int whole = it->kind == MR_WORK_FORWARD || it->kind == MR_WORK_BACKWARD ||
                    it->kind == MR_WORK_WGRAD || it->kind == MR_WORK_UPDATE;
        piece[i] = whole && !it->obstacle ? it->same : 0;
    }
    return MR_OK;
}

static const mr_graph_ops table = {
    .size = sizeof table, .create = create, .destroy = free, .warmup = warmup, .cut = cut,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "graph",
    .name = "layer",
    .doc = "every block's forward and backward are device graphs of their own",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(layer),
    .table = &table,
};

MR_PLUGIN_NOTE("org.mrun.graph_layer", "0.1.0", "graph/layer");

MR_EXPORT extern const mr_plugin MR_PLUGIN_SYMBOL;
const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.graph_layer",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "device graphs of single blocks",
    .units = &unit,
    .n_units = 1,
};
