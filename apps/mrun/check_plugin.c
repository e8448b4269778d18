/* SPDX-License-Identifier: Apache-2.0
 *
 * check_plugin.c - `mrun check PLUGIN.so|KIND/NAME`: picks the tests, runs each in a child of
 * its own with a time limit, prints one line a test. What is tested stands in check_static.c
 * (the file), check_life.c (every plugin) and check_kinds.c (each kind).
 *
 * Invariant: this process never loads the plugin, except with --in-process.
 */
#include "check.h"
#include "core/ops/catalogue.h"
#include "core/plugin/child.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const check_row *const tables[] = { check_static_rows, check_life_rows, check_kind_rows };

typedef struct counts {
    int passed, failed, skipped;
} counts;

/* ---- verdicts ---------------------------------------------------------------------------- */

static void verdict(check *c, int what, const char *fmt, va_list ap)
{
    c->verdict = what;
    if (c->said.n)
        mri_str_add(&c->said, "\n");
    mri_str_vfmt(&c->said, fmt, ap);
}

void check_fail(check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    verdict(c, CHECK_FAIL, fmt, ap);
    va_end(ap);
}

void check_skip(check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    if (c->verdict != CHECK_FAIL)
        verdict(c, CHECK_SKIP, fmt, ap);
    va_end(ap);
}

void check_say(check *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    verdict(c, (int)c->verdict, fmt, ap);
    va_end(ap);
}

void check_fail_err(check *c, const char *doing, const mr_err *err)
{
    check_fail(c, "%s: %s%s%s", doing,
               err->what[0] ? err->what : "failed without filling the error",
               err->detail[0] ? "\n" : "", err->detail);
}

/* ---- one test ------------------------------------------------------------------------------ */

typedef struct job {
    check c; /* without plugin and unit: the child loads its own */
    const check_row *row;
    const char *kind, *name; /* of the unit, or NULL */
} job;

static void perform(job *j)
{
    mr_err err = MR_ERR_INIT;
    if (j->row->level > CHECK_GATE &&
        mri_plugin_load(j->c.a->registry, j->c.path, &j->c.plugin, &err)) {
        check_fail_err(&j->c, "loading", &err);
        return;
    }
    for (uint32_t i = 0; j->kind && i < j->c.plugin->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(j->c.plugin, i);
        if (!strcmp(u->kind, j->kind) && !strcmp(u->name, j->name))
            j->c.unit = u;
    }
    j->row->run(&j->c);
}

static void in_child(int fd, void *user)
{
    job *j = user;
    dup2(STDERR_FILENO, STDOUT_FILENO); /* stdout is the report's */
    perform(j);
    char tag = "PFS"[j->c.verdict];
    fflush(NULL);
    mri_child_tell(fd, &tag, 1);
    mri_child_tell(fd, j->c.said.s ? j->c.said.s : "", j->c.said.n);
}

/* Fills c.verdict and c.said of the job. */
static void perform_in_child(job *j)
{
    mri_child child;
    mr_err err = MR_ERR_INIT;
    fflush(NULL); /* the child flushes too: nothing may be there twice */
    if (mri_child_run(in_child, j, 1000 * j->row->limit_s, false, &child, &err)) {
        check_fail_err(&j->c, "starting the test", &err);
        return;
    }
    char *death = mri_child_death(&child);
    const char *tag = child.text.n ? memchr("PFS", child.text.s[0], 3) : NULL;
    if (!child.in_time)
        check_fail(&j->c, "did not end within %d s", j->row->limit_s);
    else if (death)
        check_fail(&j->c, "crashed: %s (debug it with --in-process -t %s)", death, j->row->name);
    else if (!tag)
        check_fail(&j->c, "ended the process without an answer");
    else
        j->c.verdict = *tag == 'P' ? CHECK_PASS : *tag == 'F' ? CHECK_FAIL : CHECK_SKIP;
    if (tag && child.in_time && !death)
        mri_str_add(&j->c.said, child.text.s + 1);
    free(death);
    mri_str_free(&child.text);
}

static const char *word_of(int verdict)
{
    return verdict == CHECK_PASS ? "pass" : verdict == CHECK_FAIL ? "FAIL" : "skip";
}

