/* SPDX-License-Identifier: Apache-2.0
 * timeline.c - see timeline.h. */
#include "timeline.h"
#include "core/store/store.h"
#include <stdlib.h>
#include <string.h>

static void keep(mri_timeline *t, const mri_interval *x)
{
    pthread_mutex_lock(&t->lock);
    MRI_PUSH(&t->intervals, *x);
    pthread_mutex_unlock(&t->lock);
}

/* ---- what is seen ---------------------------------------------------------------------------- */

/* A collective among the ops is on the other lane. */
static mr_status see_op(void *ctx, const mri_trace_step *s, mr_err *err)
{
    mri_timeline *t = ctx;
    const mri_plan *p = s->frame->plan;
    uint8_t comm = p->steps[s->phase].v[s->step].comm;
    mri_interval x = { .lane = MRI_LANE_COMPUTE, .start = s->began - t->clock,
                       .end = mri_device_clock() - t->clock, .from = s->before, .to = s->after };
    (void)err;
    if (comm && comm != MRI_STEP_SLICE) {
        for (int k = 0; k < 2; k++)
            if (k ? s->after : s->before)
                t->device->timer->destroy(t->device->dev, k ? s->after : s->before);
        return 0;
    }
    snprintf(x.name, sizeof x.name, "%s", s->node->def->id);
    snprintf(x.of, sizeof x.of, "%s %s%s %s", mri_phase_name[s->phase],
             s->frame->label ? s->frame->label : "", p->name,
             s->node->region ? p->prog->regions.v[s->node->region].path : "");
    keep(t, &x);
    return 0;
}

/* On the thread, or around the call, that runs the collective. */
static void see_collective(void *ctx, const mri_comm_job *job, void *stream, bool ends)
{
    static const char *const names[] = {
        [MRI_COMM_ALL_REDUCE] = "all_reduce", [MRI_COMM_ALL_GATHER] = "all_gather",
        [MRI_COMM_REDUCE_SCATTER] = "reduce_scatter", [MRI_COMM_BROADCAST] = "broadcast",
        [MRI_COMM_ALL_TO_ALL] = "all_to_all", [MRI_COMM_SHIFT] = "shift",
        [MRI_COMM_SEND] = "send", [MRI_COMM_RECEIVE] = "receive",
    };
    mri_timeline *t = ctx;
    const mri_group *g = &t->world->group[job->group];
    mri_interval x = { .lane = MRI_LANE_COMM };
    void *mark = NULL;
    mr_err ignored = MR_ERR_INIT;
    if (stream && t->device->timer &&
        t->device->timer->mark(t->device->dev, stream, &mark, &ignored))
        mark = NULL;
    if (!ends) {
        t->opened = mark;
        t->opened_at = mri_device_clock();
        return;
    }
    x.start = t->opened_at - t->clock;
    x.end = mri_device_clock() - t->clock;
    x.from = t->opened;
    x.to = mark;
    x.bytes = (double)mri_comm_bytes(job, g->n, g->index);
    snprintf(x.name, sizeof x.name, "%s", names[job->kind]);
    snprintf(x.of, sizeof x.of, "%s", mri_group_name(job->group));
    keep(t, &x);
}

/* ---- recording ------------------------------------------------------------------------------- */

mr_status mri_timeline_begin(mri_timeline *t, mri_device *d, mri_world *w, mr_err *err)
{
    memset(t, 0, sizeof *t);
    pthread_mutex_init(&t->lock, NULL);
    t->device = d;
    t->world = mri_world_alone(w) ? NULL : w;
    mr_status st = t->world ? mri_comm_wait(t->world, 0, err) : 0;
    st = st ? st : mri_device_sync(d, err);
    if (!st && d->timer)
        st = d->timer->mark(d->dev, d->stream, &t->base, err);
    t->clock = mri_device_clock();
    t->trace = (mri_trace){ .fn = see_op, .ctx = t, .timing = true };
    t->watch = (mri_comm_watch){ see_collective, t };
    d->watch = &t->trace;
    if (t->world)
        mri_comm_watch_with(t->world, &t->watch);
    return st;
}

static mr_status resolve(mri_timeline *t, mri_interval *x, mr_err *err)
{
    const mr_timer *m = t->device->timer;
    mr_status st = 0;
    if (!x->from || !x->to)
        return 0;
    double us[2] = { 0, 0 };
    st = m->elapsed_us(t->device->dev, t->base, x->from, &us[0], err);
    st = st ? st : m->elapsed_us(t->device->dev, t->base, x->to, &us[1], err);
    x->start = 1e-6 * us[0];
    x->end = 1e-6 * us[1];
    return st;
}

