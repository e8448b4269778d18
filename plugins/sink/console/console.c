/* SPDX-License-Identifier: Apache-2.0
 *
 * console.c - sink "console": a run's progress for people, on stderr.
 *
 * On a terminal one line is kept up to date in place, and every so many steps it stays; when
 * piped, only the lines that stay are written, plain. Invariant: whatever stays is a whole
 * line of its own, the columns of a run stand below each other, and no escape sequence goes
 * anywhere but to a terminal. A terminal that is too narrow for all columns gets fewer.
 */
#include "mrun/sink.h"
#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

enum { WIDEST = 512 };
#define REDRAW_SECONDS 0.1 /* faster than that, nobody reads it */

typedef struct config {
    const char *color, *progress;
    int64_t every;
} config;

typedef struct sink {
    int tty, color, live; /* live: the line in place */
    int drawn;            /* an unfinished line stands on the terminal */
    int64_t every;        /* 0: by the run's length */
    int64_t first_step;
    double first_time, last_draw; /* of the first step event; of the line in place */
    char last[WIDEST];            /* the newest step's line, if it has not stayed */
    int pending;
} sink;

/* ---- columns: how one metric reads ------------------------------------------------------ */
static void as_fixed4(char *to, size_t n, double v)
{
    snprintf(to, n, "%.4f", v);
}

static void as_fixed3(char *to, size_t n, double v)
{
    snprintf(to, n, "%.3f", v);
}

static void as_power(char *to, size_t n, double v)
{
    snprintf(to, n, "%.2e", v);
}

static void as_ms(char *to, size_t n, double v)
{
    snprintf(to, n, v < 1000 ? "%.1f" : "%.0f", v);
}

static void as_percent(char *to, size_t n, double v)
{
    snprintf(to, n, "%.1f", 100 * v);
}

/* 950, 12.3k, 4.56M: three or four figures */
static void as_rate(char *to, size_t n, double v)
{
    static const char *const unit[] = { "", "k", "M", "G", "T" };
    int u = 0;
    while (fabs(v) >= 1000 && u < 4) {
        v /= 1000;
        u++;
    }
    snprintf(to, n, u ? "%.1f%s" : "%.0f%s", v, unit[u]);
}

