/* SPDX-License-Identifier: Apache-2.0
 *
 * gather_experts.c - experts over the ranks of ep, where every rank gets the tokens of all ranks
 * (Megatron-LM's all-gather dispatcher): N T rows are sent once where each of K experts is chosen
 * for few ranks, nothing waits for counts, and all sizes are known beforehand.
 *
 *   route_plan(index)            route_plan(comm.gather(index)); own = ep_window(offsets)
 *   permute(x, .., probs)        permute(comm.gather(x), .., comm.gather(probs))
 *   grouped_linear(.., offsets)  grouped_linear(.., own): rows of other ranks' experts give zeros
 *   unpermute(y, .., probs)      comm.reduce_scatter(unpermute(y, .., comm.gather(probs)))
 *
 * What is gathered has a partial gradient on each rank; comm.gather's own gradient sums it.
 */
#include "shard_experts.h"
#include <stdlib.h>
#include <string.h>

typedef struct gathering {
    mri_rewrite *w;
    const mri_mesh *mesh;
    mr_val *all;   /* by old value: it gathered, or 0 */
    bool *of_all;  /* by old value: rows, slots or offsets of all ranks' tokens now */
} gathering;

static mr_val collective(const gathering *g, const mri_node *n, const char *id, mr_val v)
{
    const mr_attr at[] = { mr_as("group", mri_group_name(MRI_GROUP_EP)),
                           mr_ai("ranks", g->mesh->ep), mr_ai("index", g->mesh->i_ep),
                           mr_as("grad", "sum") };
    return mri_rewrite_op(g->w, n, id, MR_IN(v), at, strcmp(id, "comm.gather") ? 3 : 4, NULL, 1);
}

static mr_val gathered(const gathering *g, const mri_node *n, mr_val old)
{
    if (old && !g->all[old - 1])
        g->all[old - 1] = collective(g, n, "comm.gather", *mri_rewrite_at(g->w, old));
    return old ? g->all[old - 1] : 0;
}

bool mri_plans_experts(const mr_prog *p, mr_val offsets)
{
    for (size_t i = 0; i < p->nodes.n; i++) {
        const mri_node *n = &p->nodes.v[i];
        if (!strcmp(n->def->id, "grouped_linear") && n->in[2] == offsets &&
            mri_is_expert(mri_val(p, n->in[1])))
            return true;
    }
    return false;
}

static void plan_all(const gathering *g, const mri_node *n)
{
    mr_val index = gathered(g, n, n->in[0]);
    mri_rewrite_node(g->w, n, &index);
    mr_val *offsets = mri_rewrite_at(g->w, n->out[2]);
    *offsets = mri_rewrite_op(g->w, n, "ep_window", MR_IN(*offsets),
                              MR_AT(mr_ai("ranks", g->mesh->ep), mr_ai("index", g->mesh->i_ep)),
                              NULL, 1);
    for (uint32_t i = 0; i < 3; i++)
        g->of_all[n->out[i] - 1] = true;
}

static mr_status refuse(const gathering *g, const mri_node *n, mr_err *err)
{
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "block %s over ep = %u ranks: op %s reads experts, or the order of rows, that "
            "dispatcher = allgather does not know there", g->w->from->name, g->mesh->ep,
            n->def->id);
    mr_hint(err, "set [mesh] dispatcher = alltoall");
    return MR_E_PROFILE_CONFLICT;
}

static mr_status say(const gathering *g, const mri_node *n, mr_err *err)
{
    const char *id = n->def->id;
    mr_val in[MRI_MAX_OPERANDS] = { 0 };
    bool of_all = false, expert = false;
    for (uint32_t k = 0; k < n->n_in; k++) {
        in[k] = n->in[k] ? *mri_rewrite_at(g->w, n->in[k]) : 0;
        of_all |= n->in[k] && g->of_all[n->in[k] - 1];
        expert |= n->in[k] && mri_is_expert(mri_val(g->w->from, n->in[k]));
    }
    if (!strcmp(id, "route_plan") && mri_plans_experts(g->w->from, n->out[2])) {
        plan_all(g, n);
        return 0;
    }
    if (of_all && !strcmp(id, "permute")) {
        in[0] = gathered(g, n, n->in[0]);
        in[3] = gathered(g, n, n->in[3]);
    } else if (of_all && !strcmp(id, "unpermute")) {
        in[3] = gathered(g, n, n->in[3]);
    } else if ((of_all || expert) && (strcmp(id, "grouped_linear") || !of_all)) {
        return refuse(g, n, err);
    }
    mri_rewrite_node(g->w, n, in);
    if (of_all && !strcmp(id, "unpermute")) {
        mr_val *x = mri_rewrite_at(g->w, n->out[0]);
        *x = collective(g, n, "comm.reduce_scatter", *x);
    }
    return 0;
}

mr_status mri_gather_experts(mri_rewrite *w, const mri_mesh *mesh, mr_err *err)
{
    size_t values = w->from->values.n;
    gathering g = { w, mesh, mri_alloc((values + 1) * sizeof(mr_val)),
                    mri_alloc((values + 1) * sizeof(bool)) };
    mr_status st = 0;
    for (size_t i = 0; i < w->from->nodes.n && !st; i++)
        st = say(&g, &w->from->nodes.v[i], err);
    free(g.all);
    free(g.of_all);
    return st;
}
