/* SPDX-License-Identifier: Apache-2.0
 *
 * fsops.h - every change that core/store makes to a disk.
 *
 * Invariant: no other file of this folder calls write, fsync, rename, mkdir or unlink, so the
 * fault hook of store.h sees each of them before it happens. A full disk, an exceeded quota
 * and a file size limit are all MR_E_STORE_FULL; any other failure is MR_E_STORE_IO.
 */
#ifndef MRI_FSOPS_H
#define MRI_FSOPS_H
#include "core/base/base.h"
#include "digest.h"

typedef struct mri_out { /* a file being written front to back */
    const char *path;    /* borrowed */
    int fd;
    uint64_t bytes;
    mri_digest *digest; /* of all bytes so far */
} mri_out;

mr_status mri_out_create(mri_out *o, const char *path, mr_err *err); /* must not exist yet */
mr_status mri_out_write(mri_out *o, const void *p, size_t n, mr_err *err);
/* fsync, close; *sum may be NULL. Closes also when it fails. */
mr_status mri_out_finish(mri_out *o, uint64_t *sum, mr_err *err);
void mri_out_abandon(mri_out *o); /* close without a word; harmless after finish */

mr_status mri_fs_mkdir(const char *path, mr_err *err);    /* the folder must not exist */
mr_status mri_fs_mkdirs(const char *path, mr_err *err);   /* with its parents; may exist */
mr_status mri_fs_sync_dir(const char *path, mr_err *err); /* makes names in it durable */
mr_status mri_fs_rename(const char *from, const char *to, mr_err *err);
/* both must exist; each takes the other's name in one atomic step */
mr_status mri_fs_exchange(const char *a, const char *b, mr_err *err);
mr_status mri_fs_remove(const char *path, mr_err *err); /* a file, or a folder with all in it */

char *mri_fs_parent(const char *path); /* "." for a bare name; the caller frees */
/* bytes an ordinary user may still write on the file system of `path`; UINT64_MAX: unknown */
uint64_t mri_fs_free(const char *path);
char *mri_fs_free_text(const char *path); /* "1536 bytes (1.5 KiB)"; the caller frees */

#endif
