/* SPDX-License-Identifier: Apache-2.0
 *
 * trace.h - looking at a run op by op: [debug] mode = step, and finding the op that made the
 * first NaN of a bad step.
 */
#ifndef MRUN_TRACE_H
#define MRUN_TRACE_H
#include "core/run/session.h"

typedef struct app_trace {
    bool print; /* a line a step on stderr */
} app_trace;

/* An mri_trace callback; ctx is an app_trace. Fails with MR_E_NONFINITE or MR_E_GUARD, naming
 * op, block, region and the model's file and line. */
mr_status app_trace_step(void *ctx, const mri_trace_step *t, mr_err *err);

/* After a step whose gradients were not finite: runs it again, watched. Always an error. */
mr_status app_find_nonfinite(mri_session *s, mr_err *err);

#endif
