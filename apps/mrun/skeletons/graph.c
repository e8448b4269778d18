/*
 * skeleton - a graph plugin for mrun: forwards are captured, each block's on its own; all else
 * runs eagerly.
 */
#include "mrun/graph.h"
#include <stdlib.h>

typedef struct skeleton {
    int64_t warmup;
} skeleton;

/* [graph.skeleton] */
static const mr_opt opts[] = {
    MR_OPT_RANGE(skeleton, MR_T_INT, warmup, "warmup", "2", 0, 1e6,
                 "how often a work runs eagerly before it is captured"),
};

static mr_status create(const mr_host *host, const void *config, void **graph, mr_err *err)
{
    skeleton *g = malloc(sizeof *g);
    (void)host;
    if (!g)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for graph/skeleton");
    *g = *(const skeleton *)config;
    *graph = g;
    return MR_OK;
}

static void destroy(void *graph)
{
    free(graph);
}

static uint32_t warmup(void *graph)
{
    return (uint32_t)((const skeleton *)graph)->warmup;
}

/* Neighbours of one number are one graph; 0 is none. A number may come again only for items
 * that do the same. What has an obstacle cannot be captured. */
static mr_status cut(void *graph, const mr_work *w, uint32_t *piece, mr_err *err)
{
    (void)graph;
    (void)err;
    for (uint32_t i = 0; i < w->n_items; i++) {
        const mr_work_item *it = &w->item[i];
        piece[i] = it->kind == MR_WORK_FORWARD && !it->obstacle ? it->same : 0;
    }
    return MR_OK;
}

static const mr_graph_ops table = {
    .size = sizeof table,
    .create = create,
    .destroy = destroy,
    .warmup = warmup,
    .cut = cut,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "graph",
    .name = "skeleton",
    .doc = "captures forwards",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(skeleton),
    .table = &table,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "graph/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "a graph plugin",
    .units = &unit,
    .n_units = 1,
};
