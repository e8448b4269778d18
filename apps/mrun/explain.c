/* SPDX-License-Identifier: Apache-2.0
 *
 * explain.c - `mrun explain WHAT`: pages printed from the tables that the program itself runs
 * by (option rows, error pages, op definitions). Nothing is described twice.
 */
#include "app.h"
#include "core/config/errors.h"
#include "core/config/option.h"
#include "core/ops/catalogue.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef MRI_VEC(char *) words;

static void words_free(words *w)
{
    for (size_t i = 0; i < w->n; i++)
        free(w->v[i]);
    free(w->v);
}

static const mr_opt *row_find(const mr_opt *opts, uint32_t n, const char *key)
{
    const mr_opt *o;
    for (uint32_t i = 0; (o = mri_opt_row(opts, n, i)); i++)
        if (!strcmp(o->key, key) || (mri_opt_read(o).was && !strcmp(o->was, key)))
            return o;
    return NULL;
}

static void print_row(const mr_opt *o)
{
    mri_str b = { 0 };
    mri_option_print(o, &b);
    printf("  %s", b.s);
    mri_str_free(&b);
}

static void print_rows(const char *section, const mr_opt *opts, uint32_t n)
{
    printf("  [%s]\n", section);
    const mr_opt *o;
    for (uint32_t i = 0; (o = mri_opt_row(opts, n, i)); i++)
        if (!(o->flags & MR_OPT_HIDDEN))
            print_row(o);
    if (!n)
        puts("  no options");
}

static const mri_section *find_section(const char *name)
{
    size_t n;
    const mri_section *s = mri_sections(&n);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(s[i].name, name))
            return &s[i];
    return NULL;
}

static const mri_kind *find_kind(const char *name)
{
    size_t n;
    const mri_kind *k = mri_kinds(&n);
    for (size_t i = 0; i < n; i++)
        if (!strcmp(k[i].name, name))
            return &k[i];
    return NULL;
}

/* ---- pages: each returns true if it knew the topic --------------------------------------- */

static bool explain_error(const char *what)
{
    char *end;
    const char *digits = what + (*what == 'E' || *what == 'e');
    long number = strtol(digits, &end, 10);
    if (!*digits || *end || *digits == '-' || *digits == '+')
        return false;
    const mri_error_info *e = mri_error_find((int)(number < 10000 ? number : 0));
    if (e)
        printf("E%04d %s\n%s.\n\n%s", e->number, e->name, e->title, e->text);
    return e != NULL;
}

static void print_kind_row(app *a, const mri_kind *k)
{
    printf("  %-21s = %-10s ; %s", "plugin", k->default_plugin ? k->default_plugin : "", k->doc);
    size_t n = 0;
    const char **names = mri_registry_names(a->registry, k->name, &n);
    for (size_t i = 0; i < n; i++)
        printf("%s%s", i ? " " : " (here: ", names[i]);
    puts(n ? ")" : "");
    free(names);
}

static bool explain_section(app *a, const char *what)
{
    const mri_section *s = find_section(what);
    const mri_kind *k = find_kind(what);
    if (!s && !k)
        return false;
    printf("%s: %s\n\n", what, s ? s->doc : k->doc);
    if (s)
        print_rows(what, s->opts, s->n_opts);
    else
        printf("  [%s]\n", what);
    if (k) {
        print_kind_row(a, k);
        printf("\na plugin's own keys stand in [%s.NAME]: mrun explain %s/NAME\n", what, what);
    }
    return true;
}

static void print_key(const char *section, const mr_opt *o)
{
    printf("[%s]\n", section);
    print_row(o);
}

