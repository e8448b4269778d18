/* SPDX-License-Identifier: Apache-2.0
 *
 * A device that is watched for timing shows every op of a training step, the update's too,
 * between marks that follow each other, and computes what an unwatched one does.
 */
#include "tiny.h"

typedef struct watcher {
    mri_device *device;
    void *last; /* the mark after the step before */
    size_t steps, updates;
    bool marks; /* the device has a timer */
} watcher;

static mr_status look(void *ctx, const mri_trace_step *t, mr_err *err)
{
    watcher *w = ctx;
    double gap = 0, own = 0;
    w->steps++;
    w->updates += !strcmp(t->node->def->id, "adamw");
    cr_assert_eq(!t->before || !t->after, !w->marks);
    if (!w->marks)
        return 0;
    const mr_timer *timer = w->device->timer;
    if (w->last)
        kit_ok(timer->elapsed_us(w->device->dev, w->last, t->before, &gap, err), err, "gap");
    kit_ok(timer->elapsed_us(w->device->dev, t->before, t->after, &own, err), err, "own");
    cr_assert(gap >= 0 && own >= 0, "%s: %g us after %g", t->node->def->id, own, gap);
    timer->destroy(w->device->dev, t->before);
    if (w->last)
        timer->destroy(w->device->dev, w->last);
    w->last = t->after;
    return 0;
}

static size_t planned_steps(const mri_session *s)
{
    size_t n = 0;
    for (size_t i = 0; i < s->train->frames.n; i++)
        for (int phase = 0; phase < MRI_PHASES; phase++)
            n += s->train->frames.v[i].plan->steps[phase].n;
    return n;
}

static void watch(const char *backend, bool with_timer)
{
    tiny plain = tiny_open(backend, (mri_session_options){ .needs = MRI_NEED_UPDATE }, NULL);
    tiny seen = tiny_open(backend, (mri_session_options){ .needs = MRI_NEED_UPDATE }, NULL);
    watcher w = { .device = &seen.s->device, .marks = with_timer };
    mri_trace trace = { .fn = look, .ctx = &w, .timing = true };
    mri_update_result u[2];
    mr_err err = MR_ERR_INIT;
    cr_assert_not_null(seen.s->device.timer);
    if (!with_timer)
        seen.s->device.timer = NULL;
    seen.s->device.watch = &trace;
    size_t n[2];
    plain.poison = seen.poison = (mri_trace){ 0 };
    char *a = tiny_gradients(&plain, 5, &n[0]);
    mri_batch b = kit_batch(TINY_ROWS, TINY_SEQ, TINY_VOCAB, 5);
    mri_step_result r;
    kit_ok(mri_session_gradients_of(seen.s, &b, &r, &err), &err, "gradients");
    kit_batch_free(&b);
    cr_assert_eq(w.steps, planned_steps(seen.s));
    cr_assert_arr_eq(a, seen.s->params.grads, n[0]);
    kit_ok(mri_update_run(plain.s->update, 0.01, 0.1, 1, &u[0], &err), &err, "update");
    kit_ok(mri_update_run(seen.s->update, 0.01, 0.1, 1, &u[1], &err), &err, "update");
    cr_assert_eq(w.updates, seen.s->update->parts.n);
    cr_assert_eq(u[0].grad_norm, u[1].grad_norm);
    if (w.last)
        seen.s->device.timer->destroy(seen.s->device.dev, w.last);
    free(a);
    tiny_close(&plain);
    tiny_close(&seen);
}

Test(timing, marks_every_op_of_a_step)
{
    watch("ref", true);
}

Test(timing, does_without_a_timer)
{
    watch("ref", false);
}

/* ---- names for a profiler ------------------------------------------------------------------ */

static struct {
    int depth, deepest, layers, regions;
} names;

static void push(void *dev, const char *name)
{
    (void)dev;
    names.depth++;
    names.deepest = names.depth > names.deepest ? names.depth : names.deepest;
    names.layers += names.depth == 2 && !strcmp(name, "model.layers.2.");
    names.regions += names.depth == 3 && strstr(name, "core_attn");
}

static void pop(void *dev)
{
    (void)dev;
    names.depth--;
    cr_assert_geq(names.depth, 0);
}

Test(timing, names_phase_block_and_region)
{
    static const mr_timer timer = { .size = sizeof timer, .push = push, .pop = pop };
    tiny t = tiny_open("ref", (mri_session_options){ 0 }, NULL);
    size_t n;
    t.s->device.timer = &timer;
    free(tiny_gradients(&t, 1, &n));
    cr_assert_eq(names.depth, 0);
    cr_assert_eq(names.deepest, 3);
    cr_assert_eq(names.layers, 2, "forward and backward of one layer: %d", names.layers);
    cr_assert_geq(names.regions, 8, "of four layers: %d", names.regions);
    tiny_close(&t);
}
