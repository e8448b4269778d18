/* SPDX-License-Identifier: Apache-2.0
 * bench_trial.c - see bench_trial.h. */
#include "bench_trial.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define ROTATE ((double)(32 << 20)) /* bytes that the copies of an op's operands exceed */

static int copies_for(const mr_call *c)
{
    double bytes = 0;
    for (uint32_t i = 0; i < c->n_in; i++)
        bytes += c->in[i] ? (double)mr_bytes(c->in[i]) : 0;
    for (uint32_t i = 0; i < c->n_out; i++)
        bytes += c->out[i] ? (double)mr_bytes(c->out[i]) : 0;
    double n = ceil(ROTATE / (bytes + 1));
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
    t->n_copies = copies_for(c);
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
    if (t->kernel)
        d->ops->release(d->dev, t->kernel);
    free(t->times.v);
}

/* n runs on copies in turn; seconds a run */
static mr_status trial_time(trial *t, int n, double *seconds, mr_err *err)
{
    mri_device *d = t->device;
    mr_status st = 0;
    double start = bench_now();
    for (int i = 0; i < n; i++) {
        const trial_copy *x = &t->copies[t->turn++ % (uint64_t)t->n_copies];
        MR_TRY(d->ops->run(d->dev, t->kernel, d->stream, x->in, x->out, t->workspace, err));
    }
    MR_TRY(mri_device_sync(d, err));
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

mr_status trial_measure(trial *t, int n, bool quick, mr_err *err)
{
    const double least = 3e-4, total = quick ? 0.05 : 0.4; /* seconds */
    const size_t samples = quick ? 3 : 7, most = 64;
    mr_status st = 0;
    double once, spent = 0;
    int runs[2] = { 1, 1 };
    for (int k = 0; k < n; k++) { /* every copy's pages are touched before the clock counts */
        MR_TRY(trial_time(&t[k], t[k].n_copies, &once, err));
        MR_TRY(trial_time(&t[k], 1, &once, err));
        runs[k] = once < least ? (int)ceil(least / (once + 1e-9)) : 1;
    }
    for (size_t i = 0; (i < samples || spent < total) && i < most; i++)
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
