/* SPDX-License-Identifier: Apache-2.0
 * log.jsonl: one object a step, exact numbers, and a resume that leaves each step once. */
#include "core/base/json.h"
#include "sinkkit.h"
#include <math.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>

static void step(kit k, int64_t s, double loss)
{
    const mr_metric m[] = { { "loss", loss }, { "lr", 3e-4 }, { "memory_bytes", 2147483648.0 } };
    kit_event(k, "step", s, 100, 1700000000.125, m, 3, NULL);
}

static char *log_text(const char *dir, size_t *n)
{
    char *path = mri_format("%s/log.jsonl", dir);
    char *text = scratch_get(path, n);
    free(path);
    return text;
}

Test(jsonl, a_line_is_this_object)
{
    char *dir = scratch_make();
    kit k = kit_open("jsonl", dir, 0, 0, NULL);
    const mr_metric val[] = { { "val_loss", 0.1 }, { "bits_per_byte", 2 }, { "x\"y", -0.0 } };
    kit_event(k, "start", 0, 100, 1, NULL, 0, "hello");
    step(k, 1, 5.5);
    kit_event(k, "eval", 1, 100, 1700000001, val, 3, "ignored");
    kit_close(k);
    size_t n;
    char *text = log_text(dir, &n);
    cr_assert_str_eq(text, "{\"step\":1,\"loss\":5.5,\"lr\":0.0003,\"memory_bytes\":2147483648,"
                           "\"time\":1700000000.125}\n"
                           "{\"step\":1,\"val_loss\":0.1,\"bits_per_byte\":2,\"x\\\"y\":-0,"
                           "\"time\":1700000001.000}\n");
    free(text);
    scratch_drop(dir);
}

Test(jsonl, numbers_read_back_bit_for_bit)
{
    const double values[] = { 1.0 / 3, 5e-324, 1.7976931348623157e308, 0.1f, 123456789.125,
                              -1e15, 1e300, 4503599627370497.5, 3.25, -0.0 };
    char *dir = scratch_make();
    kit k = kit_open("jsonl", dir, 0, 0, NULL);
    uint64_t rng = 5;
    double random[200];
    for (int i = 0; i < 200; i++) {
        uint64_t bits = scratch_random(&rng);
        memcpy(&random[i], &bits, 8);
        if (!isfinite(random[i]))
            random[i] = i;
    }
    for (size_t i = 0; i < 210; i++)
        step(k, (int64_t)i, i < 10 ? values[i] : random[i - 10]);
    step(k, 210, NAN);
    step(k, 211, -INFINITY);
    kit_close(k);
    size_t n;
    char *text = log_text(dir, &n), *save = NULL;
    size_t i = 0;
    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save), i++) {
        mri_json *j;
        mr_err err = MR_ERR_INIT;
        double v;
        cr_assert_eq(mri_json_parse(l, strlen(l), "line", &j, &err), 0, "%s: %s", err.what, l);
        if (i >= 210) {
            cr_assert_not(mri_json_service.has(j, "loss"));
        } else {
            double want = i < 10 ? values[i] : random[i - 10];
            cr_assert(mri_json_service.number(j, "loss", &v));
            cr_assert(v == want, "%s", l);
        }
        mri_json_free(j);
    }
    cr_assert_eq(i, 212);
    free(text);
    scratch_drop(dir);
}

Test(jsonl, notes_are_written_when_asked_for)
{
    char *dir = scratch_make();
    const char *const options[] = { "notes", "true", "fsync", "true", "file", "other.jsonl", NULL };
    kit k = kit_open("jsonl", dir, 0, 0, options);
    kit_event(k, "note", 3, 100, 0, NULL, 0, "a\n\"b\"");
    kit_close(k);
    size_t n;
    char *path = mri_format("%s/other.jsonl", dir), *text = scratch_get(path, &n);
    cr_assert_str_eq(text, "{\"step\":3,\"event\":\"note\",\"text\":\"a\\u000a\\\"b\\\"\","
                           "\"time\":0.000}\n");
    free(text);
    free(path);
    scratch_drop(dir);
}

/* A run stopped at any byte of its log, resumed from step 5, equals the run never stopped. */
Test(jsonl, resume_after_a_cut_at_any_byte_leaves_each_step_once)
{
    char *dir = scratch_make(), *path = mri_format("%s/log.jsonl", dir);
    kit k = kit_open("jsonl", dir, 0, 0, NULL);
    for (int64_t s = 1; s <= 10; s++)
        step(k, s, 1.0 / (double)s);
    kit_close(k);
    size_t n, m, at5 = 0;
    char *whole = log_text(dir, &n);
    for (int line = 0; line < 5; at5++)
        line += whole[at5] == '\n';
    for (size_t cut = at5; cut <= n; cut++) {
        scratch_put(path, whole, cut);
        k = kit_open("jsonl", dir, 1, 5, NULL);
        for (int64_t s = 6; s <= 10; s++)
            step(k, s, 1.0 / (double)s);
        kit_close(k);
        char *again = log_text(dir, &m);
        cr_assert_eq(m, n, "cut at %zu", cut);
        cr_assert_arr_eq(again, whole, n);
        free(again);
    }
    k = kit_open("jsonl", dir, 0, 0, NULL); /* not resumed: a fresh log */
    kit_close(k);
    free(log_text(dir, &m));
    cr_assert_eq(m, 0);
    free(whole);
    free(path);
    scratch_drop(dir);
}

Test(jsonl, a_killed_writer_leaves_whole_lines)
{
    char *dir = scratch_make();
    pid_t pid = fork();
    if (!pid) {
        kit k = kit_open("jsonl", dir, 0, 0, NULL);
        for (int64_t s = 1;; s++)
            step(k, s, 1.0 / (double)s);
    }
    usleep(30000);
    kill(pid, SIGKILL);
    cr_assert_eq(waitpid(pid, NULL, 0), pid);
    kit k = kit_open("jsonl", dir, 1, INT64_MAX, NULL);
    kit_close(k);
    size_t n;
    char *text = log_text(dir, &n), *save = NULL;
    int64_t s = 0;
    cr_assert_eq(text[n - 1], '\n');
    for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        mri_json *j;
        mr_err err = MR_ERR_INIT;
        double v;
        cr_assert_eq(mri_json_parse(l, strlen(l), "line", &j, &err), 0, "%s", err.what);
        cr_assert(mri_json_service.number(j, "step", &v) && v == (double)++s);
        mri_json_free(j);
    }
    cr_assert_gt(s, 10);
    free(text);
    scratch_drop(dir);
}

Test(jsonl, a_full_disk_is_an_error_and_tears_no_line)
{
    char *dir = scratch_make();
    struct rlimit limit;
    kit k = kit_open("jsonl", dir, 0, 0, NULL);
    step(k, 1, 1);
    size_t n, m;
    free(log_text(dir, &n));
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &limit);
    struct rlimit small = { n + 10, limit.rlim_max };
    setrlimit(RLIMIT_FSIZE, &small);
    const mr_metric loss = { "loss", 1 };
    mr_event e = { sizeof e, 1, "step", 2, 100, 0, &loss, NULL };
    mr_err err = MR_ERR_INIT;
    mr_status st = k.ops->event(k.sink, &e, &err);
    setrlimit(RLIMIT_FSIZE, &limit);
    cr_assert_eq(st, MR_E_STORE_FULL);
    cr_assert_not_null(strstr(err.what, "log.jsonl"));
    free(log_text(dir, &m));
    cr_assert_eq(m, n);
    kit_close(k);
    scratch_drop(dir);
}
