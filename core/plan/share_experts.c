/* SPDX-License-Identifier: Apache-2.0
 *
 * share_experts.c - experts under tensor parallelism without sequence parallelism, all of them on
 * every rank: each rank routes all tokens, as it has them all, and its experts take the part of them
 * that is its own. So the products of experts are computed once, not once a rank:
 *
 *   route_plan(index)           route_plan(comm.slice(index))
 *   permute(x, .., probs)       permute(comm.slice(x), .., comm.slice(probs))
 *   what works row by row       the same, of R / tp rows
 *   unpermute(y, .., probs)     comm.gather(unpermute(y, .., comm.slice(probs)))
 *
 * What is sent is x once each way, forward and backward, and a few numbers a token; what is saved are
 * (tp - 1) / tp of the experts' flops. A block that has another use of such rows stays as it is.
 *
 * Invariant: the experts' gradients are sums over the tokens of a rank then, so that their parameters
 * are on the experts' grid, as under sequence parallelism.
 */
#include "shard_experts.h"
#include <stdlib.h>
#include <string.h>

typedef struct sharing {
    mri_rewrite *w;
    const mri_mesh *mesh;
    mr_val *part;  /* by old value: this rank's part of it, or 0              */
    bool *of_part; /* by old value: rows, slots or offsets of this rank's tokens */
    bool other;    /* something that is not known here reads them             */
} sharing;

static mr_val collective(const sharing *s, const mri_node *n, const char *id, mr_val v)
{
    const mr_attr at[] = { mr_as("group", mri_group_name(MRI_GROUP_TP)),
                           mr_ai("ranks", s->mesh->tp), mr_ai("index", s->mesh->i_tp),
                           mr_as("grad", "slice") };
    return mri_rewrite_op(s->w, n, id, MR_IN(v), at, strcmp(id, "comm.gather") ? 3 : 4, NULL, 1);
}

static mr_val part_of(const sharing *s, const mri_node *n, mr_val old)
{
    if (!old || s->of_part[old - 1])
        return old ? *mri_rewrite_at(s->w, old) : 0;
    if (!s->part[old - 1])
        s->part[old - 1] = collective(s, n, "comm.slice", *mri_rewrite_at(s->w, old));
    return s->part[old - 1];
}

/* Do the outputs have a row for each row of the operands that are in parts? */
static bool goes_by_row(const sharing *s, const mri_node *n)
{
    bool moved[MRI_MAX_OPERANDS] = { false }, rows[MRI_MAX_OPERANDS] = { false }, same = true;
    uint32_t first = MRI_MAX_OPERANDS;
    for (uint32_t k = n->n_in; k-- > 0;)
        if ((moved[k] = n->in[k] && s->of_part[n->in[k] - 1]))
            first = k;
    if (!strcmp(n->def->id, "grouped_linear"))
        return moved[0] && moved[2];
    if (!mri_goes_by_row(s->w->from, n, moved, first, rows))
        return false;
    for (uint32_t k = 0; k < n->n_in; k++)
        same &= !n->in[k] || rows[k] == moved[k];
    return same;
}

static void say(sharing *s, const mri_node *n)
{
    const char *id = n->def->id;
    mr_val in[MRI_MAX_OPERANDS] = { 0 };
    bool any = false;
    for (uint32_t k = 0; k < n->n_in; k++) {
        in[k] = n->in[k] ? *mri_rewrite_at(s->w, n->in[k]) : 0;
        any |= n->in[k] && s->of_part[n->in[k] - 1];
    }
    bool plan = !strcmp(id, "route_plan") && mri_plans_experts(s->w->from, n->out[2]);
    bool joins = any && !strcmp(id, "unpermute");
    if (plan) {
        in[0] = part_of(s, n, n->in[0]);
    } else if (any && !strcmp(id, "permute")) {
        in[0] = part_of(s, n, n->in[0]);
        in[3] = part_of(s, n, n->in[3]);
    } else if (joins) {
        in[3] = part_of(s, n, n->in[3]);
    } else if (any && !goes_by_row(s, n)) {
        s->other = true;
    }
    mri_rewrite_node(s->w, n, in);
    for (uint32_t i = 0; i < n->n_out; i++)
        if (n->out[i])
            s->of_part[n->out[i] - 1] = (plan || any) && !joins;
    if (joins) {
        mr_val *x = mri_rewrite_at(s->w, n->out[0]);
        *x = collective(s, n, "comm.gather", *x);
    }
}

/* Tokens that divide, and every use of the rows known. */
static bool shares(sharing *s)
{
    const mr_prog *p = s->w->from;
    for (size_t i = 0; i < p->nodes.n; i++)
        if (!strcmp(p->nodes.v[i].def->id, "route_plan") &&
            mri_val(p, p->nodes.v[i].in[0])->type.dim[0] % s->mesh->tp)
            return false;
    for (size_t i = 0; i < p->nodes.n && !s->other && !s->w->to->failed; i++)
        say(s, &p->nodes.v[i]);
    for (size_t i = 0; i < p->outputs.n; i++)
        s->other |= s->of_part[p->outputs.v[i].value - 1];
    return !s->other && !s->w->to->failed;
}

mr_status mri_share_experts(mr_prog **p, const mri_mesh *mesh, mr_err *err)
{
    mri_rewrite w;
    size_t values = (*p)->values.n;
    bool any = false;
    mr_status st = 0;
    for (size_t i = 0; i < (*p)->nodes.n; i++)
        any |= !strcmp((*p)->nodes.v[i].def->id, "route_plan") &&
               mri_plans_experts(*p, (*p)->nodes.v[i].out[2]);
    if (!any || mesh->tp == 1 || mesh->sequence || mesh->ep > 1 || mesh->capacity_factor > 0)
        return 0;
    mri_rewrite_begin(&w, *p);
    sharing s = { &w, mesh, mri_alloc((values + 1) * sizeof(mr_val)),
                  mri_alloc((values + 1) * sizeof(bool)), false };
    if (shares(&s)) {
        for (mr_val v = 1; v <= w.to->values.n; v++)
            if (mri_is_expert(mri_val(w.to, v)))
                mri_val(w.to, v)->place.expert = true;
        st = mri_rewrite_end(&w, p, err);
    } else {
        mri_prog_free(w.to);
        free(w.map);
    }
    free(s.part);
    free(s.of_part);
    return st;
}
