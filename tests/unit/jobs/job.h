/* SPDX-License-Identifier: Apache-2.0
 *
 * job.h - running the mrun binary as a user does: a temporary folder with a small text and a
 * small profile (a dense and a mixture layer), the command in a child process, and what it
 * left behind: exit code, output, log.jsonl, the newest checkpoint.
 * Small things that a test creates live until its process ends; Criterion gives each test one.
 */
#ifndef TEST_JOB_H
#define TEST_JOB_H
#include "core/store/shards.h"
#include "core/store/store.h"
#include <criterion/criterion.h>
#include <fcntl.h>
#include <jansson.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

typedef struct job {
    char *dir; /* has text.txt and p.ini; runs go to DIR/run unless a test says otherwise */
} job;

typedef struct job_child {
    pid_t pid;
    char *out, *err; /* files that hold its stdout and stderr */
} job_child;

typedef struct job_result {
    int code; /* exit code; 1000 + n: killed by signal n */
    char *out, *err;
} job_result;

static const char job_profile[] =
    "[run]\nseed = 7\n[job]\nrun = train\n[backend]\nplugin = cpu\n[backend.cpu]\nthreads = 1\n"
    "[data]\nplugin = text\n[data.text]\npath = text.txt\nvalid_fraction = 0.1\n"
    "[tokenizer]\nplugin = bytes\n[sink]\nplugin = jsonl\n"
    "[model]\nplugin = llama4\nlayers = 2\nhidden = 16\nheads = 2\nkv_heads = 1\nhead_dim = 8\n"
    "ffn_hidden = 24\nvocab = 256\nmax_positions = 256\ninit_std = 0.05\n"
    "[model.llama4]\nexperts = 3\nexperts_per_token = 2\nexpert_hidden = 12\nmoe_step = 2\n"
    "nope_interval = 2\nattention_chunk = 8\naux_loss = 0.01\nz_loss = 0.001\n"
    "[optimizer]\nplugin = adamw\nlr = 3e-3\nschedule = constant\n"
    "[train]\nsteps = 40\nseq = 16\nmicro_batch = 2\nglobal_batch = 4\n"
    "[checkpoint]\nkeep = 2\n";

static inline void job_write(const char *path, const char *text, size_t n)
{
    FILE *f = fopen(path, "w");
    cr_assert(f && fwrite(text, 1, n, f) == n && !fclose(f), "cannot write %s", path);
}

/* words in a fixed pseudo-random order, so that there is something to learn */
static inline char *job_text(size_t n)
{
    static const char *const words[] = { "the ", "cat ", "sat ", "on ", "a ", "mat, ", "and ",
                                         "then ", "it ", "slept.\n" };
    mri_str s = { 0 };
    for (uint32_t x = 1; s.n < n;) {
        x = x * 1664525u + 1013904223u;
        mri_str_add(&s, words[(x >> 16) % 10]);
    }
    s.s[n] = 0;
    return s.s;
}

static inline char *job_path(const job *j, const char *name)
{
    return mri_format("%s/%s", j->dir, name);
}

static inline job job_new(void)
{
    char name[] = "/tmp/mrun-job-XXXXXX", *text = job_text(20000);
    cr_assert_not_null(mkdtemp(name), "mkdtemp");
    job j = { mri_strdup(name) };
    job_write(job_path(&j, "text.txt"), text, 20000);
    job_write(job_path(&j, "p.ini"), job_profile, sizeof job_profile - 1);
    return j;
}

static inline void job_free(job *j)
{
    char *command = mri_format("chmod -R u+w '%s'; rm -rf '%s'", j->dir, j->dir);
    cr_assert_eq(system(command), 0);
}

static inline char *job_read(const char *path)
{
    mr_err err = MR_ERR_INIT;
    char *text;
    size_t n;
    return mri_read_file(path, 1 << 28, &text, &n, &err) ? mri_strdup("") : text;
}

/* argv without the program's name; a child that raises no limits of its own */
static inline job_child job_start(const job *j, const char *const *argv)
{
    static int number;
    job_child c = { 0, mri_format("%s/out.%d", j->dir, number),
                    mri_format("%s/err.%d", j->dir, number) };
    const char *words[64] = { getenv("MRUN_EXE") };
    number++;
    for (size_t i = 0; argv[i]; i++) {
        cr_assert_lt(i, 62);
        words[i + 1] = argv[i];
    }
    fflush(NULL);
    c.pid = fork();
    cr_assert_geq(c.pid, 0);
    if (!c.pid) {
        int out = open(c.out, O_CREAT | O_TRUNC | O_WRONLY, 0666);
        int err = open(c.err, O_CREAT | O_TRUNC | O_WRONLY, 0666);
        if (chdir(j->dir) || dup2(out, 1) < 0 || dup2(err, 2) < 0)
            _exit(99);
        execv(words[0], (char *const *)(uintptr_t)words);
        _exit(98);
    }
    return c;
}

static inline job_result job_wait(job_child c)
{
    int status;
    cr_assert_eq(waitpid(c.pid, &status, 0), c.pid);
    return (job_result){ WIFEXITED(status) ? WEXITSTATUS(status) : 1000 + WTERMSIG(status),
                         job_read(c.out), job_read(c.err) };
}

