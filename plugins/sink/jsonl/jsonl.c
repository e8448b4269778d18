/* SPDX-License-Identifier: Apache-2.0
 *
 * jsonl.c - sink "jsonl": RUN/log.jsonl, one JSON object a line for every step and every
 * validation, for programs to read.
 *
 *   {"step":12,"loss":3.25,"grad_norm":1.5,"lr":0.0003,"ms":41.2,...,"time":1700000000.125}
 *
 * Invariant: each line is one write(), so a killed run leaves at most its last line torn. On
 * resume the file is rewritten, atomically, without the torn line and without lines after the
 * step that the run resumes from; so in a finished file every step stands once. Numbers are
 * the shortest text that reads back as the same double; JSON has no NaN, so one is null.
 */
#include "mrun/sink.h"
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct config {
    const char *file;
    int32_t fsync, notes;
} config;

typedef struct sink {
    char *path;
    int fd;
    int32_t fsync, notes;
    char *line; /* being built */
    size_t n, cap;
    mr_status broken; /* memory ran out while building it */
} sink;

/* ---- building a line -------------------------------------------------------------------- */
static void put(sink *s, const char *text, size_t n)
{
    if (s->n + n > s->cap) {
        size_t cap = 2 * (s->n + n) + 256;
        char *line = realloc(s->line, cap);
        if (!line) {
            s->broken = MR_E_NOMEM;
            return;
        }
        s->line = line;
        s->cap = cap;
    }
    memcpy(s->line + s->n, text, n);
    s->n += n;
}

static void puts_(sink *s, const char *text)
{
    put(s, text, strlen(text));
}

static void put_string(sink *s, const char *text)
{
    puts_(s, "\"");
    for (; *text; text++) {
        char esc[8];
        unsigned char c = (unsigned char)*text;
        if (c == '"' || c == '\\')
            snprintf(esc, sizeof esc, "\\%c", c);
        else if (c < 0x20)
            snprintf(esc, sizeof esc, "\\u%04x", c);
        else
            snprintf(esc, sizeof esc, "%c", c);
        puts_(s, esc);
    }
    puts_(s, "\"");
}

static void put_number(sink *s, double v)
{
    char text[40] = "null";
    if (v == rint(v) && fabs(v) < 1e15 && (v != 0 || !signbit(v)))
        snprintf(text, sizeof text, "%.0f", v);
    else if (isfinite(v))
        for (int digits = 6; digits <= 17; digits++) {
            snprintf(text, sizeof text, "%.*g", digits, v);
            if (strtod(text, NULL) == v)
                break;
        }
    puts_(s, text);
}

static void put_key(sink *s, const char *key)
{
    puts_(s, s->n ? "," : "{");
    put_string(s, key);
    puts_(s, ":");
}

/* ---- the file --------------------------------------------------------------------------- */
static mr_status fail(sink *s, const char *doing, mr_err *err)
{
    int e = errno;
    mr_status st = e == ENOSPC || e == EDQUOT ? MR_E_STORE_FULL : MR_E_STORE_IO;
    mr_fail(err, st, MR_BLAME_ENV, "cannot %s %s: %s", doing, s->path, strerror(e));
    if (err && MR_HAS(err, native))
        err->native = e;
    return st;
}

/* Whole, ours, and not after the step resumed from? */
static int keeps(const char *line, ssize_t n, int64_t from_step)
{
    if (n < 3 || line[0] != '{' || line[n - 1] != '\n' || line[n - 2] != '}')
        return 0;
    const char *step = strstr(line, "\"step\":");
    return !step || strtoll(step + 7, NULL, 10) <= from_step;
}

