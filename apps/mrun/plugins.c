/* SPDX-License-Identifier: Apache-2.0
 *
 * plugins.c - `mrun plugins`: what is there. By default only the notes are read, which takes
 * milliseconds and runs nothing of a plugin; --scan loads each one in a child process and
 * says what became of it. A table for people, or an array of objects with --json.
 */
#include "app.h"
#include <stdlib.h>
#include <string.h>

static void print_json(const mri_listing *list, size_t n, bool scanned)
{
    mri_str b = { 0 };
    mri_str_add(&b, "[");
    for (size_t i = 0; i < n; i++) {
        const mri_listing *l = &list[i];
        const struct {
            const char *key, *value;
        } fields[] = {
            { "kind", l->kind },       { "name", l->name }, { "version", l->version },
            { "abi", l->abi },         { "id", l->id },     { "status", l->status },
            { "reason", l->reason },   { "doc", l->doc },   { "path", l->path },
        };
        mri_str_add(&b, i ? ",\n  {" : "\n  {");
        for (size_t k = 0; k < sizeof fields / sizeof *fields; k++) {
            mri_str_fmt(&b, "\"%s\": ", fields[k].key);
            mri_str_json(&b, fields[k].value);
            mri_str_add(&b, ", ");
        }
        mri_str_fmt(&b, "\"scanned\": %s}", scanned ? "true" : "false");
    }
    mri_str_add(&b, n ? "\n]\n" : "]\n");
    fputs(b.s, stdout);
    mri_str_free(&b);
}

static void widen(size_t *width, const char *text)
{
    size_t n = strlen(text);
    if (n > *width)
        *width = n;
}

static void print_table(const mri_listing *list, size_t n)
{
    size_t kind = 4, name = 4, version = 7, abi = 3;
    for (size_t i = 0; i < n; i++) {
        widen(&kind, list[i].kind);
        widen(&name, list[i].name);
        widen(&version, list[i].version);
        widen(&abi, list[i].abi);
    }
    printf("%-*s  %-*s  %-*s  %-*s  %s\n", (int)kind, "kind", (int)name, "name", (int)version,
           "version", (int)abi, "abi", "status");
    for (size_t i = 0; i < n; i++) {
        const mri_listing *l = &list[i];
        printf("%-*s  %-*s  %-*s  %-*s  ", (int)kind, l->kind, (int)name, l->name, (int)version,
               l->version, (int)abi, l->abi);
        const char *more = *l->reason ? l->reason : l->doc;
        if (*more)
            printf("%-9s  %s\n", l->status, more);
        else
            printf("%s\n", l->status);
    }
}

int cmd_plugins(app *a, int argc, char **argv)
{
    static const char *const flags[] = { "--scan", NULL };
    app_args args;
    mri_listing *list;
    size_t n;
    mr_err err = MR_ERR_INIT;
    int rc = app_args_parse(a, argc, argv, NULL, flags, &args);
    if (rc)
        return rc;
    bool scan = app_arg(&args, "--scan") != NULL;
    if (args.positional.n) {
        rc = app_usage(a, "plugins takes no argument, got '%.60s'", args.positional.v[0]);
    } else if (mri_registry_list(a->registry, scan, &list, &n, &err)) {
        rc = app_fail(a, &err);
    } else {
        if (a->json)
            print_json(list, n, scan);
        else
            print_table(list, n);
        if ((!n && !a->quiet) || a->verbose) {
            char *searched = mri_registry_searched(a->registry);
            fflush(stdout);
            fprintf(stderr, "%ssearched:\n%s\n", n ? "" : "no plugin was found; ", searched);
            free(searched);
        }
        mri_listing_free(list, n);
    }
    app_args_free(&args);
    return rc;
}
