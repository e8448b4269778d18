/* SPDX-License-Identifier: Apache-2.0
 *
 * graph.h - unit kind "graph": which parts of the work are captured into device graphs. Core
 * shows the work as a list of items in the order in which they run - an optimizer step, a
 * validation's forward, a decoding step - and the plugin cuts it into pieces. Core records a
 * piece when it first runs after the warm-up, replays it from then on, and records again only
 * when the work's plans or its list of items change.
 */
#ifndef MRUN_GRAPH_H
#define MRUN_GRAPH_H
#include "plugin.h"
#ifdef __cplusplus
extern "C" {
#endif

enum { /* mr_work_item.kind; values are appended */
    MR_WORK_LOAD = 0,   /* a micro-batch's tokens into the places that blocks read      */
    MR_WORK_FORWARD,    /* of one block instance                                        */
    MR_WORK_BACKWARD,
    MR_WORK_WGRAD,      /* weight gradients, where they are split from the backward     */
    MR_WORK_LOSS,       /* a micro-batch's losses to where the host will read them      */
    MR_WORK_ZERO_GRADS, /* before the first micro-batch                                 */
    MR_WORK_UPDATE,     /* gradient norm, clipping, optimizer, weights                  */
    MR_WORK_SEND,       /* a value, or a gradient, to another stage of the pipeline     */
    MR_WORK_RECEIVE,    /* makes room for one from there                                */
    MR_WORK_WAIT,       /* until it is there                                            */
    MR_WORK_TIES,       /* sums gradients of a parameter that two stages have           */
    MR_WORK_SEED        /* a micro-batch's share of the loss, before its backward, where several
                           micro-batches are in flight                                  */
};

/* Frozen. */
typedef struct mr_work_item {
    uint32_t kind;
    uint32_t instance;    /* of FORWARD, BACKWARD, WGRAD                                 */
    uint32_t micro_batch;
    uint32_t same;        /* items with equal numbers do the same at the same addresses  */
    const char *label;    /* "model.layers.3. forward"                                   */
    const char *obstacle; /* NULL: may be captured; else why not ("op X waits for ...")  */
} mr_work_item;

typedef struct mr_work {
    uint32_t size, n_items;
    const char *mode; /* "train": one optimizer step; "infer": one forward; "decode" */
    const mr_work_item *item;
} mr_work;

typedef struct mr_graph_ops {
    uint32_t size, flags;
    mr_status (*create)(const mr_host *, const void *config, void **graph, mr_err *); /* [main] */
    void (*destroy)(void *graph);                                                    /* [main] */
    /* How often a work runs eagerly before it is captured. */
    uint32_t (*warmup)(void *graph);                                             /* [instance] */
    /* Sets piece[i] for each item: 0 runs eagerly; neighbours with one number are one graph. A
     * number may come again later only for items that are the same (`same`) in the same order:
     * they share the graph. MR_E_UNSUPPORTED refuses the work, naming the obstacle. */
    mr_status (*cut)(void *graph, const mr_work *, uint32_t *piece, mr_err *);   /* [instance] */
} mr_graph_ops;

#ifdef __cplusplus
}
#endif
#endif
