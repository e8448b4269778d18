/* SPDX-License-Identifier: Apache-2.0
 *
 * launch.c - walks one phase of a plan: resolves (segment, offset) against the frame and
 * hands each step to its kernel. With a trace it waits after every step and shows it, or, for
 * timing, puts marks around it. Phase, block and region are named to the vendor's profiler.
 */
#include "core/mesh/world.h"
#include "flight.h"
#include <stdlib.h>
#include <string.h>

enum { GUARD_BYTE = 0xA5 };

static void *resolve(const mri_frame *f, mri_addr a)
{
    switch (a.seg) {
    case MRI_SEG_PARAM: return f->param[a.at];
    case MRI_SEG_GRAD: return f->grad[a.at];
    case MRI_SEG_STATE: return f->state[a.at];
    case MRI_SEG_SCALAR: return f->scalar[a.at];
    case MRI_SEG_INPUT: return f->input[a.at];
    case MRI_SEG_OUTPUT: return f->output[a.at];
    case MRI_SEG_SAVED: return f->saved + a.at;
    case MRI_SEG_SCRATCH: return f->scratch + a.at;
    case MRI_SEG_KEEP: return f->keep + a.at;
    }
    return NULL;
}

/* Host copies of a step's operands, for reference loops and traces on a real device. */
typedef struct staged {
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
} staged;

static mr_status stage_in(mri_device *d, const mr_call *c, const mr_buf *in, const mr_buf *out,
                          bool outputs, staged *s, mr_err *err)
{
    mr_status st = 0;
    memset(s, 0, sizeof *s);
    for (uint32_t i = 0; i < c->n_in; i++)
        if (c->in[i]) {
            s->in[i].data = mri_alloc(mr_bytes(c->in[i]));
            MR_TRY(mri_device_read(d, s->in[i].data, in[i].data, mr_bytes(c->in[i]), err));
        }
    for (uint32_t i = 0; i < c->n_out; i++)
        if (c->out[i]) {
            s->out[i].data = mri_alloc(mr_bytes(c->out[i]));
            if (outputs)
                MR_TRY(mri_device_read(d, s->out[i].data, out[i].data, mr_bytes(c->out[i]), err));
        }
out:
    return st;
}

static void stage_free(const mr_call *c, staged *s)
{
    for (uint32_t i = 0; i < c->n_in; i++)
        free(s->in[i].data);
    for (uint32_t i = 0; i < c->n_out; i++)
        free(s->out[i].data);
}

static mr_status run_reference(mri_device *d, const mr_op_def *def, const mri_node *n,
                               const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    mr_status st = mri_device_sync(d, err);
    if (st || d->host_memory)
        return st ? st : def->ref(c, in, out, err);
    staged s;
    MR_TRY(stage_in(d, c, in, out, false, &s, err));
    MR_TRY(def->ref(c, s.in, s.out, err));
    for (uint32_t i = 0; i < c->n_in; i++)
        if (n->written >> i & 1 && c->in[i])
            MR_TRY(mri_device_write(d, in[i].data, s.in[i].data, mr_bytes(c->in[i]), err));
    for (uint32_t i = 0; i < c->n_out; i++)
        if (c->out[i])
            MR_TRY(mri_device_write(d, out[i].data, s.out[i].data, mr_bytes(c->out[i]), err));
out:
    stage_free(c, &s);
    return st;
}

/* Guards exist behind arena buffers only: outputs bound by the caller have none. */
static bool guarded(mri_addr a)
{
    return a.seg == MRI_SEG_SCRATCH || a.seg == MRI_SEG_SAVED || a.seg == MRI_SEG_KEEP;
}

static uint64_t guard_at(const mr_type *t)
{
    return (mr_bytes(t) + MRI_ALIGN - 1) / MRI_ALIGN * MRI_ALIGN;
}

