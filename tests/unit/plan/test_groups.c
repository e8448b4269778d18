/* SPDX-License-Identifier: Apache-2.0
 *
 * Parameters across blocks and groups: a tied parameter gets the sum of both gradients, a
 * frozen one none and never moves, and rate and decay multipliers act on what their pattern
 * names and on nothing else.
 */
#include "tiny.h"

/* gradient of a parameter, as doubles; the caller frees */
static double *grad_of(mri_session *s, const char *name, uint64_t *n)
{
    int64_t i = mri_params_find(&s->params, name);
    cr_assert_geq(i, 0, "no parameter %s", name);
    *n = s->params.slots.v[i].n;
    return kit_grad(s, &s->params.slots.v[i]);
}

static void set_weight(mri_session *s, const char *name, const void *f32)
{
    mr_err err = MR_ERR_INIT;
    int64_t i = mri_params_find(&s->params, name);
    cr_assert_geq(i, 0, "no parameter %s", name);
    kit_ok(mri_params_set(&s->params, &s->device, &s->params.slots.v[i], f32, "f32", &err), &err,
           name);
}

static float *weight_of(mri_session *s, const mri_tensor_slot *slot)
{
    mr_err err = MR_ERR_INIT;
    float *w = mri_alloc(slot->n * 4);
    kit_ok(mri_device_read(&s->device, w, mri_params_weight(&s->params, slot), slot->n * 4, &err),
           &err, slot->name);
    return w;
}

Test(groups, a_tied_parameter_sums_both_gradients)
{
    static const char head[] = "lm_head.weight", table[] = "model.embed_tokens.weight";
    const char *const tie[] = { "model.llama4.tie=true", NULL };
    tiny two = tiny_open("ref", (mri_session_options){ 0 }, NULL);
    tiny one = tiny_open("ref", (mri_session_options){ 0 }, tie);
    size_t n;
    uint64_t m;
    cr_assert_eq(mri_params_find(&one.s->params, head), -1);
    cr_assert_eq(one.s->params.slots.n + 1, two.s->params.slots.n);
    float *w = weight_of(one.s, &one.s->params.slots.v[mri_params_find(&one.s->params, table)]);
    set_weight(two.s, table, w);
    set_weight(two.s, head, w);
    free(tiny_gradients(&one, 3, &n));
    free(tiny_gradients(&two, 3, &n));
    double *sum = grad_of(one.s, table, &m), *a = grad_of(two.s, table, &m),
           *b = grad_of(two.s, head, &m), scale = 0;
    for (uint64_t i = 0; i < m; i++)
        scale = fmax(scale, fabs(sum[i]));
    for (uint64_t i = 0; i < m; i++)
        cr_assert_float_eq(sum[i], a[i] + b[i], 1e-6 * scale, "element %llu",
                           (unsigned long long)i);
    free(w);
    free(sum);
    free(a);
    free(b);
    tiny_close(&one);
    tiny_close(&two);
}

/* One layer of a kind is frozen and its brother is not; a whole block is; a pattern crosses
 * layers. What trains has the gradient that it has without freezing, to the bit. */
Test(groups, frozen_parameters_get_no_gradient)
{
    const char *const frozen[] = {
        "optimizer.groups=model.embed_tokens.*:frozen,model.layers.1.*:frozen,"
        "*.q_proj.weight:frozen", NULL
    };
    for (int backend = 0; backend < 2; backend++) {
        const char *name = backend ? "cpu" : "ref";
        tiny a = tiny_open(name, (mri_session_options){ 0 }, NULL);
        tiny b = tiny_open(name, (mri_session_options){ 0 }, frozen);
        size_t n, held = 0;
        free(tiny_gradients(&a, 4, &n));
        free(tiny_gradients(&b, 4, &n));
        for (size_t i = 0; i < b.s->params.slots.n; i++) {
            const mri_tensor_slot *s = &b.s->params.slots.v[i];
            uint64_t m;
            bool still = strstr(s->name, "embed_tokens") || strstr(s->name, "layers.1.") ||
                         strstr(s->name, "q_proj");
            cr_assert_eq(still, b.s->params.groups.v[s->group].frozen, "%s", s->name);
            held += still;
            if (still) {
                cr_assert_null(mri_params_grad(&b.s->params, s), "%s has room for a gradient",
                               s->name);
                continue;
            }
            double *x = grad_of(a.s, s->name, &m), *y = grad_of(b.s, s->name, &m);
            cr_assert_eq(memcmp(x, y, m * sizeof *x), 0, "%s: %s", name, s->name);
            free(x);
            free(y);
        }
        cr_assert_eq(held, 1 + 12 + 3); /* the table, a mixture layer, queries of the others */
        tiny_close(&a);
        tiny_close(&b);
    }
}

/* ---- steps, on made-up gradients ----------------------------------------------------------- */

static void fill_gradients(mri_session *s)
{
    mr_err err = MR_ERR_INIT;
    float *g = mri_alloc(s->params.trainable * 4);
    for (size_t i = 0; i < s->params.slots.n; i++) {
        const mri_tensor_slot *x = &s->params.slots.v[i];
        for (uint64_t k = 0; mri_params_grad(&s->params, x) && k < x->n; k++)
            g[x->at + k] = 0.01f * (float)((int)(k % 7) - 3);
    }
    kit_ok(mri_device_write(&s->device, s->params.grads, g, s->params.trainable * 4, &err), &err,
           "gradients");
    free(g);
}

