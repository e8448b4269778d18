/* SPDX-License-Identifier: Apache-2.0
 * capture.c - see capture.h. */
#include "capture.h"
#include <stdlib.h>

mr_status ref_graph_add(struct ref_graph *g, const struct ref_call *call, mr_err *err)
{
    if (g->n == g->cap) {
        size_t cap = g->cap ? 2 * g->cap : 64;
        struct ref_call *v = realloc(g->v, cap * sizeof *v);
        if (!v) {
            free(call->bufs);
            return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "no memory for a graph of %zu calls", cap);
        }
        g->v = v;
        g->cap = cap;
    }
    g->v[g->n++] = *call;
    return MR_OK;
}

void ref_graph_free(struct ref_graph *g)
{
    if (!g)
        return;
    for (size_t i = 0; i < g->n; i++)
        free(g->v[i].bufs);
    free(g->v);
    free(g);
}