#define JOB_ARGS(...) (const char *const[]){ __VA_ARGS__, NULL }
#define job_run(j, ...) job_wait(job_start(j, JOB_ARGS(__VA_ARGS__)))

static inline void job_expect(const job_result *r, int code, const char *const *in_err)
{
    cr_assert_eq(r->code, code, "exit code %d, expected %d; it said:\n%s%s", r->code, code, r->out,
                 r->err);
    for (; in_err && *in_err; in_err++)
        cr_assert_not_null(strstr(r->err, *in_err), "'%s' is not in:\n%s", *in_err, r->err);
}
#define JOB_EXPECT(r, code, ...) job_expect(r, code, JOB_ARGS(__VA_ARGS__))

static inline void job_sleep(double seconds)
{
    struct timespec t = { (time_t)seconds, (long)((seconds - (double)(time_t)seconds) * 1e9) };
    nanosleep(&t, NULL);
}

static inline double job_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Of every step line of a log: step, loss, gradient norm and rate as they stand there. Asserts
 * that the steps are 1, 2, 3 ... without gap or repetition. */
static inline char *job_losses(const char *run)
{
    char *path = mri_format("%s/log.jsonl", run), *text = job_read(path);
    mri_str out = { 0 };
    int64_t want = 1;
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        json_t *o = json_loads(line, 0, NULL);
        cr_assert_not_null(o, "%s has the line %s", path, line);
        json_t *loss = json_object_get(o, "loss");
        if (loss) {
            int64_t step = json_integer_value(json_object_get(o, "step"));
            cr_assert_eq(step, want, "%s: step %lld where %lld is due", path, (long long)step,
                         (long long)want);
            want++;
            mri_str_fmt(&out, "%lld loss %.17g norm %.17g lr %.17g\n", (long long)step,
                        json_number_value(loss),
                        json_number_value(json_object_get(o, "grad_norm")),
                        json_number_value(json_object_get(o, "lr")));
        }
        json_decref(o);
    }
    free(text);
    free(path);
    return mri_str_take(&out);
}

static inline int job_lines(const char *run)
{
    char *path = mri_format("%s/log.jsonl", run), *text = job_read(path);
    int n = 0;
    for (char *p = text; (p = strchr(p, '\n')); p++)
        n++;
    free(text);
    free(path);
    return n;
}

/* Waits until the run's log has n lines; the child must still be there then. */
static inline void job_await(const char *run, int n)
{
    double end = job_now() + 60;
    while (job_lines(run) < n) {
        cr_assert_lt(job_now(), end, "%s never logs %d lines", run, n);
        job_sleep(0.001);
    }
}

static inline mri_checkpoint *job_checkpoint(const char *run)
{
    char *dir = mri_format("%s/checkpoints", run);
    mri_checkpoint *c = NULL;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_checkpoint_open_newest(dir, &c, &err), 0, "%s: %s", dir, err.what);
    cr_assert_not_null(c, "%s holds no checkpoint", dir);
    if (mri_checkpoint_format(c) && !mri_checkpoint_layout(c)) { /* of several ranks */
        cr_assert_eq(mri_checkpoint_join(c, "model", &err), 0, "%s", err.what);
        cr_assert_eq(mri_checkpoint_join(c, "optimizer", &err), 0, "%s", err.what);
    }
    free(dir);
    return c;
}

static inline void job_same_group(const mri_checkpoint *a, const mri_checkpoint *b,
                                  const char *group)
{
    const mri_safetensors *x = mri_checkpoint_group(a, group), *y = mri_checkpoint_group(b, group);
    cr_assert(x && y, "a checkpoint lacks the group %s", group);
    cr_assert_eq(mri_safetensors_count(x), mri_safetensors_count(y));
    for (size_t i = 0; i < mri_safetensors_count(x); i++) {
        const mri_tensor *s = mri_safetensors_at(x, i), *t = mri_safetensors_find(y, s->name);
        cr_assert_not_null(t, "no %s", s->name);
        cr_assert_eq(mr_bytes(&s->type), mr_bytes(&t->type));
        cr_assert_eq(memcmp(s->data, t->data, mr_bytes(&s->type)), 0, "%s differs", s->name);
    }
}

/* Two runs ended alike: the same losses to the last digit, the same weights and states. */
static inline void job_same_run(const char *a, const char *b)
{
    char *x = job_losses(a), *y = job_losses(b);
    mri_checkpoint *c = job_checkpoint(a), *d = job_checkpoint(b);
    cr_assert(*x && !strcmp(x, y), "%s:\n%s\n%s:\n%s", a, x, b, y);
    cr_assert_eq(mri_checkpoint_info(c)->step, mri_checkpoint_info(d)->step);
    cr_assert_eq(mri_checkpoint_info(c)->samples, mri_checkpoint_info(d)->samples);
    job_same_group(c, d, "model");
    job_same_group(c, d, "optimizer");
    mri_checkpoint_close(c);
    mri_checkpoint_close(d);
    free(x);
    free(y);
}

#endif
