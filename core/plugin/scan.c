/* SPDX-License-Identifier: Apache-2.0
 *
 * scan.c - looks at a library from a child process, so that a plugin that crashes, hangs or
 * prints cannot hurt the one who asks. The child loads, checks and opens it, and reports as a
 * row of NUL-ended strings: a tag, then the tag's fields.
 *
 * Invariant: what arrives is untrusted (a plugin may have trampled on the child): every field
 * is bounded by the text's end, and a report without its end is a crash.
 */
#include "child.h"
#include "internal.h"
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>

/* ---- the child ------------------------------------------------------------------------ */

typedef struct question {
    const mr_host *host;
    const char *path;
} question;

static void tell(int fd, const char *s)
{
    mri_child_tell(fd, s ? s : "", s ? strlen(s) + 1 : 1);
}

static void tell_stage(void *user, const char *what)
{
    tell(*(int *)user, "stage");
    tell(*(int *)user, what);
}

static void quiet_log(void *self, uint32_t level, const char *unit, const char *msg)
{
    (void)self;
    (void)level;
    (void)unit;
    (void)msg;
}

static void report(int fd, void *user)
{
    const question *ask = user;
    const mr_host *host = ask->host;
    const char *path = ask->path;
    mr_err err = MR_ERR_INIT;
    const mr_plugin *p = NULL;
    mr_host quiet = *host;
    quiet.log = quiet_log;
    if (mri_load_file(&quiet, path, tell_stage, &fd, &p, &err)) {
        char code[16], blame[16];
        snprintf(code, sizeof code, "%d", err.code);
        snprintf(blame, sizeof blame, "%u", err.blame);
        const char *const row[] = { "error", code, blame, err.what, err.detail, err.hint };
        for (size_t i = 0; i < sizeof row / sizeof *row; i++)
            tell(fd, row[i]);
        return;
    }
    char abi[32];
    snprintf(abi, sizeof abi, "%u.%u", p->abi_major, p->abi_minor_built);
    const char *const row[] = { "plugin", p->id, p->version, abi };
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        tell(fd, row[i]);
    for (uint32_t i = 0; i < p->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(p, i);
        bool lacks = mri_unit_needs(host, u, path, &err) != 0;
        const char *const unit[] = { "unit", u->kind, u->name, u->doc, lacks ? err.what : "" };
        for (size_t j = 0; j < sizeof unit / sizeof *unit; j++)
            tell(fd, unit[j]);
    }
    tell(fd, "end");
}

/* ---- the parent ----------------------------------------------------------------------- */

typedef struct cursor {
    const char *p, *end;
} cursor;

static const char *next(cursor *c)
{
    const char *s = c->p, *zero = c->p < c->end ? memchr(s, 0, (size_t)(c->end - s)) : NULL;
    if (!zero)
        return NULL;
    c->p = zero + 1;
    return s;
}

static bool take(cursor *c, const char **row, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!(row[i] = next(c)))
            return false;
    return true;
}

/* 1: the report is complete; err is set where it holds an error. `stage`: the last one told */
static bool parse(const mri_str *text, mri_scan *out, const char **stage, mr_err *err)
{
    cursor c = { text->s, text->s + text->n };
    const char *tag, *f[5];
    while ((tag = next(&c))) {
        if (!strcmp(tag, "stage") && take(&c, f, 1)) {
            *stage = f[0];
        } else if (!strcmp(tag, "error") && take(&c, f, 5)) {
            mr_fail(err, atoi(f[0]) < 0 ? atoi(f[0]) : MR_E_PLUGIN_LOAD, (uint32_t)atoi(f[1]),
                    "%s", f[2]);
            mr_detail(err, "%s", f[3]);
            mr_hint(err, "%s", f[4]);
            return true;
        } else if (!strcmp(tag, "plugin") && !out->id && take(&c, f, 3)) {
            out->id = mri_strdup(f[0]);
            out->version = mri_strdup(f[1]);
            out->abi = mri_strdup(f[2]);
        } else if (!strcmp(tag, "unit") && take(&c, f, 4)) {
            mri_scan_unit u = { mri_strdup(f[0]), mri_strdup(f[1]), mri_strdup(f[2]),
                                mri_strdup(f[3]) };
            MRI_PUSH(&out->units, u);
        } else {
            return !strcmp(tag, "end") && out->id;
        }
    }
    return false;
}

static mr_status crashed(const char *path, const mri_child *c, const char *stage, mr_err *err)
{
    char *death = mri_child_death(c);
    mr_fail(err, MR_E_PLUGIN_CRASHED, MR_BLAME_PLUGIN, "%s crashed: %s%s %s", mri_base_name(path),
            WIFSIGNALED(c->status) ? "" : "it called ", death ? death : "exit(0)", stage);
    mr_detail(err, "file: %s", path);
    mr_hint(err, "under a debugger: mrun check --in-process %s", path);
    free(death);
    return MR_E_PLUGIN_CRASHED;
}

static mr_status stuck(const char *path, int limit_ms, const char *stage, mr_err *err)
{
    mr_fail(err, MR_E_PLUGIN_TIMEOUT, MR_BLAME_PLUGIN, "%s did not answer within %d ms: stuck %s",
            mri_base_name(path), limit_ms, stage);
    mr_detail(err, "file: %s", path);
    mr_hint(err, "open() may not wait for devices or networks; move that into create()");
    return MR_E_PLUGIN_TIMEOUT;
}

mr_status mri_scan_file(const mr_host *host, const char *path, int limit_ms, mri_scan *out,
                        mr_err *err)
{
    question ask = { host, path };
    mri_child c;
    mr_err heard = MR_ERR_INIT;
    const char *stage = "before it was loaded";
    memset(out, 0, sizeof *out);
    mr_status st = mri_child_run(report, &ask, limit_ms, true, &c, err);
    if (st)
        return st;
    bool complete = parse(&c.text, out, &stage, &heard);
    st = heard.code;
    if (!c.in_time) {
        st = stuck(path, limit_ms, stage, err);
    } else if (!complete || (WIFSIGNALED(c.status) && !st)) {
        st = crashed(path, &c, stage, err);
    } else if (st) {
        mr_fail(err, st, heard.blame, "%s", heard.what);
        mr_detail(err, "%s", heard.detail);
        mr_hint(err, "%s", heard.hint);
    }
    mri_str_free(&c.text);
    return st;
}

void mri_scan_free(mri_scan *s)
{
    free(s->id);
    free(s->version);
    free(s->abi);
    for (size_t i = 0; i < s->units.n; i++) {
        mri_scan_unit *u = &s->units.v[i];
        free(u->kind);
        free(u->name);
        free(u->doc);
        free(u->missing);
    }
    free(s->units.v);
    memset(s, 0, sizeof *s);
}
