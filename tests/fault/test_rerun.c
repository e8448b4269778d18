/* SPDX-License-Identifier: Apache-2.0
 *
 * A step that is not finite runs again, and the exit code says whose fault it was: right the second
 * time is a transient fault of the machine (16, and the run goes on from there as if nothing had
 * been), wrong in another way a persistent one (17), wrong in the same way an error of data or
 * model.
 */
#include "../unit/jobs/job.h"

#define RUN(j, dir, ...) \
    job_run(j, "p.ini", "--set", "train.steps=6", "--set", "run.dir=" dir, __VA_ARGS__)

Test(rerun, right_the_second_time)
{
    job j = job_new();
    job_result r = RUN(&j, "a", "--set", "debug.spoil=3:nan");
    JOB_EXPECT(&r, 16, "E0508", "step 3 was not finite", "is finite when it runs again");
    mri_checkpoint *c = job_checkpoint(job_path(&j, "a"));
    cr_expect_eq(mri_checkpoint_info(c)->step, 3, "the good step is saved");
    mri_checkpoint_close(c);
    r = RUN(&j, "a", "-q");
    JOB_EXPECT(&r, 0, NULL);
    r = RUN(&j, "b", "-q");
    JOB_EXPECT(&r, 0, NULL);
    job_same_run(job_path(&j, "a"), job_path(&j, "b"));
    job_free(&j);
}

Test(rerun, wrong_in_another_way)
{
    job j = job_new();
    job_result r = RUN(&j, "a", "--set", "debug.spoil=3:nan,3:inf");
    JOB_EXPECT(&r, 17, "E0509", "gives other figures");
    r = RUN(&j, "a", "-q");
    JOB_EXPECT(&r, 0, NULL);
    job_free(&j);
}

Test(rerun, wrong_in_the_same_way_or_not_asked)
{
    job j = job_new();
    job_result r = RUN(&j, "a", "--set", "debug.spoil=3:nan,3:nan");
    JOB_EXPECT(&r, 1, "E0502");
    r = RUN(&j, "b", "--set", "debug.spoil=3:nan", "--set", "run.rerun=none");
    JOB_EXPECT(&r, 1, "E0502");
    r = RUN(&j, "c", "--set", "debug.spoil=three");
    JOB_EXPECT(&r, 2, "spoil = three");
    job_free(&j);
}

Test(rerun, all_ranks_come_to_one_verdict)
{
    job j = job_new();
    job_result r = RUN(&j, "a", "--set", "comm.plugin=sim", "--set", "debug.spoil=3:nan");
    JOB_EXPECT(&r, 16, "E0508");
    job_free(&j);
}
