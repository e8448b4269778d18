/* SPDX-License-Identifier: Apache-2.0
 *
 * gradcheck.c - `mrun grad-check PROFILE.ini [--samples N] [--tolerance X]`: the model's
 * gradients against central finite differences of its loss.
 *
 * The profile's model is run with the ref backend in fp64, on one batch of its data or of
 * pseudo-random ids, and N elements of every parameter are moved by +-h. What is differentiated
 * is all that the model minimises: the language-model loss and its auxiliary losses.
 */
#include "core/base/rng.h"
#include "core/run/session.h"
#include "model_args.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct check {
    mri_session *s;
    mri_batch batch;
    int64_t samples;
    double tolerance, worst;
    uint64_t n, bad;
    const char *worst_name;
} check;

/* total of all losses, as the backward sees them */
static mr_status total_loss(check *c, double *loss, mr_err *err)
{
    mri_exec *e = c->s->train;
    double weight = 0;
    *loss = 0;
    for (int64_t i = 0; i < e->opt.tokens; i++)
        weight += c->batch.loss_weight[i];
    mr_status st = mri_exec_forward(e, err);
    for (size_t i = 0; i < e->losses.n && !st; i++) {
        const mri_frame *f = mri_exec_frame(e, 0, e->losses.v[i].instance);
        int32_t o = mri_plan_port_find(f->plan->outputs.v, f->plan->outputs.n, e->losses.v[i].name);
        const mr_type *t = &f->plan->outputs.v[o].type;
        double raw = 0, x = 0;
        st = mri_device_read(&c->s->device, &raw, f->output[o], mr_bytes(t), err);
        if (!st)
            st = mri_convert(&x, "f64", &raw, t->dtype, 1, err);
        *loss += x / weight;
    }
    return st;
}

static mr_status nudge(check *c, const mri_tensor_slot *slot, uint64_t i, double x, mr_err *err)
{
    char *p = mri_params_weight(&c->s->params, slot);
    return mri_device_write(&c->s->device, p + i * sizeof x, &x, sizeof x, err);
}

static mr_status check_slot(check *c, const mri_tensor_slot *slot, double *scale, mr_err *err)
{
    mr_status st = 0;
    double *g = mri_alloc(slot->n * sizeof *g), *w = mri_alloc(slot->n * sizeof *w), worst = 0;
    const void *grad = mri_params_grad(&c->s->params, slot);
    mri_rng rng = mri_rng_named(7, slot->name);
    if (!grad) /* frozen */
        goto out;
    MR_TRY(mri_device_read(&c->s->device, g, grad, slot->n * sizeof *g, err));
    MR_TRY(mri_device_read(&c->s->device, w, mri_params_weight(&c->s->params, slot),
                           slot->n * sizeof *w, err));
    *scale = 0;
    for (uint64_t i = 0; i < slot->n; i++)
        *scale = fabs(g[i]) > *scale ? fabs(g[i]) : *scale;
    for (int64_t k = 0; k < c->samples; k++) {
        uint64_t i = mri_rng_bits(rng, (uint64_t)k) % slot->n;
        double h = 1e-5 * fmax(1, fabs(w[i])), up, down;
        MR_TRY(nudge(c, slot, i, w[i] + h, err));
        MR_TRY(total_loss(c, &up, err));
        MR_TRY(nudge(c, slot, i, w[i] - h, err));
        MR_TRY(total_loss(c, &down, err));
        MR_TRY(nudge(c, slot, i, w[i], err));
        double numeric = (up - down) / (2 * h);
        double error = fabs(numeric - g[i]) / fmax(*scale, 1e-6);
        c->n++;
        worst = error > worst ? error : worst;
        if (error > c->tolerance)
            c->bad++;
    }
    printf("%-64s %10llu elements  scale %.3e  worst %.2e%s\n", slot->name,
           (unsigned long long)slot->n, *scale, worst, worst > c->tolerance ? "  WRONG" : "");
    if (worst >= c->worst) {
        c->worst = worst;
        c->worst_name = slot->name;
    }
out:
    free(g);
    free(w);
    return st;
}

static void make_batch(check *c, int32_t *ints, float *weight)
{
    int64_t t = c->s->train->opt.tokens, seq = c->s->config->train.seq;
    mri_rng rng = mri_rng_named((uint64_t)c->s->config->run.seed, "grad-check");
    for (int64_t i = 0; i < t; i++) {
        ints[i] = (int32_t)(mri_rng_bits(rng, (uint64_t)i) % (uint64_t)c->s->info.vocab);
        ints[t + i] = (int32_t)(i % seq);
        ints[2 * t + i] = (int32_t)(i / seq * seq);
        weight[i] = (i + 1) % seq ? 1 : 0;
    }
    for (int64_t i = 0; i < t; i++)
        ints[3 * t + i] = ints[i + 1 < t ? i + 1 : i];
    c->batch = (mri_batch){ ints, ints + t, ints + 2 * t, ints + 3 * t, NULL, weight };
}

static mr_status run(check *c, mr_err *err)
{
    int64_t t = c->s->train->opt.tokens;
    int32_t *ints = mri_alloc((size_t)t * 4 * 4);
    float *weight = mri_alloc((size_t)t * 4);
    mri_step_result r;
    mr_status st = 0;
    make_batch(c, ints, weight);
    MR_TRY(mri_session_init_weights(c->s, err));
    MR_TRY(mri_session_gradients_of(c->s, &c->batch, &r, err));
    for (size_t i = 0; i < c->s->params.slots.n; i++) {
        double scale;
        MR_TRY(check_slot(c, &c->s->params.slots.v[i], &scale, err));
    }
out:
    free(ints);
    free(weight);
    return st;
}

int cmd_gradcheck(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--hf", "--samples", "--tolerance", NULL };
    static const char *const extra[] = { "backend.plugin=ref", "precision.recipe=fp64",
                                         "train.steps=1", "optimizer.warmup=0" };
    app_args args = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_config *cfg = NULL;
    check c = { .samples = 4, .tolerance = 1e-5, .worst_name = "" };
    mri_session_options o = { .needs = MRI_NEED_TRAIN };
    mr_status st = 0;
    int code = app_args_parse(a, argc, argv, takes, NULL, &args);
    const char *samples = app_arg(&args, "--samples"), *tolerance = app_arg(&args, "--tolerance");
    if (samples && (c.samples = atoll(samples)) < 1)
        code = code ? code : app_usage(a, "--samples %s: a number from 1 on", samples);
    if (tolerance && !((c.tolerance = atof(tolerance)) > 0))
        code = code ? code : app_usage(a, "--tolerance %s: a number above 0", tolerance);
    if (code)
        goto done;
    MR_TRY(app_model_config(a, &args, extra, 4, &cfg, &err));
    MR_TRY(mri_session_open(a->registry, cfg, &o, &c.s, &err));
    MR_TRY(run(&c, &err));
    printf("%llu of %llu derivatives agree within %g of their tensor's largest; worst %.2e in %s\n",
           (unsigned long long)(c.n - c.bad), (unsigned long long)c.n, c.tolerance, c.worst,
           c.worst_name);
out:
    code = st ? app_fail(a, &err) : c.bad ? EXIT_RUN : EXIT_OK;
done:
    mri_session_close(c.s);
    mri_config_free(cfg);
    app_args_free(&args);
    return code;
}
