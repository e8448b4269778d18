/* SPDX-License-Identifier: Apache-2.0
 *
 * recompute.c - activation recomputation by named region (Megatron's recompute modules;
 * Chen et al. 2016). The values that forward nodes of a chosen region make are not saved:
 * each backward node that reads one gets it from a second run of the node that made it,
 * placed just before its first use. A rerun reads saved values and other reruns, so only
 * what is needed is run again. "full" chooses every node: only the block's inputs are kept. What
 * was gathered from the ranks of a group is always gathered again, as Megatron does: kept, it
 * would be as many times a rank's part as there are ranks. So is what is made of the rows of all
 * ranks of a sequence alone (keys and values of gathered latents).
 */
#include "plan.h"
#include <stdlib.h>
#include <string.h>

typedef struct rerun {
    mr_prog *p;
    const mr_list *regions;
    mr_val *twin;          /* rerun value of each forward value, 0: none yet */
    MRI_VEC(mri_node) out; /* the new node list */
} rerun;

static bool gathers(const mri_node *n)
{
    const mr_call c = { .size = sizeof c, .n_attr = n->n_attr, .attr = n->attr };
    if (!strcmp(n->def->id, "zigzag")) /* of what was gathered */
        return !mr_attr_i(&c, "inverse", 0);
    return !strcmp(n->def->id, "comm.gather") && !strcmp(mr_attr_s(&c, "grad", "sum"), "sum");
}

/* Are all values that it reads, but for inputs and parameters, rows of all ranks in their order? */
static bool of_all_rows(const mr_prog *p, const mri_node *n)
{
    bool any = false;
    for (uint32_t i = 0; i < n->n_in; i++) {
        const mri_value *x = n->in[i] ? mri_val(p, n->in[i]) : NULL;
        if (!x || x->kind != MRI_TEMP)
            continue;
        const mri_node *from = &p->nodes.v[x->node];
        if (strcmp(from->def->id, "zigzag") ? !of_all_rows(p, from) : !gathers(from))
            return false;
        any = true;
    }
    return any;
}

static bool chosen(const rerun *r, const mri_node *n)
{
    if (gathers(n) || of_all_rows(r->p, n))
        return true;
    for (uint64_t i = 0; r->regions && i < r->regions->n; i++)
        if (!strcmp(r->regions->v[i], "full") ||
            mri_region_within(r->p, n->region, r->regions->v[i]))
            return true;
    return false;
}

/* The value to read in the backward for forward value v; emits reruns as needed. */
static mr_val again(rerun *r, mr_val v)
{
    if (!v)
        return 0;
    const mri_value *x = mri_val(r->p, v);
    if (x->kind != MRI_TEMP || x->phase != MRI_F)
        return v;
    if (r->twin[v - 1])
        return r->twin[v - 1];
    mri_node n = r->p->nodes.v[x->node];
    if (n.written || !chosen(r, &n)) /* a node that writes a state must not run twice */
        return v;
    mri_node c = n;
    c.attr = mri_alloc(n.n_attr * sizeof *c.attr + 1);
    if (n.n_attr)
        memcpy(c.attr, n.attr, n.n_attr * sizeof *c.attr); /* arrays stay in the original's block */
    c.phase = MRI_B;
    c.recomputed = 1;
    for (uint32_t j = 0; j < n.n_in; j++)
        c.in[j] = again(r, n.in[j]);
    uint8_t phase = r->p->phase;
    r->p->phase = MRI_B;
    for (uint32_t j = 0; j < n.n_out; j++) {
        if (!n.out[j])
            continue;
        mr_type t = mri_val(r->p, n.out[j])->type;
        c.out[j] = mri_prog_value(r->p, MRI_TEMP, NULL, &t);
        mri_val(r->p, c.out[j])->slot = j;
        r->twin[n.out[j] - 1] = c.out[j];
    }
    r->p->phase = phase;
    MRI_PUSH(&r->out, c);
    for (uint32_t j = 0; j < n.n_out; j++)
        if (c.out[j])
            mri_val(r->p, c.out[j])->node = (uint32_t)r->out.n - 1;
    return r->twin[v - 1];
}

mr_status mri_pass_recompute(mr_prog *p, const mr_list *regions, mr_err *err)
{
    bool any = regions && regions->n;
    (void)err;
    for (size_t i = 0; i < p->nodes.n && !any; i++)
        any = p->nodes.v[i].phase == MRI_F && gathers(&p->nodes.v[i]);
    if (!any)
        return 0;
    rerun r = { .p = p, .regions = regions };
    r.twin = mri_alloc(p->values.n * sizeof *r.twin);
    for (size_t i = 0; i < p->nodes.n; i++) {
        mri_node n = p->nodes.v[i];
        if (n.phase != MRI_F)
            for (uint32_t j = 0; j < n.n_in; j++)
                n.in[j] = again(&r, n.in[j]);
        uint32_t at = (uint32_t)r.out.n;
        MRI_PUSH(&r.out, n);
        for (uint32_t j = 0; j < n.n_out; j++)
            if (n.out[j])
                mri_val(p, n.out[j])->node = at;
    }
    free(r.twin);
    free(p->nodes.v);
    p->nodes.v = r.out.v;
    p->nodes.n = r.out.n;
    p->nodes.cap = r.out.cap;
    return 0;
}
