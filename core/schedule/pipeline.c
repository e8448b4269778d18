/* SPDX-License-Identifier: Apache-2.0
 * pipeline.c - see pipeline.h. */
#include "pipeline.h"
#include <stdlib.h>
#include <string.h>

enum { NOT_YET = UINT32_MAX };

/* ---- which task is which --------------------------------------------------------------------- */

/* index of each (stage, kind, chunk, micro) in its stage's order */
typedef struct index_of {
    uint32_t *at, chunks, micros;
} index_of;

static uint32_t *cell(const index_of *x, uint32_t stage, uint8_t kind, uint32_t chunk,
                      uint32_t micro)
{
    return &x->at[((stage * 3u + kind) * x->chunks + chunk) * (size_t)x->micros + micro];
}

static index_of make_index(const mri_pipeline *p)
{
    size_t n = (size_t)p->o.stages * 3 * p->o.chunks * p->o.micros;
    index_of x = { mri_alloc(n * sizeof(uint32_t) + 1), p->o.chunks, p->o.micros };
    memset(x.at, 0xFF, n * sizeof(uint32_t));
    for (uint32_t s = 0; s < p->o.stages; s++)
        for (uint32_t i = 0; i < p->stage[s].n; i++) {
            const mri_task *t = &p->stage[s].v[i];
            *cell(&x, s, t->kind, t->chunk, t->micro) = i;
        }
    return x;
}

/* ---- slots ----------------------------------------------------------------------------------- */

static uint8_t last_kind(const mri_pipeline *p)
{
    return p->o.split_w ? MRI_TASK_W : MRI_TASK_B;
}

/* The lowest free slot from a micro-batch's forward to its last task: as few as the order needs. */
static void give_slots(mri_pipeline *p)
{
    size_t pairs = (size_t)p->o.chunks * p->o.micros;
    uint32_t *held = mri_alloc(pairs * sizeof *held + 1);
    bool *used = mri_alloc(pairs + 1);
    for (uint32_t s = 0; s < p->o.stages; s++) {
        memset(used, 0, pairs);
        for (uint32_t i = 0; i < p->stage[s].n; i++) {
            mri_task *t = &p->stage[s].v[i];
            size_t pair = (size_t)t->chunk * p->o.micros + t->micro;
            if (t->kind == MRI_TASK_F) {
                uint32_t k = 0;
                while (used[k])
                    k++;
                used[k] = true;
                held[pair] = k;
                p->slots[s] = k + 1 > p->slots[s] ? k + 1 : p->slots[s];
            }
            t->slot = held[pair];
            if (t->kind == last_kind(p))
                used[t->slot] = false;
        }
    }
    free(held);
    free(used);
}

/* ---- time ------------------------------------------------------------------------------------ */

static double task_cost(const mri_pipeline *p, const double (*cost)[3], uint32_t virtual,
                        uint8_t kind)
{
    if (!cost)
        return kind == MRI_TASK_B && !p->o.split_w ? 2 : 1;
    return cost[virtual][kind] + (kind == MRI_TASK_B && !p->o.split_w ? cost[virtual][MRI_TASK_W]
                                                                      : 0);
}

/* When a task's inputs are there; -1: one that it needs has not run. */
static double ready(const mri_pipeline *p, const index_of *x, uint32_t stage, const mri_task *t,
                    const uint32_t *done, double latency)
{
    uint32_t virtual = t->chunk * p->o.stages + stage;
    double at = 0;
    for (size_t l = 0; l < p->links.n && t->kind != MRI_TASK_W; l++) {
        bool back = t->kind == MRI_TASK_B;
        if (virtual != (back ? p->links.v[l].from : p->links.v[l].to))
            continue;
        uint32_t other = back ? p->links.v[l].to : p->links.v[l].from;
        uint32_t s = other % p->o.stages, i = *cell(x, s, t->kind, other / p->o.stages, t->micro);
        if (i >= done[s])
            return -1;
        double end = p->stage[s].v[i].done + latency;
        at = end > at ? end : at;
    }
    uint32_t own = t->kind ? *cell(x, stage, (uint8_t)(t->kind - 1), t->chunk, t->micro) : 0;
    return t->kind && own >= done[stage] ? -1 : at;
}

