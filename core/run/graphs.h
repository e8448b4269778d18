/* SPDX-License-Identifier: Apache-2.0
 *
 * graphs.h - capture: work as a list of items, cut into pieces by the graph plugin that the
 * profile chose, run eagerly while it warms up, then recorded piece by piece and replayed.
 *
 * Invariant: a graph is replayed only for a work with the key, and at the place in it, that it
 * was recorded for; the key is a hash of the plans and of the list of items, so a change of
 * either records anew. Without a plugin, or where a trace looks at single ops, all runs eagerly.
 */
#ifndef MRI_GRAPHS_H
#define MRI_GRAPHS_H
#include "core/schedule/schedule.h"
#include "exec.h"

typedef struct mri_work { /* what one call does; items in the order in which they run */
    const char *mode;     /* "train" | "infer" | "decode" */
    uint64_t key;
    const mri_item *item;
    uint32_t n;
    const mri_exec *exec;
    const char *update_obstacle; /* why UPDATE items cannot be captured, or NULL */
    mr_status (*run)(void *ctx, const mri_item *item, mr_err *err);
    void *ctx;
} mri_work;

typedef struct mri_piece {
    uint32_t id;    /* as the plugin numbered it, 0: eager */
    uint32_t first, n;
    uint32_t graph; /* index into the entry's graphs */
} mri_piece;

typedef struct mri_graph_entry { /* one key's cut and graphs */
    uint64_t key;
    uint32_t runs;
    MRI_VEC(mri_piece) pieces;
    MRI_VEC(void *) graphs; /* NULL until recorded */
} mri_graph_entry;

typedef struct mri_graphs {
    mri_device *device;
    const mr_graph_ops *ops; /* NULL: everything is eager */
    void *plugin;
    MRI_VEC(mri_graph_entry *) entries;
} mri_graphs;

/* ops NULL: no plugin is chosen. A device that cannot record is an error. */
mr_status mri_graphs_open(mri_graphs *g, mri_device *d, const mr_graph_ops *ops,
                          const mr_host *host, const void *config, mr_err *err);
void mri_graphs_close(mri_graphs *g); /* the device must be idle */
mr_status mri_graphs_run(mri_graphs *g, const mri_work *w, mr_err *err);
/* Forward of all instances of an exec (as mri_exec_forward), as one work of the exec's mode */
mr_status mri_graphs_forward(mri_graphs *g, mri_exec *e, mr_err *err);
uint64_t mri_exec_key(const mri_exec *e); /* a hash of its mode, plans and where it is bound */
/* The first step of a plan's phase that cannot be recorded, as text (the caller frees), or NULL */
char *mri_plan_obstacle(const mri_plan *plan, uint8_t phase);

#endif
