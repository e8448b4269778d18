/* SPDX-License-Identifier: Apache-2.0
 *
 * report.h - a run as one HTML page, in three steps: report_log.c reads the figures,
 * report_chart.c draws one chart as SVG, report_page.c makes the page.
 */
#ifndef MRUN_REPORT_H
#define MRUN_REPORT_H
#include "core/base/base.h"

/* ---- report_log.c: RUN/log.jsonl -------------------------------------------------------- */
typedef struct report_point {
    double step, value;
} report_point;

typedef struct report_series {
    char *metric; /* "loss" */
    MRI_VEC(report_point) points; /* finite ones, in the file's order */
    size_t not_finite;
} report_series;

typedef struct report_log {
    MRI_VEC(report_series) series; /* in order of first appearance */
    int64_t last_step;
    double first_time, last_time; /* seconds since the epoch; 0: not in the log */
    size_t lines, bad_lines;
} report_log;

mr_status report_log_read(const char *path, report_log *log, mr_err *err);
void report_log_free(report_log *log);
const report_series *report_log_find(const report_log *log, const char *metric); /* or NULL */
double report_best(const report_series *s);   /* the least value; NAN if empty or NULL */
double report_last(const report_series *s);   /* NAN if empty or NULL                  */
double report_median(const report_series *s); /* NAN if empty or NULL                  */

/* ---- report_chart.c --------------------------------------------------------------------- */
typedef struct report_curve {
    const char *label;
    const report_series *series; /* NULL or empty: not drawn */
} report_curve;

enum { REPORT_NUMBER, REPORT_BYTES, REPORT_PERCENT };

typedef struct report_chart {
    const char *id, *title;
    int unit; /* of the values: REPORT_* */
    report_curve curve[2];
} report_chart;

/* A <figure> with the SVG; a chart without points says so. */
void report_chart_add(mri_str *html, const report_chart *c);

/* ---- report_page.c ---------------------------------------------------------------------- */
extern const char report_style[]; /* CSS of this page and of answers_page.c */
mr_status report_page(const char *run_dir, mri_str *html, mr_err *err);
void report_escape(mri_str *html, const char *text); /* for text and for quoted attributes */
void report_number(mri_str *html, int unit, double v);

#endif
