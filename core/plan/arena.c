/* SPDX-License-Identifier: Apache-2.0
 *
 * arena.c - where every value of a plan lives.
 *
 * Steps are numbered F, then B, then W. A temporary is SCRATCH if one launch makes and uses
 * it, SAVED if F makes it and B or W reads it, KEEP if B makes it and a split W reads it; a
 * block's outputs lie with the caller. SCRATCH is packed by greedy-by-size first fit: larger
 * buffers first, each at the lowest offset that is free during its life; one lane a stream,
 * because sharing memory across streams would serialise what should overlap. An op that may
 * work in place takes over its first operand's buffer when that dies there.
 */
#include "plan.h"
#include <stdlib.h>
#include <string.h>

typedef struct life {
    uint32_t first, last; /* steps */
    uint32_t root;        /* index of the buffer it shares, itself if its own */
    uint32_t seg, lane;
    uint64_t bytes, offset;
    mr_val value;         /* 0: workspace */
    bool used;
} life;

typedef struct arena {
    mri_plan *plan;
    const mri_plan_options *opt;
    life *life; /* one a value (id - 1), then one a step for its workspace */
    uint32_t n_values, n_steps, first_b, first_w;
} arena;

static uint64_t pad(uint64_t n, const mri_plan_options *opt)
{
    n = (n + MRI_ALIGN - 1) / MRI_ALIGN * MRI_ALIGN;
    return opt->guard ? n + MRI_GUARD : n;
}

static mri_step *step_at(const arena *a, uint32_t i)
{
    for (int ph = 0; ph < MRI_PHASES; ph++) {
        if (i < a->plan->steps[ph].n)
            return &a->plan->steps[ph].v[i];
        i -= (uint32_t)a->plan->steps[ph].n;
    }
    MRI_ASSERT(!"step number");
    return NULL;
}

static bool is_output(const mr_prog *p, mr_val v)
{
    for (size_t i = 0; i < p->outputs.n; i++)
        if (p->outputs.v[i].value == v)
            return true;
    return false;
}

static uint32_t first_of_phase(const arena *a, uint32_t s)
{
    return s >= a->first_w ? a->first_w : s >= a->first_b ? a->first_b : 0;
}

static void live_until(arena *a, mr_val v, uint32_t s)
{
    life *l = &a->life[v - 1];
    if (l->used && l->last < s)
        l->last = s;
}

static void hold(arena *a, const mri_node *n, uint32_t until)
{
    for (uint32_t j = 0; j < n->n_in; j++)
        if (n->in[j])
            live_until(a, n->in[j], until);
    for (uint32_t j = 0; j < n->n_out; j++)
        if (n->out[j])
            live_until(a, n->out[j], until);
}

static void find_lives(arena *a)
{
    const mr_prog *p = a->plan->prog;
    for (uint32_t s = 0; s < a->n_steps; s++) {
        const mri_step *step = step_at(a, s);
        const mri_node *n = &p->nodes.v[step->node];
        for (uint32_t j = 0; j < n->n_out; j++)
            if (n->out[j]) {
                life *l = &a->life[n->out[j] - 1];
                *l = (life){ s, s, n->out[j] - 1, MRI_SEG_SCRATCH, step->stream,
                             pad(mr_bytes(&mri_val(p, n->out[j])->type), a->opt), 0, n->out[j],
                             true };
            }
        for (uint32_t j = 0; j < n->n_in; j++)
            if (n->in[j])
                live_until(a, n->in[j], s);
        if (step->comm && step->comm != MRI_STEP_SLICE) /* under way until somebody waits */
            hold(a, n, first_of_phase(a, s) + step->done);
        if (step->info.workspace)
            a->life[a->n_values + s] =
                (life){ s, s, a->n_values + s, MRI_SEG_SCRATCH, step->stream,
                        pad(step->info.workspace, a->opt), 0, 0, true };
    }
    for (uint32_t v = 0; v < a->n_values; v++) {
        life *l = &a->life[v];
        if (!l->used)
            continue;
        if (is_output(p, v + 1))
            l->seg = MRI_SEG_OUTPUT;
        else if (l->first < a->first_b && l->last >= a->first_b)
            l->seg = MRI_SEG_SAVED;
        else if (l->first < a->first_w && l->last >= a->first_w)
            l->seg = MRI_SEG_KEEP;
    }
}

