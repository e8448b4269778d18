/* SPDX-License-Identifier: Apache-2.0
 *
 * answers_page.c - the page of answers.h: figures, a table of who is taken for whom, and pictures
 * as the model saw them, the first SHOWN of the set.
 * Invariant: one file that fetches nothing; no byte of the data reaches it unescaped.
 */
#include "answers.h"
#include "core/run/micro.h"
#include "report.h"
#include <math.h>
#include <stdlib.h>

enum { SHOWN = 120 };

static const char style[] =
    ".pictures{display:grid;gap:.6rem;grid-template-columns:repeat(auto-fill,minmax(7.2rem,1fr))}\n"
    ".pictures div{background:var(--card);border:1px solid var(--edge);border-radius:8px;"
    "padding:.5rem;font-size:.85rem;text-align:center;overflow-wrap:anywhere}\n"
    ".pictures img{width:100%;image-rendering:pixelated;display:block;margin-bottom:.3rem}\n"
    ".pictures .wrong{border-color:var(--b)}.wrong b{color:var(--b)}"
    ".pictures small{display:block;color:var(--mute)}\n"
    "#taken td{text-align:right;font-variant-numeric:tabular-nums}#taken th{width:auto}\n"
    "#taken .self{color:var(--a);font-weight:600}#taken{display:block;overflow-x:auto}\n";

static void base64(mri_str *out, const char *bytes, size_t n)
{
    static const char digit[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    for (size_t i = 0; i < n; i += 3) {
        uint32_t v = 0;
        char four[4];
        for (size_t k = 0; k < 3; k++)
            v = v << 8 | (i + k < n ? (uint8_t)bytes[i + k] : 0);
        for (int k = 0; k < 4; k++)
            four[k] = digit[v >> (18 - 6 * k) & 63];
        for (size_t k = n - i + 1; k < 4; k++)
            four[k] = '=';
        mri_str_addn(out, four, 4);
    }
}

static void card(mri_str *h, const char *label, const char *fmt, double v)
{
    mri_str_fmt(h, "<div><span>%s</span><b>", label);
    mri_str_fmt(h, fmt, v);
    mri_str_add(h, "</b></div>\n");
}

static void add_figures(mri_str *h, const answers *a)
{
    double n = (double)a->n, p = a->accuracy;
    mri_str_add(h, "<section class=\"cards\">\n");
    card(h, "held-out pictures", "%.0f", n);
    card(h, "right answers", "%.1f %%", 100 * p);
    card(h, "standard error", "%.1f %%", n > 0 ? 100 * sqrt(p * (1 - p) / n) : 0);
    card(h, "by chance", "%.1f %%", 100.0 / (double)a->info.choices);
    mri_str_add(h, "</section>\n");
}

/* Rows are what pictures show, columns what the model answers; in percent of the row. */
static void add_table(mri_str *h, const answers *a)
{
    int64_t C = a->info.choices;
    int64_t *count = mri_alloc((size_t)(C * C) * sizeof *count);
    for (int64_t i = 0; i < a->n; i++)
        if (a->pick[i].answer)
            count[(a->pick[i].answer - 1) * C + a->pick[i].choice - 1]++;
    mri_str_add(h, "<h2>Taken for (percent of a row)</h2>\n<table id=\"taken\">\n<tr><th></th>");
    for (int64_t c = 0; c < C; c++) {
        mri_str_add(h, "<th>");
        report_escape(h, a->name[c]);
        mri_str_add(h, "</th>");
    }
    for (int64_t r = 0; r < C; r++) {
        int64_t sum = 0;
        for (int64_t c = 0; c < C; c++)
            sum += count[r * C + c];
        mri_str_add(h, "</tr>\n<tr><th>");
        report_escape(h, a->name[r]);
        mri_str_add(h, "</th>");
        for (int64_t c = 0; c < C; c++) {
            mri_str_add(h, c == r ? "<td class=\"self\">" : "<td>");
            if (count[r * C + c])
                mri_str_fmt(h, "%.0f", 100.0 * (double)count[r * C + c] / (double)sum);
            mri_str_add(h, "</td>");
        }
    }
    mri_str_add(h, "</tr>\n</table>\n");
    free(count);
}

static mr_status add_picture(mri_session *s, mri_micro *m, const answers *a, int64_t i, mri_str *h,
                             mr_err *err)
{
    const mri_pick *p = &a->pick[i];
    const mri_imager *imager;
    mri_image image = { 0 };
    mri_str png = { 0 };
    int64_t answer;
    bool right = p->choice == p->answer;
    mr_status st = 0;
    MR_TRY(mri_micro_read_row(s, m, 0, a->set, i, 0, &answer, err));
    mri_str_fmt(h, "<div%s>", right ? "" : " class=\"wrong\"");
    if (m->pixels) {
        MR_TRY(mri_session_imager(s, &imager, err));
        MR_TRY(mri_image_from_tile(&imager->rule, m->pixels, &image, err));
        MR_TRY(mri_image_to_png(&image, &png, err));
        mri_str_add(h, "<img alt=\"\" src=\"data:image/png;base64,");
        base64(h, png.s, png.n);
        mri_str_add(h, "\">");
    }
    mri_str_add(h, "<b>");
    report_escape(h, a->name[p->choice - 1]);
    mri_str_fmt(h, "</b> %.0f %%", 100 * p->p);
    if (!right && p->answer) {
        mri_str_add(h, "<small>it is: ");
        report_escape(h, a->name[p->answer - 1]);
        mri_str_fmt(h, ", %.0f %%</small>", 100 * p->p_answer);
    }
    mri_str_add(h, "</div>\n");
out:
    mri_image_free(&image);
    mri_str_free(&png);
    return st;
}

mr_status answers_page(mri_session *s, const answers *a, mri_str *h, mr_err *err)
{
    mri_micro m = mri_micro_of(s->eval);
    mr_status st = 0;
    int64_t shown = a->n < SHOWN ? a->n : SHOWN;
    mri_str_fmt(h, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width\">\n"
                   "<title>Answers - mrun</title>\n<style>\n%s%s</style>\n"
                   "<h1>Answers to held-out pictures <small>set %s</small></h1>\n",
                report_style, style, a->info.name);
    add_figures(h, a);
    add_table(h, a);
    mri_str_fmt(h, "<h2>The first %lld pictures and the model's answers</h2>\n"
                   "<section class=\"pictures\">\n", (long long)shown);
    for (int64_t i = 0; i < shown && !st; i++)
        st = add_picture(s, &m, a, i, h, err);
    mri_str_add(h, "</section>\n</html>\n");
    mri_micro_free(&m);
    return st;
}
