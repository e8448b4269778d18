/* SPDX-License-Identifier: Apache-2.0
 *
 * Debug modes look and do not touch: a run that is stepped op by op, or whose dead buffers are
 * poisoned, or that recomputes or splits its backward, is to the bit the plain run. And the
 * memory that a run reports is about what the process grew by.
 */
#include "job.h"
#include <sys/resource.h>

Test(debug, modes_change_no_bit)
{
    static const char *const sets[] = { "debug.mode=step", "debug.poison=true",
                                        "train.split_weight_gradient=true",
                                        "train.recompute=layernorm,moe_act,core_attn" };
    job j = job_new();
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=plain", "--set", "train.steps=4");
    job_expect(&r, 0, NULL);
    for (size_t i = 0; i < sizeof sets / sizeof *sets; i++) {
        char *name = mri_format("run%zu", i), *dir = mri_format("run.dir=%s", name);
        r = job_run(&j, "p.ini", "--set", dir, "--set", "train.steps=4", "--set", sets[i], "--set",
                    "debug.poison=true");
        job_expect(&r, 0, NULL);
        cr_assert_eq(i == 0, strstr(r.err, "swiglu") != NULL, "%s:\n%s", sets[i], r.err);
        job_same_run(job_path(&j, "plain"), job_path(&j, name));
    }
    job_free(&j);
}

/* resident kB at the peak of one run */
static long peak(const job *j, const char *hidden, double *reported)
{
    char *set = mri_format("model.hidden=%s", hidden), *dir = mri_format("run.dir=%s", hidden);
    char *path = mri_format("%s/%s/log.jsonl", j->dir, hidden), *at;
    const char *const argv[] = { "p.ini", "--set", dir, "--set", set, "--set", "train.steps=2",
                                 "--set", "checkpoint.save_at_end=false", NULL };
    struct rusage use;
    int status;
    job_child c = job_start(j, argv);
    cr_assert_eq(wait4(c.pid, &status, 0, &use), c.pid);
    cr_assert_eq(status, 0, "%s", job_read(c.err));
    at = strstr(job_read(path), "\"memory_bytes\":");
    cr_assert_not_null(at, "%s", path);
    *reported = atof(at + strlen("\"memory_bytes\":"));
    return use.ru_maxrss;
}

/* The difference of two sizes, so that program and libraries cancel out; the larger so large that
 * what the heap had over from planning (5 MB, either way) does not decide. */
Test(debug, reported_memory_is_what_the_process_grows_by)
{
#ifdef __SANITIZE_ADDRESS__
    cr_skip_test("a sanitizer's shadow memory grows too");
#endif
    job j = job_new();
    double small, large;
    long a = peak(&j, "16", &small), b = peak(&j, "16384", &large);
    double grown = 1024.0 * (double)(b - a), said = large - small;
    cr_assert_gt(said, 200e6);
    cr_assert(grown > 0.95 * said && grown < 1.1 * said, "it says %.0f bytes more and takes %.0f",
              said, grown);
    job_free(&j);
}
