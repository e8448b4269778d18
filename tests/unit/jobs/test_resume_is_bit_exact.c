/* SPDX-License-Identifier: Apache-2.0
 *
 * A run that is stopped and started again by the same command is the run that was never
 * stopped: the log's numbers to the last digit, the last checkpoint to the last bit.
 */
#include "job.h"

static void whole(const job *j, const char *const *more)
{
    const char *argv[16] = { "p.ini", "--set", "run.dir=whole" };
    for (size_t i = 0; more && more[i]; i++)
        argv[3 + i] = more[i];
    job_result r = job_wait(job_start(j, argv));
    job_expect(&r, 0, NULL);
}

/* Stops the run DIR/run by a signal once its log has 5 lines, then starts it again. */
static void stop_and_go(const job *j, int signal, int code, const char *const *more)
{
    const char *argv[16] = { "p.ini", "--set", "run.dir=run" };
    char *run = job_path(j, "run");
    for (size_t i = 0; more && more[i]; i++)
        argv[3 + i] = more[i];
    job_child c = job_start(j, argv);
    job_await(run, 5);
    kill(c.pid, signal);
    job_result r = job_wait(c);
    job_expect(&r, code, NULL);
    mri_checkpoint *ck = job_checkpoint(run);
    int64_t step = mri_checkpoint_info(ck)->step;
    cr_assert(step >= 4 && step < 200, "it stopped at step %lld", (long long)step);
    mri_checkpoint_close(ck);
    r = job_wait(job_start(j, argv));
    job_expect(&r, 0, NULL);
}

#define LONG_RUN "--set", "train.steps=200"

Test(resume, after_sigint_with_accumulation)
{
    job j = job_new();
    const char *const more[] = { LONG_RUN, NULL };
    whole(&j, more);
    stop_and_go(&j, SIGINT, 130, more);
    job_same_run(job_path(&j, "whole"), job_path(&j, "run"));
    job_free(&j);
}

Test(resume, after_sigterm_with_batch_ramp_up)
{
    job j = job_new();
    const char *const more[] = { LONG_RUN,
                                 "--set", "train.global_batch=8",
                                 "--set", "train.rampup_start=2",
                                 "--set", "train.rampup_increment=2",
                                 "--set", "train.rampup_samples=600", NULL };
    whole(&j, more);
    stop_and_go(&j, SIGTERM, 143, more);
    job_same_run(job_path(&j, "whole"), job_path(&j, "run"));
    job_free(&j);
}

/* the first third as a run of its own, then the same folder taken on to the end */
static void shorter_run(int steps, const char *set)
{
    job j = job_new();
    char *all = mri_format("train.steps=%d", steps);
    char *third = mri_format("train.steps=%d", steps / 3);
    whole(&j, (const char *const[]){ "--set", set, "--set", all, NULL });
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", set, "--set", third);
    job_expect(&r, 0, NULL);
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", set, "--set", all);
    job_expect(&r, 0, NULL);
    job_same_run(job_path(&j, "whole"), job_path(&j, "run"));
    job_free(&j);
}

Test(resume, from_a_shorter_run) { shorter_run(40, "train.seq=16"); }
Test(resume, in_bf16) { shorter_run(40, "precision.recipe=bf16"); }
Test(resume, on_two_threads) { shorter_run(9, "backend.cpu.threads=2"); }
Test(resume, on_the_reference_backend) { shorter_run(15, "backend.plugin=ref"); }
Test(resume, with_a_falling_rate) { shorter_run(40, "optimizer.decay_steps=40"); }
Test(resume, with_groups_of_parameters)
{
    shorter_run(40, "optimizer.groups=*.weight:lr_mult=0.5,model.layers.0.*:frozen,"
                "model.norm.weight:decay_mult=2");
}

Test(resume, with_recomputation_switched_on_in_between)
{
    job j = job_new();
    whole(&j, NULL);
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=15");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.recompute=full");
    job_expect(&r, 0, NULL);
    job_same_run(job_path(&j, "whole"), job_path(&j, "run"));
    job_free(&j);
}

