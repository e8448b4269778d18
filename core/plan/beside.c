/* SPDX-License-Identifier: Apache-2.0
 *
 * beside.c - an order of a phase's steps in which computation stands beside collectives.
 *
 * A list schedule over two lanes: steps on one, collectives on the other, with nominal times. Next
 * comes the first step that the next collective needs and that has not to wait for one under way;
 * else, while it is under way, any other step that is ready; else whoever waits. So a collective is
 * submitted as soon as it can be, and what stands beside it is as long as it takes: weight
 * gradients, of which none passes more than one great collective (they hold memory), and what no
 * collective needs, such as a shared expert, split between the way there and the way back. Nothing
 * is spent on those that carry less than a quarter of the phase's greatest, as counts are.
 *
 * Invariant: a step stays behind what it reads and behind whoever wrote, or still reads, what it
 * overwrites; a block that passes round a ring goes on once the one before it is read, so that two
 * are there at a time; collectives keep their order, and so do weight gradients. Hence the order
 * changes no bit, and is the same on all ranks of a group, whose programs have the same shapes.
 */
#include "plan.h"
#include <stdlib.h>
#include <string.h>

/* Of a machine that has its links between hosts; only the ratios matter. */
static const double FLOPS = 400e12, BYTES = 3e12, LAUNCH = 2e-6, LINK = 50e9, LATENCY = 10e-6;
enum { NONE = UINT32_MAX };

typedef struct order {
    const mri_plan *plan;
    mri_step *v;
    uint32_t n;
    bool *after;      /* [i][j]: step i stays behind step j                              */
    uint32_t *left;   /* of each step: those that it stays behind and that have no place */
    uint32_t *needed; /* by collective number, the first that stays behind it, or NONE    */
    uint32_t *limit;  /* weight gradients: the collective that they have a place before   */
    double *done;     /* collectives: when they are                                      */
    double *ready;    /* when all collectives that the step reads are                     */
    bool *placed;
    double compute, comm; /* so far, of each lane                                     */
    double great;     /* bytes from which on work is kept for a collective            */
    double busy;      /* until when such a one is under way                           */
} order;

static const mri_node *node_of(const order *o, uint32_t i)
{
    return &o->plan->prog->nodes.v[o->v[i].node];
}

static bool sends(const mri_step *s)
{
    return s->comm && s->comm != MRI_STEP_SLICE;
}

static bool weight(const order *o, uint32_t i)
{
    return node_of(o, i)->phase == MRI_W;
}

/* ---- who stays behind whom -------------------------------------------------------------------- */

static void behind(order *o, uint32_t i, uint32_t j)
{
    if (j == NONE || i == j || o->after[(size_t)i * o->n + j])
        return;
    o->after[(size_t)i * o->n + j] = true;
    o->left[i]++;
}

static bool touches(const mri_node *n, mr_val v, bool written)
{
    for (uint32_t k = 0; k < n->n_in; k++)
        if (n->in[k] == v && (!written || n->written >> k & 1))
            return true;
    return false;
}

/* Readers of what an earlier step makes or writes, and writers of what an earlier one touches. */
static bool depends(const order *o, uint32_t i, uint32_t j)
{
    const mri_node *n = node_of(o, i), *m = node_of(o, j);
    for (uint32_t k = 0; k < m->n_out; k++)
        if (m->out[k] && touches(n, m->out[k], false))
            return true;
    for (uint32_t k = 0; k < n->n_in; k++)
        if (n->in[k] && (touches(m, n->in[k], true) ||
                         (n->written >> k & 1 && touches(m, n->in[k], false))))
            return true;
    return false;
}

/* Step i passes a block on; step j reads the one whose place the next block may take. */
static bool makes_room(const order *o, uint32_t i, uint32_t j)
{
    if (o->v[i].comm != MRI_STEP_SHIFT)
        return false;
    const mri_value *x = mri_val(o->plan->prog, node_of(o, i)->in[0]);
    const mri_node *from = x->kind == MRI_TEMP ? &o->plan->prog->nodes.v[x->node] : NULL;
    return from && !strcmp(from->def->id, "comm.shift") &&
           touches(node_of(o, j), from->in[0], false);
}

static void find_bounds(order *o, bool weights_alone)
{
    uint32_t comm = NONE, gradient = NONE, other = NONE;
    for (uint32_t i = 0; i < o->n; i++) {
        for (uint32_t j = 0; j < i; j++)
            if (depends(o, i, j) || makes_room(o, i, j))
                behind(o, i, j);
        uint32_t *chain = weight(o, i) ? &gradient : &other;
        if (sends(&o->v[i])) {
            behind(o, i, comm);
            comm = i;
        }
        if (weight(o, i) || weights_alone) {
            behind(o, i, *chain);
            *chain = i;
        }
    }
}

/* ---- collectives ------------------------------------------------------------------------------- */

static double time_of(const order *o, uint32_t i)
{
    const mr_cost *c = &o->v[i].cost;
    double flops = c->flops / FLOPS, bytes = c->bytes / BYTES;
    return LAUNCH + (flops > bytes ? flops : bytes);
}

