/* SPDX-License-Identifier: Apache-2.0
 *
 * Memory is predicted from the plans, before any is taken, and the prediction is what the run
 * takes; a run that does not fit is refused with the largest buffers and takes nothing.
 */
#include "wrapped.h"

enum { NEEDS = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_EVAL };

/* large enough that a few fixed lines of scalars are nothing beside it */
#define LARGE "model.hidden=64", "model.ffn_hidden=256", "model.llama4.expert_hidden=128", \
        "model.vocab=512", "train.micro_batch=4"

static void predicted_is_taken(const char *const *more, uint32_t needs)
{
    const char *sets[64] = { "backend.plugin=cpu", TINY_MODEL, LARGE };
    mri_session_options o = { .needs = needs, .slots = 1, .max_seq = 64, .prefill_tokens = 16 };
    mr_err err = MR_ERR_INIT;
    kit dry = { 0 }, real = { 0 };
    mri_memory plan, run;
    size_t n = 0;
    while (sets[n])
        n++;
    for (size_t i = 0; more && more[i]; i++)
        sets[n++] = more[i];
    o.dry = true;
    kit_ok(wrapped_open(&dry, sets, o, &err), &err, "dry");
    cr_assert_leq(wrapped.peak, 65536, "planning took %llu bytes",
                  (unsigned long long)wrapped.peak);
    mri_session_memory(dry.session, &plan);
    kit_close(&dry);
    cr_assert_eq(wrapped.now, 0, "%llu bytes leaked", (unsigned long long)wrapped.now);
    wrapped.peak = 0;

    o.dry = false;
    kit_ok(wrapped_open(&real, sets, o, &err), &err, "real");
    mri_session_memory(real.session, &run);
    uint64_t said = plan.parameters + plan.optimizer + plan.arena + plan.states;
    uint64_t also = run.parameters + run.optimizer + run.arena + run.states;
    cr_assert_eq(said, also, "planned %llu, opened %llu", (unsigned long long)said,
                 (unsigned long long)also);
    cr_assert_float_eq((double)wrapped.peak, (double)said, 0.02 * (double)said,
                       "predicted %llu bytes, taken %llu", (unsigned long long)said,
                       (unsigned long long)wrapped.peak);
    kit_close(&real);
    cr_assert_eq(wrapped.now, 0, "%llu bytes leaked", (unsigned long long)wrapped.now);
    wrapped.peak = 0;
}

Test(memory, prediction_is_what_is_taken)
{
    const char *const sgd[] = { "optimizer.plugin=sgd", NULL };
    const char *const bf16[] = { "precision.recipe=bf16", NULL };
    const char *const remainder[] = { "precision.recipe=bf16", "precision.masters=remainder",
                                      NULL };
    const char *const full[] = { "train.recompute=full", NULL };
    const char *const split[] = { "train.split_weight_gradient=true", NULL };
    const char *const frozen[] = { "optimizer.groups=model.layers.1.*:frozen", NULL };
    predicted_is_taken(NULL, NEEDS);
    predicted_is_taken(NULL, NEEDS | MRI_NEED_DECODE);
    predicted_is_taken(NULL, MRI_NEED_DECODE);
    predicted_is_taken(sgd, NEEDS);
    predicted_is_taken(bf16, NEEDS);
    predicted_is_taken(bf16, MRI_NEED_DECODE);
    predicted_is_taken(remainder, NEEDS);
    predicted_is_taken(remainder, MRI_NEED_DECODE);
    predicted_is_taken(full, NEEDS);
    predicted_is_taken(split, NEEDS);
    predicted_is_taken(frozen, NEEDS);
}

Test(memory, what_does_not_fit_is_refused_untaken)
{
    static const char *const sets[] = { "backend.plugin=cpu", TINY_MODEL, LARGE, NULL };
    mr_err err = MR_ERR_INIT;
    kit k = { 0 };
    mri_memory m;
    kit_ok(wrapped_open(&k, sets, (mri_session_options){ .needs = NEEDS, .dry = true }, &err),
           &err, "dry");
    mri_session_memory(k.session, &m);
    kit_close(&k);
    uint64_t need = m.parameters + m.optimizer + m.arena + m.states;

    wrapped.limit = need; /* just enough */
    kit_ok(wrapped_open(&k, sets, (mri_session_options){ .needs = NEEDS }, &err), &err, "fits");
    kit_close(&k);

    wrapped.limit = need - 1;
    wrapped.peak = 0;
    cr_assert_eq(wrapped_open(&k, sets, (mri_session_options){ .needs = NEEDS }, &err), MR_E_NOMEM);
    cr_assert_null(k.session);
    cr_assert(strstr(err.what, "the run needs") && strstr(err.detail, "largest buffers") &&
                  strstr(err.detail, "moe"), "%s | %s", err.what, err.detail);
    cr_assert_leq(wrapped.peak, 65536, "%llu bytes were taken first",
                  (unsigned long long)wrapped.peak);
    mri_config_free(k.config);
    mri_registry_free(k.registry);
}
