/* SPDX-License-Identifier: Apache-2.0
 *
 * scan.c - looks at a library from a forked child, so that a plugin that crashes, hangs or
 * prints cannot hurt the one who asks. The child loads, checks and opens it, and reports
 * through a pipe as a row of NUL-ended strings.
 *
 * Invariants: the parent waits at most the limit, then kills the child's process group;
 * what arrives is untrusted (a plugin may have trampled on the child) and is bounded; the
 * child never returns and runs no exit handlers. Ask from the main thread: another thread
 * that is inside dlopen() while this one forks would leave its lock taken in the child.
 */
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_REPORT = 1 << 20 };

/* ---- the child ------------------------------------------------------------------------ */

static void tell(int fd, const char *s)
{
    size_t n = s ? strlen(s) + 1 : 1;
    for (const char *p = s ? s : ""; n;) {
        ssize_t put = write(fd, p, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            _exit(0); /* nobody listens any more */
        p += put;
        n -= (size_t)put;
    }
}

static void tell_stage(void *user, const char *what)
{
    tell(*(int *)user, "stage");
    tell(*(int *)user, what);
}

static void quiet_log(void *self, uint32_t level, const char *unit, const char *msg)
{
    (void)self;
    (void)level;
    (void)unit;
    (void)msg;
}

static void report(int fd, const mr_host *host, const char *path)
{
    mr_err err = MR_ERR_INIT;
    const mr_plugin *p = NULL;
    mr_host quiet = *host;
    quiet.log = quiet_log;
    if (mri_load_file(&quiet, path, tell_stage, &fd, &p, &err)) {
        char code[16], blame[16];
        snprintf(code, sizeof code, "%d", err.code);
        snprintf(blame, sizeof blame, "%u", err.blame);
        const char *const row[] = { "error", code, blame, err.what, err.detail, err.hint };
        for (size_t i = 0; i < sizeof row / sizeof *row; i++)
            tell(fd, row[i]);
        return;
    }
    char abi[32];
    snprintf(abi, sizeof abi, "%u.%u", p->abi_major, p->abi_minor_built);
    const char *const row[] = { "plugin", p->id, p->version, abi };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        tell(fd, row[i]);
    for (uint32_t i = 0; i < p->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(p, i);
        bool lacks = mri_unit_needs(host, u, path, &err) != 0;
        const char *const unit[] = { "unit", u->kind, u->name, u->doc, lacks ? err.what : "" };
        for (size_t j = 0; j < sizeof unit / sizeof *unit; j++)
            tell(fd, unit[j]);
    }
    tell(fd, "end");
}

__attribute__((noreturn)) static void child(int fd, const mr_host *host, const char *path)
{
    struct rlimit none = { 0, 0 };
    sigset_t all;
    setpgid(0, 0); /* so that the kill also reaches what the plugin started */
    setrlimit(RLIMIT_CORE, &none);
    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);
    sigemptyset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    signal(SIGPIPE, SIG_IGN);
    int null = open("/dev/null", O_RDWR);
    for (int i = 0; i < 3 && null >= 0; i++)
        dup2(null, i); /* what a plugin prints while it is listed is nobody's data */
    report(fd, host, path);
    _exit(0);
}

/* ---- the parent ----------------------------------------------------------------------- */

static int64_t now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Reads until the child closes its end; false when the time is up. */
static bool listen_until(int fd, int64_t deadline, mri_str *out)
{
    char buf[4096];
    mri_str_addn(out, "", 0);
    for (;;) {
        int64_t left = deadline - now_ms();
        struct pollfd p = { fd, POLLIN, 0 };
        int ready = left > 0 ? poll(&p, 1, (int)left) : 0;
        if (ready < 0 && errno == EINTR)
            continue;
        if (ready <= 0)
            return false;
        ssize_t n = read(fd, buf, sizeof buf);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return true;
        if (out->n < MAX_REPORT)
            mri_str_addn(out, buf, (size_t)n);
    }
}

/* The child closed its pipe (or a plugin did): it has the rest of its time to end. */
static bool wait_until(pid_t pid, int64_t deadline, int *status)
{
    for (;;) {
        pid_t got = waitpid(pid, status, WNOHANG);
        if (got == pid)
            return true;
        if (got < 0 && errno != EINTR) {
            *status = 0; /* somebody else reaps children here; the report says what it says */
            return true;
        }
        if (now_ms() >= deadline)
            return false;
        nanosleep(&(struct timespec){ 0, 200000 }, NULL);
    }
}

typedef struct cursor {
    const char *p, *end;
} cursor;

static const char *next(cursor *c)
{
    const char *s = c->p, *zero = c->p < c->end ? memchr(s, 0, (size_t)(c->end - s)) : NULL;
    if (!zero)
        return NULL;
    c->p = zero + 1;
    return s;
}

