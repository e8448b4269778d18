/* SPDX-License-Identifier: Apache-2.0
 * train_bad.c - steps of a run that are not finite, or spikes: see train_run.h. */
#include "trace.h"
#include "train.h"
#include "train_run.h"
#include <string.h>

/* What is good is saved before the run ends with *err. */
static void save_first(train_run *r, mr_err *err)
{
    mr_err saving = MR_ERR_INIT;
    if (train_hear_of_saved(r, true, &saving) || train_save(r, &saving) || train_hear_of_saved(r, true, &saving))
        mr_hint(err, "and saving failed: %.200s", saving.what);
}

/* The data's fault, or the model's: a spike is taken as it is. */
static mr_status go_on_with(train_run *r, const mri_step_result *bad, mr_err *err)
{
    mri_step_result x;
    double began = app_now();
    if (!bad->spike)
        return app_find_nonfinite(r->s, err);
    r->s->spikes.pass = true;
    mr_status st = mri_session_train_step(r->s, &x, err);
    if (!st && !x.ok)
        return app_find_nonfinite(r->s, err);
    if (!st)
        train_log_step(r, &x, app_now() - began);
    return st;
}

mr_status train_bad_step(train_run *r, const mri_step_result *bad, mr_err *err)
{
    mri_step_result again;
    app_verdict verdict = APP_SAME_AGAIN;
    double began = app_now();
    mr_status st = 0;
    if (strcmp(r->c->run.rerun, "none")) {
        MR_TRY(app_spoil(r->c, bad->step, &r->spoilt, &r->s->spoil, err));
        st = app_rerun(r->s, bad, &again, &verdict, err);
        if (st && verdict == APP_SAME_AGAIN)
            goto out;
    }
    if (verdict == APP_SAME_AGAIN && strcmp(r->c->run.rerun, "elsewhere"))
        return go_on_with(r, bad, err);
    if (verdict == APP_SAME_AGAIN)
        st = app_record_write(r->s, bad, &r->record, err);
    if (verdict == APP_TRANSIENT)
        train_log_step(r, &again, app_now() - began);
    if (verdict != APP_PERSISTENT)
        save_first(r, err);
    st = mri_world_agree(r->a->world, st, err);
out:
    return st;
}

mr_status train_judge(train_run *r, const mri_step_result *x, bool *judged, mr_err *err)
{
    app_answer answer;
    mr_status st = app_record_compare(r->s, &r->record, x, &answer, err);
    *judged = answer != APP_NOT_ASKED;
    if (answer == APP_MACHINE && x->ok)
        save_first(r, err);
    if (answer == APP_DATA)
        return go_on_with(r, x, err);
    return st ? mri_world_agree(r->a->world, st, err) : 0;
}
