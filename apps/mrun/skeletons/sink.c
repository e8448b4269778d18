/*
 * skeleton - a sink for mrun: a run's figures as rows "step,time,name,value" of a CSV file in
 * the run's folder. A resumed run cuts the rows that it is about to write again.
 */
#include "mrun/sink.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* section [sink.skeleton] of a profile fills this struct, by the rows below */
typedef struct config {
    const char *file;
} config;

static const mr_opt opts[] = {
    MR_OPT(config, MR_T_STR, file, "file", "skeleton.csv", "name of the file in the run's folder"),
};

typedef struct csv {
    FILE *f;
} csv;

/* Offset of the first row that is of a later step than `last`; the end if there is none. */
static long rows_until(FILE *f, int64_t last)
{
    char line[512];
    long keep = 0;
    rewind(f);
    while (fgets(line, sizeof line, f)) {
        if (keep && strtoll(line, NULL, 10) > last) /* keep 0: the heading */
            break;
        keep = ftell(f);
    }
    return keep;
}

static mr_status create(const mr_host *host, const mr_sink_env *env, const void *cfg, void **sink,
                        mr_err *err)
{
    const config *c = cfg;
    char path[4096];
    (void)host;
    if (!c->file || strchr(c->file, '/'))
        return mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                       "[sink.skeleton] file must be a name without a folder");
    int n = snprintf(path, sizeof path, "%s/%s", env->run_dir, c->file);
    if (n < 0 || (size_t)n >= sizeof path)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "the path of %s is longer than %zu bytes",
                       c->file, sizeof path);
    FILE *f = env->resumed ? fopen(path, "r+") : NULL;
    if (!f)
        f = fopen(path, "w+");
    csv *s = malloc(sizeof *s);
    if (!f || !s) {
        int e = errno;
        if (f)
            fclose(f);
        free(s);
        return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot write %s: %s", path, strerror(e));
    }
    long keep = env->resumed ? rows_until(f, env->from_step) : 0;
    if (fseek(f, keep, SEEK_SET) || ftruncate(fileno(f), keep)) {
        int e = errno;
        fclose(f);
        free(s);
        return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot cut %s: %s", path, strerror(e));
    }
    if (!keep)
        fputs("step,time,name,value\n", f);
    s->f = f;
    *sink = s;
    return MR_OK;
}

static void destroy(void *sink)
{
    csv *s = sink;
    fclose(s->f);
    free(s);
}

/* Values are written so that they read back to the same bits. */
static mr_status event(void *sink, const mr_event *e, mr_err *err)
{
    csv *s = sink;
    for (uint32_t i = 0; i < e->n_metrics; i++)
        fprintf(s->f, "%lld,%.3f,%s,%.17g\n", (long long)e->step, e->time, e->metrics[i].name,
                e->metrics[i].value);
    if (fflush(s->f))
        return mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot write: %s", strerror(errno));
    return MR_OK;
}

static const mr_sink_ops table = {
    .size = sizeof table,
    .create = create,
    .destroy = destroy,
    .event = event,
};

static const mr_unit unit = {
    .size = sizeof unit,
    .kind = "sink",
    .name = "skeleton",
    .doc = "figures as a CSV file",
    .opts = opts,
    .n_opts = sizeof opts / sizeof *opts,
    .config_size = sizeof(config),
    .table = &table,
};

MR_PLUGIN_NOTE("org.example.skeleton", "0.1.0", "sink/skeleton");

MR_EXPORT const mr_plugin MR_PLUGIN_SYMBOL = {
    MR_PLUGIN_HEADER,
    .id = "org.example.skeleton",
    .version = "0.1.0",
    .license = "Apache-2.0",
    .doc = "a sink",
    .units = &unit,
    .n_units = 1,
};
