/* SPDX-License-Identifier: Apache-2.0
 *
 * graph/full - a whole optimizer step as one device graph, as Megatron-LM's FullCudaGraphWrapper
 * captures it and more: every micro-batch's forward and backward, the sums of gradients, the
 * norm, clipping, the optimizer and the weights' copies; likewise a whole validation forward and
 * a whole decoding step. One launch replays it. Nothing may stand in the way: a step with an op
 * that cannot be recorded is refused by name.
 */
#include "mrun/graph.h"
#include <stdlib.h>

typedef struct full {
    int64_t warmup;
} full;

/* [graph.full] */
static const mr_opt opts[] = {
    MR_OPT_RANGE(full, MR_T_INT, warmup, "warmup", "2", 0, 1e6,
                 "steps (and forwards of each kind) that run eagerly before they are captured"),
};

static mr_status create(const mr_host *host, const void *config, void **graph, mr_err *err)
{
    full *g = malloc(sizeof *g);
    (void)host;
    if (!g)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for graph/full");
    *g = *(const full *)config;
    *graph = g;
    return MR_OK;
}

static uint32_t warmup(void *graph)
{
    return (uint32_t)((const full *)graph)->warmup;
}

static mr_status cut(void *graph, const mr_work *w, uint32_t *piece, mr_err *err)
{
    (void)graph;
    for (uint32_t i = 0; i < w->n_items; i++) {
        if (w->item[i].obstacle) {
            mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "graph/full cannot capture %s: %s",
                    w->item[i].label, w->item[i].obstacle);
            mr_hint(err, "[graph] plugin = layer captures all blocks but those; none captures "
                    "nothing");
            return MR_E_UNSUPPORTED;
        }
        piece[i] = 1;
    }
    return MR_OK;
}

static const mr_graph_ops table = {
    .size = sizeof table, .create = create, .destroy = free, .warmup = warmup, .cut = cut,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "graph",
    .name = "full",
    .doc = "a whole step, validation forward or decoding step is one device graph",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(full),
    .table = &table,
};

MR_PLUGIN_NOTE("org.mrun.graph_full", "0.1.0", "graph/full");

MR_EXPORT extern const mr_plugin MR_PLUGIN_SYMBOL;
const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.mrun.graph_full",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "whole-iteration device graphs",
    .units = &unit,
    .n_units = 1,
};
