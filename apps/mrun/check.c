/* SPDX-License-Identifier: Apache-2.0
 *
 * check.c - `mrun check PROFILE.ini`: every value as it will be used, with its origin; the
 * exit code is 0 only if nothing is wrong and nothing is doubtful. Needs no device and reads
 * no data. A plugin file or KIND/NAME goes to the conformance suite instead.
 */
#include "app.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n >= m && !strcmp(s + n - m, tail);
}

static bool is_plugin(const char *what)
{
    size_t n, len = strcspn(what, "/");
    const mri_kind *k = mri_kinds(&n);
    if (ends_with(what, ".so"))
        return true;
    if (!what[len] || ends_with(what, ".ini") || !access(what, F_OK))
        return false;
    for (size_t i = 0; i < n; i++)
        if (strlen(k[i].name) == len && !memcmp(k[i].name, what, len))
            return true;
    return len == 2 && !memcmp(what, "op", 2);
}

static void print_json(const mri_profile *p)
{
    mri_str b = { 0 };
    mri_str_add(&b, "[");
    for (size_t i = 0; i < mri_profile_count(p); i++) {
        const mri_entry *e = mri_profile_at(p, i);
        mri_str_fmt(&b, "%s\n  {\"section\": \"%s\", \"key\": \"%s\", \"value\": ", i ? "," : "",
                    e->section, e->key);
        mri_str_json(&b, e->value);
        mri_str_fmt(&b, ", \"origin\": \"%s\"", e->origin.how);
        if (e->origin.file) {
            mri_str_add(&b, ", \"file\": ");
            mri_str_json(&b, e->origin.file);
            mri_str_fmt(&b, ", \"line\": %d", e->origin.line);
        }
        mri_str_fmt(&b, ", \"read\": %s}", e->used ? "true" : "false");
    }
    mri_str_add(&b, "\n]\n");
    fputs(b.s, stdout);
    mri_str_free(&b);
}

static void print_text(const app *a, const mri_profile *p)
{
    mri_str b = { 0 };
    mri_profile_print(p, true, &b);
    if (b.s)
        fputs(b.s, stdout);
    mri_str_free(&b);
    const char *section;
    for (size_t i = 0; !a->quiet && (section = mri_profile_section(p, i)); i++)
        if (!mri_profile_was_filled(p, section))
            fprintf(stderr, "note: [%s] is kept unread: this job does not use it\n", section);
}

int cmd_check(app *a, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) /* the suite reads its own options */
        if (argv[i][0] != '-' && is_plugin(argv[i]))
            return app_check_plugin(a, argv[i], argc, argv);

    app_args args;
    int rc = app_args_parse(a, argc, argv, NULL, NULL, &args);
    if (rc)
        return rc;
    mri_config *c = NULL;
    mr_err err = MR_ERR_INIT;
    mri_str doubts = { 0 };
    if (args.positional.n != 1) {
        rc = app_usage(a, "check takes one profile, plugin file or KIND/NAME, got %zu",
                       args.positional.n);
    } else if (mri_config_load(a->registry, args.positional.v[0], args.sets.v, args.sets.n, &c,
                               &err)) {
        rc = app_fail(a, &err);
    } else {
        if (a->json)
            print_json(c->profile);
        else
            print_text(a, c->profile);
        if (mri_profile_doubts(c->profile, &doubts)) {
            fflush(stdout);
            fprintf(stderr, "%s", doubts.s);
            rc = EXIT_USAGE;
        }
    }
    mri_str_free(&doubts);
    mri_config_free(c);
    app_args_free(&args);
    return rc;
}