static void print_listing(app *a, const char *kind, const char *name)
{
    mri_listing *list = NULL;
    size_t n = 0;
    mr_err err = MR_ERR_INIT;
    if (mri_registry_list(a->registry, false, &list, &n, &err))
        return;
    for (size_t i = 0; i < n; i++)
        if (list[i].kind && list[i].name && !strcmp(list[i].kind, kind) &&
            !strcmp(list[i].name, name))
            printf("%s/%s %s (%s, ABI %s)  %s\n", kind, name,
                   list[i].version ? list[i].version : "-", list[i].id ? list[i].id : "-",
                   list[i].abi ? list[i].abi : "-", list[i].path ? list[i].path : "-");
    mri_listing_free(list, n);
}

/* Is KIND.NAME the key NAME of core's section KIND? Then it is no plugin. */
static bool is_core_key(const char *section, const char *key)
{
    const mri_section *s = find_section(section);
    return !strcmp(key, "plugin") || (s && row_find(s->opts, s->n_opts, key));
}

static void no_option(const mr_unit *u, const char *key, mr_err *err)
{
    MRI_VEC(const char *) keys = { 0 };
    const mr_opt *o;
    for (uint32_t i = 0; (o = mri_opt_row(u->opts, u->n_opts, i)); i++)
        MRI_PUSH(&keys, o->key);
    const char *near = mri_nearest(key, keys.v, keys.n);
    mr_fail(err, MR_E_USAGE, MR_BLAME_USER, "%s/%s has no option '%.60s'", u->kind, u->name, key);
    if (near)
        mr_detail(err, "did you mean '%s'?", near);
    mr_hint(err, "run: mrun explain %s/%s", u->kind, u->name);
    free(keys.v);
}

/* KIND/NAME, KIND.NAME, either with .KEY. `err` is set if it looks like one and cannot load. */
static bool explain_plugin(app *a, const char *what, mr_err *err)
{
    size_t len = strcspn(what, "/.");
    char *kind = mri_strndup(what, len), *name = mri_strdup(what[len] ? what + len + 1 : "");
    char *key = strchr(name, '/') ? NULL : strchr(name, '.'); /* with '/', a file's name */
    if (key)
        *key++ = 0;
    bool is_kind = find_kind(kind) || !strcmp(kind, "op");
    bool is_key = what[len] == '.' && !key && is_core_key(kind, name);
    const mr_unit *u = NULL;
    bool done = false;
    if (*name && is_kind && !is_key && !mri_registry_find(a->registry, kind, name, &u, err)) {
        const mr_opt *o = key ? row_find(u->opts, u->n_opts, key) : NULL;
        char *section = mri_format("%s.%s", kind, u->name);
        if (o) {
            print_key(section, o);
        } else if (!key) {
            print_listing(a, kind, u->name);
            printf("  %s\n\n", u->doc ? u->doc : "");
            print_rows(section, u->opts, u->n_opts);
        }
        done = o || !key;
        if (!done)
            no_option(u, key, err);
        free(section);
    }
    free(kind);
    free(name);
    return done;
}

/* KEY in the options of every plugin that loads here */
static bool explain_plugin_key(app *a, const char *key)
{
    size_t n;
    const mri_kind *k = mri_kinds(&n);
    bool done = false;
    for (size_t i = 0; i < n; i++) {
        size_t n_names = 0;
        const char **names = mri_registry_names(a->registry, k[i].name, &n_names);
        for (size_t j = 0; j < n_names; j++) {
            const mr_unit *u;
            const mr_opt *o;
            mr_err ignored = MR_ERR_INIT; /* one that cannot load has no say here */
            if (mri_registry_find(a->registry, k[i].name, names[j], &u, &ignored) ||
                !(o = row_find(u->opts, u->n_opts, key)))
                continue;
            char *section = mri_format("%s.%s", k[i].name, u->name);
            print_key(section, o);
            free(section);
            done = true;
        }
        free(names);
    }
    return done;
}

