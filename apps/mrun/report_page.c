/* SPDX-License-Identifier: Apache-2.0
 *
 * report_page.c - the page: head, summary, charts, facts, profile.
 * Invariant: the page is one file that fetches nothing, and no byte of the run's files
 * reaches it unescaped.
 */
#include "core/store/store.h"
#include "report.h"
#include <math.h>
#include <stdlib.h>
#include <time.h>

enum { PROFILE_MAX = 4 << 20 };

const char report_style[] =
    ":root{color-scheme:light dark;--bg:#fbfbfa;--card:#fff;--ink:#1c1f23;--mute:#6a717a;"
    "--edge:#e3e4e6;--a:#2563c9;--b:#d9541e}\n"
    "@media(prefers-color-scheme:dark){:root{--bg:#14171a;--card:#1c2024;--ink:#e4e7ea;"
    "--mute:#8f98a2;--edge:#2e343a;--a:#6ea3f5;--b:#f29a6b}}\n"
    "*{box-sizing:border-box}\n"
    "body{margin:0 auto;padding:2rem 1.25rem;max-width:84rem;background:var(--bg);"
    "color:var(--ink);font:15px/1.5 system-ui,sans-serif}\n"
    "h1{font-size:1.5rem;margin:0 0 1.25rem;overflow-wrap:anywhere}\n"
    "h1 small{color:var(--mute);font-weight:400}\n"
    "h2{font-size:1.05rem;margin:2rem 0 .75rem}\n"
    ".cards,.charts{display:grid;gap:1rem}\n"
    ".cards{grid-template-columns:repeat(auto-fit,minmax(8.6rem,1fr))}\n"
    ".charts{grid-template-columns:repeat(auto-fit,minmax(min(100%,32rem),1fr));margin-top:1rem}\n"
    ".cards div,figure,table,pre{background:var(--card);border:1px solid var(--edge);"
    "border-radius:8px}\n"
    ".cards div{padding:.6rem .9rem}\n"
    ".cards span{display:block;color:var(--mute);font-size:.85rem}\n"
    ".cards b{font-size:1.3rem;font-variant-numeric:tabular-nums}\n"
    "figure{margin:0;padding:.75rem .9rem .4rem}\n"
    "figcaption{display:flex;gap:.9rem;align-items:baseline}\n"
    "output{margin-left:auto;color:var(--mute);font-variant-numeric:tabular-nums}\n"
    ".key{color:var(--c);font-size:.9rem}.key:before{content:'\\2501\\a0'}\n"
    ".c0{--c:var(--a)}.c1{--c:var(--b)}\n"
    "svg{display:block;width:100%;height:auto}\n"
    ".grid{stroke:var(--edge)}.tick{fill:var(--mute);font-size:11px}\n"
    ".line{fill:none;stroke:var(--c);stroke-width:1.6;stroke-linejoin:round}\n"
    ".band{fill:var(--c);opacity:.2}circle{fill:var(--c)}\n"
    ".cursor{stroke:var(--mute);visibility:hidden}\n"
    ".none{color:var(--mute);text-align:center;padding:3rem 0}\n"
    "table{border-collapse:separate;border-spacing:0;width:100%}\n"
    "th,td{text-align:left;padding:.4rem .9rem;vertical-align:top;overflow-wrap:anywhere}\n"
    "th{color:var(--mute);font-weight:400;width:14rem}tr+tr>*{border-top:1px solid var(--edge)}\n"
    "pre{padding:.9rem;overflow:auto;font-size:.85rem;line-height:1.45}pre b{color:var(--a)}"
    "pre i{color:var(--mute);font-style:normal}\n";

/* The curves' values at the pointer; without it the page loses nothing but that. */
static const char script[] =
    "for(const f of document.querySelectorAll('figure')){\n"
    " const s=f.querySelector('svg'),o=f.querySelector('output');if(!s)continue;\n"
    " const d=JSON.parse(s.dataset.curves),l=s.querySelector('.cursor');\n"
    " s.onpointermove=e=>{\n"
    "  const r=s.getBoundingClientRect(),x=(e.clientX-r.left)*s.viewBox.baseVal.width/r.width;\n"
    "  const near=p=>p.reduce((a,b)=>Math.abs(b[0]-x)<Math.abs(a[0]-x)?b:a);\n"
    "  const h=d.map(c=>[c.label,near(c.p)]);\n"
    "  l.setAttribute('x1',h[0][1][0]);l.setAttribute('x2',h[0][1][0]);\n"
    "  l.style.visibility='visible';\n"
    "  o.textContent='step '+h[0][1][2]+': '+h.map(([n,p])=>(d.length>1?n+' ':'')+p[3])"
    ".join(', ');};\n"
    " s.onpointerleave=()=>{l.style.visibility='hidden';o.textContent='';};\n"
    "}\n";