static void as_bytes(char *to, size_t n, double v)
{
    static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
    int u = 0;
    while (fabs(v) >= 1024 && u < 4) {
        v /= 1024;
        u++;
    }
    snprintf(to, n, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
}

static const struct column {
    const char *metric, *before, *after;
    int width, rank; /* where room is short, the highest rank goes first; 0 always stays */
    void (*text)(char *to, size_t n, double v);
} columns[] = {
    { "loss", "loss ", "", 7, 0, as_fixed4 },
    { "grad_norm", "grad ", "", 7, 3, as_fixed3 },
    { "lr", "lr ", "", 8, 4, as_power },
    { "ms", "", " ms", 6, 2, as_ms },
    { "tokens_per_s", "", " tokens/s", 6, 1, as_rate },
    { "mfu", "mfu ", "%", 4, 5, as_percent },
    { "memory_bytes", "", "", 10, 6, as_bytes },
};
enum { COLUMNS = sizeof columns / sizeof *columns };

static int column_width(const struct column *c)
{
    return 2 + (int)strlen(c->before) + c->width + (int)strlen(c->after);
}

/* The highest rank that still fits beside the fixed parts into `room` characters. */
static int highest_rank(int fixed, int room)
{
    for (int rank = COLUMNS; rank > 0; rank--) {
        int sum = fixed;
        for (int i = 0; i < COLUMNS; i++)
            sum += columns[i].rank <= rank ? column_width(&columns[i]) : 0;
        if (sum <= room)
            return rank;
    }
    return 0;
}

static const double *metric(const mr_event *e, const char *name)
{
    for (uint32_t i = 0; i < e->n_metrics; i++)
        if (!strcmp(e->metrics[i].name, name))
            return &e->metrics[i].value;
    return NULL;
}

/* ---- lines ------------------------------------------------------------------------------ */
MR_PRINTF(2, 3) static void add(char line[WIDEST], const char *fmt, ...)
{
    va_list ap;
    size_t n = strlen(line);
    va_start(ap, fmt);
    vsnprintf(line + n, WIDEST - n, fmt, ap);
    va_end(ap);
}

static void duration(char *to, size_t n, double s)
{
    if (s >= 86400)
        snprintf(to, n, "%.0fd%02dh", floor(s / 86400), (int)fmod(s / 3600, 24));
    else if (s >= 3600)
        snprintf(to, n, "%dh%02dm", (int)(s / 3600), (int)fmod(s / 60, 60));
    else
        snprintf(to, n, "%dm%02ds", (int)(s / 60), (int)fmod(s, 60));
}

/* What is left at the pace so far, validations and checkpoints included. */
static double seconds_left(const sink *s, const mr_event *e)
{
    const double *ms = metric(e, "ms");
    double left = (double)(e->steps - e->step);
    if (e->step > s->first_step)
        return left * (e->time - s->first_time) / (double)(e->step - s->first_step);
    return ms ? left * *ms / 1000 : NAN;
}

static int digits(int64_t v)
{
    int n = 1;
    for (; v >= 10; v /= 10)
        n++;
    return n;
}

/* Characters that fit on the terminal's line, one short of its edge so that it never wraps. */
static int room(const sink *s)
{
    struct winsize w = { 0 };
    if (!s->tty)
        return WIDEST;
    return ioctl(STDERR_FILENO, TIOCGWINSZ, &w) || w.ws_col < 2 ? 79 : w.ws_col - 1;
}

static void step_line(const sink *s, const mr_event *e, char line[WIDEST])
{
    enum { ETA = sizeof "  eta 12h34m" - 1 };
    char text[48];
    double left = seconds_left(s, e);
    line[0] = 0;
    add(line, "step %*lld/%lld", digits(e->steps), (long long)e->step, (long long)e->steps);
    int rank = highest_rank((int)strlen(line) + ETA, room(s));
    for (const struct column *c = columns; c < columns + COLUMNS; c++) {
        const double *v = metric(e, c->metric);
        if (c->rank > rank)
            continue;
        if (!v) { /* not measured: its place stays empty */
            add(line, "%*s", column_width(c), "");
            continue;
        }
        if (isfinite(*v))
            c->text(text, sizeof text, *v);
        else
            snprintf(text, sizeof text, "%s", isnan(*v) ? "nan" : *v < 0 ? "-inf" : "inf");
        add(line, "  %s%*s%s", c->before, c->width, text, c->after);
    }
    if (isfinite(left) && left >= 0)
        duration(text, sizeof text, left);
    else
        snprintf(text, sizeof text, "-");
    add(line, "  eta %6s", text);
}

static void figures_line(const mr_event *e, char line[WIDEST])
{
    line[0] = 0;
    add(line, "%-4s %*lld/%lld", e->type, digits(e->steps), (long long)e->step,
        (long long)e->steps);
    for (uint32_t i = 0; i < e->n_metrics; i++)
        add(line, "  %s %.4f", e->metrics[i].name, e->metrics[i].value);
    if (e->text && *e->text)
        add(line, "  %s", e->text);
}

/* ---- stderr ----------------------------------------------------------------------------- */
static mr_status emit(const char *text, mr_err *err)
{
    size_t n = strlen(text);
    while (n) {
        ssize_t got = write(STDERR_FILENO, text, n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0 && errno == EAGAIN)
            return 0; /* the reader is behind: a lost line, no broken run */
        if (got < 0)
            return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "console: cannot write to stderr: %s",
                           strerror(errno));
        text += got;
        n -= (size_t)got;
    }
    return 0;
}

static const char *style(const sink *s, const char *type)
{
    if (!s->color)
        return "";
    return !strcmp(type, "eval") ? "\033[32m" : strcmp(type, "step") ? "\033[2m" : "";
}

