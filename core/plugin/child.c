/* SPDX-License-Identifier: Apache-2.0
 *
 * child.c - see child.h. Invariants: the parent waits at most the limit and then kills the
 * child's process group; the child never returns into this program's code.
 */
#include "child.h"
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

enum { MAX_TEXT = 1 << 20 };

void mri_child_tell(int fd, const char *bytes, size_t n)
{
    while (n) {
        ssize_t put = write(fd, bytes, n);
        if (put < 0 && errno == EINTR)
            continue;
        if (put <= 0)
            _exit(0);
        bytes += put;
        n -= (size_t)put;
    }
}

__attribute__((noreturn)) static void child(void (*fn)(int fd, void *user), void *user, int fd,
                                            bool quiet)
{
    struct rlimit none = { 0, 0 };
    sigset_t all;
    setpgid(0, 0); /* so that the kill also reaches what the plugin started */
    setrlimit(RLIMIT_CORE, &none);
    for (int sig = 1; sig < 32; sig++)
        signal(sig, SIG_DFL);
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&all);
    sigprocmask(SIG_SETMASK, &all, NULL);
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    for (int i = 0; null >= 0 && i < (quiet ? 3 : 1); i++)
        dup2(null, i);
    fn(fd, user);
    _exit(0);
}

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
        if (out->n < MAX_TEXT)
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
            *status = 0; /* somebody else reaps children here; the text says what it says */
            return true;
        }
        if (now_ms() >= deadline)
            return false;
        nanosleep(&(struct timespec){ 0, 200000 }, NULL);
    }
}

mr_status mri_child_run(void (*fn)(int fd, void *user), void *user, int limit_ms, bool quiet,
                        mri_child *out, mr_err *err)
{
    int fd[2];
    memset(out, 0, sizeof *out);
    if (pipe2(fd, O_CLOEXEC))
        return mr_fail(err, MR_E_PLUGIN_LOAD, MR_BLAME_ENV, "no pipe to a child process: %s",
                       strerror(errno));
    int64_t deadline = now_ms() + limit_ms;
    pid_t pid = fork();
    if (!pid) {
        close(fd[0]);
        child(fn, user, fd[1], quiet);
    }
    int fork_error = errno;
    close(fd[1]);
    if (pid < 0) {
        close(fd[0]);
        return mr_fail(err, MR_E_PLUGIN_LOAD, MR_BLAME_ENV, "no child process: %s",
                       strerror(fork_error));
    }
    out->in_time = listen_until(fd[0], deadline, &out->text) &&
                   wait_until(pid, deadline, &out->status);
    close(fd[0]);
    if (!out->in_time) {
        /* the child may not have reached setpgid() yet: kill both */
        kill(-pid, SIGKILL);
        kill(pid, SIGKILL);
        while (waitpid(pid, &out->status, 0) < 0 && errno == EINTR)
            ;
    }
    return 0;
}

char *mri_child_death(const mri_child *c)
{
    if (WIFSIGNALED(c->status)) {
        const char *name = sigabbrev_np(WTERMSIG(c->status));
        return name ? mri_format("SIG%s", name) : mri_format("signal %d", WTERMSIG(c->status));
    }
    return WEXITSTATUS(c->status) ? mri_format("exit(%d)", WEXITSTATUS(c->status)) : NULL;
}