void report_escape(mri_str *h, const char *text)
{
    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        switch (c) {
        case '&': mri_str_add(h, "&amp;"); break;
        case '<': mri_str_add(h, "&lt;"); break;
        case '>': mri_str_add(h, "&gt;"); break;
        case '"': mri_str_add(h, "&quot;"); break;
        case '\'': mri_str_add(h, "&#39;"); break;
        default:
            if (c < 0x20 && c != '\n' && c != '\t')
                mri_str_add(h, "\xef\xbf\xbd"); /* U+FFFD: HTML has no such character */
            else
                mri_str_addn(h, text, 1);
        }
    }
}

void report_number(mri_str *h, int unit, double v)
{
    if (!isfinite(v)) {
        mri_str_add(h, "-");
    } else if (unit == REPORT_BYTES && v >= 0) {
        char *text = mri_bytes_text(v);
        mri_str_add(h, text);
        free(text);
    } else if (unit == REPORT_PERCENT) {
        mri_str_fmt(h, "%.3g%%", 100 * v);
    } else if (fabs(v) >= 1e4 && fabs(v) < 1e15) {
        int u = fabs(v) >= 1e12 ? 4 : fabs(v) >= 1e9 ? 3 : fabs(v) >= 1e6 ? 2 : 1;
        mri_str_fmt(h, "%.4g%c", v / pow(1000, u), " kMGT"[u]);
    } else {
        mri_str_fmt(h, "%.4g", v);
    }
}

static void add_card(mri_str *h, const char *label, int unit, double v)
{
    if (!isfinite(v))
        return;
    mri_str_fmt(h, "<div><span>%s</span><b>", label);
    report_number(h, unit, v);
    mri_str_add(h, "</b></div>\n");
}

static void add_summary(mri_str *h, const report_log *log)
{
    const struct {
        const char *label, *metric;
        int unit;
        double (*of)(const report_series *);
    } cards[] = {
        { "loss, last", "loss", REPORT_NUMBER, report_last },
        { "val. loss, best", "val_loss", REPORT_NUMBER, report_best },
        { "right answers, last", "accuracy", REPORT_PERCENT, report_last },
        { "bits per byte, best", "bits_per_byte", REPORT_NUMBER, report_best },
        { "tokens/s, median", "tokens_per_s", REPORT_NUMBER, report_median },
        { "ms a step, median", "ms", REPORT_NUMBER, report_median },
        { "MFU, median", "mfu", REPORT_PERCENT, report_median },
        { "memory, last", "memory_bytes", REPORT_BYTES, report_last },
    };
    mri_str_add(h, "<section id=\"summary\" class=\"cards\">\n");
    mri_str_fmt(h, "<div><span>steps</span><b>%lld</b></div>\n", (long long)log->last_step);
    for (size_t i = 0; i < sizeof cards / sizeof *cards; i++)
        add_card(h, cards[i].label, cards[i].unit,
                 cards[i].of(report_log_find(log, cards[i].metric)));
    mri_str_add(h, "</section>\n");
}

static void add_charts(mri_str *h, const report_log *log)
{
    static const struct {
        const char *id, *title;
        int unit;
        const char *metric[2], *label[2];
    } charts[] = {
        { "loss", "Loss", REPORT_NUMBER, { "loss", "val_loss" }, { "training", "validation" } },
        { "accuracy", "Right answers", REPORT_PERCENT, { "accuracy" }, { "validation" } },
        { "lr", "Learning rate", REPORT_NUMBER, { "lr" }, { "lr" } },
        { "throughput", "Throughput", REPORT_NUMBER, { "tokens_per_s" }, { "tokens/s" } },
        { "grad-norm", "Gradient norm", REPORT_NUMBER, { "grad_norm" }, { "grad norm" } },
        { "memory", "Memory", REPORT_BYTES, { "memory_bytes" }, { "memory" } },
        { "mfu", "Model FLOP utilisation", REPORT_PERCENT, { "mfu" }, { "MFU" } },
    };
    mri_str_add(h, "<section class=\"charts\">\n");
    for (size_t i = 0; i < sizeof charts / sizeof *charts; i++) {
        report_chart c = { charts[i].id, charts[i].title, charts[i].unit, { { 0 } } };
        for (int k = 0; k < 2 && charts[i].metric[k]; k++)
            c.curve[k] =
                (report_curve){ charts[i].label[k], report_log_find(log, charts[i].metric[k]) };
        report_chart_add(h, &c);
    }
    mri_str_add(h, "</section>\n");
}