static mr_status write_guards(mri_device *d, const mri_step *s, const mr_call *c, const mr_buf *out,
                              mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = 0; i < c->n_out && !st; i++)
        if (c->out[i] && guarded(s->out[i]))
            st = d->ops->fill(d->dev, d->stream, (char *)out[i].data + guard_at(c->out[i]),
                              GUARD_BYTE, MRI_GUARD, err);
    return st;
}

static mr_status check_guards(mri_device *d, const mri_step *s, const mr_call *c, const mr_buf *out,
                              mri_trace_step *t, mr_err *err)
{
    t->guards_intact = true;
    for (uint32_t i = 0; i < c->n_out; i++) {
        unsigned char g[MRI_GUARD];
        if (!c->out[i] || !guarded(s->out[i]))
            continue;
        mr_status st = mri_device_read(d, g, (char *)out[i].data + guard_at(c->out[i]), sizeof g,
                                       err);
        if (st)
            return st;
        for (size_t b = 0; b < sizeof g; b++)
            if (g[b] != GUARD_BYTE && t->guards_intact) {
                t->guards_intact = false;
                t->guard_operand = (int32_t)i;
            }
    }
    return 0;
}

static mr_status show(mri_device *d, const mri_frame *f, uint8_t phase, uint32_t index,
                      const mri_step *s, const mri_node *n, const mr_call *c, const mr_buf *in,
                      const mr_buf *out, const mri_trace *trace, mr_err *err)
{
    mri_trace_step t = { f, phase, index, n, c, in, out, true, -1, &s->cost, NULL, NULL };
    staged host;
    mr_status st = mri_device_sync(d, err);
    if (!st && trace->guard)
        st = check_guards(d, s, c, out, &t, err);
    if (st || !trace->fn)
        return st;
    if (!d->host_memory) {
        st = stage_in(d, c, in, out, true, &host, err);
        t.in = host.in;
        t.out = host.out;
    }
    if (!st)
        st = trace->fn(trace->ctx, &t, err);
    if (!d->host_memory)
        stage_free(c, &host);
    return st;
}

static mr_status poison(mri_device *d, const mri_frame *f, const mri_step *s, mr_err *err)
{
    mr_status st = s->dead.n && d->world ? mri_comm_wait(d->world, 0, err) : 0;
    for (size_t i = 0; i < s->dead.n && !st; i++)
        st = d->ops->fill(d->dev, d->stream, resolve(f, s->dead.v[i]), 0xFF, s->dead_bytes.v[i],
                          err);
    return st;
}

/* A kernel's error says what; the plan knows where. */
static mr_status where(const mri_frame *f, const mri_node *n, mr_status st, mr_err *err)
{
    char *old = mri_strdup(err->what);
    snprintf(err->what, sizeof err->what, "%s in %s%s (%s): %s", n->def->id, f->label,
             f->plan->name, n->region ? f->plan->prog->regions.v[n->region].path : "no region", old);
    free(old);
    return st;
}

/* ---- timing and names ---------------------------------------------------------------------- */

static mr_status mark(mri_device *d, void **m, mr_err *err)
{
    return d->timer ? d->timer->mark(d->dev, d->stream, m, err) : mri_device_sync(d, err);
}

static void push(const mri_device *d, const char *name)
{
    if (d->timer)
        d->timer->push(d->dev, name);
}

static void pop(const mri_device *d)
{
    if (d->timer)
        d->timer->pop(d->dev);
}

/* The step's weight gradient, if its kernel may write it instead of adding to it. */
static mr_buf *written_first(const mri_frame *f, const mri_step *s, const mri_node *n, mr_buf *in)
{
    const mri_addr *a = n->n_in ? &s->in[n->n_in - 1] : NULL;
    uint8_t sole = s->first && f->sole ? f->sole[a->at] : 0;
    return sole == MRI_SOLE_ALWAYS || (sole && f->first) ? &in[n->n_in - 1] : NULL;
}

/* ---- a step, a phase ----------------------------------------------------------------------- */

