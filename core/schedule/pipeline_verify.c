/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline_verify.c - does a pipeline end, and does each task find what it reads? All stages are
 * run side by side: a stage walks its tasks and hands its messages to a queue; the first message
 * of two queues is passed when both sides have handed it over, and none before it is. A task waits
 * for the messages that it reads, and a forward for those that its slot's last micro-batch sent.
 */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

typedef struct side { /* one stage */
    uint32_t task;    /* next */
    MRI_VEC(uint32_t) queue; /* its messages */
    uint32_t passed;         /* of them */
    uint32_t *need;   /* of each task: messages of the queue that must have been passed */
} side;

static uint32_t place_of(const mri_message *g, uint32_t stage)
{
    return g->from == stage ? g->sent : g->posted;
}

static void need(side *s, uint32_t task, uint32_t n)
{
    s->need[task] = s->need[task] > n ? s->need[task] : n;
}

static side *open_sides(const mri_pipeline *p)
{
    side *all = mri_alloc(p->o.stages * sizeof *all + 1);
    for (uint32_t s = 0; s < p->o.stages; s++)
        all[s].need = mri_alloc((p->stage[s].n + 1) * sizeof(uint32_t));
    for (uint32_t i = 0; i < p->messages.n; i++) {
        const mri_message *g = &p->messages.v[i];
        side *from = &all[g->from], *to = &all[g->to];
        const mri_tasks *mine = &p->stage[g->from];
        MRI_PUSH(&from->queue, i);
        MRI_PUSH(&to->queue, i);
        need(to, mri_pipeline_unit(&p->stage[g->to], g->before), (uint32_t)to->queue.n);
        for (uint32_t k = g->after + 1; k < mine->n; k++)
            if (mine->v[k].kind == MRI_TASK_F && mine->v[k].slot == mine->v[g->after].slot) {
                need(from, k, (uint32_t)from->queue.n);
                break;
            }
    }
    return all;
}

static bool handed(const mri_pipeline *p, const side *all, uint32_t stage, uint32_t message)
{
    const side *s = &all[stage];
    return s->passed < s->queue.n && s->queue.v[s->passed] == message &&
           place_of(&p->messages.v[message], stage) <= s->task;
}

static bool pass_messages(const mri_pipeline *p, side *all)
{
    bool any = false;
    for (uint32_t s = 0; s < p->o.stages; s++)
        while (all[s].passed < all[s].queue.n) {
            uint32_t i = all[s].queue.v[all[s].passed];
            const mri_message *g = &p->messages.v[i];
            if (!handed(p, all, g->from, i) || !handed(p, all, g->to, i))
                break;
            all[g->from].passed++;
            all[g->to].passed++;
            any = true;
        }
    return any;
}

static bool run_tasks(const mri_pipeline *p, side *all)
{
    bool any = false;
    for (uint32_t s = 0; s < p->o.stages; s++)
        while (all[s].task < p->stage[s].n && all[s].passed >= all[s].need[all[s].task]) {
            all[s].task++;
            any = true;
        }
    return any;
}

/* Each F, B and W once and in this order; a slot has one micro-batch at a time; a message is
 * handed over after what makes it and before what reads it. */
static mr_status check_stage(const mri_pipeline *p, uint32_t s, mr_err *err)
{
    size_t cells = (size_t)p->o.chunks * p->o.micros;
    uint8_t *seen = mri_alloc(cells + 1);
    size_t *holds = mri_alloc((cells + 1) * sizeof *holds); /* of each slot: whose it is, + 1 */
    const uint8_t all = p->o.split_w ? 7 : 3, kinds = p->o.split_w ? 3 : 2;
    mr_status st = 0;
    for (size_t i = 0; i < p->stage[s].n && !st; i++) {
        const mri_task *t = &p->stage[s].v[i];
        size_t pair = (size_t)t->chunk * p->o.micros + t->micro;
        uint8_t *x = &seen[pair];
        size_t *h = &holds[t->slot];
        const mri_task *with = t->pair && i + 1 < p->stage[s].n ? t + 1 : NULL;
        bool paired = !t->pair || (with && t->kind == MRI_TASK_F && with->kind == MRI_TASK_B &&
                                   (with->micro != t->micro || with->chunk != t->chunk));
        bool good = paired && t->kind < kinds && *x == (1u << t->kind) - 1u &&
                    *h == (t->kind == MRI_TASK_F ? 0 : pair + 1) && t->slot < p->slots[s];
        *x |= (uint8_t)(1u << t->kind);
        *h = *x == all ? 0 : pair + 1;
        if (!good)
            st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                         "pipeline: task %zu of stage %u (kind %u, chunk %u, micro-batch %u, slot "
                         "%u) is out of order", i, s, t->kind, t->chunk, t->micro, t->slot);
    }
    for (size_t i = 0; i < cells && !st; i++)
        if (seen[i] != all)
            st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST, "pipeline: stage %u never finishes "
                         "micro-batch %zu", s, i % p->o.micros);
    free(seen);
    free(holds);
    return st;
}

mr_status mri_pipeline_verify(const mri_pipeline *p, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t s = 0; s < p->o.stages && !st; s++)
        st = check_stage(p, s, err);
    if (st)
        return st;
    side *all = open_sides(p);
    bool more = true;
    while (more) {
        more = run_tasks(p, all);
        more |= pass_messages(p, all);
    }
    for (uint32_t s = 0; s < p->o.stages; s++) {
        if (!st && all[s].task < p->stage[s].n)
            st = mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                         "pipeline: stage %u waits for ever at its task %u of %zu (message %u of "
                         "%u)", s, all[s].task, p->stage[s].n, all[s].passed,
                         (uint32_t)all[s].queue.n);
        free(all[s].queue.v);
        free(all[s].need);
    }
    free(all);
    return st;
}