/* SECTION.KEY, or KEY wherever core has it */
static bool explain_key(app *a, const char *what)
{
    const char *dot = strchr(what, '.'), *key = dot ? dot + 1 : what;
    char *section = dot ? mri_strndup(what, (size_t)(dot - what)) : NULL;
    size_t n, nk;
    const mri_section *s = mri_sections(&n);
    bool done = false;
    for (size_t i = 0; i < n; i++) {
        const mr_opt *o = row_find(s[i].opts, s[i].n_opts, key);
        if (!o || (section && strcmp(section, s[i].name)))
            continue;
        print_key(s[i].name, o);
        done = true;
    }
    const mri_kind *k = mri_kinds(&nk);
    for (size_t i = 0; i < nk && !strcmp(key, "plugin"); i++) {
        if (section && strcmp(section, k[i].name))
            continue;
        printf("[%s]\n", k[i].name);
        print_kind_row(a, &k[i]);
        done = true;
    }
    free(section);
    return done;
}

static void print_op(const mr_op_def *d)
{
    printf("%s: %s\n\n  operands    %s\n", d->id, d->doc ? d->doc : "", d->sig ? d->sig : "");
    if (d->attrs && *d->attrs)
        printf("  attributes  %s\n", d->attrs);
    if (d->shard && *d->shard)
        printf("  sharding    %s\n", d->shard);
    printf("  gradient    %s\n", d->vjp ? "yes" : d->flags & MR_OP_NO_VJP ? "stops here by intent"
                                                                           : "none");
    for (const char *const *c = d->cases; c && *c; c++)
        printf("  %-11s %s\n", c == d->cases ? "cases" : "", *c);
}

static int explain_op(app *a, const char *id)
{
    const mr_op_def *d = id ? mri_op_find(id) : NULL;
    if (d) {
        print_op(d);
        return EXIT_OK;
    }
    MRI_VEC(const char *) ids = { 0 };
    for (uint32_t i = 0; (d = mri_op_at(i)); i++)
        MRI_PUSH(&ids, d->id);
    int rc = EXIT_OK;
    if (id) {
        const char *near = mri_nearest(id, ids.v, ids.n);
        rc = near ? app_usage(a, "no op '%.60s', did you mean '%s'?", id, near)
                  : app_usage(a, "no op '%.60s'; `mrun explain op` lists them", id);
    } else {
        for (size_t i = 0; i < ids.n; i++)
            puts(ids.v[i]);
    }
    free(ids.v);
    return rc;
}

/* ---- what there is, and what is near a miss ------------------------------------------------ */

static void add_topics(app *a, words *w)
{
    size_t n, nk, ne;
    const mri_section *s = mri_sections(&n);
    for (size_t i = 0; i < n; i++) {
        MRI_PUSH(w, mri_strdup(s[i].name));
        for (uint32_t j = 0; j < s[i].n_opts; j++) {
            const char *key = mri_opt_row(s[i].opts, s[i].n_opts, j)->key;
            MRI_PUSH(w, mri_strdup(key));
            MRI_PUSH(w, mri_format("%s.%s", s[i].name, key));
        }
    }
    const mri_kind *k = mri_kinds(&nk);
    for (size_t i = 0; i < nk; i++) {
        MRI_PUSH(w, mri_strdup(k[i].name));
        size_t names_n = 0;
        const char **names = mri_registry_names(a->registry, k[i].name, &names_n);
        for (size_t j = 0; j < names_n; j++)
            MRI_PUSH(w, mri_format("%s/%s", k[i].name, names[j]));
        free(names);
    }
    const mri_error_info *e = mri_errors(&ne);
    for (size_t i = 0; i < ne; i++)
        MRI_PUSH(w, mri_format("E%04d", e[i].number));
}

