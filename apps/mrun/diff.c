/* SPDX-License-Identifier: Apache-2.0
 *
 * diff.c - `mrun diff A.ini B.ini [--tolerance X] [--steps N]`: two profiles in lock step
 * (two backends, two precisions, recompute on and off). Both start from A's weights and see
 * the same batches; block by block every op's outputs are compared, and the first op beyond
 * the tolerance is named with its block, region and model line.
 *
 * Ops are matched by phase and order within the block; recomputation and fusion are left off in
 * both.
 */
#include "core/ops/ref.h"
#include "core/run/session.h"
#include "app.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* The outputs of one launch, as doubles. */
typedef struct seen {
    const mri_node *node;
    const mri_frame *frame;
    uint8_t phase;
    uint32_t operand;
    bool written; /* an operand written in place, not an output */
    double *x;
    int64_t n;
} seen;
typedef MRI_VEC(seen) seens;

static void keep(seens *all, const mri_trace_step *t, uint32_t operand, bool written)
{
    const mr_type *type = written ? t->call->in[operand] : t->call->out[operand];
    const mr_buf *b = written ? &t->in[operand] : &t->out[operand];
    seen s = { t->node, t->frame, t->phase, operand, written, NULL, mr_numel(type) };
    mri_view v = mri_at(type, b);
    s.x = mri_alloc((size_t)s.n * sizeof *s.x);
    for (int64_t i = 0; i < s.n; i++)
        s.x[i] = mri_get(v, i);
    MRI_PUSH(all, s);
}

static mr_status watch(void *ctx, const mri_trace_step *t, mr_err *err)
{
    (void)err;
    for (uint32_t i = 0; i < t->call->n_out; i++)
        if (t->call->out[i] && !t->node->recomputed)
            keep(ctx, t, i, false);
    for (uint32_t i = 0; i < t->call->n_in; i++)
        if (t->call->in[i] && t->node->written >> i & 1)
            keep(ctx, t, i, true);
    return 0;
}

static void forget(seens *all)
{
    for (size_t i = 0; i < all->n; i++)
        free(all->v[i].x);
    all->n = 0;
}

static mr_status compare(const seens *a, const seens *b, double tolerance, double *worst,
                         mr_err *err)
{
    size_t n = a->n < b->n ? a->n : b->n;
    for (size_t i = 0; i < n; i++) {
        const seen *x = &a->v[i], *y = &b->v[i];
        double scale = 1e-30, off = 0;
        int64_t at = 0;
        if (strcmp(x->node->def->id, y->node->def->id) || x->n != y->n || a->n != b->n)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                           "block %s%s: the plans have different ops (%s and %s); diff compares "
                           "plans of one model", x->frame->label, x->frame->plan->name,
                           x->node->def->id, y->node->def->id);
        for (int64_t k = 0; k < x->n; k++)
            scale = fabs(x->x[k]) > scale ? fabs(x->x[k]) : scale;
        for (int64_t k = 0; k < x->n; k++) {
            double d = fabs(x->x[k] - y->x[k]) / scale;
            if (d > off || isnan(d)) {
                off = d;
                at = k;
            }
        }
        *worst = off > *worst ? off : *worst;
        if (!(off <= tolerance)) {
            const mr_prog *p = x->frame->plan->prog;
            const char *slash = x->node->file ? strrchr(x->node->file, '/') : NULL;
            mr_fail(err, MR_E_DIVERGED, MR_BLAME_UNKNOWN,
                    "%s %u of op %s, block %s%s, phase %s differs by %.3g",
                    x->written ? "operand" : "output", x->operand, x->node->def->id,
                    x->frame->label, x->frame->plan->name, mri_phase_name[x->phase], off);
            mr_detail(err, "element %lld: %.9g and %.9g; region %s, described at %s:%d",
                      (long long)at, x->x[at], y->x[at], p->regions.v[x->node->region].path,
                      slash ? slash + 1 : "?", x->node->line);
            mr_hint(err, "relative to the largest value; --tolerance %g was asked", tolerance);
            return MR_E_DIVERGED;
        }
    }
    return 0;
}

/* B starts from A's parameters, whatever B's seed or precision. */
static mr_status same_weights(mri_session *a, mri_session *b, mr_err *err)
{
    mr_status st = 0;
    for (size_t i = 0; i < a->params.slots.n && !st; i++) {
        const mri_tensor_slot *x = &a->params.slots.v[i];
        int64_t j = mri_params_find(&b->params, x->name);
        const char *dtype;
        mri_params_exact(&a->params, x, &dtype);
        if (j < 0 || b->params.slots.v[j].n != x->n)
            return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "the second model has no parameter %s of "
                           "that shape", x->name);
        void *w = mri_alloc(x->n * mr_dtype_bytes(dtype));
        st = mri_params_get(&a->params, &a->device, x, w, err);
        if (!st)
            st = mri_params_set(&b->params, &b->device, &b->params.slots.v[j], w, dtype, err);
        free(w);
    }
    return st;
}

typedef struct pair {
    mri_config *c[2];
    mri_session *s[2];
    seens seen[2];
    double tolerance, worst;
    size_t ops;
} pair;

