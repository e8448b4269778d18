/* SPDX-License-Identifier: Apache-2.0
 * comm_order.c - see comm_order.h. A group's order is a hash over its collectives: the op and the
 * bytes of its operands. */
#include "comm_order.h"
#include "bind.h"
#include <stdlib.h>
#include <string.h>

static uint64_t *order_of(const mri_exec *e, const mri_schedule *s, uint64_t *hash)
{
    for (size_t k = 0; k < s->items.n; k++) {
        const mri_item *it = &s->items.v[k];
        int phase = it->kind == MRI_ITEM_F ? MRI_F : it->kind == MRI_ITEM_B ? MRI_B : -1;
        uint32_t from = 0, to;
        if (phase < 0)
            continue;
        const mri_plan *p = mri_exec_plan(e, it->instance);
        to = (uint32_t)p->steps[phase].n;
        if (it->pieces > 1)
            mri_plan_piece(p, phase, it->piece, &from, &to);
        for (uint32_t i = from; i < to; i++) {
            const mri_step *step = &p->steps[phase].v[i];
            if (!step->comm || step->comm == MRI_STEP_SLICE)
                continue;
            uint64_t *h = &hash[step->group];
            double bytes = mri_step_carries(p, step);
            *h = mri_hash(mri_hash_str(*h, p->prog->nodes.v[step->node].def->id), &bytes,
                          sizeof bytes);
        }
    }
    return hash;
}

static mr_status compare(const mri_world *w, const uint64_t *all, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t g = 0; g < MRI_GROUPS && !st; g++) {
        uint32_t *ranks, n, index;
        mri_mesh_group(&w->mesh, g, &ranks, &n, &index);
        for (uint32_t i = 0; i < n && !st; i++)
            if (all[ranks[i] * MRI_GROUPS + g] != all[w->mesh.rank * MRI_GROUPS + g])
                st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                             "ranks %u and %u of group %s submit different collectives, or in "
                             "another order", w->mesh.rank, ranks[i], mri_group_name(g));
        free(ranks);
    }
    return st;
}

mr_status mri_comm_order_agree(mri_world *w, const mri_exec *e, const mri_schedule *s, mr_err *err)
{
    uint64_t mine[MRI_GROUPS] = { 0 };
    if (mri_world_alone(w))
        return 0;
    uint64_t *all = mri_alloc((size_t)w->mesh.world * sizeof mine);
    mr_status st = mri_world_gather(w, order_of(e, s, mine), sizeof mine, all, err);
    st = mri_world_agree(w, st ? st : compare(w, all, err), err);
    free(all);
    return st;
}
