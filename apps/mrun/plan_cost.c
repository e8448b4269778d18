/* SPDX-License-Identifier: Apache-2.0
 *
 * plan_cost.c - times without a device: a kernel takes as long as its flops or its bytes at the
 * rates of a machine, whichever is longer; a collective what one rank sends at the rate of the
 * slowest link of its group. Ring counts: (n - 1) / n of the whole once for gather, scatter and
 * exchange, twice for a sum.
 */
#include "plan_ranks.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const plan_machine machines[] = {
    /* rates that products of thousands reach, half of what links are sold as */
    { "h100", 650e12, 2.6e12, 300e9, 40e9, 8 },
    { "h200", 700e12, 4.2e12, 300e9, 40e9, 8 },
    { "b200", 1500e12, 6.5e12, 650e9, 40e9, 8 },
    { "gb200", 1600e12, 6.5e12, 650e9, 80e9, 72 },
};

const plan_machine *plan_machine_find(const char *name)
{
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++)
        if (!strcmp(machines[i].name, name))
            return &machines[i];
    return NULL;
}

void plan_machines(mri_str *out)
{
    for (size_t i = 0; i < sizeof machines / sizeof *machines; i++)
        mri_str_fmt(out, "%s%s", i ? ", " : "", machines[i].name);
}

double plan_link(const mri_mesh *mesh, uint32_t group, double bytes, const plan_machine *m,
                 double link)
{
    uint32_t *ranks, n, index;
    bool inside = true;
    if (link <= 0) {
        mri_mesh_group(mesh, group, &ranks, &n, &index);
        for (uint32_t i = 1; i < n; i++)
            inside &= ranks[i] / m->ranks == ranks[0] / m->ranks;
        free(ranks);
        link = inside ? m->node : m->network;
    }
    return bytes / link;
}

/* ---- collectives among the nodes of a block -------------------------------------------------- */

static double bytes_of(const mr_prog *p, mr_val v)
{
    return v ? (double)mr_bytes(&mri_val(p, v)->type) : 0;
}

/* Which group a node talks to, and what it sends there; -1: it does not. */
static int32_t talk(const mr_prog *p, const mri_node *n, const mri_mesh *mesh, double *sent)
{
    int32_t group = -1;
    for (uint32_t i = 0; i < n->n_attr; i++)
        if (!strcmp(n->attr[i].key, "group") && n->attr[i].type == MR_A_STR)
            group = mri_group_find(n->attr[i].u.s);
    const char *id = n->def->id;
    bool exchange = !strcmp(id, "ep_send") || !strcmp(id, "ep_return");
    if (exchange || !strcmp(id, "ep_counts"))
        group = MRI_GROUP_EP;
    if (group < 0)
        return -1;
    if (!exchange && strcmp(id, "ep_counts") && strncmp(id, "comm.", 5))
        return -1; /* its gradient talks (attention.ring) */
    double ranks = mri_mesh_group_size(mesh, (uint32_t)group), part = (ranks - 1) / ranks;
    double in = n->n_in ? bytes_of(p, n->in[0]) : 0, out = n->n_out ? bytes_of(p, n->out[0]) : 0;
    if (!strcmp(id, "comm.slice") || !strcmp(id, "comm.copy") || ranks < 2)
        return -1;
    if (!strcmp(id, "comm.shift"))
        return *sent = in, group;
    *sent = part * (exchange                      ? fmin(in, out) /* the other has room for more */
                    : !strcmp(id, "comm.reduce") ? 2 * in
                                                 : fmax(in, out));
    return group;
}

bool plan_step_seconds(const mri_plan *p, const mri_step *s, const plan_rates *r, double *seconds)
{
    double sent;
    int32_t group = talk(p->prog, &p->prog->nodes.v[s->node], r->mesh, &sent);
    *seconds = group >= 0 ? plan_link(r->mesh, (uint32_t)group, sent, r->m, r->link)
                          : fmax(s->cost.flops / r->m->flops, s->cost.bytes / r->m->memory);
    return group >= 0;
}

typedef struct row { /* collectives of one op on one group */
    const char *op;
    uint32_t group;
    uint64_t count;
    double bytes;
} row;

typedef MRI_VEC(row) rows;

static void add(rows *all, const char *op, uint32_t group, uint64_t count, double bytes)
{
    size_t i = 0;
    while (i < all->n && (all->v[i].group != group || strcmp(all->v[i].op, op)))
        i++;
    if (i == all->n)
        MRI_PUSH(all, ((row){ op, group, 0, 0 }));
    all->v[i].count += count;
    all->v[i].bytes += bytes * (double)count;
}

void plan_collectives(const mri_exec *e, const mri_mesh *mesh, uint32_t micros,
                      const plan_machine *m, double link, mri_str *out)
{
    rows all = { 0 };
    for (uint32_t i = 0; i < mri_exec_instances(e); i++) {
        const mri_plan *pl = mri_exec_frame(e, 0, i)->plan;
        for (int phase = 0; phase < MRI_PHASES; phase++)
            for (size_t k = 0; k < pl->steps[phase].n; k++) {
                double sent;
                const mri_node *n = &pl->prog->nodes.v[pl->steps[phase].v[k].node];
                int32_t group = talk(pl->prog, n, mesh, &sent);
                if (group >= 0)
                    add(&all, n->def->id, (uint32_t)group, micros, sent);
            }
        if (pl->prog->border) {
            const mri_plan_port *p = pl->outputs.n ? pl->outputs.v : pl->inputs.v;
            bool in = pl->prog->border == MRI_BORDER_IN;
            add(&all, in ? "receive, send gradient" : "send, receive gradient", MRI_GROUP_PP,
                micros, (double)mr_bytes(&p->type));
        }
    }
    mri_str_fmt(out, "collectives of a step (comm stream)\n  %-28s %-6s %6s %9s %12s %12s\n", "op",
                "group", "ranks", "a step", "MB each", "ms a step");
    for (size_t i = 0; i < all.n; i++)
        mri_str_fmt(out, "  %-28s %-6s %6u %9llu %12.3f %12.3f\n", all.v[i].op,
                    mri_group_name(all.v[i].group), mri_mesh_group_size(mesh, all.v[i].group),
                    (unsigned long long)all.v[i].count,
                    all.v[i].bytes / (double)all.v[i].count / 1e6,
                    1e3 * plan_link(mesh, all.v[i].group, all.v[i].bytes, m, link));
    if (!all.n)
        mri_str_add(out, "  none\n");
    free(all.v);
}
