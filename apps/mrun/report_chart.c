/* SPDX-License-Identifier: Apache-2.0
 *
 * report_chart.c - one chart as inline SVG: axes, and up to two curves.
 *
 * A long series is drawn by buckets of neighbouring points, about one a pixel: the line runs
 * through their means and a pale band spans their extremes, so no spike is hidden.
 * Invariant: every number written is finite, whatever the series holds.
 */
#include "report.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

enum { W = 640, H = 240, LEFT = 64, RIGHT = 14, TOP = 10, BOTTOM = 28, BUCKETS = 480 };

typedef struct bucket {
    double step, mean, low, high;
} bucket;

typedef struct axes {
    double x0, x1, y0, y1;
} axes;

static double px(const axes *a, double step)
{
    return LEFT + (step - a->x0) / (a->x1 - a->x0) * (W - LEFT - RIGHT);
}

static double py(const axes *a, double v)
{
    return H - BOTTOM - (v - a->y0) / (a->y1 - a->y0) * (H - TOP - BOTTOM);
}

static size_t make_buckets(const report_series *s, bucket *b)
{
    size_t n = s->points.n < BUCKETS ? s->points.n : BUCKETS;
    for (size_t i = 0; i < n; i++) {
        size_t from = i * s->points.n / n, to = (i + 1) * s->points.n / n;
        const report_point *p = &s->points.v[from];
        b[i] = (bucket){ 0, 0, p->value, p->value };
        for (size_t k = 0; k < to - from; k++) {
            /* divided first: the sum of large values must not overflow */
            b[i].mean += p[k].value / (double)(to - from);
            b[i].step += p[k].step / (double)(to - from);
            b[i].low = fmin(b[i].low, p[k].value);
            b[i].high = fmax(b[i].high, p[k].value);
        }
    }
    return n;
}

/* About `n` of it make up `span`: 1, 2 or 5 times a power of ten; of bytes, a power of two. */
static double nice_step(double span, int n, int unit)
{
    double raw = span / n, power = pow(10, floor(log10(raw))), f = raw / power;
    if (unit == REPORT_BYTES)
        return exp2(ceil(log2(raw)));
    return power * (f <= 1 ? 1 : f <= 2 ? 2 : f <= 5 ? 5 : 10);
}

/* Widens an empty range; false if it cannot be drawn at all. */
static bool settle(double *lo, double *hi)
{
    if (!(*lo <= *hi))
        return false;
    if (*hi - *lo < fabs(*hi) * 1e-9 || *hi == *lo) {
        double pad = *hi ? fabs(*hi) * 0.1 : 1;
        *lo -= pad;
        *hi += pad;
    }
    return isfinite(*hi - *lo) && *hi - *lo > 1e-290;
}

static bool find_axes(const report_chart *c, axes *a)
{
    *a = (axes){ INFINITY, -INFINITY, INFINITY, -INFINITY };
    for (int i = 0; i < 2; i++) {
        const report_series *s = c->curve[i].series;
        for (size_t k = 0; s && k < s->points.n; k++) {
            a->x0 = fmin(a->x0, s->points.v[k].step);
            a->x1 = fmax(a->x1, s->points.v[k].step);
            a->y0 = fmin(a->y0, s->points.v[k].value);
            a->y1 = fmax(a->y1, s->points.v[k].value);
        }
    }
    /* what can only be positive and comes near zero shows zero */
    if (a->y0 > 0 && a->y0 < 0.1 * a->y1)
        a->y0 = 0;
    if (!settle(&a->x0, &a->x1) || !settle(&a->y0, &a->y1))
        return false;
    double step = nice_step(a->y1 - a->y0, 4, c->unit);
    a->y0 = floor(a->y0 / step + 1e-9) * step;
    a->y1 = ceil(a->y1 / step - 1e-9) * step;
    return isfinite(a->y0) && isfinite(a->y1);
}

static void add_grid(mri_str *h, const report_chart *c, const axes *a)
{
    double step = nice_step(a->y1 - a->y0, 4, c->unit);
    int n = (int)lround((a->y1 - a->y0) / step);
    for (int i = 0; i <= n; i++) {
        double v = a->y0 + i * step, y = py(a, v);
        if (fabs(v) < step * 1e-6)
            v = 0; /* not 1e-17 */
        mri_str_fmt(h, "<line class=\"grid\" x1=\"%d\" x2=\"%d\" y1=\"%.1f\" y2=\"%.1f\"/>"
                       "<text class=\"tick\" text-anchor=\"end\" x=\"%d\" y=\"%.1f\">",
                    LEFT, W - RIGHT, y, y, LEFT - 6, y + 3.5);
        report_number(h, c->unit, v);
        mri_str_add(h, "</text>");
    }
    step = nice_step(a->x1 - a->x0, 5, REPORT_NUMBER);
    if (step < 1)
        step = 1;
    for (double v = ceil(a->x0 / step) * step; v <= a->x1; v += step)
        mri_str_fmt(h,
                    "<text class=\"tick\" text-anchor=\"middle\" x=\"%.1f\" y=\"%d\">"
                    "%.0f</text>",
                    px(a, v), H - BOTTOM + 18, v);
}