static void print_result(const app *a, const job *j, bool first)
{
    char *subject = j->kind ? mri_format("%s/%s", j->kind, j->name) : mri_strdup("-");
    const char *said = j->c.said.s ? j->c.said.s : "";
    if (a->json) {
        mri_str b = { 0 };
        mri_str_fmt(&b, "%s\n  {\"test\": \"%s\", \"unit\": ", first ? "[" : ",", j->row->name);
        mri_str_json(&b, subject);
        mri_str_fmt(&b, ", \"result\": \"%s\", \"said\": ",
                    j->c.verdict == CHECK_FAIL ? "fail" : word_of((int)j->c.verdict));
        mri_str_json(&b, said);
        mri_str_add(&b, "}");
        fputs(b.s, stdout);
        mri_str_free(&b);
    } else if (!a->quiet || j->c.verdict == CHECK_FAIL) {
        printf("%s  %-34s  %s\n", word_of((int)j->c.verdict), j->row->name, subject);
        /* what a passing test tells is for -v, except its first line */
        bool all = j->c.verdict == CHECK_FAIL || a->verbose;
        for (const char *p = said; *p;) {
            size_t n = strcspn(p, "\n");
            printf("        %.*s\n", (int)n, p);
            p += n + (p[n] == '\n');
            if (!all)
                break;
        }
    }
    free(subject);
    fflush(stdout);
}

/* ---- the run ------------------------------------------------------------------------------- */

typedef struct selection {
    const char *path, *kind, *name; /* kind, name: of the only unit to check, or NULL */
    const app_args *args;
    const char *only; /* -t */
    bool in_process;
    uint64_t seed;
} selection;

/* false: the gate is shut */
static bool run_row(app *a, const selection *s, const check_row *row, const char *kind,
                    const char *name, counts *sum)
{
    job j = { .row = row, .kind = kind, .name = name };
    if (s->only && strcmp(s->only, row->name))
        return true;
    j.c.a = a;
    j.c.path = s->path;
    j.c.seed = s->seed;
    j.c.args = s->args;
    if (s->in_process)
        perform(&j);
    else
        perform_in_child(&j);
    print_result(a, &j, !(sum->passed + sum->failed + sum->skipped));
    sum->passed += j.c.verdict == CHECK_PASS;
    sum->failed += j.c.verdict == CHECK_FAIL;
    sum->skipped += j.c.verdict == CHECK_SKIP;
    mri_str_free(&j.c.said);
    return row->level != CHECK_GATE || j.c.verdict != CHECK_FAIL;
}

/* The units of a file, listed by a child: pairs of strings. */
static void tell_units(int fd, void *user)
{
    job *j = user;
    mr_err err = MR_ERR_INIT;
    const mr_plugin *p;
    close(STDOUT_FILENO); /* what it prints is a test's matter */
    if (mri_plugin_load(j->c.a->registry, j->c.path, &p, &err))
        return;
    for (uint32_t i = 0; i < p->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(p, i);
        mri_child_tell(fd, u->kind, strlen(u->kind) + 1);
        mri_child_tell(fd, u->name, strlen(u->name) + 1);
    }
}

static bool wanted(const selection *s, const check_row *row, const char *kind, const char *name)
{
    if (s->kind && (strcmp(kind, s->kind) || strcmp(name, s->name)))
        return false;
    return row->kind ? !strcmp(row->kind, kind) : strcmp(kind, "op") != 0;
}

/* units: pairs of strings */
static void run_units(app *a, const selection *s, const check_row *row, const mri_str *units,
                      counts *sum)
{
    const char *p = units->s, *end = p + units->n;
    while (p < end) {
        const char *kind = p, *name = kind + strlen(kind) + 1;
        if (name >= end)
            return;
        p = name + strlen(name) + 1;
        if (wanted(s, row, kind, name))
            run_row(a, s, row, kind, name, sum);
    }
}

static void run_all(app *a, const selection *s, counts *sum)
{
    job j = { .c = { .a = a, .path = s->path } };
    mri_child units = { .in_time = false };
    mr_err err = MR_ERR_INIT;
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const check_row *row = tables[t]; row->name; row++) {
            if (row->level != CHECK_UNIT) {
                if (!run_row(a, s, row, NULL, NULL, sum))
                    goto out;
                continue;
            }
            if (!units.text.s && mri_child_run(tell_units, &j, 10000, false, &units, &err)) {
                app_fail(a, &err);
                sum->failed++;
                goto out;
            }
            run_units(a, s, row, &units.text, sum);
        }
