/* SPDX-License-Identifier: Apache-2.0
 *
 * How a plan keeps or computes again what the backward needs, shares memory and delays weight
 * gradients changes no bit of any gradient, on either backend, with every dead buffer poisoned.
 */
#include "tiny.h"
#include <criterion/parameterized.h>

static const char *const backends[] = { "ref", "cpu" };

typedef struct variant {
    char backend[8], set[64];
    int32_t stress, guard;
    int32_t saves; /* against the plain plan: -1 less, 0 equal, 1 more, 2 none at all */
} variant;

ParameterizedTestParameters(plan, gradients_are_equal_to_the_last_bit)
{
    static const struct {
        const char *set;
        int32_t stress, guard, saves;
    } row[] = {
        { "train.recompute=core_attn", 0, 0, -1 },
        { "train.recompute=moe_act", 0, 0, -1 },
        { "train.recompute=layernorm", 0, 0, -1 },
        { "train.recompute=shared_experts", 0, 0, -1 },
        { "train.recompute=mlp", 0, 0, -1 },
        { "train.recompute=moe", 0, 0, -1 },
        { "train.recompute=moe_router,moe_dispatch,moe_experts,moe_combine", 0, 0, -1 },
        { "train.recompute=layernorm,moe_act,core_attn", 0, 0, -1 },
        { "train.recompute=full", 0, 0, 2 },
        { "train.split_weight_gradient=true", 0, 0, 0 },
        { "train.recompute=none", 1, 0, 0 },
        { "train.recompute=none", 0, 1, 1 },
        { "train.recompute=full", 1, 1, 2 },
    };
    enum { ROWS = sizeof row / sizeof *row };
    static variant all[2 * ROWS];
    for (int b = 0; b < 2; b++)
        for (int i = 0; i < ROWS; i++) {
            variant *v = &all[b * ROWS + i];
            snprintf(v->backend, sizeof v->backend, "%s", backends[b]);
            snprintf(v->set, sizeof v->set, "%s", row[i].set);
            v->stress = row[i].stress;
            v->guard = row[i].guard;
            v->saves = row[i].saves;
        }
    return cr_make_param_array(variant, all, 2 * ROWS);
}

ParameterizedTest(variant *v, plan, gradients_are_equal_to_the_last_bit)
{
    size_t n, m;
    tiny a = tiny_open(v->backend, (mri_session_options){ 0 }, NULL);
    char *x = tiny_gradients(&a, 5, &n);
    tiny b = tiny_open(v->backend,
                       (mri_session_options){ .stress = v->stress != 0, .guard = v->guard != 0 },
                       (const char *const[]){ v->set, NULL });
    char *y = tiny_gradients(&b, 5, &m);
    cr_assert_eq(n, m);
    bool any = false;
    for (size_t i = 0; i < n; i++)
        any |= x[i] != 0;
    cr_assert(any, "all gradients are zero");
    for (size_t i = 0; i < a.s->params.slots.n; i++) {
        const mri_tensor_slot *s = &a.s->params.slots.v[i];
        cr_assert_eq(memcmp(x + 4 * s->at, y + 4 * s->at, 4 * s->n), 0, "%s, %s: %s differs",
                     v->backend, v->set, s->name);
    }
    uint64_t plain = tiny_saved(&a), saved = tiny_saved(&b);
    bool ok = v->saves == 2 ? saved == 0
            : v->saves < 0  ? saved < plain
            : v->saves      ? saved > plain
                            : saved == plain;
    cr_assert(ok, "%s, %s: saved %llu bytes, without it %llu", v->backend, v->set,
              (unsigned long long)saved, (unsigned long long)plain);
    free(x);
    free(y);
    tiny_close(&a);
    tiny_close(&b);
}

/* The poison that the comparisons above rely on: a saved buffer that dies one step too early is
 * read as NaN. */
Test(plan, poison_shows_a_buffer_that_dies_too_early)
{
    size_t n;
    tiny t = tiny_open("ref", (mri_session_options){ 0 }, NULL);
    mri_plan *pl = t.s->train->plans.v[1];
    mri_step *last = NULL, *before = NULL;
    for (size_t i = 1; i < pl->steps[MRI_B].n && !last; i++)
        if (pl->steps[MRI_B].v[i].dead.n && pl->steps[MRI_B].v[i].dead.v[0].seg == MRI_SEG_SAVED) {
            last = &pl->steps[MRI_B].v[i];
            before = last - 1;
        }
    cr_assert_not_null(last);
    mri_addr at = last->dead.v[0];
    uint64_t bytes = last->dead_bytes.v[0];
    MRI_PUSH(&before->dead, at);
    MRI_PUSH(&before->dead_bytes, bytes);
    float *g = (float *)tiny_gradients(&t, 5, &n);
    bool nan = false;
    for (size_t i = 0; i < n / 4; i++)
        nan |= isnan(g[i]);
    cr_assert(nan, "%llu bytes of NaN passed unseen", (unsigned long long)bytes);
    free(g);
    tiny_close(&t);
}