static mr_status lock_step(pair *p, uint32_t instance, uint8_t phase, mr_err *err)
{
    mr_status st = 0;
    for (int k = 0; k < 2 && !st; k++) {
        mri_trace t = { watch, &p->seen[k], false, false };
        p->s[k]->train->trace = &t;
        st = mri_exec_run(p->s[k]->train, instance, phase, err);
        p->s[k]->train->trace = NULL;
    }
    p->ops += p->seen[0].n;
    if (!st)
        st = compare(&p->seen[0], &p->seen[1], p->tolerance, &p->worst, err);
    forget(&p->seen[0]);
    forget(&p->seen[1]);
    return st;
}

static mr_status one_batch(pair *p, int64_t sample, mr_err *err)
{
    mri_session *s = p->s[0];
    int64_t t = s->train->opt.tokens, seq = s->config->train.seq;
    int32_t *x = mri_alloc((size_t)t * 4 * sizeof *x);
    float *w = mri_alloc((size_t)t * sizeof *w);
    mr_data_set info;
    uint32_t set = mri_session_find_set(s, "train", &info);
    mr_status st = 0;
    uint32_t n = mri_exec_instances(s->train);
    for (int64_t r = 0; r < t / seq; r++) {
        int64_t at = r * seq;
        mr_sample m = { sizeof m, 0, x + at, x + t + at, x + 2 * t + at, x + 3 * t + at, w + at };
        MR_TRY(s->data_ops->read(s->data, set, sample + r, &m, err));
        for (int64_t i = 0; i < seq; i++)
            m.seq_start[i] += (int32_t)at;
    }
    mri_batch b = { x, x + 2 * t, x + 3 * t, x + t, NULL, w };
    for (int k = 0; k < 2; k++) {
        mri_params *pp = &p->s[k]->params;
        MR_TRY(p->s[k]->device.ops->fill(p->s[k]->device.dev, p->s[k]->device.stream, pp->grads, 0,
                                         pp->trainable * mr_dtype_bytes(pp->acc_dtype), err));
        MR_TRY(mri_scalar_set(&p->s[k]->scalars, &p->s[k]->device, MRI_LOSS_SEED, 1.0 / (double)t,
                              err));
        MR_TRY(mri_exec_upload(p->s[k]->train, &b, err));
    }
    for (uint32_t i = 0; i < n; i++)
        MR_TRY(lock_step(p, i, MRI_F, err));
    for (uint32_t i = n; i-- > 0;)
        MR_TRY(lock_step(p, i, MRI_B, err));
    for (uint32_t i = n; i-- > 0;) /* empty where weight gradients are part of B */
        MR_TRY(lock_step(p, i, MRI_W, err));
out:
    free(x);
    free(w);
    return st;
}

int cmd_diff(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--tolerance", "--steps", NULL };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    pair p = { .tolerance = 1e-4 };
    mr_status st = 0;
    int code = app_args_parse(a, argc, argv, takes, NULL, &args);
    const char *tolerance = app_arg(&args, "--tolerance"), *steps = app_arg(&args, "--steps");
    int64_t n = steps ? atoll(steps) : 1;
    if (!code && args.positional.n != 2)
        code = app_usage(a, "diff compares two profiles: mrun diff A.ini B.ini");
    if (!code && tolerance && !((p.tolerance = atof(tolerance)) > 0))
        code = app_usage(a, "--tolerance %s: a number above 0", tolerance);
    if (!code && n < 1)
        code = app_usage(a, "--steps %s: a number from 1 on", steps);
    if (code)
        goto done;
    for (int k = 0; k < 2; k++) {
        mri_session_options o = { .needs = MRI_NEED_TRAIN |
                                           (k ? 0 : MRI_NEED_DATA | MRI_NEED_TOKENIZER) };
        MR_TRY(mri_config_load(a->registry, args.positional.v[k], args.sets.v, args.sets.n,
                               &p.c[k], &err));
        p.c[k]->train.recompute = (mr_list){ NULL, 0 };
        p.c[k]->train.fuse = 0;
        MR_TRY(mri_session_open(a->registry, p.c[k], &o, &p.s[k], &err));
    }
    if (mri_exec_instances(p.s[0]->train) != mri_exec_instances(p.s[1]->train) ||
        p.s[0]->train->opt.tokens != p.s[1]->train->opt.tokens) {
        st = mr_fail(&err, MR_E_ARG, MR_BLAME_USER, "the profiles differ in layers or in tokens a "
                                                    "micro-batch");
        goto out;
    }
    MR_TRY(mri_session_init_weights(p.s[0], &err));
    MR_TRY(same_weights(p.s[0], p.s[1], &err));
    for (int64_t i = 0; i < n; i++)
        MR_TRY(one_batch(&p, i * p.c[0]->train.micro_batch, &err));
    printf("%zu op outputs agree within %g; worst %.3g\n", p.ops, p.tolerance, p.worst);
out:
    code = st ? app_fail(a, &err) : EXIT_OK;
done:
    for (int k = 0; k < 2; k++) {
        forget(&p.seen[k]);
        free(p.seen[k].v);
        mri_session_close(p.s[k]);
        mri_config_free(p.c[k]);
    }
    app_args_free(&args);
    return code;
}