/* Output 0 over operand 0, where op and kernel allow it and the operand dies here. */
static void share_in_place(arena *a)
{
    const mr_prog *p = a->plan->prog;
    if (a->opt->stress)
        return;
    for (uint32_t s = 0; s < a->n_steps; s++) {
        const mri_step *step = step_at(a, s);
        const mri_node *n = &p->nodes.v[step->node];
        if (!(n->def->flags & MR_OP_INPLACE0) || !(step->info.flags & MR_K_INPLACE0) ||
            !n->out[0] || !n->in[0] || !a->life[n->in[0] - 1].used)
            continue;
        life *in = &a->life[n->in[0] - 1], *out = &a->life[n->out[0] - 1];
        life *root = &a->life[in->root];
        bool segments = out->seg == MRI_SEG_SCRATCH &&
                        (root->seg == MRI_SEG_SCRATCH || root->seg == MRI_SEG_SAVED);
        bool twice = false; /* the same value also as another operand */
        for (uint32_t j = 1; j < n->n_in; j++)
            twice |= n->in[j] && n->in[j] != n->in[0] && a->life[n->in[j] - 1].used &&
                     a->life[n->in[j] - 1].root == in->root;
        if (!segments || twice || in->last != s || root->last > s || in->bytes != out->bytes ||
            in->lane != out->lane)
            continue;
        out->root = in->root;
        root->last = out->last > root->last ? out->last : root->last;
    }
}

static int by_size(const void *x, const void *y)
{
    const life *a = *(life *const *)x, *b = *(life *const *)y;
    if (a->bytes != b->bytes)
        return a->bytes < b->bytes ? 1 : -1;
    return a->first < b->first ? -1 : a->first > b->first;
}

static int by_offset(const void *x, const void *y)
{
    const life *a = *(life *const *)x, *b = *(life *const *)y;
    return a->offset < b->offset ? -1 : a->offset > b->offset;
}

/* First fit of one lane's scratch buffers; returns the lane's bytes. */
static uint64_t pack_lane(arena *a, uint32_t lane, uint64_t base)
{
    uint32_t n = 0, total = a->n_values + a->n_steps;
    life **all = mri_alloc((total + 1) * sizeof *all), **near = mri_alloc((total + 1) * sizeof *near);
    for (uint32_t i = 0; i < total; i++)
        if (a->life[i].used && a->life[i].root == i && a->life[i].seg == MRI_SEG_SCRATCH &&
            a->life[i].lane == lane)
            all[n++] = &a->life[i];
    qsort(all, n, sizeof *all, by_size);
    uint64_t high = base;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t m = 0;
        for (uint32_t j = 0; j < i; j++)
            if (a->opt->stress || (all[j]->first <= all[i]->last && all[i]->first <= all[j]->last))
                near[m++] = all[j];
        qsort(near, m, sizeof *near, by_offset);
        uint64_t at = base;
        for (uint32_t j = 0; j < m; j++) {
            if (at + all[i]->bytes <= near[j]->offset)
                break;
            if (near[j]->offset + near[j]->bytes > at)
                at = near[j]->offset + near[j]->bytes;
        }
        all[i]->offset = at;
        if (at + all[i]->bytes > high)
            high = at + all[i]->bytes;
    }
    free(all);
    free(near);
    return high - base;
}

static uint32_t port_index(const mri_plan_port *v, size_t n, mr_val value)
{
    for (size_t i = 0; i < n; i++)
        if (v[i].value == value)
            return (uint32_t)i;
    MRI_ASSERT(!"value without a port");
    return 0;
}

static mri_addr address(const arena *a, mr_val v)
{
    const mri_plan *pl = a->plan;
    const mri_value *x = v ? mri_val(pl->prog, v) : NULL;
    mri_addr none = { 0 };
    if (!v)
        return none;
    switch (x->kind) {
    case MRI_PARAM:
        return (mri_addr){ MRI_SEG_PARAM, 0, port_index(pl->params.v, pl->params.n, v) };
    case MRI_GRAD:
        return (mri_addr){ MRI_SEG_GRAD, 0, port_index(pl->params.v, pl->params.n, x->of) };
    case MRI_STATE:
        return (mri_addr){ MRI_SEG_STATE, 0, port_index(pl->states.v, pl->states.n, v) };
    case MRI_SCALAR:
        return (mri_addr){ MRI_SEG_SCALAR, 0, port_index(pl->scalars.v, pl->scalars.n, v) };
    case MRI_INPUT:
        return (mri_addr){ MRI_SEG_INPUT, 0, port_index(pl->inputs.v, pl->inputs.n, v) };
    }
    const life *l = &a->life[a->life[v - 1].root];
    if (l->seg == MRI_SEG_OUTPUT)
        return (mri_addr){ MRI_SEG_OUTPUT, 0, port_index(pl->outputs.v, pl->outputs.n, v) };
    return (mri_addr){ l->seg, 0, l->offset };
}

