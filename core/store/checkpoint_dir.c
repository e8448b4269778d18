/* SPDX-License-Identifier: Apache-2.0
 *
 * checkpoint_dir.c - the names in a checkpoint folder: step-00000400 (whole), .tmp-... (being
 * written, or on its way out).
 *
 * Invariant: a temporary folder is locked (flock) by the process that fills it, for as long
 * as that process lives; so one that nobody holds is left by a dead run and may go.
 */
#include "fsops.h"
#include "internal.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdlib.h>
#include <sys/file.h>
#include <unistd.h>

char *mri_checkpoint_name(int64_t step)
{
    return mri_format("step-%08" PRId64, step);
}

/* The step of a name that mri_checkpoint_name could have made, else -1. */
static int64_t step_of(const char *name)
{
    int64_t step = 0;
    if (strncmp(name, "step-", 5) || strlen(name) > 5 + 18)
        return -1;
    for (const char *c = name + 5; *c; c++) {
        if (*c < '0' || *c > '9')
            return -1;
        step = 10 * step + (*c - '0');
    }
    char *again = mri_checkpoint_name(step);
    bool same = !strcmp(again, name);
    free(again);
    return same ? step : -1;
}

static int newest_first(const void *a, const void *b)
{
    int64_t x = *(const int64_t *)a, y = *(const int64_t *)b;
    return (x < y) - (x > y);
}

mr_status mri_checkpoint_list(const char *dir, int64_t **steps, size_t *n, mr_err *err)
{
    MRI_VEC(int64_t) v = { 0 };
    struct dirent *e;
    *steps = NULL;
    *n = 0;
    DIR *d = opendir(dir);
    if (!d && errno == ENOENT)
        return 0;
    if (!d)
        return mr_fail(err, MR_E_STORE_IO, MR_BLAME_USER, "cannot list the checkpoints in %s: %s",
                       dir, strerror(errno));
    while ((e = readdir(d))) {
        int64_t step = step_of(e->d_name);
        if (step >= 0)
            MRI_PUSH(&v, step);
    }
    closedir(d);
    if (v.n)
        qsort(v.v, v.n, sizeof *v.v, newest_first);
    *steps = v.v;
    *n = v.n;
    return 0;
}

int mri_checkpoint_lock(const char *tmp)
{
    int fd = open(tmp, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    /* a file system without locks (ENOLCK, ENOSYS) never shows a second saver */
    if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) && errno == EWOULDBLOCK) {
        close(fd);
        return -1;
    }
    return fd;
}

void mri_checkpoint_sweep(const char *dir)
{
    struct dirent *e;
    DIR *d = opendir(dir);
    while (d && (e = readdir(d))) {
        if (strncmp(e->d_name, MRI_TMP_PREFIX, strlen(MRI_TMP_PREFIX)))
            continue;
        char *path = mri_format("%s/%s", dir, e->d_name);
        int lock = mri_checkpoint_lock(path);
        /* best effort: on a read-only disk a reader still has its checkpoint */
        if (lock >= 0) {
            mri_fs_remove(path, NULL);
            close(lock);
        }
        free(path);
    }
    if (d)
        closedir(d);
}
