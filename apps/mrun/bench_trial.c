/* SPDX-License-Identifier: Apache-2.0
 *
 * bench_trial.c - see bench_trial.h. On the host's own memory a sample is a number of calls by the
 * clock. On a device it is a number of runs between two marks on the stream, enqueued while the
 * stream is held up by clearing memory: so neither launching nor waiting is in the time, and the
 * caches hold nothing of what comes. Long enough for the chip's clocks to be those of steady work.
 */
#include "bench_trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* bytes that the copies of an op's operands exceed: a host's caches, a device's */
#define ROTATE_HOST ((double)(32 << 20))
#define ROTATE_DEVICE ((double)(256 << 20))
#define HOLD (1ull << 30) /* bytes to clear, longer than it takes to enqueue a sample */

/* Marks tell the device's own time where it has one that the host does not share. */
static bool by_marks(const mri_device *d)
{
    return d->timer && !d->host_memory && !bench_uses_cpu_time();
}

static int copies_for(const mri_device *d, const mr_call *c)
{
    double bytes = 0;
    for (uint32_t i = 0; i < c->n_in; i++)
        bytes += c->in[i] ? (double)mr_bytes(c->in[i]) : 0;
    for (uint32_t i = 0; i < c->n_out; i++)
        bytes += c->out[i] ? (double)mr_bytes(c->out[i]) : 0;
    double n = ceil((d->host_memory ? ROTATE_HOST : ROTATE_DEVICE) / (bytes + 1));
    return n < 1 ? 1 : n > TRIAL_MAX_COPIES ? TRIAL_MAX_COPIES : (int)n;
}

static mr_status take(mri_device *d, const mr_type *t, const void *from, mr_buf *out, mr_err *err)
{
    mr_status st = d->ops->alloc(d->dev, mr_bytes(t), MR_MEM_ARENA, &out->data, err);
    return st || !from ? st : mri_device_write(d, out->data, from, mr_bytes(t), err);
}

mr_status trial_open(trial *t, mri_device *d, const mr_op_def *def, const mr_call *c,
                     const mr_buf *in, mr_err *err)
{
    mr_status st;
    memset(t, 0, sizeof *t);
    t->device = d;
    t->info.size = sizeof t->info;
    st = d->ops->query(d->dev, def->id, c, 0, &t->kernel, &t->info, err);
    if (st == MR_E_UNSUPPORTED) {
        t->kernel = NULL;
        return 0;
    }
    if (!st && t->info.workspace)
        st = d->ops->alloc(d->dev, t->info.workspace, MR_MEM_ARENA, &t->workspace, err);
    if (!st && by_marks(d))
        st = d->ops->alloc(d->dev, HOLD, MR_MEM_ARENA, &t->hold, err);
    t->n_copies = copies_for(d, c);
    for (int k = 0; k < t->n_copies && !st; k++) {
        for (uint32_t i = 0; i < c->n_in && !st; i++)
            if (c->in[i])
                st = take(d, c->in[i], in[i].data, &t->copies[k].in[i], err);
        for (uint32_t i = 0; i < c->n_out && !st; i++)
            if (c->out[i])
                st = take(d, c->out[i], NULL, &t->copies[k].out[i], err);
    }
    return st;
}

void trial_close(trial *t, const mr_call *c)
{
    mri_device *d = t->device;
    if (!d)
        return;
    for (int k = 0; k < t->n_copies; k++) {
        for (uint32_t i = 0; i < c->n_in; i++)
            if (t->copies[k].in[i].data)
                d->ops->free(d->dev, t->copies[k].in[i].data, mr_bytes(c->in[i]));
        for (uint32_t i = 0; i < c->n_out; i++)
            if (t->copies[k].out[i].data)
                d->ops->free(d->dev, t->copies[k].out[i].data, mr_bytes(c->out[i]));
    }
    if (t->workspace)
        d->ops->free(d->dev, t->workspace, t->info.workspace);
    if (t->hold)
        d->ops->free(d->dev, t->hold, HOLD);
    for (int i = 0; i < 2; i++)
        if (t->mark[i])
            d->timer->destroy(d->dev, t->mark[i]);
    if (t->kernel)
        d->ops->release(d->dev, t->kernel);
    free(t->times.v);
}

static mr_status enqueue(trial *t, int n, mr_err *err)
{
    const mri_device *d = t->device;
    mr_status st = 0;
    for (int i = 0; i < n && !st; i++) {
        const trial_copy *x = &t->copies[t->turn++ % (uint64_t)t->n_copies];
        st = d->ops->run(d->dev, t->kernel, d->stream, x->in, x->out, t->workspace, err);
    }
    return st;
}

