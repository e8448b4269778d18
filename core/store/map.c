/* SPDX-License-Identifier: Apache-2.0
 *
 * map.c - a file mapped read-only. Invariant: a map is closed exactly once, by whoever
 * took it over; the descriptor does not outlive the call that opened it.
 */
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22 /* Linux 5.14; older kernels refuse it, and pages come as touched */
#endif

mr_status mri_map_open(const char *path, mri_map *m, mr_err *err)
{
    struct stat s;
    mr_status st = 0;
    *m = (mri_map){ 0 };
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0) {
        st = errno == ENOENT ? MR_E_STORE_MISSING : MR_E_STORE_IO;
        return mr_fail(err, st, MR_BLAME_USER, "cannot open %s: %s", path, strerror(errno));
    }
    if (fstat(fd, &s)) {
        st = mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot stat %s: %s", path, strerror(errno));
        goto out;
    }
    if (!S_ISREG(s.st_mode)) {
        st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s is not a regular file", path);
        goto out;
    }
    if (!s.st_size)
        goto out; /* mmap refuses length 0; an empty map says it all */
    void *p = mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
    if (p == MAP_FAILED) {
        st = mr_fail(err, MR_E_STORE_IO, MR_BLAME_ENV, "cannot map %s: %s", path, strerror(errno));
        goto out;
    }
    *m = (mri_map){ p, (size_t)s.st_size };
out:
    close(fd);
    return st;
}

/* the kernel cuts a wish to read ahead to its own limit, which is at least this */
enum { STEP = 128 << 10 };

void mri_map_advise(const mri_map *m, const uint8_t *p, size_t n, int what)
{
    static const int advice[] = { MADV_WILLNEED, MADV_POPULATE_READ, MADV_DONTNEED };
    size_t page = (size_t)sysconf(_SC_PAGESIZE), from = (size_t)(p - m->p), to = from + n;
    size_t step = what == MRI_WANT ? STEP : n + 2 * page;
    from -= from % page; /* a page that others read too may be dropped: it comes back */
    to += (page - to % page) % page;
    for (; from < to; from += step) /* advice may fail */
        madvise((void *)(uintptr_t)(m->p + from), step < to - from ? step : to - from,
                advice[what]);
}

void mri_map_close(mri_map *m)
{
    if (m->p)
        munmap((void *)m->p, m->n);
    *m = (mri_map){ 0 };
}
