/* SPDX-License-Identifier: Apache-2.0
 *
 * comm.c - collectives among the steps of a plan: what a node asks of the world, and which step
 * must wait for it.
 *
 * A collective is submitted where its step stands and runs beside the steps that follow, on the
 * world's own thread or stream; the first step that reads its output waits, and so does one that
 * finds too many under way. Collectives of a world end in the order of submission, so a wait for
 * one is a wait for all before it. Without overlap each step waits for itself.
 *
 * Invariant: no step reads or overwrites a buffer of a collective before it, or a step before it,
 * has waited (mri_step.done, by which the arena keeps buffers alive); a phase ends with none under
 * way. beside.c has put steps that do not wait for a collective behind it.
 */
#include "core/mesh/mesh.h"
#include "plan.h"
#include <stdlib.h>
#include <string.h>

static const struct {
    const char *id;
    uint8_t comm;
} kinds[] = {
    { "comm.reduce", MRI_STEP_REDUCE },   { "comm.reduce_scatter", MRI_STEP_SCATTER },
    { "comm.gather", MRI_STEP_GATHER },   { "comm.shift", MRI_STEP_SHIFT },
    { "comm.slice", MRI_STEP_SLICE },     { "comm.copy", MRI_STEP_SLICE },
    { "comm.exchange", MRI_STEP_BLOCKS },
};

uint8_t mri_step_comm(const mri_node *n)
{
    if (!strncmp(n->def->id, "comm.", 5))
        for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
            if (!strcmp(n->def->id, kinds[i].id))
                return kinds[i].comm;
    return MRI_STEP_KERNEL;
}

/* ---- copies ---------------------------------------------------------------------------------- */

static void replace(mr_prog *p, mr_val from, mr_val to)
{
    for (size_t i = 0; i < p->nodes.n; i++)
        for (uint32_t j = 0; j < p->nodes.v[i].n_in; j++)
            if (p->nodes.v[i].in[j] == from)
                p->nodes.v[i].in[j] = to;
    for (size_t i = 0; i < p->outputs.n; i++)
        if (p->outputs.v[i].value == from)
            p->outputs.v[i].value = to;
}

static bool is_output(const mr_prog *p, mr_val v)
{
    for (size_t i = 0; i < p->outputs.n; i++)
        if (p->outputs.v[i].value == v)
            return true;
    return false;
}

mr_status mri_pass_comm(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    mr_prog *p = plan->prog;
    (void)opt, (void)err;
    for (size_t i = 0; i < p->nodes.n; i++) {
        mri_node n = p->nodes.v[i];
        if (strcmp(n.def->id, "comm.copy") || is_output(p, n.out[0]))
            continue;
        replace(p, n.out[0], n.in[0]);
        mri_prog_remove(p, i--);
    }
    return 0;
}

/* ---- waiting --------------------------------------------------------------------------------- */

static bool reads(const mr_prog *p, const mri_step *s, mr_val v)
{
    const mri_node *n = &p->nodes.v[s->node];
    for (uint32_t j = 0; j < n->n_in; j++)
        if (n->in[j] == v)
            return true;
    return false;
}

static bool sends(const mri_step *s)
{
    return s->comm && s->comm != MRI_STEP_SLICE;
}

double mri_step_carries(const mri_plan *plan, const mri_step *s)
{
    const mri_node *n = &plan->prog->nodes.v[s->node];
    double in = (double)mr_bytes(&mri_val(plan->prog, n->in[0])->type);
    double out = (double)mr_bytes(&mri_val(plan->prog, n->out[0])->type);
    return in > out ? in : out;
}

double mri_phase_great(const mri_plan *plan, int phase)
{
    double most = 0;
    for (size_t i = 0; i < plan->steps[phase].n; i++) {
        const mri_step *s = &plan->steps[phase].v[i];
        if (sends(s) && mri_step_carries(plan, s) > most)
            most = mri_step_carries(plan, s);
    }
    return most / 4;
}

