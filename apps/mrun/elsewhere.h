/* SPDX-License-Identifier: Apache-2.0
 *
 * elsewhere.h - the question that one machine cannot answer: a step that is wrong in the same way
 * twice is wrong by its data or model, or by a machine that repeats its fault. What came of it is
 * written down (RUN_DIR/rerun.json), and the next start, on another machine, compares.
 *
 * Invariant: all ranks know the same record; it is there from the question until the answer.
 */
#ifndef MRUN_ELSEWHERE_H
#define MRUN_ELSEWHERE_H
#include "core/run/session.h"

typedef struct app_record {
    int64_t step; /* 0: none */
    double loss, grad_norm;
    uint64_t machine;   /* a hash of the hosts and devices of all ranks */
    char host[64];      /* rank 0's */
} app_record;

typedef enum app_answer {
    APP_NOT_ASKED, /* no record of this step, or it was made on this machine and nothing changed */
    APP_DATA,      /* another machine comes to the same */
    APP_MACHINE    /* MR_E_FAULT_PERSISTENT in *err: other figures than the record's */
} app_answer;

/* Reads the run's record; none is no error. All ranks call these. */
mr_status app_record_read(mri_session *s, app_record *r, mr_err *err);
/* Writes it: this step is wrong in the same way twice. Returns MR_E_FAULT_UNDECIDED. */
mr_status app_record_write(mri_session *s, const mri_step_result *bad, app_record *r, mr_err *err);
/* What the record says of a step that has ended; an answer is the record's end. */
mr_status app_record_compare(mri_session *s, app_record *r, const mri_step_result *x,
                             app_answer *answer, mr_err *err);

#endif
