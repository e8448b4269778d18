/* SPDX-License-Identifier: Apache-2.0
 *
 * report_log.c - log.jsonl as series of points.
 * Invariant: only finite values become points; what could not be read is counted, never
 * guessed, so that the page can say so.
 */
#include "core/base/json.h"
#include "report.h"
#include <errno.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static report_series *series_of(report_log *log, const char *metric)
{
    for (size_t i = 0; i < log->series.n; i++)
        if (!strcmp(log->series.v[i].metric, metric))
            return &log->series.v[i];
    report_series s = { .metric = mri_strdup(metric) };
    MRI_PUSH(&log->series, s);
    return &log->series.v[log->series.n - 1];
}

static void add_line(report_log *log, const json_t *line)
{
    const json_t *step = json_object_get(line, "step"), *time = json_object_get(line, "time");
    const char *key;
    json_t *v;
    log->lines++;
    if (!json_is_number(step) || json_object_get(line, "event")) {
        log->bad_lines += !json_is_number(step);
        return;
    }
    double at = json_number_value(step);
    if (at > (double)log->last_step && at < 9e15)
        log->last_step = (int64_t)at;
    if (json_is_number(time)) {
        log->last_time = json_number_value(time);
        if (!log->first_time)
            log->first_time = log->last_time;
    }
    json_object_foreach((json_t *)line, key, v) {
        if (!strcmp(key, "step") || !strcmp(key, "time"))
            continue;
        report_series *s = series_of(log, key);
        report_point p = { at, json_number_value(v) };
        if (json_is_number(v))
            MRI_PUSH(&s->points, p);
        else
            s->not_finite++; /* the log writes NaN and infinities as null */
    }
}

mr_status report_log_read(const char *path, report_log *log, mr_err *err)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n;
    memset(log, 0, sizeof *log);
    FILE *f = fopen(path, "re");
    if (!f) {
        mr_fail(err, errno == ENOENT ? MR_E_STORE_MISSING : MR_E_STORE_IO, MR_BLAME_USER,
                "cannot read %s: %s", path, strerror(errno));
        mr_hint(err, "give the folder of a run: the profile's [run] dir");
        return errno == ENOENT ? MR_E_STORE_MISSING : MR_E_STORE_IO;
    }
    while ((n = getline(&line, &cap, f)) > 0) {
        json_t *doc = json_loadb(line, (size_t)n, 0, NULL);
        if (json_is_object(doc))
            add_line(log, doc);
        else
            log->bad_lines++; /* at most the torn last one of a killed run */
        json_decref(doc);
    }
    free(line);
    fclose(f);
    return 0;
}

void report_log_free(report_log *log)
{
    for (size_t i = 0; i < log->series.n; i++) {
        free(log->series.v[i].metric);
        free(log->series.v[i].points.v);
    }
    free(log->series.v);
    memset(log, 0, sizeof *log);
}

const report_series *report_log_find(const report_log *log, const char *metric)
{
    for (size_t i = 0; i < log->series.n; i++)
        if (!strcmp(log->series.v[i].metric, metric))
            return &log->series.v[i];
    return NULL;
}

double report_best(const report_series *s)
{
    double best = NAN;
    for (size_t i = 0; s && i < s->points.n; i++)
        if (!(s->points.v[i].value >= best)) /* true against NAN, too */
            best = s->points.v[i].value;
    return best;
}

double report_last(const report_series *s)
{
    return s && s->points.n ? s->points.v[s->points.n - 1].value : NAN;
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

double report_median(const report_series *s)
{
    size_t n = s ? s->points.n : 0;
    if (!n)
        return NAN;
    double *v = mri_alloc(n * sizeof *v);
    for (size_t i = 0; i < n; i++)
        v[i] = s->points.v[i].value;
    qsort(v, n, sizeof *v, by_value);
    double median = n % 2 ? v[n / 2] : v[n / 2 - 1] / 2 + v[n / 2] / 2;
    free(v);
    return median;
}
