/* SPDX-License-Identifier: Apache-2.0
 * `mrun PROFILE.ini` on ranks that are threads: the same training as on one, one log, one
 * checkpoint, one error however many ranks meet it. */
#include "../unit/jobs/job.h"
#include "losses.h"

#define ONE "p.ini", "-q", "--set", "train.steps=4"
#define SIM "p.ini", "-q", "--set", "train.steps=4", "--set", "comm.plugin=sim"

Test(ranks_job, two_threads_train_as_one)
{
    job j = job_new();
    job_result a = job_run(&j, ONE, "--set", "run.dir=a");
    JOB_EXPECT(&a, 0, NULL);
    job_result b = job_run(&j, SIM, "--set", "run.dir=b");
    JOB_EXPECT(&b, 0, NULL);
    same_losses(job_path(&j, "a"), job_path(&j, "b"), 4);
    mri_checkpoint *c = job_checkpoint(job_path(&j, "b"));
    cr_expect_eq(mri_checkpoint_info(c)->step, 4);
    mri_checkpoint_close(c);
    b = job_run(&j, SIM, "--set", "run.dir=b");
    JOB_EXPECT(&b, 0, "is finished");
    job_free(&j);
}

Test(ranks_job, one_error_for_all)
{
    job j = job_new();
    job_result r = job_run(&j, SIM, "--set", "comm.sim.ranks=4", "--set", "mesh.tp=3");
    JOB_EXPECT(&r, 2, "tp = 3", "4 ranks");
    cr_expect_null(strstr(strstr(r.err, "error") + 1, "error E"), "twice:\n%s", r.err);
    r = job_run(&j, SIM, "--set", "train.global_batch=3", "--set", "train.micro_batch=1");
    JOB_EXPECT(&r, 2, "global_batch = 3");
    r = job_run(&j, "p.ini", "--set", "comm.plugin=fake", "--set", "comm.fake.rank=9");
    JOB_EXPECT(&r, 2, "rank = 9");
    job_free(&j);
}