static void add_fact(mri_str *h, const char *name, char *value) /* frees value */
{
    mri_str_fmt(h, "<tr><th>%s</th><td>", name);
    report_escape(h, value);
    mri_str_add(h, "</td></tr>\n");
    free(value);
}

static char *time_text(double seconds)
{
    char text[64] = "-";
    time_t t = (time_t)seconds;
    struct tm tm;
    if (gmtime_r(&t, &tm))
        strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S UTC", &tm);
    return mri_strdup(text);
}

static char *checkpoints_text(const char *run_dir)
{
    char *dir = mri_format("%s/checkpoints", run_dir);
    int64_t *steps = NULL;
    size_t n = 0;
    mri_str b = { 0 };
    if (!mri_checkpoint_list(dir, &steps, &n, NULL))
        for (size_t i = n; i--;)
            mri_str_fmt(&b, "%s%lld", b.n ? ", " : "", (long long)steps[i]);
    free(steps);
    free(dir);
    return b.n ? mri_str_take(&b) : mri_strdup("none in the run's folder");
}

static void add_facts(mri_str *h, const char *run_dir, const report_log *log)
{
    size_t not_finite = 0;
    for (size_t i = 0; i < log->series.n; i++)
        not_finite += log->series.v[i].not_finite;
    mri_str_add(h, "<h2>The run</h2>\n<table id=\"facts\">\n");
    add_fact(h, "folder", mri_strdup(run_dir));
    add_fact(h, "last step logged", mri_format("%lld", (long long)log->last_step));
    if (log->first_time) {
        add_fact(h, "first line at", time_text(log->first_time));
        add_fact(h, "last line at", time_text(log->last_time));
        add_fact(h, "between them", mri_format("%.1f minutes, pauses included",
                                               (log->last_time - log->first_time) / 60));
    }
    add_fact(h, "checkpoints at step", checkpoints_text(run_dir));
    add_fact(h, "lines in the log", mri_format("%zu", log->lines));
    if (log->bad_lines)
        add_fact(h, "unreadable lines", mri_format("%zu", log->bad_lines));
    if (not_finite)
        add_fact(h, "values not finite", mri_format("%zu, not drawn", not_finite));
    mri_str_add(h, "</table>\n");
}

/* Section lines in bold, comments pale. */
static void add_profile(mri_str *h, const char *text)
{
    mri_str_add(h, "<h2>Resolved profile</h2>\n<pre id=\"profile\">");
    while (*text) {
        size_t n = strcspn(text, "\n");
        char *line = mri_strndup(text, n);
        const char *tag = *line == '[' ? "b" : *line == ';' || *line == '#' ? "i" : NULL;
        if (tag)
            mri_str_fmt(h, "<%s>", tag);
        report_escape(h, line);
        if (tag)
            mri_str_fmt(h, "</%s>", tag);
        mri_str_add(h, "\n");
        free(line);
        text += n + (text[n] == '\n');
    }
    mri_str_add(h, "</pre>\n");
}

mr_status report_page(const char *run_dir, mri_str *h, mr_err *err)
{
    char *log_path = mri_format("%s/log.jsonl", run_dir);
    char *profile_path = mri_format("%s/profile.resolved.ini", run_dir), *profile = NULL;
    report_log log = { 0 };
    size_t n;
    mr_status st = 0;
    MR_TRY(report_log_read(log_path, &log, err));
    MR_TRY(mri_read_file(profile_path, PROFILE_MAX, &profile, &n, err));
    const char *name = run_dir + strlen(run_dir);
    while (name > run_dir && name[-1] != '/')
        name--;
    mri_str_add(h, "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n"
                   "<meta name=\"viewport\" content=\"width=device-width\">\n<title>");
    report_escape(h, *name ? name : run_dir);
    mri_str_fmt(h, " - mrun</title>\n<style>\n%s</style>\n<h1>", report_style);
    report_escape(h, *name ? name : run_dir);
    mri_str_add(h, " <small>a run of mrun</small></h1>\n");
    add_summary(h, &log);
    add_charts(h, &log);
    add_facts(h, run_dir, &log);
    add_profile(h, profile);
    mri_str_fmt(h, "<script>\n%s</script>\n</html>\n", script);
out:
    report_log_free(&log);
    free(profile);
    free(profile_path);
    free(log_path);
    return st;
}