/* The sums of two micro-batches are those of one batch that holds both (the losses are sums
 * over tokens, each micro-batch seeded with one over all tokens). Router losses are means over
 * a micro-batch, so they stay out of this model. */
Test(plan, micro_batches_accumulate_to_the_whole_batch)
{
    for (int b = 0; b < 2; b++) {
        const char *const plain[] = { "model.llama4.aux_loss=0", "model.llama4.z_loss=0", NULL };
        const char *const twice[] = { "model.llama4.aux_loss=0", "model.llama4.z_loss=0",
                                      "train.micro_batch=4", "train.global_batch=4", NULL };
        tiny half = tiny_open(backends[b], (mri_session_options){ 0 }, plain);
        tiny whole = tiny_open(backends[b], (mri_session_options){ 0 }, twice);
        mri_session *s = half.s;
        mri_batch all = kit_batch(4, TINY_SEQ, TINY_VOCAB, 9);
        mri_step_result r;
        mr_err err = MR_ERR_INIT;
        kit_ok(mri_session_gradients_of(whole.s, &all, &r, &err), &err, "whole");
        cr_assert_eq(r.weight, 4 * (TINY_SEQ - 1));
        kit_ok(s->device.ops->fill(s->device.dev, s->device.stream, s->params.grads, 0,
                                   s->params.trainable * 4, &err), &err, "zero");
        kit_ok(mri_scalar_set(&s->scalars, &s->device, MRI_LOSS_SEED, 1 / r.weight, &err), &err,
               "seed");
        for (int64_t m = 0; m < 2; m++) {
            int64_t at = m * 2 * TINY_SEQ;
            mri_batch part = { all.tokens + at, all.positions + at, all.seq_start,
                               all.targets + at, NULL, all.loss_weight + at };
            kit_ok(mri_exec_upload(s->train, &part, &err), &err, "upload");
            kit_ok(mri_exec_forward(s->train, &err), &err, "forward");
            kit_ok(mri_exec_backward(s->train, &err), &err, "backward");
        }
        for (size_t i = 0; i < s->params.slots.n; i++) {
            double *x = kit_grad(s, &s->params.slots.v[i]);
            double *y = kit_grad(whole.s, &whole.s->params.slots.v[i]), scale = 0, off = 0;
            for (uint64_t k = 0; k < s->params.slots.v[i].n; k++) {
                scale = fmax(scale, fabs(y[k]));
                off = fmax(off, fabs(x[k] - y[k]));
            }
            cr_assert(scale > 0 && off <= 2e-5 * scale, "%s: off by %g of %g",
                      s->params.slots.v[i].name, off, scale);
            free(x);
            free(y);
        }
        kit_batch_free(&all);
        tiny_close(&half);
        tiny_close(&whole);
    }
}

/* Equal blocks have equal ids, whoever compiles them and whenever; whatever changes the plan
 * changes the id of the kinds that it changes, and of no other. */
static void ids(const char *const *more, mri_session_options o, uint64_t *out, uint32_t *n)
{
    tiny t = tiny_open("cpu", o, more);
    *n = 0;
    for (size_t k = 0; k < t.s->train->plans.n; k++)
        out[(*n)++] = t.s->train->plans.v[k]->id;
    tiny_close(&t);
}

Test(plan, ids_tell_plans_apart)
{
    static const struct {
        const char *set;
        bool stress;
        const char *changes; /* by kind, in order: embed, dense, moe, moe.nope, head */
    } row[] = {
        { "run.seed=99", false, "....." },
        { "optimizer.lr=1", false, "....." },
        { "train.micro_batch=3", false, "xxxxx" },
        { "train.recompute=core_attn", false, ".xxx." },
        { "train.recompute=moe_act", false, "..xx." },
        { "train.recompute=mlp", false, ".x..." },
        { "train.split_weight_gradient=true", false, "xxxxx" },
        { "model.norm_eps=1e-3", false, ".xxxx" },
        { "model.llama4.z_loss=0.02", false, "..xx." },
        { "model.llama4.attention_chunk=6", false, ".xx.." },
        { "model.vocab=24", false, "x...x" },
        { "run.deterministic=false", false, "xxxxx" },
        { "optimizer.lr=1", true, "xxxxx" },
    };
    uint64_t base[8], other[8];
    uint32_t n, m;
    ids(NULL, (mri_session_options){ 0 }, base, &n);
    cr_assert_eq(n, 5);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++) {
        const char *const more[] = { row[i].set, NULL };
        ids(more, (mri_session_options){ .stress = row[i].stress }, other, &m);
        cr_assert_eq(m, n);
        for (uint32_t k = 0; k < n; k++)
            cr_assert_eq(base[k] != other[k], row[i].changes[k] == 'x',
                         "%s%s: the id of kind %u %s", row[i].set,
                         row[i].stress ? " (stress)" : "", k,
                         base[k] == other[k] ? "stays" : "changes");
    }
}