/* A line that stays; it takes the place of the one that was in place. */
static mr_status stay(sink *s, const char *type, const char *line, mr_err *err)
{
    char out[WIDEST + 32];
    const char *on = style(s, type);
    snprintf(out, sizeof out, "%s%s%s%s\n", s->drawn ? "\r\033[K" : "", on, line,
             *on ? "\033[0m" : "");
    s->drawn = 0;
    return emit(out, err);
}

static mr_status draw(sink *s, const char *line, mr_err *err)
{
    char out[WIDEST + 32];
    snprintf(out, sizeof out, "\r%.*s\033[K", room(s), line); /* a wrapped one cannot be redrawn */
    s->drawn = 1;
    return emit(out, err);
}

static mr_status on_step(sink *s, const mr_event *e, mr_err *err)
{
    int64_t every = s->every ? s->every : e->steps / 100 > 1 ? e->steps / 100 : 1;
    if (!s->first_time) {
        s->first_time = e->time;
        s->first_step = e->step;
    }
    step_line(s, e, s->last);
    s->pending = e->step % every != 0;
    if (!s->pending)
        return stay(s, "step", s->last, err);
    if (!s->live || (s->drawn && e->time - s->last_draw < REDRAW_SECONDS))
        return 0;
    s->last_draw = e->time;
    return draw(s, s->last, err);
}

static mr_status sink_event(void *self, const mr_event *e, mr_err *err)
{
    sink *s = self;
    char line[WIDEST] = "";
    mr_status st = 0;
    if (!strcmp(e->type, "step"))
        return on_step(s, e, err);
    if (!strcmp(e->type, "end") && s->pending) { /* the run's last figures stay */
        s->pending = 0;
        MR_TRY(stay(s, "step", s->last, err));
    }
    if (!strcmp(e->type, "eval") || e->n_metrics)
        figures_line(e, line);
    else if (e->text && *e->text)
        add(line, "%s", e->text);
    else
        return 0;
    MR_TRY(stay(s, e->type, line, err));
out:
    return st;
}

static mr_status sink_create(const mr_host *host, const mr_sink_env *env, const void *conf,
                             void **out, mr_err *err)
{
    const config *c = conf;
    const char *term = getenv("TERM"), *no_color = getenv("NO_COLOR");
    sink *s = calloc(1, sizeof *s);
    (void)host;
    (void)env;
    if (!s)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "console: no memory");
    s->tty = isatty(STDERR_FILENO) && (!term || strcmp(term, "dumb"));
    s->live = s->tty && !strcmp(c->progress, "auto");
    s->color = s->tty && !strcmp(c->color, "auto") && !(no_color && *no_color);
    s->every = c->every;
    *out = s;
    return 0;
}

static void sink_destroy(void *self)
{
    sink *s = self;
    if (s->drawn)
        emit("\n", NULL); /* the shell's prompt starts on its own line */
    free(s);
}

static const mr_opt options[] = {
    MR_OPT_CHOICE(config, color, "color", "auto", "auto|never",
                  "auto: on a terminal, unless NO_COLOR is set"),
    MR_OPT_CHOICE(config, progress, "progress", "auto", "auto|lines",
                  "auto: one line kept up to date on a terminal; lines: never"),
    MR_OPT_RANGE(config, MR_T_INT, every, "every", "0", 0, 1e12,
                 "a step's line stays every so many steps; 0: about 100 lines a run"),
};

static const mr_sink_ops ops = { sizeof ops, 0, sink_create, sink_destroy, sink_event };

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "sink", "console", "progress on stderr", options,
      sizeof options / sizeof *options, sizeof(config), &ops, NULL },
};

MR_PLUGIN_NOTE("org.mrun.sink.console", "0.1.0", "sink/console");
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.mrun.sink.console", "0.1.0", "Apache-2.0",
    "progress of a run for people", units, 1, 0, NULL, NULL,
};