static mr_status launch_step(mri_device *d, const mri_frame *f, uint8_t phase, uint32_t i,
                             const mri_trace *trace, mri_flight *flight, mr_err *err)
{
    const mri_plan *plan = f->plan;
    const mri_step *s = &plan->steps[phase].v[i];
    const mri_node *n = &plan->prog->nodes.v[s->node];
    bool timing = trace && trace->timing;
    void *before = NULL, *after = NULL;
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
    const mr_type *types[2 * MRI_MAX_OPERANDS];
    mr_status st = 0;
    for (uint32_t j = 0; j < n->n_in; j++)
        in[j] = (mr_buf){ resolve(f, s->in[j]), NULL };
    for (uint32_t j = 0; j < n->n_out; j++)
        out[j] = (mr_buf){ resolve(f, s->out[j]), NULL };
    mr_call call = { 0 };
    if ((s->ref && !s->comm) || trace)
        call = mri_node_call(plan->prog, n, types);
    if (s->wait) /* before anything is written: what it sends may end here */
        st = mri_flight_wait(d, flight, s->wait, err);
    if (!st && trace && trace->guard)
        st = write_guards(d, s, &call, out, err);
    if (!st && timing)
        st = mark(d, &before, err);
    double began = timing ? mri_device_clock() : 0;
    mr_buf summing[MRI_MAX_OPERANDS], *first = written_first(f, s, n, in), *operands = in;
    if (first && s->first_sums) { /* a sum of squares stands where the gradient did */
        memcpy(summing, in, sizeof summing);
        summing[n->n_in - 1].data = f->sumsq;
        operands = summing;
    }
    void *ws = s->info.workspace ? f->scratch + s->workspace : NULL;
    if (!st)
        st = s->comm  ? mri_flight_submit(d, f->plan, s, in, out, flight, err)
           : s->ref ? run_reference(d, s->ref, n, &call, in, out, err)
           : first  ? d->ops->run(d->dev, s->first, d->stream, operands, first, ws, err)
                    : d->ops->run(d->dev, s->kernel, d->stream, in, out, ws, err);
    if (!st && timing)
        st = mark(d, &after, err);
    if (st) {
        if (before && d->timer)
            d->timer->destroy(d->dev, before);
        return where(f, n, st, err);
    }
    if (timing) {
        mri_trace_step t = { f, phase, i, n, &call, in, out, true, -1,
                             first ? &s->first_cost : &s->cost, before, after, began };
        return trace->fn(trace->ctx, &t, err);
    }
    if (trace && (st = show(d, f, phase, i, s, n, &call, in, out, trace, err)))
        return st;
    return trace && trace->poison ? poison(d, f, s, err) : 0;
}

mr_status mri_launch_part(mri_device *d, const mri_frame *f, uint8_t phase, uint32_t from,
                          uint32_t to, struct mri_flight *flight, const mri_trace *trace, mr_err *err)
{
    const mri_plan *plan = f->plan;
    mr_status st = 0;
    uint32_t region = 0, n = (uint32_t)plan->steps[phase].n;
    push(d, mri_phase_name[phase]);
    push(d, f->label);
    for (uint32_t i = from; i < to && !st; i++) {
        uint32_t at = plan->prog->nodes.v[plan->steps[phase].v[i].node].region;
        if (i == from || at != region) {
            if (i > from)
                pop(d);
            push(d, plan->prog->regions.v[at].path);
            region = at;
        }
        st = launch_step(d, f, phase, i, trace ? trace : d->watch, flight, err);
    }
    for (int open = to > from ? 3 : 2; open > 0; open--)
        pop(d);
    return st || to < n ? st : mri_flight_end(d, flight, err);
}

mr_status mri_launch(mri_device *d, const mri_frame *f, uint8_t phase, const mri_trace *trace,
                     mr_err *err)
{
    mri_flight flight = { 0 };
    return mri_launch_part(d, f, phase, 0, (uint32_t)f->plan->steps[phase].n, &flight, trace, err);
}
