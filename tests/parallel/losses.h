/* SPDX-License-Identifier: Apache-2.0
 * losses.h - two runs, by their logs: the same losses and gradient norms within 1e-5. */
#ifndef TEST_PARALLEL_LOSSES_H
#define TEST_PARALLEL_LOSSES_H
#include "../unit/jobs/job.h"
#include <math.h>

static inline void same_losses(const char *a, const char *b, int steps)
{
    char *x = job_losses(a), *y = job_losses(b), *p = x, *q = y;
    int64_t step, other;
    double loss, loss_b, norm, norm_b, lr;
    int n = 0, used;
    for (; sscanf(p, "%ld loss %lg norm %lg lr %lg\n%n", &step, &loss, &norm, &lr,
                  &used) == 4; n++) {
        p += used;
        cr_assert_eq(sscanf(q, "%ld loss %lg norm %lg lr %lg\n%n", &other, &loss_b, &norm_b, &lr,
                            &used), 4, "%s", y);
        q += used;
        cr_expect(fabs(loss - loss_b) <= 1e-5 * loss, "step %ld: loss %.9g and %.9g", (long)step,
                  loss, loss_b);
        cr_expect(fabs(norm - norm_b) <= 1e-5 * norm, "step %ld: norm %.9g and %.9g", (long)step,
                  norm, norm_b);
    }
    cr_expect_eq(n, steps);
    cr_expect_eq(*q, 0, "the second has more steps");
}

#endif
