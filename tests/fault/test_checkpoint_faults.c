/* SPDX-License-Identifier: Apache-2.0
 * No death, at any write, fsync, rename or other step of a save, costs a checkpoint: the
 * next open finds the previous or the new one, whole. Neither does a full disk. */
#include "../unit/store/scratch.h"
#include "core/store/store.h"
#include <dirent.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>

enum { BIG = 5000, SMALL = 3 };

/* All content follows from the step, so that a mix of two saves cannot look right. */
static mr_status save(const char *dir, int64_t step, int64_t keep, mr_err *err)
{
    static double big[BIG];
    uint8_t small[SMALL];
    for (int i = 0; i < BIG; i++)
        big[i] = (double)(step * 1000003 + i);
    for (int i = 0; i < SMALL; i++)
        small[i] = (uint8_t)(step + i);
    const mri_tensor model[] = { { "w", mr_type1("f64", BIG), big },
                                 { "b", mr_type1("u8", SMALL), small } };
    const mri_tensor opt[] = { { "w.m", mr_type1("f64", BIG), big } };
    const mri_checkpoint_file files[] = { { "model", model, 2 }, { "optimizer", opt, 1 } };
    char *profile = mri_format("[run]\nstep = %lld\n", (long long)step);
    mri_checkpoint_meta m = { .step = step, .samples = 2 * step, .profile_text = profile };
    MRI_PUSH(&m.counters, mr_af("loss", 1.0 / (double)(step + 1)));
    mr_status st = mri_checkpoint_save(dir, &m, files, 2, keep, err);
    free(m.counters.v);
    free(profile);
    return st;
}

/* The step of the newest checkpoint, all of whose content was compared; -1: none. */
static int64_t verify(const char *dir)
{
    mri_checkpoint *c;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), 0, "%s; %s", err.what, err.detail);
    if (!c)
        return -1;
    const mri_checkpoint_meta *m = mri_checkpoint_info(c);
    int64_t step = m->step;
    const double *w = mri_safetensors_find(mri_checkpoint_group(c, "model"), "w")->data;
    const uint8_t *b = mri_safetensors_find(mri_checkpoint_group(c, "model"), "b")->data;
    const double *o = mri_safetensors_find(mri_checkpoint_group(c, "optimizer"), "w.m")->data;
    for (int i = 0; i < BIG; i++)
        cr_assert(w[i] == (double)(step * 1000003 + i) && o[i] == w[i]);
    for (int i = 0; i < SMALL; i++)
        cr_assert_eq(b[i], (uint8_t)(step + i));
    char *profile = mri_format("[run]\nstep = %lld\n", (long long)step);
    cr_assert_str_eq(m->profile_text, profile);
    cr_assert_eq(m->samples, 2 * step);
    cr_assert_eq(m->counters.n, 1);
    cr_assert(m->counters.v[0].u.f == 1.0 / (double)(step + 1));
    free(profile);
    mri_checkpoint_close(c);
    return step;
}

/* Whatever has a final name is whole, the ones on their way out too. */
static void verify_all(const char *dir)
{
    int64_t *steps;
    size_t n;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_checkpoint_list(dir, &steps, &n, &err), 0, "%s", err.what);
    for (size_t i = 0; i < n; i++) {
        mri_checkpoint *c;
        char *path = mri_format("%s/step-%08lld", dir, (long long)steps[i]);
        cr_assert_eq(mri_checkpoint_open(path, &c, &err), 0, "%s", err.what);
        cr_assert_eq(mri_checkpoint_info(c)->step, steps[i]);
        mri_checkpoint_close(c);
        free(path);
    }
    free(steps);
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

/* ---- the fault, set before a save in a child -------------------------------------------- */
enum { DIE, SHORT_THEN_DIE, FULL, MODES };
static int fault_mode;
static uint64_t fault_at, fault_calls;

static void limit_file_to(const char *path, rlim_t more)
{
    struct stat s;
    struct rlimit limit = { 0, 0 };
    cr_assert_eq(stat(path, &s), 0);
    getrlimit(RLIMIT_FSIZE, &limit);
    limit.rlim_cur = (rlim_t)s.st_size + more;
    setrlimit(RLIMIT_FSIZE, &limit);
    signal(SIGXFSZ, SIG_IGN);
}

static void inject(const char *what, const char *path, uint64_t n)
{
    (void)n;
    uint64_t now = fault_calls++;
    bool write = !strcmp(what, "write");
    if (fault_mode == DIE && now == fault_at)
        _exit(42);
    if (fault_mode == SHORT_THEN_DIE) {
        if (now == fault_at && write)
            limit_file_to(path, 2); /* the kernel takes two bytes of the next write */
        if (now == fault_at + 1 || (now == fault_at && !write))
            _exit(42);
    }
    if (fault_mode == FULL && now == fault_at && write)
        limit_file_to(path, 0);
}

/* Runs one save of `step` in a child with the fault armed; its exit: 42 died, else |status| % 256
 * of the save (0: it went through). */
