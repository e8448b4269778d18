/* SPDX-License-Identifier: Apache-2.0
 *
 * A step that is not finite runs again, and the exit code says whose fault it was: right the second
 * time is a transient fault of the machine (16, and the run goes on from there as if nothing had
 * been), wrong in another way a persistent one (17), wrong in the same way an error of data or
 * model, or, where another machine is asked, a question (16) that the next start there answers. A
 * spike of the loss is a step like that, and taken as it is where nobody is at fault.
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

#define ELSEWHERE "--set", "run.rerun=elsewhere"

/* The record as if another machine had made it. */
static void from_another_machine(const job *j, const char *dir)
{
    char *path = mri_format("%s/%s/rerun.json", j->dir, dir), *text = job_read(path);
    char *at = strstr(text, "\"machine\": \"");
    cr_assert_not_null(at, "%s", text);
    at[12] = at[12] == '0' ? '1' : '0';
    job_write(path, text, strlen(text));
    free(text);
    free(path);
}

static bool has_record(const job *j, const char *dir)
{
    char *path = mri_format("%s/%s/rerun.json", j->dir, dir);
    bool has = !access(path, F_OK);
    free(path);
    return has;
}

Test(rerun, another_machine_clears_the_data)
{
    job j = job_new();
    job_result r = RUN(&j, "a", ELSEWHERE, "--set", "debug.spoil=3:nan,3:nan");
    JOB_EXPECT(&r, 16, "E0510", "same way twice");
    mri_checkpoint *c = job_checkpoint(job_path(&j, "a"));
    cr_expect_eq(mri_checkpoint_info(c)->step, 2, "the weights from before the step are saved");
    mri_checkpoint_close(c);
    r = RUN(&j, "a", ELSEWHERE, "--set", "debug.spoil=3:nan,3:nan");
    JOB_EXPECT(&r, 16, "E0510"); /* still the same machine */
    from_another_machine(&j, "a");
    r = RUN(&j, "a", ELSEWHERE);
    JOB_EXPECT(&r, 17, "E0509", "other figures");
    cr_expect_not(has_record(&j, "a"));
    r = RUN(&j, "a", ELSEWHERE, "-q"); /* the good step was saved */
    JOB_EXPECT(&r, 0, NULL);
    r = RUN(&j, "b", ELSEWHERE, "-q");
    JOB_EXPECT(&r, 0, NULL);
    job_same_run(job_path(&j, "a"), job_path(&j, "b"));
    job_free(&j);
}

Test(rerun, another_machine_blames_the_data)
{
    job j = job_new();
    job_result r = RUN(&j, "a", ELSEWHERE, "--set", "debug.spoil=3:nan,3:nan", "--set",
                       "comm.plugin=sim");
    JOB_EXPECT(&r, 16, "E0510");
    from_another_machine(&j, "a");
    r = RUN(&j, "a", ELSEWHERE, "--set", "debug.spoil=3:nan", "--set", "comm.plugin=sim");
    JOB_EXPECT(&r, 1, "E0502");
    cr_expect_not(has_record(&j, "a"));
    job_free(&j);
}

Test(rerun, this_machine_once_right_is_to_blame)
{
    job j = job_new();
    job_result r = RUN(&j, "a", ELSEWHERE, "--set", "debug.spoil=3:nan,3:nan");
    JOB_EXPECT(&r, 16, "E0510");
    r = RUN(&j, "a", ELSEWHERE);
    JOB_EXPECT(&r, 17, "E0509");
    job_free(&j);
}

#define SPIKES "--set", "run.check_for_spiky_loss=true"

Test(rerun, a_spike_that_is_gone)
{
    job j = job_new();
    job_result r = RUN(&j, "a", SPIKES, "--set", "debug.spoil=3:20");
    JOB_EXPECT(&r, 16, "E0508", "step 3 had a spike of the loss", "has none when it runs again");
    r = RUN(&j, "a", SPIKES, "-q");
    JOB_EXPECT(&r, 0, NULL);
    r = RUN(&j, "b", SPIKES, "-q");
    JOB_EXPECT(&r, 0, NULL);
    job_same_run(job_path(&j, "a"), job_path(&j, "b"));
    r = RUN(&j, "c", "-q"); /* looking at losses changes nothing */
    JOB_EXPECT(&r, 0, NULL);
    char *looked = job_losses(job_path(&j, "b")), *not = job_losses(job_path(&j, "c"));
    cr_expect_str_eq(looked, not);
    job_free(&j);
}

Test(rerun, a_spike_that_stays_is_taken)
{
    job j = job_new();
    job_result r = RUN(&j, "a", SPIKES, "--set", "debug.spoil=3:20,3:20");
    JOB_EXPECT(&r, 0, NULL);
    r = RUN(&j, "b", SPIKES, "--set", "debug.spoil=3:20,3:30"); /* another spike each time */
    JOB_EXPECT(&r, 17, "E0509", "spike");
    r = RUN(&j, "c", SPIKES, "--set", "debug.spoil=3:20", "--set",
            "run.spiky_loss_factor=21"); /* no spike, by the factor */
    JOB_EXPECT(&r, 0, NULL);
    r = RUN(&j, "d", SPIKES, ELSEWHERE, "--set", "debug.spoil=3:20,3:20", "--set",
            "comm.plugin=sim", "--set", "mesh.pp=2");
    JOB_EXPECT(&r, 16, "E0510", "spike");
    from_another_machine(&j, "d");
    r = RUN(&j, "d", SPIKES, ELSEWHERE, "--set", "debug.spoil=3:20", "--set", "comm.plugin=sim",
            "--set", "mesh.pp=2");
    JOB_EXPECT(&r, 0, NULL);
    job_free(&j);
}

/* What the first losses were is known after a resume, so the first step there can be a spike. */
Test(rerun, a_spike_right_after_a_resume)
{
    job j = job_new();
    job_result r = RUN(&j, "a", SPIKES, "--set", "train.steps=6", "--set", "debug.spoil=2:nan");
    JOB_EXPECT(&r, 16, "E0508"); /* saved after step 2 */
    r = RUN(&j, "a", SPIKES, "--set", "debug.spoil=3:20");
    JOB_EXPECT(&r, 16, "E0508", "step 3 had a spike");
    job_free(&j);
}