Test(groups, rates_and_decays_act_where_their_pattern_says)
{
    const char *const sets[] = {
        "optimizer.plugin=sgd", "optimizer.clip_grad=0",
        "optimizer.groups=model.layers.0.*:lr_mult=0.5,*.o_proj.weight:decay_mult=0,"
        "model.norm.weight:decay_mult=3,model.layers.2.*:frozen", NULL
    };
    const double lr = 0.25, decay = 0.125;
    tiny t = tiny_open("cpu", (mri_session_options){ .needs = MRI_NEED_UPDATE }, sets);
    mri_session *s = t.s;
    mri_update_result u;
    mr_err err = MR_ERR_INIT;
    float **before = mri_alloc(s->params.slots.n * sizeof *before);
    for (size_t i = 0; i < s->params.slots.n; i++)
        before[i] = weight_of(s, &s->params.slots.v[i]);
    fill_gradients(s);
    kit_ok(mri_update_run(s->update, lr, decay, 1, &u, &err), &err, "update");
    cr_assert(u.ok && u.grad_norm > 0);
    for (size_t i = 0; i < s->params.slots.n; i++) {
        const mri_tensor_slot *x = &s->params.slots.v[i];
        float *after = weight_of(s, x);
        bool frozen = strstr(x->name, "layers.2.");
        double rate = lr * (strstr(x->name, "layers.0.") ? 0.5 : 1);
        double d = !strcmp(x->name, "model.norm.weight")               ? 3 * decay
                 : strstr(x->name, "o_proj") || x->desc.type.rank == 1 ? 0
                                                                       : decay;
        for (uint64_t k = 0; k < x->n; k++) {
            double w = before[i][k], g = 0.01 * ((int)(k % 7) - 3);
            double want = frozen ? w : w - rate * (g + d * w);
            cr_assert(frozen ? after[k] == before[i][k] : fabs(after[k] - want) < 1e-6,
                      "%s[%llu]: %.9g became %.9g, expected %.9g", x->name, (unsigned long long)k,
                      w, after[k], want);
        }
        free(after);
        free(before[i]);
    }
    free(before);
    tiny_close(&t);
}

/* Steps that are enqueued before the host has read a bad one's verdict change nothing either; once
 * it has, good ones do again. */
static void put_scalar(void *ctx, const char *name, double value)
{
    mri_session *s = ctx;
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_scalar_set(&s->scalars, &s->device, name, value, &err), &err, name);
}

Test(groups, steps_queued_behind_a_bad_one_change_nothing)
{
    tiny t = tiny_open("cpu", (mri_session_options){ .needs = MRI_NEED_UPDATE }, NULL);
    mri_session *s = t.s;
    mr_err err = MR_ERR_INIT;
    mri_update_result u;
    size_t n = s->params.total * 4;
    char *before = memcpy(mri_alloc(n), s->params.weights, n);
    for (int step = 0; step < 3; step++) { /* the first is bad, its followers are good */
        fill_gradients(s);
        if (!step)
            s->params.grads[3] = (char)0x7f, s->params.grads[2] = (char)0x80; /* infinity */
        mri_update_scalars(s->update, 0.1, 0.1, 1, put_scalar, s);
        kit_ok(mri_update_launch(s->update, false, &err), &err, "launch");
        cr_assert_eq(memcmp(before, s->params.weights, n), 0, "step %d moved weights", step);
    }
    kit_ok(mri_update_rearm(s->update, &err), &err, "rearm");
    kit_ok(mri_update_run(s->update, 0.1, 0.1, 1, &u, &err), &err, "a good step");
    cr_assert(u.ok && memcmp(before, s->params.weights, n));
    free(before);
    tiny_close(&t);
}

/* A gradient that is not finite stops the whole update: not a bit of weights or states moves. */
Test(groups, a_bad_step_changes_nothing)
{
    static const float bad[] = { NAN, INFINITY, -INFINITY };
    tiny t = tiny_open("cpu", (mri_session_options){ .needs = MRI_NEED_UPDATE }, NULL);
    mri_session *s = t.s;
    mri_update_result u;
    mr_err err = MR_ERR_INIT;
    fill_gradients(s);
    kit_ok(mri_update_run(s->update, 0.1, 0.1, 1, &u, &err), &err, "a good step");
    cr_assert(u.ok);
    size_t n = s->params.total * 4;
    char *weights = mri_alloc(n), *now = mri_alloc(n);
    memcpy(weights, s->params.weights, n); /* the cpu backend's memory is the host's */
    for (size_t k = 0; k < 3; k++) {
        const mri_tensor_slot *x = &s->params.slots.v[(k * 11) % s->params.slots.n];
        fill_gradients(s);
        kit_ok(mri_device_write(&s->device, (float *)mri_params_grad(&s->params, x) + x->n - 1,
                                &bad[k], 4, &err), &err, "plant");
        char *states[8];
        for (size_t i = 0; i < s->update->states.n; i++) {
            const mri_opt_state *o = &s->update->states.v[i];
            size_t m = s->params.groups.v[o->group].n * 4;
            cr_assert_lt(i, 8);
            states[i] = memcpy(mri_alloc(m), o->data, m);
        }
        kit_ok(mri_update_run(s->update, 0.1, 0.1, 2, &u, &err), &err, "a bad step");
        cr_assert_not(u.ok, "gradient %g passed", (double)bad[k]);
        memcpy(now, s->params.weights, n);
        cr_assert_eq(memcmp(now, weights, n), 0, "weights moved");
        for (size_t i = 0; i < s->update->states.n; i++) {
            const mri_opt_state *o = &s->update->states.v[i];
            cr_assert_eq(memcmp(states[i], o->data, s->params.groups.v[o->group].n * 4), 0,
                         "state %s moved", o->name);
            free(states[i]);
        }
    }
    free(weights);
    free(now);
    tiny_close(&t);
}
