/* SPDX-License-Identifier: Apache-2.0
 * Captured steps equal eager ones to the last bit: on the reference backend, whose graphs are
 * lists of calls, and on a GPU. Were an address or a scalar of one step frozen into a graph, the
 * next would differ. Cuts that are wrong are refused, as is a device that records nothing. */
#include "core/run/step.h"
#include <unistd.h>
#include "../plan/tiny.h"

enum { STEPS = 6 };

typedef struct curve {
    double loss[STEPS], norm[STEPS], valid;
    char *weights;
    size_t n;
} curve;

static char *text_file(void)
{
    char *path = mri_format("/tmp/mrun-graphs-%d.txt", (int)getpid());
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    for (int i = 0; i < 2000; i++)
        fputc('a' + (i * i / 7 + i) % 23, f);
    fclose(f);
    return path;
}

/* Routers of zeros, which stay so: equal scores, and of equal ones the first expert is chosen. */
#define ONE_EXPERT "optimizer.groups=*.router.weight:frozen"

static void choose_one_expert(mri_session *s)
{
    mr_err err = MR_ERR_INIT;
    int found = 0;
    for (size_t i = 0; i < s->params.slots.n; i++) {
        const mri_tensor_slot *x = &s->params.slots.v[i];
        float *zeros = mri_alloc(x->n * sizeof *zeros);
        if (strstr(x->name, "router.weight")) {
            kit_ok(mri_params_set(&s->params, &s->device, x, zeros, "f32", &err), &err, x->name);
            found++;
        }
        free(zeros);
    }
    cr_assert_eq(found, 2);
}

/* The last step's gradients: the first expert's only. */
static void expect_one_expert(mri_session *s)
{
    for (size_t i = 0; i < s->params.slots.n; i++) {
        const mri_tensor_slot *x = &s->params.slots.v[i];
        if (!strstr(x->name, ".experts."))
            continue;
        uint64_t one = x->n / (uint64_t)x->desc.type.dim[0];
        double *g = kit_grad(s, x), first = 0, others = 0;
        for (uint64_t k = 0; k < x->n; k++)
            *(k < one ? &first : &others) += fabs(g[k]);
        cr_assert(first > 0 && others == 0, "%s: %g, %g", x->name, first, others);
        free(g);
    }
}

/* Six steps of a growing batch (one micro-batch, then two), `ahead` of them under way at once,
 * then a validation. more: a further setting, or NULL */
static curve train(const char *backend, const char *graph, uint32_t ahead, const char *recipe,
                   const char *more, uint32_t *entries)
{
    bool one_expert = more && !strcmp(more, ONE_EXPERT);
    char *path = text_file(), *choose = mri_format("graph.plugin=%s", graph);
    char *data = mri_format("data.text.path=%s", path);
    char *precision = mri_format("precision.recipe=%s", recipe);
    const char *sets[] = { "train.global_batch=4", "train.rampup_start=2",
                           "train.rampup_increment=2", "train.rampup_samples=8",
                           "train.split_weight_gradient=true", "model.vocab=256",
                           choose, data, precision, "graph.full.warmup=1",
                           "graph.layer.warmup=1", more,
                           one_expert ? "model.llama4.experts_per_token=1" : NULL, NULL };
    mri_session_options o = { .needs = MRI_NEED_UPDATE | MRI_NEED_DATA | MRI_NEED_EVAL };
    tiny t = tiny_open(backend, o, sets);
    mri_session *s = t.s;
    curve c = { .n = s->params.total * mr_dtype_bytes(s->params.dtype) };
    mr_err err = MR_ERR_INIT;
    double bits;
    mr_data_set set;
    if (one_expert)
        choose_one_expert(s);
    for (int begun = 0, ended = 0; ended < STEPS;) {
        if (begun < STEPS && mri_steps_pending(s) <= ahead) {
            kit_ok(mri_step_begin(s, &err), &err, "begin");
            begun++;
            continue;
        }
        mri_step_result r;
        kit_ok(mri_step_end(s, &r, &err), &err, "end");
        cr_assert(r.ok);
        cr_assert_eq(r.step, ended + 1);
        c.loss[ended] = r.loss;
        c.norm[ended++] = r.grad_norm;
    }
    if (one_expert)
        expect_one_expert(s);
    kit_ok(mri_session_evaluate(s, mri_session_find_set(s, "valid", &set), 2, &c.valid, &bits,
                                &err), &err, "evaluate");
    kit_ok(mri_session_evaluate(s, mri_session_find_set(s, "valid", &set), 2, &c.valid, &bits,
                                &err), &err, "evaluate again");
    c.weights = mri_alloc(c.n);
    kit_ok(mri_device_read(&s->device, c.weights, s->params.weights, c.n, &err), &err, "weights");
    *entries = (uint32_t)s->graphs.entries.n;
    for (size_t i = 0; i < s->graphs.entries.n; i++)
        for (size_t k = 0; k < s->graphs.entries.v[i]->graphs.n; k++)
            cr_assert_not_null(s->graphs.entries.v[i]->graphs.v[k], "a piece was never recorded");
    tiny_close(&t);
    remove(path);
    free(path);
    free(choose);
    free(data);
    free(precision);
    return c;
}

