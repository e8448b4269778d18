/* SPDX-License-Identifier: Apache-2.0
 * fsops.c - see fsops.h. */
#include "fsops.h"
#include "store.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

/* One write() call moves at most this much: Linux cuts at 2 GiB, and the digest of a piece is
 * taken while the piece is still near the caches. */
enum { PIECE = 8 << 20 };

void (*mri_store_fault_hook)(const char *what, const char *path, uint64_t n);
static _Atomic uint64_t fault_count; /* only counts for the hook */

static void fault(const char *what, const char *path)
{
    if (mri_store_fault_hook)
        mri_store_fault_hook(what, path, atomic_fetch_add(&fault_count, 1));
}

char *mri_fs_parent(const char *path)
{
    const char *slash = strrchr(path, '/');
    if (!slash)
        return mri_strdup(".");
    return slash == path ? mri_strdup("/") : mri_strndup(path, (size_t)(slash - path));
}

uint64_t mri_fs_free(const char *path)
{
    struct statvfs s;
    if (statvfs(path, &s) || !s.f_blocks) /* some network file systems do not say */
        return UINT64_MAX;
    return (uint64_t)s.f_bavail * s.f_frsize;
}

char *mri_fs_free_text(const char *path)
{
    uint64_t room = mri_fs_free(path);
    if (room == UINT64_MAX)
        return mri_strdup("unknown");
    char *rounded = mri_bytes_text((double)room);
    char *text = mri_format("%llu bytes (%s)", (unsigned long long)room, rounded);
    free(rounded);
    return text;
}

/* The one place that turns errno into a status. */
static mr_status fail(mr_err *err, const char *doing, const char *path, int e)
{
    bool full = e == ENOSPC || e == EDQUOT || e == EFBIG;
    mr_status st = full ? MR_E_STORE_FULL : MR_E_STORE_IO;
    mr_fail(err, st, MR_BLAME_ENV, "cannot %s %s: %s", doing, path, strerror(e));
    if (err && MR_HAS(err, native))
        err->native = e;
    if (full) {
        char *dir = mri_fs_parent(path), *room = mri_fs_free_text(dir);
        mr_detail(err, "free on the file system of %s: %s", dir, room);
        mr_hint(err, "make room there, or point the profile at a larger disk");
        free(room);
        free(dir);
    }
    return st;
}

mr_status mri_out_create(mri_out *o, const char *path, mr_err *err)
{
    memset(o, 0, sizeof *o);
    o->path = path;
    fault("create", path);
    o->fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (o->fd < 0)
        return fail(err, "create", path, errno);
    o->digest = mri_digest_begin();
    return 0;
}

mr_status mri_out_write(mri_out *o, const void *p, size_t n, mr_err *err)
{
    const char *at = p;
    while (n) {
        size_t piece = n < PIECE ? n : PIECE;
        fault("write", o->path);
        ssize_t got = write(o->fd, at, piece);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0)
            return fail(err, "write", o->path, got < 0 ? errno : EIO);
        mri_digest_add(o->digest, at, (size_t)got);
        o->bytes += (uint64_t)got;
        at += got;
        n -= (size_t)got;
    }
    return 0;
}

mr_status mri_out_finish(mri_out *o, uint64_t *sum, mr_err *err)
{
    mr_status st = 0;
    fault("fsync", o->path);
    if (fsync(o->fd))
        st = fail(err, "fsync", o->path, errno);
    /* some network file systems report a failed write only here */
    if (close(o->fd) && !st)
        st = fail(err, "close", o->path, errno);
    o->fd = -1;
    uint64_t digest = mri_digest_end(o->digest);
    o->digest = NULL;
    if (sum)
        *sum = digest;
    return st;
}

void mri_out_abandon(mri_out *o)
{
    if (!o->digest)
        return;
    close(o->fd);
    mri_digest_end(o->digest);
    o->digest = NULL;
}

mr_status mri_fs_mkdir(const char *path, mr_err *err)
{
    fault("mkdir", path);
    return mkdir(path, 0777) ? fail(err, "create the folder", path, errno) : 0;
}

mr_status mri_fs_mkdirs(const char *path, mr_err *err)
{
    struct stat s;
    if (!stat(path, &s))
        return S_ISDIR(s.st_mode) ? 0 : fail(err, "create the folder", path, ENOTDIR);
    char *parent = mri_fs_parent(path);
    mr_status st = 0;
    MR_TRY(mri_fs_mkdirs(parent, err));
    fault("mkdir", path);
    if (mkdir(path, 0777) && errno != EEXIST) {
        st = fail(err, "create the folder", path, errno);
        goto out;
    }
    MR_TRY(mri_fs_sync_dir(parent, err));
out:
    free(parent);
    return st;
}

mr_status mri_fs_sync_dir(const char *path, mr_err *err)
{
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return fail(err, "open the folder", path, errno);
    fault("fsync", path);
    int e = fsync(fd) ? errno : 0;
    close(fd);
    /* EINVAL: a file system without folder fsync keeps names in order by itself, or not at all */
    return e && e != EINVAL ? fail(err, "fsync the folder", path, e) : 0;
}

mr_status mri_fs_rename(const char *from, const char *to, mr_err *err)
{
    fault("rename", from);
    return rename(from, to) ? fail(err, "rename to", to, errno) : 0;
}

mr_status mri_fs_exchange(const char *a, const char *b, mr_err *err)
{
    fault("rename", a);
    if (!renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE))
        return 0;
    mr_status st = fail(err, "replace", b, errno);
    mr_hint(err, "it exists already, and this file system cannot replace a folder in one step: "
                 "move it away first");
    return st;
}

static mr_status remove_entries(const char *path, mr_err *err)
{
    DIR *d = opendir(path);
    struct dirent *e;
    mr_status st = 0;
    if (!d)
        return fail(err, "open the folder", path, errno);
    while (!st && (e = readdir(d))) {
        if (!strcmp(e->d_name, ".") || !strcmp(e->d_name, ".."))
            continue;
        char *child = mri_format("%s/%s", path, e->d_name);
        st = mri_fs_remove(child, err);
        free(child);
    }
    closedir(d);
    return st;
}

mr_status mri_fs_remove(const char *path, mr_err *err)
{
    struct stat s;
    mr_status st = 0;
    if (lstat(path, &s)) /* a link is removed, never followed */
        return fail(err, "remove", path, errno);
    if (S_ISDIR(s.st_mode))
        st = remove_entries(path, err);
    if (st)
        return st;
    fault("unlink", path);
    if (S_ISDIR(s.st_mode) ? rmdir(path) : unlink(path))
        st = fail(err, "remove", path, errno);
    return st;
}

mr_status mri_write_file_atomic(const char *path, const char *text, size_t n, mr_err *err)
{
    mri_out o = { 0 };
    mr_status st = 0;
    char *dir = mri_fs_parent(path);
    const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
    char *tmp = mri_format("%s/.tmp-%ld-%s", dir, (long)getpid(), base);
    if (!access(tmp, F_OK)) /* left by a dead process that had our number */
        MR_TRY(mri_fs_remove(tmp, err));
    MR_TRY(mri_out_create(&o, tmp, err));
    st = mri_out_write(&o, text, n, err);
    if (!st)
        st = mri_out_finish(&o, NULL, err);
    if (!st)
        st = mri_fs_rename(tmp, path, err);
    if (st)
        mri_fs_remove(tmp, NULL);
    else
        st = mri_fs_sync_dir(dir, err);
out:
    mri_out_abandon(&o);
    free(tmp);
    free(dir);
    return st;
}