out:
    mri_str_free(&units.text);
}

static int print_list(void)
{
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const check_row *row = tables[t]; row->name; row++)
            printf("%-34s  %-10s  %s\n", row->name,
                   row->kind                  ? row->kind
                   : row->level == CHECK_UNIT ? "every unit"
                                              : "plugin",
                   row->doc);
    return EXIT_OK;
}

static bool known_test(const char *name)
{
    for (size_t t = 0; t < sizeof tables / sizeof *tables; t++)
        for (const check_row *row = tables[t]; row->name; row++)
            if (!strcmp(row->name, name))
                return true;
    return false;
}

/* KIND/NAME through the search path; the file that offers it first */
static char *locate(app *a, const char *kind, const char *name)
{
    mri_listing *list;
    size_t n;
    char *path = NULL;
    if (mri_registry_list(a->registry, false, &list, &n, NULL))
        return NULL;
    for (size_t i = 0; i < n && !path; i++)
        if (!strcmp(list[i].kind, kind) && !strcmp(list[i].name, name))
            path = mri_strdup(list[i].path);
    mri_listing_free(list, n);
    return path;
}

static int not_located(app *a, const char *kind, const char *name)
{
    const mr_unit *unit;
    mr_err err = MR_ERR_INIT;
    if (mri_registry_find(a->registry, kind, name, &unit, &err))
        return app_fail(a, &err);
    mr_fail(&err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "the file of %s/%s has no note", kind,
            name);
    mr_hint(&err, "give the path of its .so file");
    return app_fail(a, &err);
}

static int check_selected(app *a, const selection *s)
{
    counts sum = { 0 };
    run_all(a, s, &sum);
    if (a->json)
        puts(sum.passed + sum.failed + sum.skipped ? "\n]" : "[]");
    else
        fprintf(stderr, "%s: %d passed, %d failed, %d skipped\n", s->path, sum.passed, sum.failed,
                sum.skipped);
    return sum.failed ? EXIT_RUN : EXIT_OK;
}

int app_check_plugin(app *a, const char *what, int argc, char **argv)
{
    static const char *const takes[] = { "-t", "--seed", NULL };
    static const char *const flags[] = { "--list", "--in-process", NULL };
    app_args args;
    selection s = { 0 };
    char *path = NULL, *kind = NULL;
    int rc = app_args_parse(a, argc, argv, takes, flags, &args);
    if (rc)
        return rc;
    s.args = &args;
    s.only = app_arg(&args, "-t");
    s.in_process = app_arg(&args, "--in-process") != NULL;
    const char *seed = app_arg(&args, "--seed");
    char *end = NULL;
    s.seed = seed ? strtoull(seed, &end, 10) : 1;
    size_t len = strlen(what);
    if (app_arg(&args, "--list")) {
        rc = print_list();
        goto out;
    }
    if ((seed && (!*seed || *end)) || (s.only && !known_test(s.only))) {
        rc = s.only && !known_test(s.only)
                 ? app_usage(a, "no test is named '%.60s'; --list prints them", s.only)
                 : app_usage(a, "--seed takes a number, got '%.60s'", seed);
        goto out;
    }
    mr_err err = MR_ERR_INIT;
    mri_registry_offer(a->registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_set_op_hook(a->registry, mri_op_register, &err);
    if (len > 3 && !strcmp(what + len - 3, ".so")) {
        path = mri_strdup(what);
    } else {
        kind = mri_strdup(what);
        char *slash = strchr(kind, '/');
        if (!slash) {
            rc = app_usage(a, "'%.60s' is neither PLUGIN.so nor KIND/NAME", what);
            goto out;
        }
        *slash = 0;
        s.kind = kind;
        s.name = slash + 1;
        path = locate(a, s.kind, s.name);
        if (!path) {
            rc = not_located(a, s.kind, s.name);
            goto out;
        }
    }
    s.path = path;
    rc = check_selected(a, &s);
out:
    free(path);
    free(kind);
    app_args_free(&args);
    return rc;
}
