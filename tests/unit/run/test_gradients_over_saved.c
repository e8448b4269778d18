/* SPDX-License-Identifier: Apache-2.0
 * Where a step is one micro-batch the main gradients lie over saved values, and nothing else
 * changes: losses, norms and weights are those of memory that is not shared, to the last bit,
 * whatever lay in the arena before (NaN here), and dead values may be overwritten as soon as the
 * plan says so. Steps of several micro-batches, and weight gradients that come later, keep
 * gradients of their own. */
#include "core/run/step.h"
#include "../plan/tiny.h"
#include <unistd.h>

enum { STEPS = 4 };

typedef struct run {
    double loss[STEPS], norm[STEPS];
    char *weights;
    size_t n;
    uint64_t arena, main, shared, parameters, summed;
} run;

static char *text_file(void)
{
    char *path = mri_format("/tmp/mrun-over-%d.txt", (int)getpid());
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    for (int i = 0; i < 2000; i++)
        fputc('a' + (i * i / 5 + i) % 23, f);
    fclose(f);
    return path;
}

static void poison(mri_session *s)
{
    mr_err err = MR_ERR_INIT;
    kit_ok(s->device.ops->fill(s->device.dev, s->device.stream, s->arena, 0xff, s->arena_bytes,
                               &err), &err, "poison");
}

/* The step's norm is that of the gradients as they lie there, though part of it was added up by
 * the kernels that made them. */
static void expect_norm(mri_session *s, double norm)
{
    size_t n = s->params.trainable;
    float *g = mri_alloc(n * sizeof *g);
    double sum = 0;
    mr_err err = MR_ERR_INIT;
    kit_ok(mri_device_read(&s->device, g, s->params.grads, n * sizeof *g, &err), &err, "read");
    for (size_t i = 0; i < n; i++)
        sum += (double)g[i] * g[i];
    cr_assert(sum > 0 && fabs(norm - sqrt(sum)) <= 1e-6 * norm, "norm %.9g, of the gradients %.9g",
              norm, sqrt(sum));
    free(g);
}

/* more: a further setting */
static run train(const char *backend, bool stress, bool dirty, const char *more)
{
    char *path = text_file(), *data = mri_format("data.text.path=%s", path);
    const char *sets[] = { "model.vocab=256", "train.micro_batch=2", "train.global_batch=2", data,
                           more, NULL };
    tiny t = tiny_open(backend, (mri_session_options){ .needs = MRI_NEED_UPDATE | MRI_NEED_DATA,
                                                       .stress = stress }, sets);
    mri_session *s = t.s;
    run r = { .n = s->params.total * mr_dtype_bytes(s->params.dtype), .arena = s->arena_bytes };
    mri_memory m;
    mr_err err = MR_ERR_INIT;
    mri_session_memory(s, &m);
    r.main = s->train->main_bytes;
    for (size_t i = 0; i < s->train->summed.n; i++)
        r.summed += s->train->summed.v[i].n;
    r.shared = m.shared;
    r.parameters = m.parameters;
    for (int i = 0; i < STEPS; i++) {
        mri_step_result x;
        if (dirty)
            poison(s);
        s->train->trace = dirty && i % 2 ? &t.poison : NULL;
        kit_ok(mri_session_train_step(s, &x, &err), &err, "step");
        cr_assert(x.ok, "step %d: norm %g", i, x.grad_norm);
        r.loss[i] = x.loss;
        r.norm[i] = x.grad_norm;
        expect_norm(s, x.grad_norm);
    }
    r.weights = mri_alloc(r.n);
    kit_ok(mri_device_read(&s->device, r.weights, s->params.weights, r.n, &err), &err, "weights");
    tiny_close(&t);
    remove(path);
    free(path);
    free(data);
    return r;
}

static void expect_equal(const run *a, const run *b, const char *what)
{
    for (int i = 0; i < STEPS; i++) {
        cr_assert_eq(a->loss[i], b->loss[i], "%s, step %d: loss %.17g and %.17g", what, i,
                     a->loss[i], b->loss[i]);
        cr_assert_eq(a->norm[i], b->norm[i], "%s, step %d: norm %.17g and %.17g", what, i,
                     a->norm[i], b->norm[i]);
    }
    cr_assert_eq(memcmp(a->weights, b->weights, a->n), 0, "%s: weights differ", what);
}

static void over_equals_apart(const char *backend, const char *more)
{
    run apart = train(backend, true, false, more), over = train(backend, false, true, more);
    cr_assert_eq(apart.main, 0);
    cr_assert_gt(over.main, 0, "gradients lie apart");
    cr_assert_gt(over.shared, 0, "nothing is shared");
    cr_assert_eq(over.parameters, apart.parameters, "gradients count with the parameters");
    expect_equal(&apart, &over, more);
    free(apart.weights);
    free(over.weights);
}

Test(gradients_over_saved, equal_those_apart_to_the_last_bit)
{
    static const char *const more[] = { "run.seed=3", "precision.recipe=bf16",
                                        "model.llama4.tie=true", "train.recompute=full",
                                        "optimizer.groups=*.self_attn.*:lr_mult=0.5",
                                        "optimizer.groups=model.layers.1.*:frozen" };
    for (size_t i = 0; i < sizeof more / sizeof *more; i++)
        over_equals_apart("ref", more[i]);
    over_equals_apart("cpu", "run.seed=3");
}

Test(gradients_over_saved, on_a_gpu_too)
{
    mri_registry *reg = mri_registry_create(NULL);
    const mr_unit *unit;
    mr_err err = MR_ERR_INIT;
    uint32_t n = 0;
    bool there = !mri_registry_find(reg, "backend", "cuda", &unit, &err) &&
                 !((const mr_backend_ops *)unit->table)
                      ->count(mri_registry_host(reg), NULL, &n, &err) && n;
    mri_registry_free(reg);
    if (!there)
        cr_skip_test("no GPU, or no backend/cuda in this build");
    over_equals_apart("cuda", "run.seed=3");
    over_equals_apart("cuda", "precision.recipe=bf16");
}

Test(gradients_over_saved, take_the_saved_values_room)
{
    run over = train("ref", false, false, "run.seed=3");
    run two = train("ref", false, false, "train.global_batch=4");
    run late = train("ref", false, false, "train.split_weight_gradient=true");
    cr_assert_eq(two.summed, 0, "the second micro-batch changes what the first summed");
    cr_assert_gt(over.summed, 0);
    cr_assert_gt(late.summed, 0);
    cr_assert_eq(two.main, 0, "the second micro-batch adds to what the first left");
    cr_assert_eq(late.main, 0, "weight gradients come after the last block's backward");
    cr_assert_eq(over.parameters, two.parameters);
    cr_assert_lt(over.arena, two.arena + over.main - over.shared + 4096, "%llu, apart %llu + %llu",
                 (unsigned long long)over.arena, (unsigned long long)two.arena,
                 (unsigned long long)over.main);
    free(over.weights);
    free(two.weights);
    free(late.weights);
}
