/* SPDX-License-Identifier: Apache-2.0
 *
 * capacity.c - a block whose experts take no more than their capacity of tokens, as Megatron-LM
 * drops them: of T tokens with K of E experts each, an expert takes at most
 * ceil(T K / E * capacity_factor) from every rank.
 *
 *   rows, slots, offsets = route_plan(index)
 *   kept, rows, slots, offsets = route_drop(probs, index)      in its place
 *
 * where probs and index are of one route_topk; whatever read probs reads kept then. The router's
 * losses are of the tokens as they chose, and stay.
 */
#include "shard_experts.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

int64_t mri_expert_capacity(const mri_mesh *mesh, int64_t rows, int64_t experts)
{
    double c = ceil((double)rows / (double)experts * mesh->capacity_factor);
    return c < 1 ? 1 : c > (double)rows ? rows : (int64_t)c;
}

/* the probabilities that go with a choice, or 0 */
static mr_val probs_of(const mr_prog *p, mr_val index)
{
    const mri_value *v = mri_val(p, index);
    const mri_node *n = v->kind == MRI_TEMP ? &p->nodes.v[v->node] : NULL;
    return n && !strcmp(n->def->id, "route_topk") ? n->out[0] : 0;
}

static void drop(mri_rewrite *w, const mri_mesh *mesh, const mri_node *n, mr_val probs)
{
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call c = mri_node_call(w->from, n, types);
    int64_t E = mr_attr_i(&c, "experts", 1);
    mr_val out[4] = { 0 };
    mri_rewrite_op(w, n, "route_drop",
                   MR_IN(*mri_rewrite_at(w, probs), *mri_rewrite_at(w, n->in[0])),
                   MR_AT(mr_ai("experts", E),
                         mr_ai("capacity", mri_expert_capacity(mesh, mr_numel(types[0]), E)),
                         mr_as("policy", mesh->drop_by_position ? "position" : "probs")),
                   out, 4);
    *mri_rewrite_at(w, probs) = out[0];
    for (uint32_t i = 0; i < 3; i++)
        *mri_rewrite_at(w, n->out[i]) = out[i + 1];
}

mr_status mri_shard_capacity(mr_prog **p, const mri_mesh *mesh, mr_err *err)
{
    mri_rewrite w;
    bool any = false;
    for (size_t i = 0; i < (*p)->nodes.n; i++)
        any |= !strcmp((*p)->nodes.v[i].def->id, "route_plan");
    if (!any || !(mesh->capacity_factor > 0))
        return 0;
    mri_rewrite_begin(&w, *p);
    for (size_t i = 0; i < w.from->nodes.n; i++) {
        const mri_node *n = &w.from->nodes.v[i];
        mr_val in[MRI_MAX_OPERANDS] = { 0 }, probs = 0;
        for (uint32_t k = 0; k < n->n_in; k++)
            in[k] = n->in[k] ? *mri_rewrite_at(&w, n->in[k]) : 0;
        if (!strcmp(n->def->id, "route_plan"))
            probs = probs_of(w.from, n->in[0]);
        if (probs)
            drop(&w, mesh, n, probs);
        else
            mri_rewrite_node(&w, n, in);
    }
    return mri_rewrite_end(&w, p, err);
}