static void add_curve(mri_str *h, const axes *a, int index, const bucket *b, size_t n, bool band)
{
    if (band) {
        mri_str_fmt(h, "<path class=\"band c%d\" d=\"", index);
        for (size_t i = 0; i < n; i++)
            mri_str_fmt(h, "%c%.1f %.1f", i ? 'L' : 'M', px(a, b[i].step), py(a, b[i].high));
        for (size_t i = n; i--;)
            mri_str_fmt(h, "L%.1f %.1f", px(a, b[i].step), py(a, b[i].low));
        mri_str_add(h, "Z\"/>");
    }
    mri_str_fmt(h, "<path class=\"line c%d\" d=\"", index);
    for (size_t i = 0; i < n; i++)
        mri_str_fmt(h, "%c%.1f %.1f", i ? 'L' : 'M', px(a, b[i].step), py(a, b[i].mean));
    mri_str_add(h, "\"/>");
    for (size_t i = 0; n <= 40 && i < n; i++) /* few points are worth seeing one by one */
        mri_str_fmt(h, "<circle class=\"c%d\" r=\"2.5\" cx=\"%.1f\" cy=\"%.1f\"/>", index,
                    px(a, b[i].step), py(a, b[i].mean));
}

/* What the page's script reads: per curve label, then [x, y, step, text] of each bucket. */
static void add_data(mri_str *h, const report_chart *c, const axes *a, bucket *const *b,
                     const size_t *n)
{
    mri_str data = { 0 };
    mri_str_add(&data, "[");
    for (int i = 0, first = 1; i < 2; i++) {
        if (!n[i])
            continue;
        mri_str_add(&data, first ? "{\"label\":" : ",{\"label\":");
        mri_str_json(&data, c->curve[i].label);
        mri_str_fmt(&data, ",\"c\":%d,\"p\":[", i);
        for (size_t k = 0; k < n[i]; k++) {
            mri_str_fmt(&data, "%s[%.1f,%.1f,%.0f,\"", k ? "," : "", px(a, b[i][k].step),
                        py(a, b[i][k].mean), b[i][k].step);
            report_number(&data, c->unit, b[i][k].mean);
            mri_str_add(&data, "\"]");
        }
        mri_str_add(&data, "]}");
        first = 0;
    }
    mri_str_add(&data, "]");
    mri_str_add(h, " data-curves=\"");
    report_escape(h, data.s);
    mri_str_add(h, "\"");
    mri_str_free(&data);
}

void report_chart_add(mri_str *h, const report_chart *c)
{
    axes a;
    bucket *b[2] = { NULL, NULL };
    size_t n[2] = { 0, 0 };
    bool drawn = find_axes(c, &a);
    mri_str_fmt(h, "<figure id=\"%s\"><figcaption><b>%s</b>", c->id, c->title);
    for (int i = 0; i < 2 && drawn; i++) {
        const report_series *s = c->curve[i].series;
        if (!s || !s->points.n)
            continue;
        b[i] = mri_alloc(BUCKETS * sizeof **b);
        n[i] = make_buckets(s, b[i]);
        mri_str_fmt(h, "<span class=\"key c%d\">%s</span>", i, c->curve[i].label);
    }
    mri_str_add(h, "<output></output></figcaption>");
    if (drawn) {
        mri_str_fmt(h, "<svg viewBox=\"0 0 %d %d\" role=\"img\" aria-label=\"%s by step\"", W, H,
                    c->title);
        add_data(h, c, &a, b, n);
        mri_str_add(h, ">");
        add_grid(h, c, &a);
        for (int i = 0; i < 2; i++)
            if (n[i])
                add_curve(h, &a, i, b[i], n[i], c->curve[i].series->points.n > n[i]);
        mri_str_fmt(h, "<line class=\"cursor\" y1=\"%d\" y2=\"%d\"/></svg>", TOP, H - BOTTOM);
    } else {
        mri_str_add(h, "<p class=\"none\">not in this run's log</p>");
    }
    mri_str_add(h, "</figure>\n");
    free(b[0]);
    free(b[1]);
}
