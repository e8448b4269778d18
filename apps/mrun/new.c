/* SPDX-License-Identifier: Apache-2.0
 *
 * new.c - `mrun new KIND NAME [DIR]`: writes a plugin that builds and passes its check as it
 * is. The files are those of skeletons/, with the word "skeleton" replaced by the name.
 * Invariant: nothing that exists is written over.
 */
#include "app.h"
#include "skeletons/skeletons.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* what a kind's README says about its use; @ is the name */
static const struct {
    const char *kind, *usage;
} kinds[] = {
    { "backend", "\nIn a profile:\n\n    [backend]\n    plugin = @\n\n" },
    { "data",
      "\nIn a profile:\n\n    [data]\n    plugin = @\n\n    [data.@]\n    period = 10\n\n" },
    { "graph", "\nIn a profile:\n\n    [graph]\n    plugin = @\n\n" },
    { "model", "\nIn a profile:\n\n    [model]\n    plugin = @\n    hidden = 64\n\n" },
    { "op", "\nA model or optimizer of the same plugin uses it by its id, `@.scaled_add`.\n\n" },
    { "optimizer", "\nIn a profile:\n\n    [optimizer]\n    plugin = @\n    lr = 1e-2\n\n" },
    { "shard", "\nIn a profile, beside [comm]:\n\n    [shard]\n    plugin = @\n\n" },
    { "sink", "\nIn a profile:\n\n    [sink]\n    plugin = console, jsonl, @\n\n" },
    { "tokenizer", "\nIn a profile:\n\n    [tokenizer]\n    plugin = @\n\n" },
};
enum { N_KINDS = sizeof kinds / sizeof *kinds };

static const char *usage_of(const char *kind)
{
    for (size_t i = 0; i < N_KINDS; i++)
        if (!strcmp(kinds[i].kind, kind))
            return kinds[i].usage;
    return NULL;
}

/* file names, op ids and profile keys are made of it */
static bool good_name(const char *s)
{
    size_t n = strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789_");
    return n && !s[n] && n <= 32 && s[0] >= 'a' && s[0] <= 'z' && strcmp(s, "none") &&
           strncmp(s, "mrun", 4) && strncmp(s, "mr_", 3);
}

/* `text` with every `word` replaced */
static char *replaced(const char *text, const char *word, const char *with)
{
    mri_str b = { 0 };
    for (const char *p; (p = strstr(text, word)); text = p + strlen(word)) {
        mri_str_addn(&b, text, (size_t)(p - text));
        mri_str_add(&b, with);
    }
    mri_str_add(&b, text);
    return mri_str_take(&b);
}

static mr_status cannot(const char *path, mr_err *err)
{
    int e = errno;
    mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot write %s: %s", path, strerror(e));
    err->native = e;
    if (e == EEXIST)
        mr_hint(err, "give another folder: mrun new KIND NAME DIR");
    return MR_E_STORE_IO;
}

static mr_status write_file(const char *dir, const char *file, const char *text, mr_err *err)
{
    char *path = mri_format("%s/%s", dir, file);
    mr_status st = 0;
    FILE *f = fopen(path, "wx");
    if (!f || fputs(text, f) < 0)
        st = cannot(path, err);
    if (f && fclose(f) && !st)
        st = cannot(path, err);
    if (!st)
        puts(path);
    free(path);
    return st;
}

/* "sink.c" -> "NAME.c" and so on; NULL: not a file of this kind */
static char *target_of(const char *file, const char *kind, const char *name)
{
    size_t n = strlen(kind);
    if (!strncmp(file, kind, n) && !strcmp(file + n, ".c"))
        return mri_format("%s.c", name);
    if (!strcmp(file, "plugin.map.in"))
        return mri_format("%s.map", name);
    n = strlen(file);
    return n > 3 && !strcmp(file + n - 3, ".in") ? mri_strndup(file, n - 3) : NULL;
}

static mr_status write_all(const char *dir, const char *kind, const char *name, mr_err *err)
{
    mr_status st = 0;
    for (const skeleton_file *f = skeleton_files; f->name && !st; f++) {
        char *file = target_of(f->name, kind, name);
        if (!file)
            continue;
        char *text = replaced(f->text, "skeleton", name);
        if (strstr(f->name, ".in")) {
            char *usage = replaced(usage_of(kind), "@", name);
            char *with_kind = replaced(text, "KIND", kind);
            free(text);
            text = replaced(with_kind, "USAGE\n", usage);
            free(with_kind);
            free(usage);
        }
        st = write_file(dir, file, text, err);
        free(text);
        free(file);
    }
    return st;
}

static int bad_kind(app *a, const char *kind)
{
    const char *words[N_KINDS];
    mri_str all = { 0 };
    for (size_t i = 0; i < N_KINDS; i++) {
        words[i] = kinds[i].kind;
        mri_str_fmt(&all, "%s%s", i ? ", " : "", words[i]);
    }
    const char *near = mri_nearest(kind, words, N_KINDS);
    int rc = near ? app_usage(a, "no skeleton of kind '%.40s', did you mean '%s'?", kind, near)
                  : app_usage(a, "no skeleton of kind '%.40s' (%s)", kind, all.s);
    mri_str_free(&all);
    return rc;
}

int cmd_new(app *a, int argc, char **argv)
{
    app_args args;
    mr_err err = MR_ERR_INIT;
    int rc = app_args_parse(a, argc, argv, NULL, NULL, &args);
    if (rc)
        return rc;
    if (args.positional.n < 2 || args.positional.n > 3) {
        rc = app_usage(a, "new takes KIND NAME [DIR], got %zu words", args.positional.n);
        goto out;
    }
    const char *kind = args.positional.v[0], *name = args.positional.v[1];
    const char *dir = args.positional.n > 2 ? args.positional.v[2] : name;
    if (!usage_of(kind)) {
        rc = bad_kind(a, kind);
        goto out;
    }
    if (!good_name(name)) {
        rc = app_usage(a,
                       "'%.60s' is no name for a plugin: a-z, 0-9 and _, a letter first, at most "
                       "32, not mrun..., mr_... or none",
                       name);
        goto out;
    }
    if ((mkdir(dir, 0777) && errno != EEXIST) || access(dir, W_OK)) {
        cannot(dir, &err);
        rc = app_fail(a, &err);
    } else if (write_all(dir, kind, name, &err)) {
        rc = app_fail(a, &err);
    } else if (!a->quiet) {
        fflush(stdout);
        fprintf(stderr, "next: cd %s && meson setup build && ninja -C build && mrun check "
                        "build/%s.so\n", dir, name);
    }
out:
    app_args_free(&args);
    return rc;
}
