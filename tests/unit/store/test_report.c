/* SPDX-License-Identifier: Apache-2.0
 * The report has every section, shows hostile text as text, and only finite coordinates. */
#include "apps/mrun/report.h"
#include "scratch.h"
#include <math.h>

static void put_run(const char *dir, const char *log, const char *profile)
{
    char *a = mri_format("%s/log.jsonl", dir), *b = mri_format("%s/profile.resolved.ini", dir);
    scratch_put(a, log, strlen(log));
    scratch_put(b, profile, strlen(profile));
    free(a);
    free(b);
}

static char *page(const char *dir)
{
    mri_str h = { 0 };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(report_page(dir, &h, &err), 0, "%s", err.what);
    return mri_str_take(&h);
}

static size_t occurrences(const char *text, const char *word)
{
    size_t n = 0;
    for (; (text = strstr(text, word)); text++)
        n++;
    return n;
}

static const char profile[] = "[run]\nseed = 1\n; <script>alert('x')</script> & \"quotes\"\n";

Test(report, has_every_section_and_fetches_nothing)
{
    static const char *const parts[] = {
        "<!doctype html>", "<title>", "id=\"summary\"", "id=\"loss\"", "id=\"lr\"",
        "id=\"throughput\"", "id=\"grad-norm\"", "id=\"memory\"", "id=\"facts\"",
        "id=\"profile\"", "prefers-color-scheme:dark", ">validation<", "bits per byte, best",
        "<b>[run]</b>", "</html>",
    };
    static const char *const outside[] = { "http:", "https:", "src=", "href=", "url(", "@import" };
    char *dir = scratch_make();
    mri_str log = { 0 };
    for (int s = 1; s <= 3000; s++) {
        mri_str_fmt(&log, "{\"step\":%d,\"loss\":%g,\"grad_norm\":1.5,\"lr\":0.001,\"ms\":12,"
                          "\"tokens_per_s\":20000,\"mfu\":0.3,\"memory_bytes\":1e9,"
                          "\"time\":%d}\n",
                    s, s == 1234 ? 99.0 : 5.0 / s, 1700000000 + s);
        if (s % 500 == 0)
            mri_str_fmt(&log, "{\"step\":%d,\"val_loss\":2.5,\"bits_per_byte\":1.75}\n", s);
    }
    put_run(dir, log.s, profile);
    char *html = page(dir);
    for (size_t i = 0; i < sizeof parts / sizeof *parts; i++)
        cr_assert_not_null(strstr(html, parts[i]), "%s", parts[i]);
    for (size_t i = 0; i < sizeof outside / sizeof *outside; i++)
        cr_assert_null(strstr(html, outside[i]), "%s", outside[i]);
    cr_assert_eq(occurrences(html, "<svg"), 6);
    cr_assert_eq(occurrences(html, "</svg>"), 6);
    cr_assert_not_null(strstr(html, "<b>1.75</b>"));
    cr_assert_not_null(strstr(html, "<b>3000</b>"));
    cr_assert_not_null(strstr(html, "class=\"band c0\""));
    cr_assert_not_null(strstr(html, ">100</text>"), "the spike at 99 must be inside the axis");
    cr_assert_lt(strlen(html), 400000);
    free(html);
    mri_str_free(&log);
    scratch_drop(dir);
}

Test(report, text_of_the_run_is_escaped)
{
    char *dir = scratch_make(), *odd = mri_format("%s/a<b>&'\"", dir);
    mkdir(odd, 0777);
    put_run(odd, "{\"step\":1,\"loss\":1,\"<i>\":2}\n", profile);
    char *html = page(odd);
    cr_assert_null(strstr(html, "<script>alert"));
    cr_assert_null(strstr(html, "a<b>"));
    cr_assert_null(strstr(html, "<i>\""));
    cr_assert_not_null(
        strstr(html, "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt; &amp; &quot;quotes&quot;"));
    cr_assert_not_null(strstr(html, "a&lt;b&gt;&amp;&#39;&quot;"));
    cr_assert_eq(occurrences(html, "<script>"), 1); /* our own */
    free(html);
    free(odd);
    scratch_drop(dir);
}

/* Everything inside the drawing, whatever the values: nan or inf there would blank a chart. */
Test(report, coordinates_are_finite_and_inside)
{
    static const char *const logs[] = {
        "",
        "{\"step\":1,\"loss\":2}\n",
        "{\"step\":1,\"loss\":0}\n{\"step\":2,\"loss\":0}\n",
        "{\"step\":1,\"loss\":null}\n{\"step\":2,\"loss\":3}\n",
        "{\"step\":1,\"loss\":-1e308}\n{\"step\":2,\"loss\":1e308}\n",
        "{\"step\":1,\"loss\":1e308}\n{\"step\":2,\"loss\":1.1e308}\n",
        "{\"step\":1,\"loss\":5e-324}\n{\"step\":2,\"loss\":1e-323}\n",
        "{\"step\":5,\"loss\":1}\n{\"step\":5,\"loss\":2}\n",
        "{\"step\":-1e300,\"loss\":1}\n{\"step\":1e300,\"loss\":2}\n",
        "{\"step\":9007199254740992,\"loss\":1}\n{\"step\":9007199254740994,\"loss\":2}\n",
        "{\"step\":1,\"loss\":7}\n{\"step\":2,\"loss\":6}\n{\"step\":3,\"lo",
        "nonsense\n[1]\n{\"loss\":1}\n",
    };
    char *dir = scratch_make();
    for (size_t i = 0; i < sizeof logs / sizeof *logs; i++) {
        put_run(dir, logs[i], profile);
        char *html = page(dir);
        for (char *p = html; (p = strstr(p, " d=\"M")); p++)
            for (char *q = p + 5; *q != '"';) {
                char *end;
                double v = strtod(q, &end);
                cr_assert(end > q && isfinite(v) && v >= -1 && v <= 641, "case %zu: %.20s", i, q);
                q = end + strspn(end, " LZ");
            }
        cr_assert_null(strstr(html, ">nan"), "case %zu", i);
        cr_assert_null(strstr(html, ">inf"), "case %zu", i);
        free(html);
    }
    put_run(dir, logs[10], profile);
    char *html = page(dir);
    cr_assert_not_null(strstr(html, "unreadable lines</th><td>1<"));
    free(html);
    scratch_drop(dir);
}

Test(report, a_folder_that_is_no_run_is_refused)
{
    char *dir = scratch_make();
    mri_str h = { 0 };
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(report_page(dir, &h, &err), MR_E_STORE_MISSING);
    cr_assert_not_null(strstr(err.what, "log.jsonl"));
    cr_assert(err.hint[0]);
    scratch_drop(dir);
}