static int save_in_child(const char *dir, int64_t step, int64_t keep, int mode, uint64_t at)
{
    pid_t pid = fork();
    int status;
    cr_assert_geq(pid, 0);
    if (!pid) {
        mr_err err = MR_ERR_INIT;
        fault_mode = mode;
        fault_at = at;
        fault_calls = 0;
        mri_store_fault_hook = inject;
        mr_status st = save(dir, step, keep, &err);
        bool numbers = strstr(err.detail, "needed: ") && strstr(err.detail, "free");
        if (st == MR_E_STORE_FULL && !numbers)
            _exit(43);
        _exit(st == 0 ? 0 : st == MR_E_STORE_FULL ? 41 : 44);
    }
    cr_assert_eq(waitpid(pid, &status, 0), pid);
    cr_assert(WIFEXITED(status));
    return WEXITSTATUS(status);
}

/* Counts the steps of one save by letting it die ever later until it no longer does. */
static void try_every_step(int64_t before, int64_t after, int64_t keep, int mode)
{
    bool through = false, new_seen = false;
    int deaths = 0;
    for (uint64_t at = 0; !through; at++) {
        char *top = scratch_make(), *dir = mri_format("%s/ckpt", top);
        mr_err err = MR_ERR_INIT;
        for (int64_t s = 1; s <= before; s++)
            cr_assert_eq(save(dir, s, 0, &err), 0, "%s", err.what);
        int exit_code = save_in_child(dir, after, keep, mode, at);
        cr_assert(exit_code == 42 || exit_code == 0, "exit %d at step %d", exit_code, (int)at);
        through = exit_code == 0;
        deaths += exit_code == 42;
        verify_all(dir);
        int64_t got = verify(dir);
        cr_assert(got == (before ? before : -1) || got == after, "found step %lld", (long long)got);
        if (got == after && after != before)
            new_seen = true;
        else if (after != before)
            cr_assert_not(new_seen, "the new checkpoint was there and went again at %d", (int)at);
        if (through)
            cr_assert_eq(got, after);
        if (got >= 0)
            cr_assert_eq(temporaries(dir), 0);
        cr_assert_eq(save(dir, after + 1, 1, &err), 0, "%s", err.what); /* and the run goes on */
        cr_assert_eq(verify(dir), after + 1);
        free(dir);
        scratch_drop(top);
    }
    cr_assert_gt(deaths, 15); /* creates, writes, fsyncs, renames, unlinks: they were all tried */
}

Test(checkpoint_faults, death_at_every_step_of_the_first_save)
{
    try_every_step(0, 5, 1, DIE);
}

Test(checkpoint_faults, death_at_every_step_of_a_later_save)
{
    try_every_step(3, 5, 1, DIE);
}

Test(checkpoint_faults, death_at_every_step_of_a_save_that_replaces_its_own_step)
{
    try_every_step(3, 3, 1, DIE);
}

Test(checkpoint_faults, a_short_write_then_death_at_every_step)
{
    try_every_step(2, 5, 1, SHORT_THEN_DIE);
}

Test(checkpoint_faults, a_full_disk_at_every_write_loses_nothing)
{
    int full = 0, code = 41;
    for (uint64_t at = 0; at < 60; at++) {
        char *dir = scratch_make();
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(save(dir, 1, 0, &err), 0, "%s", err.what);
        code = save_in_child(dir, 2, 1, FULL, at);
        cr_assert(code == 0 || code == 41, "exit %d", code);
        full += code == 41;
        cr_assert_eq(temporaries(dir), 0, "the temporary folder stayed");
        cr_assert_eq(verify(dir), code ? 1 : 2);
        scratch_drop(dir);
    }
    cr_assert_geq(full, 7); /* two headers, three tensors, the profile, the manifest */
    cr_assert_eq(code, 0);  /* the last fault came after the save's end */
}

Test(checkpoint_faults, a_disk_without_room_is_refused_before_anything_is_written)
{
    char *dir = scratch_make();
    if (unshare(CLONE_NEWNS) || mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) ||
        mount("none", dir, "tmpfs", 0, "size=640k")) {
        scratch_drop(dir);
        cr_skip_test("needs the right to mount");
    }
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(save(dir, 1, 0, &err), 0, "%s", err.what);
    cr_assert_eq(save(dir, 2, 0, &err), 0, "%s", err.what);
    mr_status st = 0;
    int64_t step = 3;
    for (; step < 20 && !st; step++)
        st = save(dir, step, 0, &err);
    cr_assert_eq(st, MR_E_STORE_FULL);
    cr_assert_not_null(strstr(err.what, "no room"), "%s", err.what);
    cr_assert_not_null(strstr(err.detail, "needed: "), "%s", err.detail);
    cr_assert_eq(temporaries(dir), 0);
    cr_assert_eq(verify(dir), step - 2);
    umount(dir);
    scratch_drop(dir);
}

/* ---- order: what a power cut relies on -------------------------------------------------- */
static struct {
    char what[8];
    char path[160];
} trace[200];
static size_t traced;

