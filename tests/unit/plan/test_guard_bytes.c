/* SPDX-License-Identifier: Apache-2.0
 *
 * Step mode catches a kernel that writes past its output, by op, block and phase, whichever op
 * it is; and a plan with guards computes what a plan without them does.
 */
#include "apps/mrun/trace.h"
#include "wrapped.h"

static mr_status gradients(const char *spoil, mr_err *err)
{
    static const char *const sets[] = { "backend.plugin=ref", "train.micro_batch=2", TINY_MODEL,
                                        NULL };
    app_trace show = { false };
    mri_trace trace = { app_trace_step, &show, true, true };
    kit k = { 0 };
    mri_step_result r;
    mri_batch b = kit_batch(2, TINY_SEQ, TINY_VOCAB, 2);
    wrapped.spoil = spoil;
    kit_ok(wrapped_open(&k, sets, (mri_session_options){ .needs = MRI_NEED_TRAIN, .guard = true },
                        err), err, "open");
    kit_ok(mri_session_init_weights(k.session, err), err, "weights");
    k.session->train->trace = &trace;
    mr_status st = mri_session_gradients_of(k.session, &b, &r, err);
    k.session->train->trace = NULL;
    kit_batch_free(&b);
    kit_close(&k);
    return st;
}

Test(guard, catches_one_byte_past_an_output)
{
    static const char *const ops[] = { "linear", "rmsnorm", "attention", "swiglu", "route_topk",
                                       "permute", "grouped_linear", "attention.bwd",
                                       "add_rmsnorm.bwd", "linear_add", "swiglu.bwd" };
    mr_err err = MR_ERR_INIT;
    kit_ok(gradients(NULL, &err), &err, "a sound backend");
    for (size_t i = 0; i < sizeof ops / sizeof *ops; i++) {
        char name[64];
        cr_assert_not_null(mri_op_find(ops[i]), "no op %s", ops[i]);
        err = (mr_err)MR_ERR_INIT;
        cr_assert_eq(gradients(ops[i], &err), MR_E_GUARD, "%s: %d %s", ops[i], err.code, err.what);
        snprintf(name, sizeof name, " of op %s, block model.layers.", ops[i]);
        cr_assert(strstr(err.what, name) && strstr(err.what, "bytes behind"), "%s", err.what);
        cr_assert(strstr(err.hint, "writes past its output"), "%s", err.hint);
    }
}
