/* SPDX-License-Identifier: Apache-2.0
 *
 * supervise.c - `mrun supervise -- COMMAND`: starts a run again that ended by a fault, which then
 * resumes from its last checkpoint; on fewer ranks where that is asked for; and gives up in time.
 *
 * What is started again is decided by the exit code alone: not a wrong profile (2), not a fault
 * that another start on the same machine repeats (17), not what the user stopped (130, 143).
 */
#include "app.h"
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

enum { PER_SIZE = 2, HEALTHY_S = 600, NO_EXEC = 127 };

typedef struct supervision {
    const char *const *words; /* the command, NULL-ended */
    long restarts;            /* in a row without HEALTHY_S seconds of running */
    double wait_s;
    MRI_VEC(long) sizes; /* of {ranks} */
} supervision;

/* ---- the child ------------------------------------------------------------------------------- */

static volatile sig_atomic_t child, told; /* told: the last signal that was passed on */

static void pass_on(int n)
{
    told = n == SIGUSR1 ? told : n;
    if (child > 0)
        kill((pid_t)child, n);
}

/* a word with {ranks} replaced; the caller frees */
static char *fill(const char *word, long ranks)
{
    const char *at = strstr(word, "{ranks}");
    if (!at)
        return mri_strdup(word);
    return mri_format("%.*s%ld%s", (int)(at - word), word, ranks, at + strlen("{ranks}"));
}

static int run_once(const supervision *s, long ranks)
{
    MRI_VEC(char *) argv = { 0 };
    int status = 0;
    for (const char *const *w = s->words; *w; w++)
        MRI_PUSH(&argv, fill(*w, ranks));
    MRI_PUSH(&argv, NULL);
    fflush(NULL);
    pid_t pid = fork();
    if (!pid) {
        execvp(argv.v[0], argv.v);
        fprintf(stderr, "mrun: cannot run '%s': %s\n", argv.v[0], strerror(errno));
        _exit(NO_EXEC);
    }
    child = (sig_atomic_t)pid;
    while (pid > 0 && waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    child = 0;
    for (size_t i = 0; i < argv.n; i++)
        free(argv.v[i]);
    free(argv.v);
    return pid < 0 ? NO_EXEC : WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

/* ---- the decision ---------------------------------------------------------------------------- */

static const char *no_use(int code)
{
    switch (code) {
    case EXIT_OK: return "";
    case EXIT_USAGE: return "the command line or the profile is wrong";
    case EXIT_PERSISTENT: return "a step gives other results each time here: run it elsewhere";
    case NO_EXEC: return "there is no such command";
    }
    return told ? "it was stopped" : NULL;
}

static int supervise(app *a, const supervision *s)
{
    long failed = 0, here = 0;
    for (size_t size = 0;;) {
        long ranks = s->sizes.n ? s->sizes.v[size] : 0;
        double began = app_now();
        int code = run_once(s, ranks);
        double took = app_now() - began;
        const char *why = no_use(code);
        if (why) {
            if (*why && !a->quiet)
                fprintf(stderr, "mrun: the command ended with %d: %s\n", code, why);
            return code == NO_EXEC ? EXIT_ENV : code;
        }
        failed = took >= HEALTHY_S ? 1 : failed + 1;
        here = took >= HEALTHY_S ? 1 : here + 1;
        if (failed > s->restarts) {
            fprintf(stderr, "mrun: the command ended with %d; given up after %ld restarts\n", code,
                    s->restarts);
            return code;
        }
        if (here >= PER_SIZE && size + 1 < s->sizes.n) {
            size++;
            here = 0;
        }
        if (!a->quiet && s->sizes.n)
            fprintf(stderr, "mrun: the command ended with %d after %.1f s; restart %ld of %ld, on "
                            "%ld "
                    "ranks\n", code, took, failed, s->restarts, s->sizes.v[size]);
        else if (!a->quiet)
            fprintf(stderr, "mrun: the command ended with %d after %.1f s; restart %ld of %ld\n",
                    code,
                    took, failed, s->restarts);
        usleep((useconds_t)(1e6 * s->wait_s));
    }
}

/* ---- the command line ------------------------------------------------------------------------ */

static bool read_number(const char *text, double most, double *out)
{
    char *end;
    *out = strtod(text, &end);
    return *text && !*end && *out >= 0 && *out <= most;
}

static int read_sizes(app *a, const char *text, supervision *s)
{
    for (const char *p = text; p && *p;) {
        char *end;
        long n = strtol(p, &end, 10);
        if (end == p || n < 1 || (*end && *end != ','))
            return app_usage(a, "supervise: --ranks %.60s is no list like 8,4,2", text);
        MRI_PUSH(&s->sizes, n);
        p = end + (*end == ',');
    }
    return 0;
}

int cmd_supervise(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--restarts", "--ranks", "--wait", NULL };
    app_args args;
    supervision s = { 0 };
    struct sigaction sa = { .sa_handler = pass_on };
    int rc = app_args_parse(a, argc, argv, takes, NULL, &args);
    if (rc)
        return rc;
    const char *restarts = app_arg(&args, "--restarts"), *wait = app_arg(&args, "--wait");
    double n = 3;
    s.wait_s = 1;
    if (!args.positional.n)
        rc = app_usage(a, "supervise: no command; mrun supervise -- mpirun -n 4 mrun PROFILE.ini");
    else if (restarts && !read_number(restarts, 1e6, &n))
        rc = app_usage(a, "supervise: --restarts %.60s is no number from 0 to 1000000", restarts);
    else if (wait && !read_number(wait, 3600, &s.wait_s))
        rc = app_usage(a, "supervise: --wait %.60s is no number of seconds up to 3600", wait);
    else
        rc = read_sizes(a, app_arg(&args, "--ranks"), &s);
    if (!rc) {
        MRI_PUSH(&args.positional, NULL);
        s.words = args.positional.v;
        s.restarts = (long)n;
        sigaction(SIGINT, &sa, NULL);
        sigaction(SIGTERM, &sa, NULL);
        sigaction(SIGUSR1, &sa, NULL);
        rc = supervise(a, &s);
    }
    free(s.sizes.v);
    app_args_free(&args);
    return rc;
}
