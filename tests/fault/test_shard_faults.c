/* SPDX-License-Identifier: Apache-2.0
 * No death of any rank, at any create, write, fsync, rename or unlink of a save that several ranks
 * make together, costs a checkpoint; nor does a kill -9 of any of them at a random moment. */
#include "../unit/store/ranks.h"
#include <dirent.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

static const layout *const L = &layouts[6]; /* tp2 pp2 */

static uint64_t fault_at, fault_calls;

static void die(const char *what, const char *path, uint64_t n)
{
    (void)what;
    (void)path;
    (void)n;
    if (fault_calls++ == fault_at)
        _exit(42);
}

/* The step of the newest checkpoint, all of whose content was compared; -1: none. */
static int64_t verify(const char *dir)
{
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    uint64_t wrong;
    cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), 0, "%s; %s", err.what, err.detail);
    if (!c)
        return -1;
    int64_t step = mri_checkpoint_info(c)->step;
    cr_assert_eq(mri_checkpoint_info(c)->samples, 2 * step);
    cr_assert_eq(ranks_read(c, &layouts[0], 0, step, &wrong, &err), 0, "%s", err.what);
    cr_assert_eq(wrong, 0);
    mri_checkpoint_close(c);
    return step;
}

static int temporaries(const char *dir)
{
    int n = 0;
    struct dirent *e;
    DIR *d = opendir(dir);
    while ((e = readdir(d)))
        n += !strncmp(e->d_name, ".tmp-", 5);
    closedir(d);
    return n;
}

/* Starts the ranks: each saves steps first .. last, counting them in *done, with the fault armed in
 * rank `victim` alone. */
static void start(ranks_shared *s, const char *dir, int64_t first, int64_t last, int64_t keep,
                  uint32_t victim, uint64_t at, volatile int64_t *done, pid_t *pid)
{
    for (uint32_t r = 0; r < s->n; r++) {
        pid[r] = fork();
        cr_assert_geq(pid[r], 0);
        if (pid[r])
            continue;
        ranks_self self = { s, r };
        mri_peers p = ranks_peers(&self);
        mr_err err = MR_ERR_INIT;
        mr_status st = 0;
        fault_at = at;
        fault_calls = 0;
        if (r == victim)
            mri_store_fault_hook = die;
        for (int64_t step = first; step <= last && !st; step++) {
            st = ranks_save(&p, dir, L, step, keep, &err);
            if (!st && !r)
                *done = step;
        }
        _exit(st == 0 ? 0 : st == MR_E_COMM ? 41 : 44);
    }
}

/* Waits for all; a death by the fault, or by a signal, is told to the others. */
static int finish(ranks_shared *s, pid_t *pid)
{
    int deaths = 0;
    for (uint32_t left = s->n; left;) {
        int status;
        pid_t got = waitpid(-1, &status, 0);
        cr_assert_gt(got, 0);
        for (uint32_t r = 0; r < s->n; r++)
            left -= pid[r] == got;
        if (WIFSIGNALED(status) || WEXITSTATUS(status) == 42) {
            atomic_store(&s->dead, 1);
            deaths++;
        } else {
            int code = WEXITSTATUS(status);
            cr_assert(code == 0 || code == 41, "a rank failed otherwise: %d", code);
        }
    }
    return deaths;
}

static int save_with_a_fault(const char *dir, int64_t first, int64_t last, int64_t keep,
                             uint32_t victim, uint64_t at)
{
    ranks_shared *s = ranks_make(layout_ranks(L));
    pid_t pid[RANKS_MOST];
    volatile int64_t *done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    start(s, dir, first, last, keep, victim, at, done, pid);
    int deaths = finish(s, pid);
    munmap((void *)done, sizeof *done);
    ranks_drop(s);
    return deaths;
}

