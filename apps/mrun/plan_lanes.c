/* SPDX-License-Identifier: Apache-2.0
 *
 * plan_lanes.c - items of a schedule as the two lanes on which they will run: kernels one after the
 * other, collectives one after the other, and each waits for the other where the plan says so. With
 * times of the machine's rates (plan_cost.c), so nothing runs.
 */
#include "plan_ranks.h"
#include <stdlib.h>
#include <string.h>

enum { PLACES = 2 * MRI_COMM_PENDING };

typedef struct lanes {
    const plan_rates *r;
    double compute, comm;    /* so far */
    double done[2][PLACES];  /* of forward and backward: collectives by order */
    plan_lanes *out;
} lanes;

static void put(lanes *l, int lane, double from, double to, char letter)
{
    plan_lanes *o = l->out;
    o->busy[lane] += to - from;
    for (uint32_t c = 0; o->row[lane] && c < o->columns; c++) {
        double at = (c + 0.5) * o->span / o->columns;
        if (at >= from && at < to)
            o->row[lane][c] = letter;
    }
}

static void step(lanes *l, const mri_exec *e, const mri_item *it, int phase, const mri_step *s)
{
    const mri_plan *p = mri_exec_frame(e, 0, it->instance)->plan;
    double *done = l->done[phase != MRI_F], seconds;
    char letter = phase == MRI_F ? 'F' : phase == MRI_B ? 'B' : 'W';
    if (phase == MRI_B && p->prog->nodes.v[s->node].phase == MRI_W)
        letter = 'W';
    if (s->wait && done[s->wait % PLACES] > l->compute)
        l->compute = done[s->wait % PLACES];
    if (!plan_step_seconds(p, s, l->r, &seconds)) {
        put(l, 0, l->compute, l->compute + seconds, letter);
        l->compute += seconds;
        return;
    }
    double from = l->comm > l->compute ? l->comm : l->compute;
    put(l, 1, from, from + seconds, letter);
    l->comm = done[s->order % PLACES] = from + seconds;
    if (s->wait_after)
        l->compute = l->comm;
}

static void item(lanes *l, const mri_exec *e, const mri_item *it)
{
    int phase = it->kind == MRI_ITEM_F   ? MRI_F
                : it->kind == MRI_ITEM_B ? MRI_B
                : it->kind == MRI_ITEM_W ? MRI_W
                                         : -1;
    if (phase < 0)
        return;
    const mri_plan *p = mri_exec_frame(e, 0, it->instance)->plan;
    uint32_t from = 0, to = (uint32_t)p->steps[phase].n;
    if (it->pieces > 1)
        mri_plan_piece(p, phase, it->piece, &from, &to);
    for (uint32_t i = from; i < to; i++)
        step(l, e, it, phase, &p->steps[phase].v[i]);
}

double plan_lanes_run(const mri_exec *e, const mri_schedule *s, const plan_rates *r,
                      plan_lanes *out)
{
    lanes l = { .r = r, .out = out };
    out->busy[0] = out->busy[1] = 0;
    for (int lane = 0; lane < 2; lane++)
        if (out->row[lane])
            memset(out->row[lane], '.', out->columns);
    for (size_t i = 0; i < s->items.n; i++)
        item(&l, e, &s->items.v[i]);
    return l.compute > l.comm ? l.compute : l.comm;
}

/* ---- of a chunk -------------------------------------------------------------------------------- */

static mri_schedule of_stage(const mri_session *x)
{
    const mri_stage *stage = &x->relay.stage;
    mri_schedule s = { .instances = mri_exec_instances(x->train), .chunks = 1, .micro_batches = 2 };
    mri_seams *seams = mri_stages_seams(x->train);
    for (uint32_t i = 0; i < s.instances; i++)
        MRI_PUSH(&s.seams, seams[i]);
    for (size_t i = 0; i < stage->blocks.n; i++)
        MRI_PUSH(&s.blocks, stage->blocks.v[i]);
    free(seams);
    return s;
}

double plan_chunk_seconds(const mri_session *x, uint32_t chunk, int phase, const plan_rates *r)
{
    static const uint8_t kinds[] = { MRI_ITEM_F, MRI_ITEM_B, MRI_ITEM_W };
    mri_schedule s = of_stage(x);
    plan_lanes none = { 0 };
    for (uint32_t k = 0; k < s.instances; k++) {
        uint32_t i = phase == MRI_F ? k : s.instances - 1 - k;
        mri_item it = { .instance = i, .kind = kinds[phase] };
        if (!s.blocks.n || (s.blocks.v[i].chunk == chunk && !s.blocks.v[i].border))
            MRI_PUSH(&s.items, it);
    }
    double seconds = plan_lanes_run(x->train, &s, r, &none);
    mri_schedule_free(&s);
    return seconds;
}

double plan_pair_seconds(const mri_session *x, uint32_t forward, uint32_t backward,
                         const plan_rates *r, plan_lanes *out)
{
    mri_schedule s = of_stage(x);
    const mri_item f = { .chunk = forward, .micro_batch = 1 }, b = { .chunk = backward };
    mri_schedule_zip(&s, &f, &b);
    out->span = plan_lanes_run(x->train, &s, r, &(plan_lanes){ 0 });
    plan_lanes_run(x->train, &s, r, out);
    mri_schedule_free(&s);
    return out->span;
}