static bool take(cursor *c, const char **row, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(row[i] = next(c)))
            return false;
    return true;
}

/* 1: the report is complete; err is set where it holds an error. `stage`: the last one told */
static bool parse(const mri_str *text, mri_scan *out, const char **stage, mr_err *err)
{
    cursor c = { text->s, text->s + text->n };
    const char *tag, *f[5];
    while ((tag = next(&c))) {
        if (!strcmp(tag, "stage") && take(&c, f, 1)) {
            *stage = f[0];
        } else if (!strcmp(tag, "error") && take(&c, f, 5)) {
            mr_fail(err, atoi(f[0]) < 0 ? atoi(f[0]) : MR_E_PLUGIN_LOAD, (uint32_t)atoi(f[1]),
                    "%s", f[2]);
            mr_detail(err, "%s", f[3]);
            mr_hint(err, "%s", f[4]);
            return true;
        } else if (!strcmp(tag, "plugin") && !out->id && take(&c, f, 3)) {
            out->id = mri_strdup(f[0]);
            out->version = mri_strdup(f[1]);
            out->abi = mri_strdup(f[2]);
        } else if (!strcmp(tag, "unit") && take(&c, f, 4)) {
            mri_scan_unit u = { mri_strdup(f[0]), mri_strdup(f[1]), mri_strdup(f[2]),
                                mri_strdup(f[3]) };
            MRI_PUSH(&out->units, u);
        } else {
            return !strcmp(tag, "end") && out->id;
        }
    }
    return false;
}

static void crashed(const char *path, int status, const char *stage, mr_err *err)
{
    const char *who = mri_base_name(path);
    if (WIFSIGNALED(status)) {
        const char *name = sigabbrev_np(WTERMSIG(status));
        mr_fail(err, MR_E_PLUGIN_CRASHED, MR_BLAME_PLUGIN, "%s crashed: SIG%s %s", who,
                name ? name : "?", stage);
    } else {
        mr_fail(err, MR_E_PLUGIN_CRASHED, MR_BLAME_PLUGIN, "%s crashed: it called exit(%d) %s", who,
                WEXITSTATUS(status), stage);
    }
    mr_detail(err, "file: %s", path);
    mr_hint(err, "under a debugger: mrun check --in-process %s", path);
}

mr_status mri_scan_file(const mr_host *host, const char *path, int limit_ms, mri_scan *out,
                        mr_err *err)
{
    int pipe_fd[2], status = 0;
    mr_err heard = MR_ERR_INIT;
    memset(out, 0, sizeof *out);
    if (pipe2(pipe_fd, O_CLOEXEC))
        return mr_fail(err, MR_E_PLUGIN_LOAD, MR_BLAME_ENV, "no pipe to look at %s: %s", path,
                       strerror(errno));
    int64_t deadline = now_ms() + limit_ms;
    pid_t pid = fork();
    if (!pid) {
        close(pipe_fd[0]);
        child(pipe_fd[1], host, path);
    }
    int fork_error = errno;
    close(pipe_fd[1]);
    if (pid < 0) {
        close(pipe_fd[0]);
        return mr_fail(err, MR_E_PLUGIN_LOAD, MR_BLAME_ENV, "no process to look at %s: %s", path,
                       strerror(fork_error));
    }
    mri_str text = { 0 };
    const char *stage = "before it was loaded";
    bool in_time = listen_until(pipe_fd[0], deadline, &text) && wait_until(pid, deadline, &status);
    close(pipe_fd[0]);
    if (!in_time) {
        /* the child may not have reached setpgid() yet: kill both */
        kill(-pid, SIGKILL);
        kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    bool complete = parse(&text, out, &stage, &heard);
    if (!in_time) {
        mr_fail(err, MR_E_PLUGIN_TIMEOUT, MR_BLAME_PLUGIN, "%s did not answer within %d ms: stuck %s",
                mri_base_name(path), limit_ms, stage);
        mr_detail(err, "file: %s", path);
        mr_hint(err, "open() may not wait for devices or networks; move that into create()");
        heard.code = MR_E_PLUGIN_TIMEOUT;
    } else if (!complete || (WIFSIGNALED(status) && !heard.code)) {
        crashed(path, status, stage, err);
        heard.code = MR_E_PLUGIN_CRASHED;
    } else if (heard.code && err) {
        uint32_t size = err->size;
        if (size >= sizeof heard)
            *err = heard;
        err->size = size;
    }
    mri_str_free(&text);
    return heard.code;
}

void mri_scan_free(mri_scan *s)
{
    free(s->id);
    free(s->version);
    free(s->abi);
    for (size_t i = 0; i < s->units.n; i++) {
        mri_scan_unit *u = &s->units.v[i];
        free(u->kind);
        free(u->name);
        free(u->doc);
        free(u->missing);
    }
    free(s->units.v);
    memset(s, 0, sizeof *s);
}
