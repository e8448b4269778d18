/* SPDX-License-Identifier: Apache-2.0
 * rerun.c - see rerun.h. */
#include "rerun.h"
#include "core/run/step.h"
#include <stdlib.h>
#include <string.h>

static bool same_bits(double a, double b)
{
    return !memcmp(&a, &b, sizeof a);
}

static mr_status say(mr_status code, const mri_step_result *bad, const mri_step_result *again,
                     const char *what, mr_err *err)
{
    mr_fail(err, code, MR_BLAME_ENV, "step %lld %s, and %s", (long long)bad->step,
            bad->spike ? "had a spike of the loss" : "was not finite", what);
    mr_detail(err, "loss %.17g, gradient norm %.17g\nagain: loss %.17g, gradient norm %.17g",
              bad->loss,
              bad->grad_norm, again->loss, again->grad_norm);
    mr_hint(err, "look at the machine's log; run: mrun explain E%04d", -code);
    return code;
}

mr_status app_rerun(mri_session *s, const mri_step_result *bad, mri_step_result *again,
                    app_verdict *verdict, mr_err *err)
{
    mr_status st = mri_session_train_step(s, again, err);
    *verdict = APP_SAME_AGAIN;
    if (st)
        return st;
    if (again->ok) {
        *verdict = APP_TRANSIENT;
        return say(MR_E_FAULT_TRANSIENT, bad, again,
                   bad->spike ? "has none when it runs again" : "is finite when it runs again",
                   err);
    }
    bool same = same_bits(bad->loss, again->loss) && same_bits(bad->grad_norm, again->grad_norm);
    if (same || !s->config->run.deterministic) /* without determinism other figures say nothing */
        return 0;
    *verdict = APP_PERSISTENT;
    return say(MR_E_FAULT_PERSISTENT, bad, again, "gives other figures when it runs again", err);
}

mr_status app_spoil(const mri_config *c, int64_t step, uint64_t *used, double *value, mr_err *err)
{
    *value = 0;
    for (uint64_t i = 0; i < c->debug.spoil.n && i < 64; i++) {
        const char *item = c->debug.spoil.v[i];
        char *end, *last;
        long long at = strtoll(item, &end, 10);
        double x = *end == ':' ? strtod(end + 1, &last) : 0;
        if (*end != ':' || last == end + 1 || *last)
            return mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                           "[debug] spoil = %.60s : expected STEP:FACTOR, as in 5:nan", item);
        if (at != step || *used >> i & 1)
            continue;
        *used |= UINT64_C(1) << i;
        *value = x;
        return 0;
    }
    return 0;
}