/* One task, or a pair; false: something that it reads is not there yet. */
static bool run_next(mri_pipeline *p, const index_of *x, uint32_t s, const uint32_t *done,
                     const double (*cost)[3], double latency)
{
    mri_task *t = &p->stage[s].v[done[s]];
    double at = done[s] ? t[-1].done : 0;
    for (uint32_t k = 0; k <= t->pair; k++) {
        double there = ready(p, x, s, &t[k], done, latency);
        if (there < 0)
            return false;
        at = there > at ? there : at;
    }
    double apart = 0, saved = t->pair && p->saved ? p->saved[s] : 0;
    for (uint32_t k = 0; k <= t->pair; k++)
        apart += task_cost(p, cost, t[k].chunk * p->o.stages + s, t[k].kind);
    for (uint32_t k = 0; k <= t->pair; k++) { /* what a pair saves, both save */
        t[k].start = at;
        at += task_cost(p, cost, t[k].chunk * p->o.stages + s, t[k].kind) *
              (saved ? 1 - saved / apart : 1);
        t[k].end = at;
    }
    t[0].done = t[t->pair].done = at;
    p->time = at > p->time ? at : p->time;
    return true;
}

int mri_pipeline_simulate(mri_pipeline *p, const double (*cost)[3], double latency)
{
    index_of x = make_index(p);
    uint32_t *done = mri_alloc(p->o.stages * sizeof *done + 1);
    bool more = true, whole = true;
    p->time = p->ideal = 0;
    while (more) {
        more = false;
        for (uint32_t s = 0; s < p->o.stages; s++)
            while (done[s] < p->stage[s].n && run_next(p, &x, s, done, cost, latency)) {
                done[s] = mri_pipeline_behind(&p->stage[s], done[s]);
                more = true;
            }
    }
    for (uint32_t s = 0; s < p->o.stages; s++) {
        double busy = 0;
        whole &= done[s] == p->stage[s].n;
        for (size_t i = 0; i < p->stage[s].n; i++)
            busy += p->stage[s].v[i].end - p->stage[s].v[i].start;
        p->ideal = busy > p->ideal ? busy : p->ideal;
    }
    free(done);
    free(x.at);
    return whole ? 0 : -1;
}

double mri_pipeline_bubble(const mri_pipeline *p)
{
    return p->ideal > 0 ? p->time / p->ideal - 1 : 0;
}

/* ---- messages -------------------------------------------------------------------------------- */

static int by_time(const void *a, const void *b)
{
    const mri_message *x = a, *y = b;
    if (x->time != y->time)
        return x->time < y->time ? -1 : 1;
    if (x->micro != y->micro)
        return x->micro < y->micro ? -1 : 1;
    if (x->back != y->back)
        return x->back ? 1 : -1;
    return x->link < y->link ? -1 : x->link > y->link;
}

/* The task after which the slot of the forward at index i is free: the slot's last one before. */
static uint32_t freed(const mri_pipeline *p, uint32_t stage, uint32_t i)
{
    const mri_tasks *t = &p->stage[stage];
    for (uint32_t k = i; k-- > 0;)
        if (t->v[k].slot == t->v[i].slot)
            return k;
    return NOT_YET;
}

static void add_messages(mri_pipeline *p, const index_of *x)
{
    for (uint32_t l = 0; l < p->links.n; l++)
        for (uint32_t m = 0; m < p->o.micros; m++)
            for (int back = 0; back < 2; back++) {
                uint32_t from = back ? p->links.v[l].to : p->links.v[l].from;
                uint32_t to = back ? p->links.v[l].from : p->links.v[l].to;
                uint8_t kind = back ? MRI_TASK_B : MRI_TASK_F;
                mri_message g = { .link = l, .micro = m, .back = back };
                g.from = from % p->o.stages;
                g.to = to % p->o.stages;
                g.after = *cell(x, g.from, kind, from / p->o.stages, m);
                g.before = *cell(x, g.to, kind, to / p->o.stages, m);
                /* the room that it is received into: a slot's, since its forward or since it was
                 * left by the micro-batch before */
                uint32_t room = back ? *cell(x, g.to, MRI_TASK_F, to / p->o.stages, m)
                                     : freed(p, g.to, g.before);
                g.sent = mri_pipeline_behind(&p->stage[g.from], g.after);
                g.posted = room == NOT_YET ? 0 : mri_pipeline_behind(&p->stage[g.to], room);
                double made = p->stage[g.from].v[g.after].done;
                double free_at = room == NOT_YET ? 0 : p->stage[g.to].v[room].done;
                g.time = made > free_at ? made : free_at;
                MRI_PUSH(&p->messages, g);
            }
    if (p->messages.n)
        qsort(p->messages.v, p->messages.n, sizeof *p->messages.v, by_time);
}

/* Each side comes to its messages in the one order; a receiver that may not wait early comes to
 * one when the sender has it. */
