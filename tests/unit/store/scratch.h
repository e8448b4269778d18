/* SPDX-License-Identifier: Apache-2.0
 * scratch.h - a folder of a test's own, and whole files in it. */
#ifndef SCRATCH_H
#define SCRATCH_H
#include "core/base/base.h"
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* In memory, where an fsync costs nothing; the long tests are on a disk. */
static inline char *scratch_make(void)
{
    const char *all = getenv("MRUN_TEST_LONG");
    bool memory = !(all && !strcmp(all, "1")) && !access("/dev/shm", W_OK);
    char *dir = mri_format("%s/mrun-store-XXXXXX", memory ? "/dev/shm" : "/tmp");
    cr_assert_not_null(mkdtemp(dir));
    return dir;
}

static int scratch_unlink(const char *path, const struct stat *s, int type, struct FTW *f)
{
    (void)s;
    (void)type;
    (void)f;
    return remove(path);
}

static inline void scratch_drop(char *dir)
{
    nftw(dir, scratch_unlink, 16, FTW_DEPTH | FTW_PHYS);
    free(dir);
}

static inline void scratch_put(const char *path, const void *p, size_t n)
{
    FILE *f = fopen(path, "wb");
    cr_assert_not_null(f, "%s", path);
    cr_assert_eq(fwrite(p, 1, n, f), n);
    fclose(f);
}

static inline char *scratch_get(const char *path, size_t *n)
{
    mr_err err = MR_ERR_INIT;
    char *text = NULL;
    cr_assert_eq(mri_read_file(path, 1 << 30, &text, n, &err), 0, "%s", err.what);
    return text;
}

MR_UNUSED static inline uint64_t scratch_random(uint64_t *s) /* splitmix64 */
{
    uint64_t z = (*s += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

#endif
