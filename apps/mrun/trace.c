/* SPDX-License-Identifier: Apache-2.0
 * trace.c - see trace.h. */
#include "trace.h"
#include "core/ops/ref.h"
#include <math.h>
#include <string.h>

typedef struct stats {
    double min, max, sum;
    int64_t n, bad;
} stats;

static stats measure(const mr_type *t, const mr_buf *b)
{
    stats s = { INFINITY, -INFINITY, 0, mr_numel(t), 0 };
    mri_view v = mri_at(t, b);
    for (int64_t i = 0; i < s.n; i++) {
        double x = mri_get(v, i);
        if (!isfinite(x)) {
            s.bad++;
            continue;
        }
        s.min = x < s.min ? x : s.min;
        s.max = x > s.max ? x : s.max;
        s.sum += x;
    }
    return s;
}

static const char *base_name(const char *path)
{
    const char *slash = path ? strrchr(path, '/') : NULL;
    return slash ? slash + 1 : path ? path : "?";
}

static void print_line(const mri_trace_step *t, const char *what, const stats *s)
{
    const mr_prog *p = t->frame->plan->prog;
    fprintf(stderr, "%s%c %-28s %3u %-22s %-6s min % .3e max % .3e mean % .3e  [%s] %s:%d\n",
            mri_phase_name[t->phase], t->node->recomputed ? 'r' : ' ', t->frame->label, t->step,
            t->node->def->id, what, s->min, s->max, s->n ? s->sum / (double)s->n : 0,
            p->regions.v[t->node->region].path, base_name(t->node->file), t->node->line);
}

static mr_status bad(const mri_trace_step *t, mr_status code, const char *what, const char *operand,
                     int64_t count, int64_t of, mr_err *err)
{
    const mr_prog *p = t->frame->plan->prog;
    mr_fail(err, code, MR_BLAME_UNKNOWN, "%s %s of op %s, block %s%s, phase %s", what, operand,
            t->node->def->id, t->frame->label, t->frame->plan->name, mri_phase_name[t->phase]);
    mr_detail(err, "region %s, described at %s:%d; %lld of %lld elements",
              *p->regions.v[t->node->region].path ? p->regions.v[t->node->region].path : "(none)",
              base_name(t->node->file), t->node->line, (long long)count, (long long)of);
    mr_hint(err, code == MR_E_GUARD ? "the backend's kernel writes past its output; mrun check "
                                      "backend/NAME finds the shape"
                                    : "lower [optimizer] lr or raise warmup; the last checkpoint is "
                                      "kept");
    return code;
}

mr_status app_trace_step(void *ctx, const mri_trace_step *t, mr_err *err)
{
    const app_trace *a = ctx;
    mri_sig sig;
    mr_status st = mri_sig_parse(t->node->def->sig, &sig, err);
    if (st)
        return st;
    if (!t->guards_intact)
        return bad(t, MR_E_GUARD, "bytes behind", sig.out[t->guard_operand].name, 1, 1, err);
    for (uint32_t i = 0; i < t->call->n_in; i++) {
        if (!(t->node->written >> i & 1) || !t->call->in[i])
            continue;
        stats s = measure(t->call->in[i], &t->in[i]);
        if (a->print)
            print_line(t, sig.in[i].name, &s);
        if (s.bad)
            return bad(t, MR_E_NONFINITE, "NaN or Inf in", sig.in[i].name, s.bad, s.n, err);
    }
    for (uint32_t i = 0; i < t->call->n_out; i++) {
        if (!t->call->out[i])
            continue;
        stats s = measure(t->call->out[i], &t->out[i]);
        if (a->print)
            print_line(t, sig.out[i].name, &s);
        if (s.bad)
            return bad(t, MR_E_NONFINITE, "NaN or Inf in", sig.out[i].name, s.bad, s.n, err);
    }
    return 0;
}

mr_status app_find_nonfinite(mri_session *s, mr_err *err)
{
    app_trace a = { false };
    mri_trace trace = { app_trace_step, &a, false, false };
    const mri_trace *old = s->train->trace;
    mri_step_result r;
    s->train->trace = &trace;
    mr_status st = mri_session_gradients(s, &r, err);
    s->train->trace = old;
    if (st)
        return st;
    return mr_fail(err, MR_E_NONFINITE, MR_BLAME_UNKNOWN,
                   "the gradient norm of step %lld is not finite, though every gradient is: it "
                   "overflows fp32", (long long)s->done.step + 1);
}