static mr_status time_by_marks(trial *t, int n, double *seconds, mr_err *err)
{
    mri_device *d = t->device;
    double us = 0;
    mr_status st;
    MR_TRY(d->ops->fill(d->dev, d->stream, t->hold, (uint32_t)(t->turn & 0xff), HOLD, err));
    MR_TRY(d->timer->mark(d->dev, d->stream, &t->mark[0], err));
    MR_TRY(enqueue(t, n, err));
    MR_TRY(d->timer->mark(d->dev, d->stream, &t->mark[1], err));
    MR_TRY(d->timer->elapsed_us(d->dev, t->mark[0], t->mark[1], &us, err));
    *seconds = 1e-6 * us / n;
out:
    return st;
}

/* n runs on copies in turn; seconds a run */
static mr_status trial_time(trial *t, int n, double *seconds, mr_err *err)
{
    mr_status st = 0;
    if (t->hold)
        return time_by_marks(t, n, seconds, err);
    double start = bench_now();
    MR_TRY(enqueue(t, n, err));
    MR_TRY(mri_device_sync(t->device, err));
    *seconds = (bench_now() - start) / n;
out:
    return st;
}

mr_status trial_once(trial *t, const mr_op_def *def, const mr_call *c, const mr_buf *in,
                     const mr_buf *out, mr_err *err)
{
    mri_sig sig;
    double ignored;
    mr_status st = mri_sig_parse(def->sig, &sig, err);
    t->turn = 0;
    if (!st)
        st = trial_time(t, 1, &ignored, err);
    for (uint32_t i = 0; i < c->n_in && !st; i++)
        if (c->in[i] && sig.in[i].mutated)
            st = mri_device_read(t->device, in[i].data, t->copies[0].in[i].data, mr_bytes(c->in[i]),
                                 err);
    for (uint32_t i = 0; i < c->n_out && !st; i++)
        if (c->out[i])
            st = mri_device_read(t->device, out[i].data, t->copies[0].out[i].data,
                                 mr_bytes(c->out[i]), err);
    return st;
}

/* How a measurement is made; seconds. */
typedef struct pace {
    double sample, total, warm; /* of one sample at least, of all, of runs before that */
    int most_runs;              /* of a sample */
    size_t samples;             /* at least    */
} pace;
static const pace paces[2][2] = { /* [by marks][quick] */
    { { 3e-4, 0.4, 0, 1 << 20, 7 }, { 3e-4, 0.05, 0, 1 << 20, 3 } },
    { { 4e-3, 0.15, 0.05, 64, 7 }, { 1e-3, 0.02, 0.005, 32, 3 } },
};

static mr_status warm_up(trial *t, const pace *p, int *runs, mr_err *err)
{
    double once = 0, spent = 0;
    mr_status st;
    MR_TRY(trial_time(t, t->n_copies, &once, err)); /* touches every copy's pages */
    MR_TRY(trial_time(t, 1, &once, err));
    double n = ceil(p->sample / (once + 1e-9));
    *runs = n < 1 ? 1 : n > p->most_runs ? p->most_runs : (int)n;
    for (; spent < p->warm; spent += once * *runs)
        MR_TRY(trial_time(t, *runs, &once, err));
out:
    return st;
}

mr_status trial_measure(trial *t, int n, bool quick, mr_err *err)
{
    const pace *p = &paces[t[0].hold != NULL][quick];
    const size_t most = 64;
    mr_status st = 0;
    double spent = 0;
    int runs[2] = { 1, 1 };
    for (int k = 0; k < n; k++)
        MR_TRY(warm_up(&t[k], p, &runs[k], err));
    for (size_t i = 0; (i < p->samples || spent < p->total) && i < most; i++)
        for (int k = 0; k < n; k++) {
            double s;
            MR_TRY(trial_time(&t[k], runs[k], &s, err));
            MRI_PUSH(&t[k].times, s);
            spent += s * runs[k] / n;
        }
out:
    return st;
}

double trial_best_rate(mri_device *d, const char *op, const char *text, bool bytes)
{
    const mr_op_def *def = mri_op_find(op);
    mr_cost cost = { sizeof cost, 0, 0, 0 };
    mr_err err = MR_ERR_INIT;
    mri_case c = { 0 };
    trial t = { 0 };
    double rate = 0;
    mr_status st = 0;
    MR_TRY(mri_case_make_large(def, text, "f32", 1, &c, &err));
    MR_TRY(trial_open(&t, d, def, &c.call, c.in, &err));
    if (!t.kernel)
        goto out;
    MR_TRY(trial_measure(&t, 1, false, &err));
    def->cost(&c.call, &cost);
    rate = (bytes ? cost.bytes : cost.flops) / bench_summary(&t.times).min;
out:
    trial_close(&t, &c.call);
    mri_case_free(&c);
    return st ? 0 : rate;
}