/* Dies ever later until the save goes through. */
static void try_every_step(uint32_t victim, int64_t before, int64_t after, int most_quiet)
{
    bool through = false, new_seen = false;
    int deaths = 0;
    for (uint64_t at = 0; !through; at++) {
        char *top = scratch_make(), *dir = mri_format("%s/ckpt", top);
        if (before)
            cr_assert_eq(save_with_a_fault(dir, 1, before, 0, UINT32_MAX, 0), 0);
        int died = save_with_a_fault(dir, after, after, 1, victim, at);
        through = !died;
        deaths += died;
        int64_t got = verify(dir);
        cr_assert(got == (before ? before : -1) || got == after, "rank %u, step %d: found %lld",
                  victim, (int)at, (long long)got);
        if (got == after && after != before)
            new_seen = true;
        else if (after != before)
            cr_assert_not(new_seen, "the new checkpoint was there and went again at %d", (int)at);
        if (through)
            cr_assert_eq(got, after);
        if (got >= 0)
            cr_assert_eq(temporaries(dir), 0);
        free(dir);
        scratch_drop(top);
    }
    cr_assert_gt(deaths, most_quiet);
}

Test(shard_faults, rank_0_dies_at_every_step_of_the_first_save)
{
    try_every_step(0, 0, 5, 15);
}

Test(shard_faults, rank_0_dies_at_every_step_of_a_later_save)
{
    try_every_step(0, 2, 5, 20);
}

Test(shard_faults, rank_0_dies_at_every_step_of_a_save_that_replaces_its_own_step)
{
    try_every_step(0, 2, 2, 15);
}

Test(shard_faults, another_rank_dies_at_every_step_of_a_save)
{
    for (uint32_t r = 1; r < layout_ranks(L); r++)
        try_every_step(r, 1, 5, 5); /* creates, writes and fsyncs of two files */
}

/* ---- kill -9 at random moments ---------------------------------------------------------- */
static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

static void kill_once(const char *dir, uint64_t seed, double save_ms, volatile int64_t *done)
{
    uint64_t rng = seed;
    int64_t from = verify(dir), wanted = from + (int64_t)(scratch_random(&rng) % 2);
    double pause = (double)(scratch_random(&rng) % 1000) / 1000 * 2 * save_ms;
    uint32_t victim = (uint32_t)(scratch_random(&rng) % layout_ranks(L));
    ranks_shared *s = ranks_make(layout_ranks(L));
    pid_t pid[RANKS_MOST];
    *done = from;
    start(s, dir, from + 1, INT64_MAX - 1, 1 + (int64_t)(seed % 3), UINT32_MAX, 0, done, pid);
    while (*done < wanted)
        usleep(100);
    usleep((useconds_t)(pause * 1000));
    kill(pid[victim], SIGKILL);
    cr_assert_eq(finish(s, pid), 1, "seed %llu", (unsigned long long)seed);
    int64_t got = verify(dir);
    cr_assert(got == *done || got == *done + 1, "seed %llu: saved %lld, found %lld",
              (unsigned long long)seed, (long long)*done, (long long)got);
    cr_log_info("seed %llu: killed rank %u %.1f ms after step %lld, found %lld\n",
                (unsigned long long)seed, victim, pause, (long long)wanted, (long long)got);
    ranks_drop(s);
}

Test(shard_faults, kill_of_any_rank_at_random_moments, .timeout = 280)
{
    const char *all = getenv("MRUN_TEST_LONG");
    uint64_t runs = all && !strcmp(all, "1") ? 200 : 10;
    char *top = scratch_make(), *dir = mri_format("%s/ckpt", top);
    volatile int64_t *done = mmap(NULL, sizeof *done, PROT_READ | PROT_WRITE,
                                  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    double begin = now_ms();
    cr_assert_eq(save_with_a_fault(dir, 1, 3, 2, UINT32_MAX, 0), 0);
    double save_ms = (now_ms() - begin) / 3;
    fprintf(stderr, "kill -9 of a rank with seeds 1 to %llu, a save takes %.1f ms\n",
            (unsigned long long)runs, save_ms);
    for (uint64_t seed = 1; seed <= runs; seed++)
        kill_once(dir, seed, save_ms, done);
    cr_assert_gt(verify(dir), 3); /* some saves got through */
    munmap((void *)done, sizeof *done);
    free(dir);
    scratch_drop(top);
}
