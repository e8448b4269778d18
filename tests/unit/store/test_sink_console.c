/* SPDX-License-Identifier: Apache-2.0
 * The console: plain aligned lines when piped, one line in place on a terminal. */
#include "sinkkit.h"
#include <errno.h>
#include <fcntl.h>
#include <pty.h>
#include <sys/ioctl.h>
#include <sys/wait.h>

/* A run of `steps` steps with a validation in the middle, its stderr on `fd`. */
static void run(int fd, int64_t steps, const char *const *options)
{
    pid_t pid = fork();
    if (pid) {
        int status;
        close(fd);
        cr_assert_eq(waitpid(pid, &status, 0), pid);
        cr_assert_eq(status, 0);
        return;
    }
    dup2(fd, 2);
    kit k = kit_open("console", "/", 0, 0, options);
    kit_event(k, "start", 0, steps, 1000, NULL, 0, "training tiny");
    for (int64_t s = 1; s <= steps; s++) {
        const mr_metric m[] = { { "loss", 10.0 / (double)s },  { "grad_norm", 1.5 },
                                { "lr", 3e-4 },                { "ms", 1000 },
                                { "tokens_per_s", 12345.6 },   { "mfu", 0.312 },
                                { "memory_bytes", 851443712 } };
        kit_event(k, "step", s, steps, 1000 + (double)s, m, s == 2 ? 1 : 7, NULL);
        if (s == steps / 2) {
            const mr_metric v[] = { { "val_loss", 1.25 }, { "bits_per_byte", 1.8034 } };
            kit_event(k, "eval", s, steps, 1000 + (double)s, v, 2, NULL);
        }
    }
    kit_event(k, "end", steps, steps, 2000, NULL, 0, "done");
    kit_close(k);
    _exit(0);
}

static char *piped(int64_t steps, const char *const *options)
{
    int fd[2];
    char *text = mri_alloc(1 << 20);
    size_t n = 0;
    ssize_t got;
    cr_assert_eq(pipe(fd), 0);
    fcntl(fd[1], F_SETPIPE_SZ, 1 << 20);
    run(fd[1], steps, options);
    while ((got = read(fd[0], text + n, (1 << 20) - 1 - n)) > 0)
        n += (size_t)got;
    close(fd[0]);
    return text;
}

static char *terminal(int64_t steps, int columns, const char *const *options)
{
    int master, slave;
    struct winsize w = { 25, (unsigned short)columns, 0, 0 };
    char *text = mri_alloc(1 << 20);
    size_t n = 0;
    ssize_t got;
    if (openpty(&master, &slave, NULL, NULL, &w)) /* as in a bare chroot */
        cr_skip_test("there are no pseudo-terminals here: %s", strerror(errno));
    run(slave, steps, options);
    while ((got = read(master, text + n, (1 << 20) - 1 - n)) > 0)
        n += (size_t)got;
    close(master);
    return text;
}

Test(console, piped_lines_are_plain_and_aligned)
{
    char *text = piped(10, NULL), *save = NULL;
    size_t width = 0, steps = 0;
    cr_assert_null(strchr(text, '\033'));
    cr_assert_null(strchr(text, '\r'));
    cr_assert_eq(strncmp(text, "training tiny\n", 14), 0, "%s", text);
    cr_assert_not_null(strstr(text, "\neval  5/10  val_loss 1.2500  bits_per_byte 1.8034\n"), "%s",
                       text);
    cr_assert_not_null(strstr(text, "step  1/10  loss 10.0000  grad   1.500  lr 3.00e-04    "
                                    "1000 ms   12.3k tokens/s  mfu 31.2%   812.0 MiB  eta  0m09s"),
                       "%s", text);
    cr_assert_not_null(strstr(text, "\ndone\n"));
    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        if (strncmp(l, "step", 4))
            continue;
        cr_assert(!width || strlen(l) == width, "%s", l);
        width = strlen(l);
        steps++;
    }
    cr_assert_eq(steps, 10);
    free(text);
}

static size_t count(const char *text, const char *word)
{
    size_t n = 0;
    for (; (text = strstr(text, word)); text++)
        n++;
    return n;
}

Test(console, long_runs_keep_about_a_hundred_lines_and_always_the_last)
{
    const char *const seven[] = { "every", "7", NULL };
    char *text = piped(1035, NULL);
    cr_assert_eq(count(text, "step "), 104);
    cr_assert_not_null(strstr(text, "step 1035/1035"));
    free(text);
    text = piped(20, seven);
    cr_assert_eq(count(text, "step "), 3);
    cr_assert_not_null(strstr(text, "step 14/20"));
    cr_assert_not_null(strstr(text, "step 20/20"));
    free(text);
}

Test(console, a_terminal_gets_one_line_in_place_and_the_columns_that_fit)
{
    const char *const every[] = { "every", "50", NULL };
    setenv("TERM", "xterm", 1);
    unsetenv("NO_COLOR");
    char *text = terminal(20, 80, every);
    size_t draws = 0;
    cr_assert_eq(count(text, "\033[32meval"), 1);
    for (char *l = text; (l = strstr(l, "\rstep ")); l++, draws++) {
        size_t n = strcspn(l + 1, "\033");
        cr_assert_leq(n, 79);
        cr_assert_eq(strncmp(l + 1 + n - 5, "0m", 2), 0, "the time left was cut: %s", l);
    }
    cr_assert_eq(draws, 20);
    cr_assert_not_null(strstr(text, "tokens/s"));
    cr_assert_null(strstr(text, "MiB"));
    cr_assert_not_null(strstr(text, "\r\033[Kstep 20/20")); /* the last one stays */
    free(text);
}

Test(console, no_color_and_lines_mean_no_escapes)
{
    const char *const lines[] = { "progress", "lines", NULL };
    setenv("TERM", "xterm", 1);
    setenv("NO_COLOR", "1", 1);
    char *text = terminal(10, 200, lines);
    cr_assert_null(strchr(text, '\033'));
    free(text);
    setenv("TERM", "dumb", 1);
    unsetenv("NO_COLOR");
    text = terminal(10, 200, NULL);
    cr_assert_null(strchr(text, '\033'));
    free(text);
}
