/* SPDX-License-Identifier: Apache-2.0
 *
 * search.c - owns the list of folders that may hold plugins, and the files in them.
 *
 * Invariants: the order of folders is the order of precedence, and within a folder files
 * stand in the order of their names, so the same tree always gives the same winner; the
 * current directory is never searched unless somebody wrote it down; every folder is
 * remembered with what became of it, so that a miss can name every path tried.
 */
#include "internal.h"
#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_DEPTH = 2, MAX_FILES = 4096 };
#define PLUGINS_DIR "mrun/plugins-1"

/* One folder may have two names: EXE/../lib and the one that was compiled in. */
static bool same_folder(const char *a, const char *b)
{
    struct stat x, y;
    return !strcmp(a, b) ||
           (!stat(a, &x) && !stat(b, &y) && x.st_dev == y.st_dev && x.st_ino == y.st_ino);
}

static void add_dir(mri_search *s, char *path, const char *from)
{
    for (size_t n = strlen(path); n > 1 && path[n - 1] == '/'; n--)
        path[n - 1] = 0;
    for (size_t i = 0; i < s->dirs.n; i++)
        if (same_folder(s->dirs.v[i].path, path)) {
            free(path);
            return;
        }
    mri_search_dir d = { path, from, 0, 0 };
    MRI_PUSH(&s->dirs, d);
}

static void add_list(mri_search *s, const char *list, const char *from)
{
    while (list && *list) {
        size_t n = strcspn(list, ":");
        if (n) /* an empty element is not the current directory, unlike in PATH */
            add_dir(s, mri_strndup(list, n), from);
        list += n + (list[n] == ':');
    }
}

static char *exe_dir(void)
{
    char buf[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", buf, sizeof buf - 1);
    if (n <= 0)
        return NULL;
    buf[n] = 0;
    char *slash = strrchr(buf, '/');
    if (!slash)
        return NULL;
    *slash = 0;
    return mri_strdup(buf);
}

void mri_search_init(mri_search *s, const char *paths)
{
    add_list(s, paths, "--plugin-path");
    /* a set-uid program must not load what its caller's environment names */
    add_list(s, secure_getenv("MRUN_PLUGIN_PATH"), "MRUN_PLUGIN_PATH");
    const char *data = secure_getenv("XDG_DATA_HOME"), *home = secure_getenv("HOME");
    if (data && *data == '/')
        add_dir(s, mri_format("%s/" PLUGINS_DIR, data), "XDG_DATA_HOME");
    else if (home && *home == '/')
        add_dir(s, mri_format("%s/.local/share/" PLUGINS_DIR, home), "HOME");
    char *exe = exe_dir();
    if (exe)
        add_dir(s, mri_format("%s/../lib/" PLUGINS_DIR, exe), "beside mrun");
    free(exe);
    add_dir(s, mri_strdup(MRI_PLUGIN_DIR), "built in");
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool ends_in(const char *s, const char *tail)
{
    size_t n = strlen(s), m = strlen(tail);
    return n > m && !strcmp(s + n - m, tail);
}

/* Files of this folder first, then the folders in it: what lies higher wins. */
static int walk(mri_search *s, size_t dir, const char *path, int depth)
{
    DIR *d = opendir(path);
    if (!d)
        return errno;
    MRI_VEC(char *) names = { 0 };
    struct dirent *e;
    while ((e = readdir(d)) && names.n < MAX_FILES)
        if (e->d_name[0] != '.') {
            char *name = mri_strdup(e->d_name);
            MRI_PUSH(&names, name);
        }
    closedir(d);
    if (names.n)
        qsort(names.v, names.n, sizeof *names.v, by_name);
    for (int folders = 0; folders < 2; folders++)
        for (size_t i = 0; i < names.n; i++) {
            char *full = mri_format("%s/%s", path, names.v[i]);
            struct stat st;
            bool there = !stat(full, &st);
            if (!folders && there && S_ISREG(st.st_mode) && ends_in(full, ".so") &&
                s->files.n < MAX_FILES) {
                MRI_PUSH(&s->files, full);
                s->dirs.v[dir].files++;
                continue;
            }
            if (folders && there && S_ISDIR(st.st_mode) && depth < MAX_DEPTH)
                walk(s, dir, full, depth + 1);
            free(full);
        }
    for (size_t i = 0; i < names.n; i++)
        free(names.v[i]);
    free(names.v);
    return 0;
}

void mri_search_walk(mri_search *s)
{
    if (s->walked)
        return;
    s->walked = true;
    for (size_t i = 0; i < s->dirs.n; i++)
        s->dirs.v[i].error = walk(s, i, s->dirs.v[i].path, 0);
}

void mri_search_print(const mri_search *s, mri_str *out)
{
    for (size_t i = 0; i < s->dirs.n; i++) {
        const mri_search_dir *d = &s->dirs.v[i];
        mri_str_fmt(out, "%s%s (%s): ", i ? "\n" : "", d->path, d->from);
        if (d->error)
            mri_str_add(out, d->error == ENOENT ? "no such folder" : strerror(d->error));
        else
            mri_str_fmt(out, "%zu plugin file%s", d->files, d->files == 1 ? "" : "s");
    }
}

void mri_search_free(mri_search *s)
{
    for (size_t i = 0; i < s->dirs.n; i++)
        free(s->dirs.v[i].path);
    for (size_t i = 0; i < s->files.n; i++)
        free(s->files.v[i]);
    free(s->dirs.v);
    free(s->files.v);
    memset(s, 0, sizeof *s);
}
