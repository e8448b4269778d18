/* SPDX-License-Identifier: Apache-2.0
 *
 * kill -9 at any moment loses nothing: a run that saves after every step is killed at a random
 * moment, started again by the same command (and sometimes killed again), and ends with the
 * losses and the checkpoint of the run that nobody killed, to the bit.
 * MRUN_TEST_LONG=1: 200 seeds in place of 10.
 */
#include "../unit/jobs/job.h"

/* xorshift: what a seed means must not hang on the C library */
static double draw(uint64_t *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return (double)(*x >> 11) / 9007199254740992.0;
}

#define RUN "p.ini", "--set", "run.dir=run", "--set", "train.steps=12"
#define TWO "--set", "comm.plugin=sim", "--set", "comm.sim.ranks=2"
static const char *const alone[] = { RUN, "--set", "checkpoint.every=1", NULL };
static const char *const behind[] = { RUN, TWO, "--set", "checkpoint.every=1", "--set",
                                      "checkpoint.async=true", NULL };
static const char *const ranges[] = { RUN, TWO, "--set", "checkpoint.every=2", "--set",
                                      "checkpoint.format=dp_reshardable", NULL };
static const char *const local[] = { RUN, TWO, "--set", "checkpoint.every=5", "--set",
                                     "checkpoint.local_every=1", "--set",
                                     "checkpoint.local_dir=run/local", NULL };

static void remove_run(const job *j)
{
    char *line = mri_format("rm -rf '%s/run'", j->dir);
    cr_assert_eq(system(line), 0);
    free(line);
}

/* Runs it, killed `kills` times within *span seconds of its start, to its end. The first kill
 * must hit it alive: where the machine became faster meanwhile, the span is shortened. */
static void killed_run(const job *j, const char *const *command, uint64_t seed, int kills,
                       double *span)
{
    uint64_t x = seed * 0x9E3779B97F4A7C15u + 1;
    for (int k = 0, tries = 0; k < kills; k++) {
        job_child c = job_start(j, command);
        job_sleep(*span * draw(&x));
        kill(c.pid, SIGKILL);
        job_result r = job_wait(c);
        cr_assert(r.code == 1000 + SIGKILL || r.code == 0, "seed %llu, start %d: exit code %d\n%s",
                  (unsigned long long)seed, k, r.code, r.err);
        if (!k && !r.code) { /* too late: the same again, from nothing */
            cr_assert_lt(++tries, 20, "seed %llu: no kill in %g s hits", (unsigned long long)seed,
                         *span);
            remove_run(j);
            *span *= 0.8;
            k--;
        }
    }
    job_result r = job_wait(job_start(j, command));
    cr_assert_eq(r.code, 0, "seed %llu, after %d kills: exit code %d\n%s", (unsigned long long)seed,
                 kills, r.code, r.err);
}

static void kill_at_random(const char *const *command, int few)
{
    const char *more = getenv("MRUN_TEST_LONG");
    int seeds = more && strcmp(more, "0") ? 200 : few;
    job j = job_new();
    char *run = job_path(&j, "run"), *whole = job_path(&j, "whole");
    double start = job_now();
    job_result r = job_wait(job_start(&j, command));
    job_expect(&r, 0, NULL);
    double span = job_now() - start;
    cr_assert_eq(rename(run, whole), 0);
    fprintf(stderr, "killed within %.3f s, seeds 1 to %d\n", span, seeds);
    for (int seed = 1; seed <= seeds; seed++) {
        killed_run(&j, command, (uint64_t)seed, 1 + seed % 3, &span);
        job_same_run(whole, run);
        remove_run(&j);
    }
    job_free(&j);
}

Test(kill_run, at_random_moments_loses_nothing)
{
    kill_at_random(alone, 10);
}

Test(kill_run, of_ranks_that_save_behind_their_steps)
{
    kill_at_random(behind, 5);
}

Test(kill_run, of_ranks_that_save_ranges)
{
    kill_at_random(ranges, 3);
}

Test(kill_run, of_ranks_with_local_checkpoints)
{
    kill_at_random(local, 5);
}

/* The same between two profiles: a fork that is killed anywhere is either not begun or begun. */
Test(kill_run, a_fork_killed_at_random_moments_still_forks)
{
    const char *more = getenv("MRUN_TEST_LONG");
    int seeds = more && strcmp(more, "0") ? 100 : 8;
    static const char *const fork[] = { "p.ini", "--set", "run.dir=run", "--set", "train.steps=6",
                                        "--set", "checkpoint.every=1", "--set", "run.fork=true",
                                        "--set", "optimizer.lr=1e-4", NULL };
    job j = job_new();
    char *run = job_path(&j, "run"), *whole = job_path(&j, "whole");
    char *fresh = mri_format("rm -rf '%s'; cp -r '%s/old' '%s'", run, j.dir, run);
    job_result r = job_run(&j, "p.ini", "--set", "run.dir=run", "--set", "train.steps=30");
    job_expect(&r, 0, NULL);
    cr_assert_eq(rename(run, job_path(&j, "old")), 0);
    cr_assert_eq(system(fresh), 0);
    double start = job_now();
    r = job_wait(job_start(&j, fork));
    job_expect(&r, 0, NULL);
    double span = job_now() - start;
    cr_assert_eq(rename(run, whole), 0);
    for (int seed = 1; seed <= seeds; seed++) {
        uint64_t x = (uint64_t)seed * 0x9E3779B97F4A7C15u + 1;
        cr_assert_eq(system(fresh), 0);
        job_child c = job_start(&j, fork);
        job_sleep(span * draw(&x));
        kill(c.pid, SIGKILL);
        job_wait(c);
        r = job_wait(job_start(&j, fork));
        cr_assert_eq(r.code, 0, "seed %d: exit code %d\n%s", seed, r.code, r.err);
        job_same_run(whole, run);
    }
    job_free(&j);
}