static void record(const char *what, const char *path, uint64_t n)
{
    (void)n;
    cr_assert_lt(traced, 200);
    snprintf(trace[traced].what, sizeof trace[0].what, "%s", what);
    snprintf(trace[traced++].path, sizeof trace[0].path, "%s", path);
}

static size_t first(const char *what, const char *path, size_t from)
{
    for (size_t i = from; i < traced; i++)
        if (!strcmp(trace[i].what, what) && (!path || !strcmp(trace[i].path, path)))
            return i;
    return traced;
}

Test(checkpoint_faults, all_is_fsynced_before_the_rename_and_the_rename_before_the_pruning)
{
    char *dir = scratch_make();
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(save(dir, 1, 1, &err), 0, "%s", err.what);
    mri_store_fault_hook = record;
    cr_assert_eq(save(dir, 2, 1, &err), 0, "%s", err.what);
    mri_store_fault_hook = NULL;

    size_t mkdir_at = first("mkdir", NULL, 0), rename_at = first("rename", NULL, 0);
    cr_assert_lt(rename_at, traced);
    cr_assert_str_eq(trace[rename_at].path, trace[mkdir_at].path);
    int files = 0;
    for (size_t i = 0; i < rename_at; i++) {
        if (strcmp(trace[i].what, "create") && strcmp(trace[i].what, "write"))
            continue;
        files += trace[i].what[0] == 'c';
        cr_assert_lt(first("fsync", trace[i].path, i), rename_at, "%s", trace[i].path);
    }
    cr_assert_eq(files, 4);
    size_t folder = first("fsync", trace[rename_at].path, 0);
    cr_assert_lt(folder, rename_at);
    for (size_t i = folder; i < rename_at; i++)
        cr_assert(strcmp(trace[i].what, "create") && strcmp(trace[i].what, "write"));
    cr_assert_str_eq(trace[rename_at + 1].what, "fsync");
    cr_assert_str_eq(trace[rename_at + 1].path, dir);
    cr_assert_eq(first("unlink", NULL, 0), first("unlink", NULL, rename_at + 2));
    cr_assert_lt(first("rename", NULL, rename_at + 1), first("unlink", NULL, 0));
    scratch_drop(dir);
}

/* ---- kill -9 at random moments ---------------------------------------------------------- */
static double now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

/* Kills a child that saves in a loop, some saves in and up to two saves' time (save_ms) later:
 * relative to what this machine does, so that a slow one is hit in the same places. */
static void kill_once(const char *dir, uint64_t seed, double save_ms, volatile int64_t *durable)
{
    uint64_t rng = seed;
    int64_t start = verify(dir), wanted = start + (int64_t)(scratch_random(&rng) % 3);
    double pause = (double)(scratch_random(&rng) % 1000) / 1000 * 2 * save_ms;
    *durable = start;
    pid_t pid = fork();
    cr_assert_geq(pid, 0);
    if (!pid) {
        mr_err err = MR_ERR_INIT;
        for (int64_t s = start + 1;; s++) {
            if (save(dir, s, 1 + (int64_t)(seed % 3), &err))
                _exit(1);
            *durable = s;
        }
    }
    while (*durable < wanted && !waitpid(pid, NULL, WNOHANG))
        usleep(100);
    usleep((useconds_t)(pause * 1000));
    kill(pid, SIGKILL);
    int status = 0;
    cr_assert_eq(waitpid(pid, &status, 0), pid, "seed %llu: the saver ended by itself",
                 (unsigned long long)seed);
    cr_assert(WIFSIGNALED(status), "seed %llu: the saver failed", (unsigned long long)seed);
    verify_all(dir);
    int64_t got = verify(dir);
    cr_assert(got == *durable || got == *durable + 1, "seed %llu: saved %lld, found %lld",
              (unsigned long long)seed, (long long)*durable, (long long)got);
    cr_log_info("seed %llu: killed %.1f ms after step %lld, found %lld\n",
                (unsigned long long)seed, pause, (long long)wanted, (long long)got);
}

Test(checkpoint_faults, kill_at_random_moments, .timeout = 240)
{
    const char *all = getenv("MRUN_TEST_LONG");
    uint64_t runs = all && !strcmp(all, "1") ? 200 : 10;
    char *top = scratch_make(), *dir = mri_format("%s/ckpt", top);
    volatile int64_t *durable = mmap(NULL, sizeof *durable, PROT_READ | PROT_WRITE,
                                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    mr_err err = MR_ERR_INIT;
    double begin = now_ms();
    for (int64_t s = 1; s <= 3; s++)
        cr_assert_eq(save(dir, s, 2, &err), 0, "%s", err.what);
    double save_ms = (now_ms() - begin) / 3;
    fprintf(stderr, "kill -9 with seeds 1 to %llu, a save takes %.1f ms\n",
            (unsigned long long)runs, save_ms);
    for (uint64_t seed = 1; seed <= runs; seed++)
        kill_once(dir, seed, save_ms, durable);
    cr_assert_gt(verify(dir), 3); /* some saves got through */
    munmap((void *)durable, sizeof *durable);
    free(dir);
    scratch_drop(top);
}