static mr_status sync_folder(sink *s, mr_err *err)
{
    char *slash = strrchr(s->path, '/');
    *slash = 0;
    int fd = open(*s->path ? s->path : "/", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    *slash = '/';
    int bad = fd < 0 || (fsync(fd) && errno != EINVAL);
    if (fd >= 0)
        close(fd);
    return bad ? fail(s, "fsync the folder of", err) : 0;
}

/* Copies the lines to keep beside the old file and takes its place. */
static mr_status repair(sink *s, int64_t from_step, mr_err *err)
{
    char *line = NULL, *tmp = NULL;
    size_t cap = 0;
    ssize_t n;
    FILE *to = NULL, *from = fopen(s->path, "re");
    mr_status st = 0;
    if (!from)
        return errno == ENOENT ? 0 : fail(s, "read", err);
    if (asprintf(&tmp, "%s.tmp", s->path) < 0) {
        tmp = NULL;
        errno = ENOMEM;
        MR_TRY(fail(s, "resume", err));
    }
    to = fopen(tmp, "we");
    if (!to)
        MR_TRY(fail(s, "rewrite", err));
    while ((n = getline(&line, &cap, from)) > 0)
        if (keeps(line, n, from_step) && fwrite(line, 1, (size_t)n, to) != (size_t)n)
            MR_TRY(fail(s, "rewrite", err));
    if (ferror(from))
        MR_TRY(fail(s, "read", err));
    if (fflush(to) || fsync(fileno(to)) || rename(tmp, s->path))
        MR_TRY(fail(s, "rewrite", err));
    MR_TRY(sync_folder(s, err));
out:
    if (st && to)
        unlink(tmp);
    if (to)
        fclose(to);
    fclose(from);
    free(tmp);
    free(line);
    return st;
}

static void sink_destroy(void *self)
{
    sink *s = self;
    if (s->fd >= 0)
        close(s->fd);
    free(s->line);
    free(s->path);
    free(s);
}

static mr_status sink_create(const mr_host *host, const mr_sink_env *env, const void *conf,
                             void **out, mr_err *err)
{
    const config *c = conf;
    sink *s = calloc(1, sizeof *s);
    mr_status st = 0;
    (void)host;
    if (!s)
        return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "jsonl: no memory");
    s->fd = -1;
    s->fsync = c->fsync;
    s->notes = c->notes;
    if (asprintf(&s->path, "%s/%s", *c->file == '/' ? "" : env->run_dir, c->file) < 0) {
        s->path = NULL;
        st = mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "jsonl: no memory");
        goto out;
    }
    if (env->resumed)
        MR_TRY(repair(s, env->from_step, err));
    s->fd = open(s->path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC | (env->resumed ? 0 : O_TRUNC),
                 0666);
    if (s->fd < 0)
        st = fail(s, "open", err);
out:
    if (st)
        sink_destroy(s);
    else
        *out = s;
    return st;
}

static mr_status write_line(sink *s, mr_err *err)
{
    puts_(s, "}\n");
    if (s->broken)
        return mr_fail(err, s->broken, MR_BLAME_ENV, "jsonl: no memory for a line");
    off_t end = lseek(s->fd, 0, SEEK_END);
    ssize_t n = write(s->fd, s->line, s->n);
    if (n != (ssize_t)s->n) {
        if (n >= 0)
            errno = ENOSPC; /* what a short write to a file means */
        mr_status st = fail(s, "write", err);
        if (n > 0 && end >= 0 && ftruncate(s->fd, end)) /* no torn line, if that can be had */
            mr_detail(err, "its last line is torn");
        return st;
    }
    return s->fsync && fsync(s->fd) ? fail(s, "fsync", err) : 0;
}

static mr_status sink_event(void *self, const mr_event *e, mr_err *err)
{
    sink *s = self;
    int figures = !strcmp(e->type, "step") || !strcmp(e->type, "eval");
    char time[32];
    if (!figures && !s->notes)
        return 0;
    s->n = 0;
    s->broken = 0;
    put_key(s, "step");
    put_number(s, (double)e->step);
    for (uint32_t i = 0; i < e->n_metrics; i++) {
        put_key(s, e->metrics[i].name);
        put_number(s, e->metrics[i].value);
    }
    if (!figures) {
        put_key(s, "event");
        put_string(s, e->type);
    }
    if (!figures && e->text) {
        put_key(s, "text");
        put_string(s, e->text);
    }
    put_key(s, "time");
    snprintf(time, sizeof time, "%.3f", e->time);
    puts_(s, isfinite(e->time) ? time : "null");
    return write_line(s, err);
}

static const mr_opt options[] = {
    MR_OPT(config, MR_T_STR, file, "file", "log.jsonl", "file name, relative to the run's folder"),
    MR_OPT(config, MR_T_BOOL, fsync, "fsync", "false",
           "force every line to the disk: survives a power cut, costs milliseconds a step"),
    MR_OPT(config, MR_T_BOOL, notes, "notes", "false",
           "also write start, checkpoint, note and end events, as objects with \"event\""),
};

static const mr_sink_ops ops = { sizeof ops, 0, sink_create, sink_destroy, sink_event };

static const mr_unit units[] = {
    { sizeof(mr_unit), 0, "sink", "jsonl", "one JSON object a step into the run's log.jsonl",
      options, sizeof options / sizeof *options, sizeof(config), &ops, NULL },
};

MR_PLUGIN_NOTE("org.mrun.sink.jsonl", "0.1.0", "sink/jsonl");
MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER, "org.mrun.sink.jsonl", "0.1.0", "Apache-2.0",
    "figures of a run for programs", units, 1, 0, NULL, NULL,
};
