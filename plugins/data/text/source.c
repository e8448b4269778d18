/* SPDX-License-Identifier: Apache-2.0
 *
 * source.c - a file is mapped, so that its size is no matter of memory; a folder's files
 * are read into one buffer, since windows run across their borders.
 */
#include "source.h"
#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static mr_status fail_errno(mr_err *err, const char *path, const char *verb)
{
    int e = errno;
    mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "cannot %s %s", verb, path);
    mr_detail(err, "%s", strerror(e));
    if (err)
        err->native = e;
    return MR_E_DATA_OPEN;
}

static mr_status fail_memory(mr_err *err, uint64_t n)
{
    return mr_fail(err, MR_E_NOMEM, MR_BLAME_ENV, "data/text: no memory for %llu bytes",
                   (unsigned long long)n);
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

static int counts(const FTSENT *f, const mr_list *suffixes)
{
    if (f->fts_name[0] == '.')
        return 0;
    for (uint64_t i = 0; i < suffixes->n; i++) {
        const char *want = suffixes->v[i];
        size_t n = strlen(want), dot = want[0] != '.';
        if (f->fts_namelen > n + dot && !strcmp(f->fts_name + f->fts_namelen - n, want) &&
            (!dot || f->fts_name[f->fts_namelen - n - 1] == '.'))
            return 1;
    }
    return suffixes->n == 0;
}

/* Appends one file's bytes; the buffer doubles, so the whole is read in linear time. */
static mr_status append(const char *path, char **buf, uint64_t *n, uint64_t *cap, mr_err *err)
{
    mr_status st = MR_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(err, path, "open");
    for (;;) {
        if (*n == *cap) {
            uint64_t more = *cap ? 2 * *cap : 1 << 20;
            char *grown = realloc(*buf, more);
            if (!grown)
                MR_TRY(fail_memory(err, more));
            *buf = grown;
            *cap = more;
        }
        ssize_t got = read(fd, *buf + *n, *cap - *n);
        if (got == 0)
            break;
        if (got > 0)
            *n += (uint64_t)got;
        else if (errno != EINTR)
            MR_TRY(fail_errno(err, path, "read"));
    }
out:
    close(fd);
    return st;
}

static mr_status open_folder(const char *path, const mr_list *suffixes, text_source *out,
                             mr_err *err)
{
    mr_status st = MR_OK;
    char *const roots[] = { (char *)path, NULL }; /* fts writes neither */
    char *buf = NULL;
    uint64_t n = 0, cap = 0;
    int64_t files = 0;
    FTS *walk = fts_open(roots, FTS_LOGICAL | FTS_NOCHDIR, by_name);
    if (!walk)
        return fail_errno(err, path, "read the folder");

    for (FTSENT *f; errno = 0, (f = fts_read(walk));) {
        switch (f->fts_info) {
        case FTS_D:
            if (f->fts_level > 0 && f->fts_name[0] == '.')
                fts_set(walk, f, FTS_SKIP);
            break;
        case FTS_F:
            if (counts(f, suffixes)) {
                MR_TRY(append(f->fts_path, &buf, &n, &cap, err));
                files++;
            }
            break;
        case FTS_DC:
            MR_TRY(mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "%s leads back to %s", f->fts_path,
                           f->fts_cycle->fts_path));
            break;
        case FTS_DNR:
        case FTS_ERR:
        case FTS_NS:
            errno = f->fts_errno;
            MR_TRY(fail_errno(err, f->fts_path, "read"));
            break;
        default: /* FTS_DP: done with a folder; sockets, dangling links: no text */
            break;
        }
    }
    if (errno)
        MR_TRY(fail_errno(err, path, "read the folder"));
    if (files == 0) {
        st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "the folder %s holds no text file", path);
        if (suffixes->n)
            mr_hint(err, "only names that end in one of %llu suffixes count (\"%s\" ...)",
                    (unsigned long long)suffixes->n, suffixes->v[0]);
        goto out;
    }
    *out = (text_source) { .p = buf, .n = n, .files = files };
    buf = NULL;
out:
    free(buf);
    fts_close(walk);
    return st;
}

static mr_status open_file(const char *path, uint64_t n, text_source *out, mr_err *err)
{
    mr_status st = MR_OK;
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return fail_errno(err, path, "open");
    if (n > 0) {
        void *p = mmap(NULL, n, PROT_READ, MAP_PRIVATE, fd, 0);
        if (p == MAP_FAILED)
            MR_TRY(fail_errno(err, path, "map"));
        *out = (text_source) { .p = p, .n = n, .files = 1, .mapped = 1 };
    }
out:
    close(fd);
    return st;
}

mr_status text_source_open(const char *path, const mr_list *suffixes, text_source *out, mr_err *err)
{
    mr_status st = MR_OK;
    struct stat info;
    *out = (text_source) { 0 };
    if (stat(path, &info) != 0)
        return fail_errno(err, path, "open");
    if (S_ISDIR(info.st_mode))
        st = open_folder(path, suffixes, out, err);
    else if (S_ISREG(info.st_mode))
        st = open_file(path, (uint64_t)info.st_size, out, err);
    else
        st = mr_fail(err, MR_E_DATA_OPEN, MR_BLAME_USER, "%s is neither a file nor a folder", path);
    if (!st && out->n == 0) {
        text_source_close(out);
        st = mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "%s is empty", path);
    }
    return st;
}

void text_source_close(text_source *s)
{
    if (s->mapped)
        munmap((void *)s->p, s->n);
    else
        free((void *)s->p);
    *s = (text_source) { 0 };
}