Test(resume, a_run_that_validates)
{
    job j = job_new();
    const char *const more[] = { "--set", "train.eval_every=10", "--set", "train.eval_steps=3",
                                 NULL };
    whole(&j, more);
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=13",
                           "--set", "train.eval_every=10", "--set", "train.eval_steps=3");
    job_expect(&r, 0, NULL);
    r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.eval_every=10", "--set",
                "train.eval_steps=3");
    job_expect(&r, 0, NULL);
    job_same_run(job_path(&j, "whole"), job_path(&j, "run"));
    job_free(&j);
}

/* The second signal does not wait for the step or the checkpoint; nothing is lost by it. */
Test(resume, after_sigint_twice)
{
    job j = job_new();
    const char *const more[] = { LONG_RUN, "--set", "checkpoint.every=20", NULL };
    const char *const argv[] = { "p.ini", "--set", "run.dir=run", LONG_RUN, "--set",
                                 "checkpoint.every=20", NULL };
    whole(&j, more);
    for (int i = 0; i < 3; i++) {
        job_child c = job_start(&j, argv);
        job_await(job_path(&j, "run"), 5 + 40 * i);
        kill(c.pid, SIGINT);
        job_sleep(0.0005 * i);
        kill(c.pid, SIGINT);
        job_result r = job_wait(c);
        job_expect(&r, 130, NULL);
    }
    job_result r = job_wait(job_start(&j, argv));
    job_expect(&r, 0, NULL);
    job_same_run(job_path(&j, "whole"), job_path(&j, "run"));
    job_free(&j);
}

/* Signals arrive inside every kernel, where the stack may be anything but a stack. */
Test(resume, a_rain_of_signals_changes_no_bit)
{
    job j = job_new();
    const char *const argv[] = { "p.ini", "--set", "run.dir=run", "--set", "train.steps=30", NULL };
    whole(&j, (const char *const[]){ "--set", "train.steps=30", NULL });
    job_child c = job_start(&j, argv);
    job_await(job_path(&j, "run"), 1);
    siginfo_t info = { 0 };
    long n = 0;
    while (!waitid(P_PID, (id_t)c.pid, &info, WEXITED | WNOHANG | WNOWAIT) && !info.si_pid) {
        kill(c.pid, SIGUSR1);
        job_sleep(0.0001);
        n++;
    }
    job_result r = job_wait(c);
    job_expect(&r, 0, NULL);
    cr_assert_gt(n, 30, "only %ld signals", n);
    job_same_run(job_path(&j, "whole"), job_path(&j, "run"));
    job_free(&j);
}

Test(resume, sigusr1_saves_and_goes_on)
{
    job j = job_new();
    char *run = job_path(&j, "run");
    job_child c = job_start(&j, JOB_ARGS("p.ini", "--set", "run.dir=run", LONG_RUN, "--set",
                                         "checkpoint.save_at_end=false"));
    job_await(run, 5);
    kill(c.pid, SIGUSR1);
    job_result r = job_wait(c);
    job_expect(&r, 0, NULL);
    mri_checkpoint *ck = job_checkpoint(run);
    int64_t step = mri_checkpoint_info(ck)->step;
    cr_assert(step >= 4 && step < 200, "saved at step %lld", (long long)step);
    mri_checkpoint_close(ck);
    char *losses = job_losses(run);
    cr_assert_not_null(strstr(losses, "\n200 loss"), "the run went on to its end:\n%s", losses);
    job_free(&j);
}

Test(resume, a_finished_run_says_so)
{
    job j = job_new();
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run");
    job_expect(&r, 0, NULL);
    char *before = job_losses(job_path(&j, "run"));
    r = job_run(&j, "p.ini", "--set", "run.dir=run");
    JOB_EXPECT(&r, 0, "is finished: 40 of 40 steps");
    cr_assert_str_eq(before, job_losses(job_path(&j, "run")));
    job_free(&j);
}