mr_status mri_timeline_end(mri_timeline *t, mr_err *err)
{
    mr_status st = t->world ? mri_comm_wait(t->world, 0, err) : 0;
    st = st ? st : mri_device_sync(t->device, err);
    t->device->watch = NULL;
    if (t->world)
        mri_comm_watch_with(t->world, NULL);
    for (size_t i = 0; i < t->intervals.n; i++) {
        mri_interval *x = &t->intervals.v[i];
        if (!st)
            st = resolve(t, x, err);
        if (x->from)
            t->device->timer->destroy(t->device->dev, x->from);
        if (x->to)
            t->device->timer->destroy(t->device->dev, x->to);
        x->from = x->to = NULL;
    }
    if (t->base)
        t->device->timer->destroy(t->device->dev, t->base);
    t->base = NULL;
    return st;
}

void mri_timeline_free(mri_timeline *t)
{
    free(t->intervals.v);
    pthread_mutex_destroy(&t->lock);
    memset(t, 0, sizeof *t);
}

/* Within a lane intervals follow each other. */
double mri_timeline_shared(const mri_timeline *t)
{
    double sum = 0;
    for (size_t i = 0; i < t->intervals.n; i++)
        for (size_t j = 0; j < t->intervals.n; j++) {
            const mri_interval *a = &t->intervals.v[i], *b = &t->intervals.v[j];
            double from = a->start > b->start ? a->start : b->start;
            double to = a->end < b->end ? a->end : b->end;
            if (a->lane == MRI_LANE_COMPUTE && b->lane == MRI_LANE_COMM && to > from)
                sum += to - from;
        }
    return sum;
}

/* ---- the file --------------------------------------------------------------------------------- */

static void name_of(mri_str *s, uint32_t rank, int32_t lane, const char *what)
{
    mri_str_fmt(s, "{\"ph\": \"M\", \"pid\": %u, \"tid\": %d, \"name\": \"%s\", \"args\": {\"name\": "
                "\"%s", rank, lane, lane < 0 ? "process_name" : "thread_name", what);
    mri_str_fmt(s, lane < 0 ? " %u\"}},\n" : "\"}},\n", rank);
}

/* the rank's events, each with a comma behind it */
static void tell(const mri_timeline *t, uint32_t rank, mri_str *s)
{
    name_of(s, rank, -1, "rank");
    name_of(s, rank, MRI_LANE_COMPUTE, "compute");
    name_of(s, rank, MRI_LANE_COMM, "communication");
    for (size_t i = 0; i < t->intervals.n; i++) {
        const mri_interval *x = &t->intervals.v[i];
        mri_str_fmt(s, "{\"ph\": \"X\", \"pid\": %u, \"tid\": %u, \"ts\": %.3f, \"dur\": %.3f, "
                    "\"name\": ", rank, x->lane, 1e6 * x->start, 1e6 * (x->end - x->start));
        mri_str_json(s, x->name);
        mri_str_add(s, ", \"cat\": ");
        mri_str_json(s, x->of);
        mri_str_fmt(s, ", \"args\": {\"sent\": %.0f}},\n", x->bytes);
    }
}

/* What all ranks tell, one after the other; *all is the caller's to free. */
static mr_status gather(const mri_timeline *t, const mri_str *mine, mri_str *all, mr_err *err)
{
    mri_world *w = t->world;
    uint64_t n = mine->n, most = 0;
    if (!w) {
        mri_str_add(all, mine->s);
        return 0;
    }
    uint64_t *sizes = mri_alloc(w->mesh.world * sizeof *sizes);
    char *part = NULL, *parts = NULL;
    mr_status st = mri_world_gather(w, &n, sizeof n, sizes, err);
    for (uint32_t r = 0; r < w->mesh.world; r++)
        most = sizes[r] > most ? sizes[r] : most;
    part = mri_alloc(most + 1);
    parts = mri_alloc(w->mesh.world * most + 1);
    memcpy(part, mine->s, n);
    st = st ? st : mri_world_gather(w, part, most, parts, err);
    for (uint32_t r = 0; r < w->mesh.world && !st; r++)
        mri_str_fmt(all, "%.*s", (int)sizes[r], parts + r * most);
    free(part);
    free(parts);
    free(sizes);
    return st;
}

mr_status mri_timeline_write(const mri_timeline *t, const char *path, mr_err *err)
{
    mri_str mine = { 0 }, all = { 0 };
    uint32_t rank = t->world ? t->world->mesh.rank : 0;
    tell(t, rank, &mine);
    mri_str_add(&all, "{\"displayTimeUnit\": \"ms\", \"traceEvents\": [\n");
    mr_status st = gather(t, &mine, &all, err);
    mri_str_add(&all, "{\"ph\": \"M\", \"pid\": 0, \"name\": \"end\"}\n]}\n");
    if (!st && !rank)
        st = mri_write_file_atomic(path, all.s, all.n, err);
    if (t->world)
        st = mri_world_agree(t->world, st, err);
    mri_str_free(&mine);
    mri_str_free(&all);
    return st;
}
