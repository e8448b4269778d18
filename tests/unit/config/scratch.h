/* SPDX-License-Identifier: Apache-2.0
 * scratch.h - a folder for the profiles that a test writes; gone when the test ends. */
#ifndef SCRATCH_H
#define SCRATCH_H
#include "core/config/profile.h"
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char scratch_dir[] = "/tmp/mrun-config-XXXXXX";

static inline int scratch_remove(const char *path, const struct stat *sb, int flag, struct FTW *f)
{
    (void)sb;
    (void)flag;
    (void)f;
    return remove(path);
}

/* Profiles are named relative to the folder, so that messages hold no random path. */
MR_UNUSED static inline void scratch_open(void)
{
    cr_assert(mkdtemp(scratch_dir) && !chdir(scratch_dir));
}

MR_UNUSED static inline void scratch_close(void)
{
    nftw(scratch_dir, scratch_remove, 8, FTW_DEPTH | FTW_PHYS);
}

MR_UNUSED static inline void write_bytes(const char *name, const void *bytes, size_t n)
{
    remove(name); /* some file systems flush a file that is truncated and rewritten */
    FILE *f = fopen(name, "wb");
    cr_assert(f && fwrite(bytes, 1, n, f) == n && !fclose(f));
}

MR_UNUSED static inline void write_text(const char *name, const char *text)
{
    write_bytes(name, text, strlen(text));
}

/* The profile of a text that must load */
MR_UNUSED static inline mri_profile *load_text(const char *text)
{
    mr_err err = MR_ERR_INIT;
    mri_profile *p = NULL;
    write_text("p.ini", text);
    mr_status st = mri_profile_load("p.ini", NULL, 0, &p, &err);
    cr_assert_eq(st, 0, "%s | %s", err.what, err.detail);
    return p;
}

/* The error of a text that must not */
MR_UNUSED static inline mr_err fail_bytes(const char *text, size_t n)
{
    mr_err err = MR_ERR_INIT;
    mri_profile *p = NULL;
    write_bytes("p.ini", text, n);
    cr_assert_neq(mri_profile_load("p.ini", NULL, 0, &p, &err), 0, "loaded: %s", text);
    cr_assert_null(p);
    return err;
}

MR_UNUSED static inline mr_err fail_text(const char *text)
{
    return fail_bytes(text, strlen(text));
}

MR_UNUSED static inline const char *value_of(const mri_profile *p, const char *section,
                                             const char *key)
{
    const mri_entry *e = mri_profile_get(p, section, key);
    return e ? e->value : NULL;
}
#endif
