/* SPDX-License-Identifier: Apache-2.0
 *
 * check_graph.c - what a graph plugin must do with a step of two micro-batches: cut it so that core
 * can record each piece once, with and without an op that cannot be recorded.
 */
#include "check.h"
#include "mrun/graph.h"
#include <string.h>

/* Two micro-batches of two blocks; items[same] does the same as another of that number. */
static const mr_work_item graph_work[] = {
    { MR_WORK_ZERO_GRADS, 0, 0, 1, "zero gradients", NULL },
    { MR_WORK_LOAD, 0, 0, 2, "load", NULL },
    { MR_WORK_FORWARD, 0, 0, 3, "a. forward", NULL },
    { MR_WORK_FORWARD, 1, 0, 4, "b. forward", NULL },
    { MR_WORK_BACKWARD, 1, 0, 5, "b. backward", NULL },
    { MR_WORK_BACKWARD, 0, 0, 6, "a. backward", NULL },
    { MR_WORK_LOSS, 0, 0, 7, "losses", NULL },
    { MR_WORK_LOAD, 0, 1, 8, "load", NULL },
    { MR_WORK_FORWARD, 0, 1, 3, "a. forward", NULL },
    { MR_WORK_FORWARD, 1, 1, 4, "b. forward", NULL },
    { MR_WORK_BACKWARD, 1, 1, 9, "b. backward", NULL },
    { MR_WORK_BACKWARD, 0, 1, 10, "a. backward", NULL },
    { MR_WORK_LOSS, 0, 1, 11, "losses", NULL },
    { MR_WORK_UPDATE, 0, 0, 12, "update", NULL },
};
enum { GRAPH_ITEMS = sizeof graph_work / sizeof *graph_work };

/* the first item from `i` on that has another number than it */
static uint32_t piece_end(const uint32_t *piece, uint32_t i)
{
    uint32_t end = i;
    while (end < GRAPH_ITEMS && piece[end] == piece[i])
        end++;
    return end;
}

static void check_cut(check *c, const mr_work_item *item, const uint32_t *piece)
{
    for (uint32_t i = 0; i < GRAPH_ITEMS; i++)
        if (piece[i] && item[i].obstacle)
            check_fail(c, "%s is put into piece %u, though %s", item[i].label, piece[i],
                       item[i].obstacle);
    for (uint32_t i = 0; i < GRAPH_ITEMS; i = piece_end(piece, i))
        for (uint32_t j = piece_end(piece, i); piece[i] && j < GRAPH_ITEMS; j = piece_end(piece, j)) {
            uint32_t n = piece_end(piece, i) - i, same = piece_end(piece, j) - j == n;
            for (uint32_t k = 0; k < n && same; k++)
                same = item[i + k].same == item[j + k].same;
            if (piece[i] == piece[j] && !same)
                check_fail(c, "piece %u is %s and, later, other work at %s", piece[i],
                           item[i].label, item[j].label);
        }
}

void check_graph_cuts(check *c)
{
    const mr_graph_ops *ops = c->unit->table;
    mr_work_item item[GRAPH_ITEMS];
    void *graph;
    if (!check_make(c, &graph))
        return;
    for (int blocked = 0; blocked < 2; blocked++) {
        uint32_t piece[GRAPH_ITEMS];
        mr_err err = MR_ERR_INIT;
        mr_work work = { sizeof work, GRAPH_ITEMS, "train", item };
        memcpy(item, graph_work, sizeof item);
        memset(piece, 0xff, sizeof piece);
        if (blocked)
            item[4].obstacle = "op x runs on the host";
        mr_status st = ops->cut(graph, &work, piece, &err);
        if (st && (!blocked || st != MR_E_UNSUPPORTED || !strstr(err.what, item[4].label)))
            check_fail(c, "cut() answered %d: %s", st, err.what[0] ? err.what : "without a reason");
        if (!st)
            check_cut(c, item, piece);
    }
    check_say(c, "%u eager runs before a capture", ops->warmup(graph));
    check_drop(c, graph);
}
