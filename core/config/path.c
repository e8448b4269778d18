/* SPDX-License-Identifier: Apache-2.0
 * path.c - the value of a PATH option: expanded and made absolute, so that it means the same
 * from every folder and in every copy of the profile. */
#include "option.h"
#include <stdlib.h>
#include <string.h>

/* ${NAME} and a leading ~/; everything else stays. Returns NULL, or why not (to be freed). */
static char *expand(const char *s, mri_str *out)
{
    if (s[0] == '~' && (s[1] == '/' || !s[1])) {
        const char *home = getenv("HOME");
        if (!home || !*home)
            return mri_strdup("'~' needs the environment variable HOME, which is not set");
        mri_str_add(out, home);
        s++;
    }
    while (*s) {
        if (s[0] != '$' || s[1] != '{') {
            mri_str_addn(out, s++, 1);
            continue;
        }
        const char *end = strchr(s, '}');
        if (!end)
            return mri_strdup("'${' has no '}'");
        char *name = mri_strndup(s + 2, (size_t)(end - s - 2));
        const char *value = getenv(name);
        char *why = NULL;
        if (value)
            mri_str_add(out, value);
        else
            why = mri_format("the environment variable %.60s is not set", name);
        free(name);
        if (why)
            return why;
        s = end + 1;
    }
    return NULL;
}

static char *real_folder(const char *dir)
{
    char *real = realpath(dir && *dir ? dir : ".", NULL);
    return real ? real : mri_strdup(dir && *dir == '/' ? dir : "/");
}

/* Removes a leading "./" or "../" of *rest, the latter together with the end of `dir`. */
static bool take_step(char *dir, const char **rest)
{
    const char *s = *rest;
    bool up = s[0] == '.' && s[1] == '.' && (!s[2] || s[2] == '/');
    bool here = s[0] == '.' && (!s[1] || s[1] == '/');
    if (!up && !here)
        return false;
    char *slash = strrchr(dir, '/');
    if (up && slash)
        slash[slash == dir] = 0; /* "/" is above itself */
    *rest = s + (up ? 2 : 1);
    *rest += strspn(*rest, "/");
    return true;
}

char *mri_path_resolve(const char *text, const char *base_dir, char **why)
{
    mri_str path = { 0 }, whole = { 0 };
    *why = expand(text, &path);
    if (!*why && !path.n)
        *why = mri_strdup("the path is empty once expanded");
    if (*why) {
        mri_str_free(&path);
        return NULL;
    }
    const char *rest = path.s;
    if (*rest != '/') { /* the real folder has no links, so "../" may be taken from its text */
        char *dir = real_folder(base_dir);
        while (take_step(dir, &rest))
            ;
        mri_str_add(&whole, dir);
        if (*rest && dir[strlen(dir) - 1] != '/')
            mri_str_add(&whole, "/");
        free(dir);
    }
    mri_str_add(&whole, rest);
    mri_str_free(&path);
    return mri_str_take(&whole);
}

char *mri_origin_dir(const mri_origin *o)
{
    const char *slash = o->file ? strrchr(o->file, '/') : NULL;
    return slash ? mri_strndup(o->file, (size_t)(slash - o->file + 1)) : NULL;
}