static void expect_equal(const curve *a, const curve *b, const char *what)
{
    for (int i = 0; i < STEPS; i++) {
        cr_assert_eq(a->loss[i], b->loss[i], "%s, step %d: loss %.17g and %.17g", what, i + 1,
                     a->loss[i], b->loss[i]);
        cr_assert_eq(a->norm[i], b->norm[i], "%s, step %d: norm %.17g and %.17g", what, i + 1,
                     a->norm[i], b->norm[i]);
    }
    cr_assert_eq(a->valid, b->valid, "%s: validation %.17g and %.17g", what, a->valid, b->valid);
    cr_assert_eq(a->n, b->n);
    cr_assert_eq(memcmp(a->weights, b->weights, a->n), 0, "%s: weights differ", what);
}

static void expect_graphs_equal_none(const char *backend)
{
    static const char *const recipes[] = { "fp32", "bf16" };
    for (int r = 0; r < 2; r++) {
        uint32_t n;
        curve none = train(backend, "none", 0, recipes[r], NULL, &n);
        cr_assert_eq(n, 0, "without a plugin nothing is cut");
        for (int g = 0; g < 2; g++)
            for (uint32_t ahead = 0; ahead < 2; ahead++) {
                curve c = train(backend, g ? "layer" : "full", ahead, recipes[r],
                                NULL, &n);
                cr_assert_eq(n, 3, "%u works: steps of one and two micro-batches, validation", n);
                expect_equal(&none, &c, g ? "layer" : "full");
                free(c.weights);
            }
        free(none.weights);
    }
}

/* Rows are bounds: an expert may get every token, and the others none. */
static void expect_graphs_take_one_expert(const char *backend)
{
    static const char *const recipes[] = { "fp32", "bf16" };
    for (int r = 0; r < 2; r++) {
        uint32_t n;
        curve none = train(backend, "none", 0, recipes[r], ONE_EXPERT, &n);
        curve full = train(backend, "full", 1, recipes[r], ONE_EXPERT, &n);
        expect_equal(&none, &full, "one expert");
        free(none.weights);
        free(full.weights);
    }
}

Test(graphs, full_and_layer_equal_none_to_the_last_bit)
{
    expect_graphs_equal_none("ref");
}

Test(graphs, all_tokens_to_one_expert_equal_eager_ones)
{
    expect_graphs_take_one_expert("ref");
}

Test(graphs, on_a_gpu_too)
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
    expect_graphs_equal_none("cuda");
    expect_graphs_take_one_expert("cuda");
}

Test(graphs, a_backend_that_records_nothing_is_refused)
{
    const char *const sets[] = { "graph.plugin=full", TINY_MODEL, "backend.plugin=cpu", NULL };
    kit k = { 0 };
    mr_err err = MR_ERR_INIT;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE };
    size_t n = 0;
    while (sets[n])
        n++;
    k.registry = mri_registry_create(NULL);
    mri_registry_offer(k.registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(k.registry, MR_EXT_JSON, &mri_json_service);
    kit_ok(mri_registry_set_op_hook(k.registry, mri_op_register, &err), &err, "op hook");
    kit_ok(mri_config_load(k.registry, NULL, sets, n, &k.config, &err), &err, "config");
    cr_assert_eq(mri_session_open(k.registry, k.config, &o, &k.session, &err),
                 MR_E_PROFILE_CONFLICT);
    cr_assert_not_null(strstr(err.what, "graph"), "%s", err.what);
    cr_assert_not_null(strstr(err.hint, "none"), "%s", err.hint);
    kit_close(&k);
}

/* ---- cuts ---------------------------------------------------------------------------------- */

static uint32_t no_warmup(void *graph)
{
    (void)graph;
    return 0;
}

static mr_status one_number_for_each_kind(void *graph, const mr_work *w, uint32_t *piece,
                                          mr_err *err)
{
    (void)graph, (void)err;
    for (uint32_t i = 0; i < w->n_items; i++)
        piece[i] = 1 + w->item[i].instance % 2; /* 1 2 1 2: other work under an old number */
    return MR_OK;
}

Test(graphs, a_number_given_to_other_work_is_refused)
{
    static const mr_graph_ops wrong = { .size = sizeof wrong, .warmup = no_warmup,
                                        .cut = one_number_for_each_kind };
    mri_session_options o = { .needs = MRI_NEED_EVAL };
    tiny t = tiny_open("ref", o, NULL);
    mr_err err = MR_ERR_INIT;
    t.s->graphs.ops = &wrong;
    cr_assert_eq(mri_graphs_forward(&t.s->graphs, t.s->eval, &err), MR_E_PROGRAM);
    cr_assert_not_null(strstr(err.what, "other work"), "%s", err.what);
    t.s->graphs.ops = NULL;
    tiny_close(&t);
}

/* An op that cannot be recorded: graph/full names it, and what it takes the place of stays. */
Test(graphs, full_names_the_op_that_stands_in_the_way)
{
    const char *const sets[] = { "graph.plugin=full", NULL };
    mri_session_options o = { .needs = MRI_NEED_EVAL };
    tiny t = tiny_open("ref", o, sets);
    mr_err err = MR_ERR_INIT;
    mri_plan *pl = t.s->eval->plans.v[1];
    pl->steps[MRI_F].v[2].info.flags &= ~(uint32_t)MR_K_CAPTURABLE;
    cr_assert_eq(mri_graphs_forward(&t.s->graphs, t.s->eval, &err), MR_E_UNSUPPORTED);
    const char *id = pl->prog->nodes.v[pl->steps[MRI_F].v[2].node].def->id;
    cr_assert_not_null(strstr(err.what, id), "%s names no %s", err.what, id);
    tiny_close(&t);
}