static bool great(const order *o, uint32_t i)
{
    return sends(&o->v[i]) && mri_step_carries(o->plan, &o->v[i]) >= o->great;
}

/* What each collective needs, from the last to the first; how far weight gradients may go. */
static void find_needs(order *o)
{
    uint32_t next = NONE, second = NONE;
    for (uint32_t i = 0; i < o->n; i++)
        o->needed[i] = NONE;
    for (uint32_t i = o->n; i-- > 0;) {
        if (sends(&o->v[i]))
            o->needed[i] = i;
        for (uint32_t j = 0; j < i; j++) /* of the later ones, the first that is met is kept */
            if (o->after[(size_t)i * o->n + j] && o->needed[i] < o->needed[j])
                o->needed[j] = o->needed[i];
        o->limit[i] = second;
        if (great(o, i)) {
            second = next;
            next = i;
        }
    }
}

/* ---- placing ----------------------------------------------------------------------------------- */

typedef bool (*chosen)(const order *o, uint32_t i, uint32_t next);

static bool free_of_waits(const order *o, uint32_t i)
{
    return o->ready[i] <= o->compute;
}

static bool on_the_way(const order *o, uint32_t i, uint32_t next)
{
    return free_of_waits(o, i) && o->needed[i] == next;
}

static bool beside(const order *o, uint32_t i, uint32_t next)
{
    (void)next;
    return o->busy > o->compute && free_of_waits(o, i) && !sends(&o->v[i]);
}

static bool on_the_way_late(const order *o, uint32_t i, uint32_t next)
{
    return o->needed[i] == next;
}

static bool due(const order *o, uint32_t i, uint32_t next)
{
    return weight(o, i) && o->limit[i] != NONE && o->limit[i] <= next;
}

static bool any(const order *o, uint32_t i, uint32_t next)
{
    (void)o, (void)i, (void)next;
    return true;
}

static uint32_t first(const order *o, chosen rule, uint32_t next)
{
    for (uint32_t i = 0; i < o->n; i++)
        if (!o->placed[i] && !o->left[i] && rule(o, i, next))
            return i;
    return NONE;
}

static uint32_t choose(const order *o, uint32_t next)
{
    static const chosen rules[] = { on_the_way, beside, on_the_way_late, any };
    uint32_t i = NONE;
    for (size_t k = next == NONE; k < sizeof rules / sizeof *rules && i == NONE; k++)
        i = first(o, rules[k], next);
    if (i != NONE && i == next && first(o, due, next) != NONE)
        i = first(o, due, next);
    return i;
}

static void place(order *o, uint32_t i)
{
    o->placed[i] = true;
    o->compute = o->ready[i] > o->compute ? o->ready[i] : o->compute;
    if (sends(&o->v[i])) {
        o->comm = o->comm > o->compute ? o->comm : o->compute;
        o->done[i] = o->comm += LATENCY + mri_step_carries(o->plan, &o->v[i]) / LINK;
        o->busy = great(o, i) ? o->comm : o->busy;
    } else {
        o->compute += time_of(o, i);
    }
    for (uint32_t k = 0; k < o->n; k++) {
        if (!o->after[(size_t)k * o->n + i])
            continue;
        o->left[k]--;
        if (sends(&o->v[i]) && o->ready[k] < o->done[i] && depends(o, k, i))
            o->ready[k] = o->done[i];
    }
}

void mri_steps_beside(mri_plan *plan, int phase, bool weights_alone)
{
    order o = { .plan = plan, .v = plan->steps[phase].v, .n = (uint32_t)plan->steps[phase].n,
                .great = mri_phase_great(plan, phase) };
    size_t n = o.n + 1;
    if (o.great == 0) /* no collectives */
        return;
    mri_step *to = mri_alloc(n * sizeof *to);
    o.after = mri_alloc(n * n * sizeof *o.after);
    o.left = mri_alloc(n * sizeof *o.left);
    o.needed = mri_alloc(n * sizeof *o.needed);
    o.limit = mri_alloc(n * sizeof *o.limit);
    o.done = mri_alloc(n * sizeof *o.done);
    o.ready = mri_alloc(n * sizeof *o.ready);
    o.placed = mri_alloc(n * sizeof *o.placed);
    find_bounds(&o, weights_alone);
    find_needs(&o);
    for (uint32_t k = 0, next = 0; k < o.n; k++) {
        while (next < o.n && (!sends(&o.v[next]) || o.placed[next]))
            next++;
        uint32_t i = choose(&o, next < o.n ? next : NONE);
        MRI_ASSERT(i != NONE);
        place(&o, i);
        to[k] = o.v[i];
    }
    memcpy(o.v, to, o.n * sizeof *to);
    free(to);
    free(o.after);
    free(o.left);
    free(o.needed);
    free(o.limit);
    free(o.done);
    free(o.ready);
    free(o.placed);
}
