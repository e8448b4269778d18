/* SPDX-License-Identifier: Apache-2.0
 *
 * router_load.c - routers that choose by a bias count what they choose, for a bias that balances the
 * experts (core/run/balance.h): behind route_topk, or the route_drop that follows it, stands
 *
 *   route_load(index, slots?, offsets?, loss_seed, load!)
 *
 * where load is a state of the block, named by the bias. It comes after the block was cut over the
 * ranks: each counts its own tokens.
 */
#include "router_load.h"
#include <string.h>

/* the bias by which a node chooses, or NULL */
static const mri_value *bias_of(const mr_prog *p, const mri_node *n)
{
    if (strcmp(n->def->id, "route_topk") || n->n_in < 2 || !n->in[1])
        return NULL;
    const mri_value *v = mri_val(p, n->in[1]);
    return v->kind == MRI_PARAM ? v : NULL;
}

/* the route_drop of an index, or NULL */
static const mri_node *drop_of(const mr_prog *p, mr_val index)
{
    for (size_t i = 0; i < p->nodes.n; i++)
        if (!strcmp(p->nodes.v[i].def->id, "route_drop") && p->nodes.v[i].in[1] == index)
            return &p->nodes.v[i];
    return NULL;
}

static void count(mri_rewrite *w, const mri_node *topk, const mri_node *drop)
{
    const mri_value *bias = bias_of(w->from, topk);
    char name[256];
    mr_type t = mr_type1("f32", bias->type.dim[0]);
    snprintf(name, sizeof name, "%s" MRI_ROUTER_LOAD, bias->name);
    mr_val in[] = { *mri_rewrite_at(w, topk->out[1]),
                    drop ? *mri_rewrite_at(w, drop->out[2]) : 0,
                    drop ? *mri_rewrite_at(w, drop->out[3]) : 0,
                    mri_builder.scalar(w->to, MRI_LOSS_SEED),
                    mri_builder.state(w->to, name, &t, 0) };
    mri_rewrite_op(w, topk, "route_load", in, 5, MR_NOAT, NULL, 0);
}

static mr_status count_in(mr_prog **p, mr_err *err)
{
    mri_rewrite w;
    bool sharded = (*p)->sharded;
    mri_rewrite_begin(&w, *p);
    for (size_t i = 0; i < w.from->nodes.n; i++) {
        const mri_node *n = &w.from->nodes.v[i];
        mr_val in[MRI_MAX_OPERANDS] = { 0 };
        for (uint32_t k = 0; k < n->n_in; k++)
            in[k] = n->in[k] ? *mri_rewrite_at(&w, n->in[k]) : 0;
        mri_rewrite_node(&w, n, in);
        bool drops = !strcmp(n->def->id, "route_drop");
        const mri_value *index = drops ? mri_val(w.from, n->in[1]) : NULL;
        if (bias_of(w.from, n) && !drop_of(w.from, n->out[1]))
            count(&w, n, NULL);
        else if (index && index->kind == MRI_TEMP &&
                 bias_of(w.from, &w.from->nodes.v[index->node]))
            count(&w, &w.from->nodes.v[index->node], n);
    }
    mr_status st = mri_rewrite_end(&w, p, err);
    if (!st)
        (*p)->sharded = sharded;
    return st;
}

static bool has(const mr_prog *p, bool counted)
{
    for (size_t i = 0; i < p->nodes.n; i++)
        if (counted ? !strcmp(p->nodes.v[i].def->id, "route_load")
                    : bias_of(p, &p->nodes.v[i]) != NULL)
            return true;
    return false;
}

mr_status mri_router_loads(mri_assembly *a, mr_err *err)
{
    mr_status st = 0;
    for (size_t k = 0; k < a->kinds.n && !st; k++)
        if (has(a->kinds.v[k].prog, false) && !has(a->kinds.v[k].prog, true))
            st = count_in(&a->kinds.v[k].prog, err);
    return st;
}

mr_status mri_router_biased(const mri_assembly *a, double rate, mr_err *err)
{
    for (size_t k = 0; k < a->kinds.n; k++)
        if (has(a->kinds.v[k].prog, false))
            return 0;
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "[train] moe_router_bias_update_rate = %g, and no router of this model chooses by a bias",
            rate);
    mr_hint(err, "set it to 0; an auxiliary loss ([model.NAME] aux_loss) evens the load too");
    return MR_E_PROFILE_CONFLICT;
}
