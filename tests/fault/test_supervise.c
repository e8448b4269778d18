/* SPDX-License-Identifier: Apache-2.0
 *
 * `mrun supervise`: what ends by a fault is started again, a bounded number of times, on fewer
 * ranks where that is asked for; what no new start can mend is not. And the whole of it: a training
 * job that is killed goes on from its checkpoint and ends as the one that nobody killed.
 */
#include "../unit/jobs/job.h"

/* A command that counts its starts in the file `n`, says its arguments, and ends with `codes`'
 * next. */
static char *script(const job *j, const char *codes)
{
    char *path = job_path(j, "count.sh");
    char *text = mri_format("echo x >>n; echo \"ranks $1\"; set -- %s; k=$(grep -c x n); "
                            "shift $((k - 1)); exit $1\n", codes);
    job_write(path, text, strlen(text));
    free(text);
    return path;
}

static size_t starts(const job *j)
{
    char *text = job_read(job_path(j, "n"));
    return strlen(text) / 2;
}

Test(supervise, starts_again_until_it_is_done)
{
    job j = job_new();
    char *sh = script(&j, "1 137 0");
    job_result r = job_run(&j, "supervise", "--wait", "0", "--", "sh", sh, "-");
    JOB_EXPECT(&r, 0, "ended with 1 after", "ended with 137 after", "restart 2 of 3");
    cr_expect_eq(starts(&j), 3);
    job_free(&j);
}

Test(supervise, gives_up)
{
    job j = job_new();
    char *sh = script(&j, "9 9 9 9 9");
    job_result r = job_run(&j, "supervise", "--wait", "0", "--restarts", "2", "--", "sh", sh, "-");
    JOB_EXPECT(&r, 9, "given up after 2 restarts");
    cr_expect_eq(starts(&j), 3);
    job_free(&j);
}

Test(supervise, takes_fewer_ranks_when_a_size_fails_twice)
{
    job j = job_new();
    char *sh = script(&j, "1 1 1 0");
    job_result r = job_run(&j, "supervise", "--wait", "0", "--ranks", "8,4", "--", "sh", sh,
                           "{ranks}");
    JOB_EXPECT(&r, 0, "restart 2 of 3, on 4 ranks");
    cr_expect_str_eq(r.out, "ranks 8\nranks 8\nranks 4\nranks 4\n");
    job_free(&j);
}

Test(supervise, what_cannot_be_mended_ends_at_once)
{
    job j = job_new();
    char *sh = script(&j, "2 0");
    job_result r = job_run(&j, "supervise", "--wait", "0", "--", "sh", sh, "-");
    JOB_EXPECT(&r, 2, "the profile is wrong");
    cr_expect_eq(starts(&j), 1);
    cr_assert_eq(unlink(job_path(&j, "n")), 0);
    r = job_run(&j, "supervise", "--wait", "0", "--", "sh", script(&j, "17 0"), "-");
    JOB_EXPECT(&r, 17, "run it elsewhere");
    r = job_run(&j, "supervise", "--", "/nonexistent/mrun");
    JOB_EXPECT(&r, 3, "cannot run '/nonexistent/mrun'");
    r = job_run(&j, "supervise", "--restarts", "2");
    JOB_EXPECT(&r, 2, "no command");
    r = job_run(&j, "supervise", "--ranks", "8,x", "--", "true");
    JOB_EXPECT(&r, 2, "is no list");
    job_free(&j);
}

/* The first start is killed while it trains; the second goes on. */
Test(supervise, a_killed_run_ends_as_if_nobody_had)
{
    job j = job_new();
    char *exe = getenv("MRUN_EXE"), *run = job_path(&j, "run"), *whole = job_path(&j, "whole");
    char *text = mri_format("%s p.ini -q --set run.dir=run --set train.steps=12 "
                            "--set checkpoint.every=1 & p=$!\n"
                            "test -f n || { echo x >n; while test $(cat run/log.jsonl | wc -l) "
                            "-lt 4; "
                            "do sleep 0.02; done; kill -9 $p; }\nwait $p\n", exe);
    job_write(job_path(&j, "once.sh"), text, strlen(text));
    job_result r = job_run(&j, "supervise", "--wait", "0", "--", "sh", "once.sh");
    JOB_EXPECT(&r, 0, "ended with 137");
    r = job_run(&j, "p.ini", "-q", "--set", "run.dir=whole", "--set", "train.steps=12", "--set",
                "checkpoint.every=1");
    JOB_EXPECT(&r, 0, NULL);
    job_same_run(run, whole);
    job_free(&j);
}
