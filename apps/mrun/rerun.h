/* SPDX-License-Identifier: Apache-2.0
 *
 * rerun.h - whose fault is a step that is not finite, or whose loss is a spike? It runs again from the same state, over the
 * same samples: the same figures to the bit come from the data or the model, others from the
 * machine.
 */
#ifndef MRUN_RERUN_H
#define MRUN_RERUN_H
#include "core/run/session.h"

typedef enum app_verdict {
    APP_SAME_AGAIN, /* nothing was changed: data or model, or a fault that the machine repeats */
    APP_TRANSIENT,  /* good now:   *again is the step, done; MR_E_FAULT_TRANSIENT in *err      */
    APP_PERSISTENT  /* bad again, with other figures;        MR_E_FAULT_PERSISTENT in *err     */
} app_verdict;

/* `bad` came of the newest step, and nothing is pending. All ranks of the world call it. */
mr_status app_rerun(mri_session *s, const mri_step_result *bad, mri_step_result *again,
                    app_verdict *verdict, mr_err *err);

/* [debug] spoil: the value that the loss is multiplied by in this try of the step, or 0 for none;
 * each item of the list serves once, as `used` (bits) tells. */
mr_status app_spoil(const mri_config *c, int64_t step, uint64_t *used, double *value, mr_err *err);

#endif