static void place_messages(mri_pipeline *p)
{
    uint32_t *at = mri_alloc(p->o.stages * sizeof *at + 1);
    for (size_t i = 0; i < p->messages.n; i++) {
        mri_message *g = &p->messages.v[i];
        while (!p->o.early && g->posted < p->stage[g->to].n &&
               p->stage[g->to].v[g->posted].start < g->time)
            g->posted = mri_pipeline_behind(&p->stage[g->to], g->posted);
        g->sent = g->sent > at[g->from] ? g->sent : at[g->from];
        g->posted = g->posted > at[g->to] ? g->posted : at[g->to];
        at[g->from] = g->sent;
        at[g->to] = g->posted;
    }
    free(at);
}

/* ---- making and checking --------------------------------------------------------------------- */

static mr_status refuse(const mri_pipeline_options *o, const char *rule, mr_err *err)
{
    mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
            "%u stages of %u chunks, %u micro-batches in groups of %u: %s", o->stages, o->chunks,
            o->micros, o->group, rule);
    mr_hint(err, "see [mesh] pp, vpp, group and [train] global_batch");
    return MR_E_PROFILE_CONFLICT;
}

static mr_status check(const mri_pipeline_options *o, mr_err *err)
{
    uint32_t rest = o->group ? o->micros % o->group : 0;
    if (!o->stages || !o->chunks || !o->micros || o->stages > 65536 || o->chunks > 65536 ||
        (uint64_t)o->stages * o->chunks * o->micros > 1u << 26)
        return refuse(o, "each number is 1 or more, and their product at most 67108864", err);
    if (o->zip && (o->kind != MRI_PIPELINE_INTERLEAVED || o->split_w))
        return refuse(o, "only an interleaved schedule without weight gradients of their own is "
                      "zipped", err);
    if (o->kind != MRI_PIPELINE_INTERLEAVED && o->chunks > 1)
        return refuse(o, "only an interleaved schedule has several chunks a stage", err);
    if (o->kind == MRI_PIPELINE_INTERLEAVED && o->group < o->stages)
        return refuse(o, "a group has at least as many micro-batches as there are stages", err);
    if (o->kind == MRI_PIPELINE_INTERLEAVED && (rest ? rest : o->group) < o->stages)
        return refuse(o, "the last group has fewer micro-batches than there are stages", err);
    for (uint32_t l = 0; o->links && l < o->n_links; l++) {
        mri_link x = o->links[l];
        if (x.from >= x.to || x.to >= o->stages * o->chunks)
            return refuse(o, "a value must lead to a later virtual stage", err);
        if (x.from % o->stages == x.to % o->stages)
            return refuse(o, "a value leads from one chunk of a stage to another of the same", err);
    }
    return 0;
}

mr_status mri_pipeline_make(const mri_pipeline_options *o, mri_pipeline *p, mr_err *err)
{
    index_of x = { 0 };
    mr_status st = 0;
    memset(p, 0, sizeof *p);
    p->o = *o;
    p->o.group = o->group ? o->group : o->stages;
    p->o.split_w |= o->kind == MRI_PIPELINE_ZERO_BUBBLE;
    MR_TRY(check(&p->o, err));
    p->o.links = NULL; /* the caller's, as are the costs */
    p->o.cost = NULL;
    for (uint32_t v = 0; !o->links && v + 1 < o->stages * o->chunks && o->stages > 1; v++)
        MRI_PUSH(&p->links, ((mri_link){ v, v + 1 }));
    for (uint32_t l = 0; o->links && l < o->n_links; l++)
        MRI_PUSH(&p->links, o->links[l]);
    p->stage = mri_alloc(o->stages * sizeof *p->stage);
    p->slots = mri_alloc(o->stages * sizeof *p->slots);
    mri_pipeline_order(p);
    give_slots(p);
    if (mri_pipeline_simulate(p, NULL, 0)) {
        st = refuse(&p->o, "the stages wait for each other", err);
        goto out;
    }
    x = make_index(p);
    add_messages(p, &x);
    place_messages(p);
    MR_TRY(mri_pipeline_verify(p, err));
    if (o->cost)
        mri_pipeline_simulate(p, o->cost, o->latency);
out:
    free(x.at);
    if (st)
        mri_pipeline_free(p);
    return st;
}

void mri_pipeline_free(mri_pipeline *p)
{
    for (uint32_t s = 0; p->stage && s < p->o.stages; s++)
        free(p->stage[s].v);
    free(p->stage);
    free(p->slots);
    free(p->links.v);
    free(p->messages.v);
    memset(p, 0, sizeof *p);
}