/* Does step i wait for rows of experts among the collectives from..to? Counts are no rows. */
static bool is_seam(const mri_plan *plan, int phase, uint32_t from, uint32_t to)
{
    const mri_step *v = plan->steps[phase].v;
    double great = mri_phase_great(plan, phase);
    for (size_t k = 0; k < plan->steps[phase].n; k++)
        if (sends(&v[k]) && v[k].order >= from && v[k].order <= to &&
            v[k].group == MRI_GROUP_EP && mri_step_carries(plan, &v[k]) >= great)
            return true;
    return false;
}

uint32_t mri_plan_pieces(const mri_plan *p, int phase)
{
    uint32_t n = 1;
    for (size_t i = 0; i < p->steps[phase].n; i++)
        n += p->steps[phase].v[i].seam;
    return n;
}

void mri_plan_piece(const mri_plan *p, int phase, uint32_t k, uint32_t *from, uint32_t *to)
{
    uint32_t n = (uint32_t)p->steps[phase].n, at = 0;
    *from = 0;
    *to = n;
    for (uint32_t i = 0; i < n; i++) {
        if (!p->steps[phase].v[i].seam)
            continue;
        at++;
        *from = at == k ? i : *from;
        *to = at == k + 1 ? i : *to;
    }
}

/* Which steps of a phase wait, and beside which each collective may still be under way. */
static void waits(mri_plan *plan, int phase, bool overlap)
{
    mri_step *v = plan->steps[phase].v;
    uint32_t n = (uint32_t)plan->steps[phase].n, order = 0, known = 0;
    for (uint32_t i = 0; i < n; i++)
        if (sends(&v[i]))
            v[i].order = ++order; /* 1, 2, ... in the phase */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t need = 0;
        for (uint32_t k = 0; k < i; k++)
            if (sends(&v[k]) && v[k].order > known && v[k].order > need &&
                reads(plan->prog, &v[i], plan->prog->nodes.v[v[k].node].out[0]))
                need = v[k].order;
        if (sends(&v[i]) && v[i].order > known + MRI_COMM_PENDING &&
            need < v[i].order - MRI_COMM_PENDING)
            need = v[i].order - MRI_COMM_PENDING;
        v[i].wait = need;
        v[i].seam = need > known && is_seam(plan, phase, known + 1, need);
        v[i].wait_after = !overlap && sends(&v[i]);
        known = v[i].wait_after ? v[i].order : need > known ? need : known;
    }
    for (uint32_t k = 0; k < n; k++) { /* the step that waits for it, else the end */
        uint32_t i = k;
        if (!sends(&v[k]))
            continue;
        while (i + 1 < n && v[i].wait < v[k].order && !(v[i].wait_after && v[i].order >= v[k].order))
            i++;
        v[k].done = v[i].wait >= v[k].order ? i - 1 : i; /* it waits before it begins */
    }
}

mr_status mri_pass_streams(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    (void)err;
    for (int ph = 0; ph < MRI_PHASES; ph++) {
        if (opt->overlap)
            mri_steps_beside(plan, ph, !opt->shared_beside);
        for (size_t i = 0; i < plan->steps[ph].n; i++)
            plan->steps[ph].v[i].stream = 0; /* one: collectives have the world's */
        waits(plan, ph, opt->overlap);
    }
    return 0;
}

/* ---- printing -------------------------------------------------------------------------------- */

void mri_step_print_comm(const mri_plan *p, const mri_step *s, mri_str *out)
{
    const mri_node *n = &p->prog->nodes.v[s->node];
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_call c = mri_node_call(p->prog, n, types);
    double ranks = (double)mr_attr_i(&c, "ranks", 1);
    double whole = (double)mr_bytes(s->comm == MRI_STEP_GATHER ? c.out[0] : c.in[0]);
    double sent = s->comm == MRI_STEP_SHIFT
                      ? whole
                      : whole * (ranks - 1) / ranks * (s->comm == MRI_STEP_REDUCE ? 2 : 1);
    if (s->comm == MRI_STEP_EXCHANGE)
        mri_str_fmt(out, " over ep of %.0f, sends what the data say", ranks);
    else if (sends(s))
        mri_str_fmt(out, " over %s of %.0f, sends %.3g MB", mr_attr_s(&c, "group", "?"), ranks,
                    sent / 1e6);
    if (s->wait)
        mri_str_fmt(out, " waits for #%u", s->wait);
}