static void write_addresses(arena *a)
{
    const mr_prog *p = a->plan->prog;
    for (uint32_t s = 0; s < a->n_steps; s++) {
        mri_step *step = step_at(a, s);
        const mri_node *n = &p->nodes.v[step->node];
        for (uint32_t j = 0; j < n->n_in; j++)
            step->in[j] = address(a, n->in[j]);
        for (uint32_t j = 0; j < n->n_out; j++)
            step->out[j] = address(a, n->out[j]);
        step->workspace = step->info.workspace ? a->life[a->n_values + s].offset : 0;
    }
    for (uint32_t i = 0; i < a->n_values + a->n_steps; i++) {
        const life *l = &a->life[i];
        if (!l->used || l->root != i || l->seg == MRI_SEG_OUTPUT)
            continue;
        const mri_node *n = &p->nodes.v[step_at(a, l->first)->node];
        mri_buffer b = { l->value, l->seg, l->offset, l->bytes, l->first, l->last,
                         p->regions.v[n->region].path, n->def->id };
        MRI_PUSH(&a->plan->buffers, b);
        mri_step *end = step_at(a, l->last);
        mri_addr at = { l->seg, 0, l->offset };
        MRI_PUSH(&end->dead, at);
        MRI_PUSH(&end->dead_bytes, l->bytes);
    }
}

mr_status mri_pass_arena(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    const mr_prog *p = plan->prog;
    arena a = { .plan = plan, .opt = opt, .n_values = (uint32_t)p->values.n };
    uint32_t lanes = 1;
    for (int ph = 0; ph < MRI_PHASES; ph++) {
        a.n_steps += (uint32_t)plan->steps[ph].n;
        for (size_t i = 0; i < plan->steps[ph].n; i++)
            if (plan->steps[ph].v[i].stream >= lanes)
                lanes = plan->steps[ph].v[i].stream + 1;
    }
    a.first_b = (uint32_t)plan->steps[MRI_F].n;
    a.first_w = a.first_b + (uint32_t)plan->steps[MRI_B].n;
    a.life = mri_alloc((a.n_values + a.n_steps) * sizeof *a.life);
    find_lives(&a);
    share_in_place(&a);
    for (uint32_t i = 0; i < a.n_values; i++) {
        life *l = &a.life[i];
        uint64_t *top = l->seg == MRI_SEG_SAVED ? &plan->saved_bytes : &plan->keep_bytes;
        if (l->used && l->root == i && (l->seg == MRI_SEG_SAVED || l->seg == MRI_SEG_KEEP)) {
            l->offset = *top;
            *top += l->bytes;
        }
    }
    for (uint32_t lane = 0; lane < lanes; lane++)
        plan->scratch_bytes += pack_lane(&a, lane, plan->scratch_bytes);
    for (uint32_t i = 0; i < a.n_values + a.n_steps; i++) {
        const life *l = &a.life[i];
        bool forward = l->used && l->root == i && l->seg == MRI_SEG_SCRATCH && l->first < a.first_b;
        if (forward && l->offset + l->bytes > plan->forward_scratch_bytes)
            plan->forward_scratch_bytes = l->offset + l->bytes;
    }
    write_addresses(&a);
    free(a.life);
    return mri_arena_verify(plan, err);
}

mr_status mri_arena_verify(const mri_plan *plan, mr_err *err)
{
    for (size_t i = 0; i < plan->buffers.n; i++)
        for (size_t j = i + 1; j < plan->buffers.n; j++) {
            const mri_buffer *a = &plan->buffers.v[i], *b = &plan->buffers.v[j];
            bool time = a->first <= b->last && b->first <= a->last;
            bool room = a->offset < b->offset + b->bytes && b->offset < a->offset + a->bytes;
            if (a->seg != MRI_SEG_SCRATCH) /* saved and kept buffers live side by side */
                time = true;
            if (a->seg == b->seg && time && room)
                return mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                               "after pass arena of block %s: buffers of %s (steps %u-%u) and %s "
                               "(steps %u-%u) share bytes while both live", plan->name, a->op,
                               a->first, a->last, b->op, b->first, b->last);
        }
    return 0;
}