/* The words at the smallest distance, when that is small; then those that contain the word. */
static int no_such_topic(app *a, const char *what, const mr_err *not_found)
{
    words w = { 0 };
    add_topics(a, &w);
    unsigned best = strlen(what) < 4 ? 1 : 2;
    for (size_t i = 0; i < w.n; i++) {
        unsigned d = mri_distance(what, w.v[i]);
        best = d < best ? d : best;
    }
    mri_str near = { 0 };
    for (size_t i = 0, shown = 0; i < w.n && shown < 8; i++) {
        bool hit = mri_distance(what, w.v[i]) <= best || (strlen(what) > 2 && strstr(w.v[i], what));
        for (size_t j = 0; j < i && hit; j++)
            hit = strcmp(w.v[i], w.v[j]) != 0;
        if (hit)
            mri_str_fmt(&near, "%s%s", shown++ ? ", " : "", w.v[i]);
    }
    int rc = near.n ? app_usage(a, "nothing is called '%.60s'; close: %s", what, near.s)
             : not_found->code ? app_fail(a, not_found) /* it has the form of a plugin's name */
                               : app_usage(a, "nothing is called '%.60s'", what);
    mri_str_free(&near);
    words_free(&w);
    return rc;
}

static int list_topics(void)
{
    size_t n;
    const mri_section *s = mri_sections(&n);
    puts("sections (mrun explain SECTION, SECTION.KEY):");
    for (size_t i = 0; i < n; i++)
        printf("  %-12s %s\n", s[i].name, s[i].doc);
    const mri_kind *k = mri_kinds(&n);
    puts("\nplugin kinds (mrun explain KIND, KIND/NAME; mrun plugins):");
    for (size_t i = 0; i < n; i++)
        printf("  %-12s %s\n", k[i].name, k[i].doc);
    const mri_error_info *e = mri_errors(&n);
    puts("\nerrors (mrun explain E0101):");
    for (size_t i = 0; i < n; i++)
        printf("  E%04d        %s\n", e[i].number, e[i].title);
    puts("\nops: mrun explain op, mrun explain op NAME");
    return EXIT_OK;
}

static int write_errors(app *a, const char *dir)
{
    size_t n;
    const mri_error_info *e = mri_errors(&n);
    for (size_t i = 0; i < n; i++) {
        mri_str page = { 0 };
        char *path = mri_format("%s/E%04d.md", dir, e[i].number);
        mri_error_markdown(&e[i], &page);
        FILE *f = fopen(path, "wb");
        bool bad = !f || fwrite(page.s, 1, page.n, f) != page.n;
        if (f)
            bad |= fclose(f) != 0;
        mr_err err = MR_ERR_INIT;
        if (bad)
            mr_fail(&err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot write %s: %s", path,
                    strerror(errno));
        mri_str_free(&page);
        free(path);
        if (bad)
            return app_fail(a, &err);
    }
    return EXIT_OK;
}

static int explain(app *a, const char *what)
{
    mr_err err = MR_ERR_INIT;
    if (explain_error(what) || explain_section(a, what) || explain_plugin(a, what, &err) ||
        explain_key(a, what) || explain_plugin_key(a, what))
        return EXIT_OK;
    if (err.code && err.code != MR_E_PLUGIN_NOT_FOUND)
        return app_fail(a, &err); /* it is there and cannot load: that is the answer */
    return no_such_topic(a, what, &err);
}

int cmd_explain(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "--write-errors", NULL }; /* how docs/errors is made */
    app_args args;
    int rc = app_args_parse(a, argc, argv, takes, NULL, &args);
    if (rc)
        return rc;
    const char *dir = app_arg(&args, "--write-errors");
    const char *first = args.positional.n ? args.positional.v[0] : NULL;
    const char *second = args.positional.n > 1 ? args.positional.v[1] : NULL;
    bool op = first && !strcmp(first, "op");
    if (args.positional.n > (op ? 2u : 1u))
        rc = app_usage(a, "explain takes one topic, the second is '%.60s'", second);
    else if (dir)
        rc = write_errors(a, dir);
    else if (!first)
        rc = list_topics();
    else
        rc = op ? explain_op(a, second) : explain(a, first);
    app_args_free(&args);
    return rc;
}
