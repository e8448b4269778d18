/* SPDX-License-Identifier: Apache-2.0
 *
 * indexed_write.c - tokens stream into the .bin as they come; lengths and boundaries wait in
 * memory (12 bytes a document) for the .idx at the end.
 */
#include "indexed_write.h"
#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct mri_indexed_writer {
    char *bin, *idx, *bin_partial, *idx_partial; /* paths */
    FILE *f;                                     /* the file being written */
    mri_indexed_dtype dtype;
    MRI_VEC(int32_t) lengths;
    MRI_VEC(int64_t) boundaries;
};

mri_indexed_dtype mri_indexed_dtype_for(int64_t vocab)
{
    return vocab < 65500 ? MRI_INDEXED_U16 : MRI_INDEXED_I32; /* Megatron's bound */
}

static int64_t size_of(mri_indexed_dtype dtype)
{
    return dtype == MRI_INDEXED_U8 ? 1 : dtype == MRI_INDEXED_U16 ? 2 : 4;
}

static mr_status fail_io(const char *verb, const char *path, mr_err *err)
{
    int e = errno;
    mr_status code = e == ENOSPC || e == EDQUOT ? MR_E_STORE_FULL : MR_E_STORE_IO;
    mr_fail(err, code, MR_BLAME_ENV, "cannot %s %s", verb, path);
    mr_detail(err, "%s", strerror(e));
    if (err)
        err->native = e;
    return code;
}

static void release(mri_indexed_writer *w)
{
    if (w->f)
        fclose(w->f);
    free(w->bin);
    free(w->idx);
    free(w->bin_partial);
    free(w->idx_partial);
    free(w->lengths.v);
    free(w->boundaries.v);
    free(w);
}

mr_status mri_indexed_create(const char *prefix, mri_indexed_dtype dtype, mri_indexed_writer **out,
                             mr_err *err)
{
    mri_indexed_writer *w = mri_alloc(sizeof *w);
    w->dtype = dtype;
    w->bin = mri_format("%s.bin", prefix);
    w->idx = mri_format("%s.idx", prefix);
    w->bin_partial = mri_format("%s.partial", w->bin);
    w->idx_partial = mri_format("%s.partial", w->idx);
    MRI_PUSH(&w->boundaries, 0);
    w->f = fopen(w->bin_partial, "wbe");
    if (!w->f) {
        mr_status st = fail_io("write", w->bin_partial, err);
        release(w);
        return st;
    }
    *out = w;
    return MR_OK;
}

static int put(FILE *f, uint64_t value, size_t size) /* little endian */
{
    uint64_t le = htole64(value);
    return fwrite(&le, 1, size, f) == size ? 0 : -1;
}

mr_status mri_indexed_sequence(mri_indexed_writer *w, const int32_t *ids, uint64_t n, mr_err *err)
{
    unsigned char chunk[16384];
    size_t size = (size_t)size_of(w->dtype), filled = 0;
    int64_t limit = w->dtype == MRI_INDEXED_I32 ? INT32_MAX : (1 << 8 * size) - 1;
    if (n > INT32_MAX)
        return mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                       "%s: a sequence of %llu tokens; the format counts to %d", w->bin,
                       (unsigned long long)n, INT32_MAX);
    for (uint64_t i = 0; i < n; i++) {
        if (ids[i] < 0 || ids[i] > limit)
            return mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_HOST,
                           "%s: token %d does not fit %zu bytes", w->bin, ids[i], size);
        for (size_t k = 0; k < size; k++)
            chunk[filled++] = (unsigned char)(ids[i] >> 8 * k);
        if (filled + size > sizeof chunk || i + 1 == n) {
            if (fwrite(chunk, 1, filled, w->f) != filled)
                return fail_io("write", w->bin_partial, err);
            filled = 0;
        }
    }
    MRI_PUSH(&w->lengths, (int32_t)n);
    return MR_OK;
}

void mri_indexed_end_document(mri_indexed_writer *w)
{
    MRI_PUSH(&w->boundaries, (int64_t)w->lengths.n);
}

/* The buffers are on disk and the file is closed, or the errno of what failed is set. */
static int close_synced(FILE **f)
{
    int failed = fflush(*f) != 0 || fsync(fileno(*f)) != 0, e = errno;
    if (fclose(*f) != 0 && !failed) {
        failed = 1;
        e = errno;
    }
    *f = NULL;
    errno = e;
    return failed ? -1 : 0;
}

static int put_index(const mri_indexed_writer *w)
{
    FILE *f = w->f;
    int64_t size = size_of(w->dtype), offset = 0;
    int failed = fwrite("MMIDIDX\0", 1, 9, f) != 9;
    failed |= put(f, 1, 8) | put(f, w->dtype, 1);
    failed |= put(f, w->lengths.n, 8) | put(f, w->boundaries.n, 8);
    for (size_t i = 0; i < w->lengths.n && !failed; i++)
        failed |= put(f, (uint64_t)w->lengths.v[i], 4);
    for (size_t i = 0; i < w->lengths.n && !failed; i++) {
        failed |= put(f, (uint64_t)offset, 8);
        offset += w->lengths.v[i] * size;
    }
    for (size_t i = 0; i < w->boundaries.n && !failed; i++)
        failed |= put(f, (uint64_t)w->boundaries.v[i], 8);
    return failed;
}

static int sync_folder(const char *path)
{
    char *copy = mri_strdup(path);
    int fd = open(dirname(copy), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int failed = fd < 0 || fsync(fd) != 0;
    if (fd >= 0)
        close(fd);
    free(copy);
    return failed;
}

mr_status mri_indexed_finish(mri_indexed_writer *w, mr_err *err)
{
    mr_status st = MR_OK;
    if (!w)
        return MR_OK;
    if (close_synced(&w->f) != 0)
        MR_TRY(fail_io("write", w->bin_partial, err));
    w->f = fopen(w->idx_partial, "wbe");
    if (!w->f || put_index(w) || close_synced(&w->f) != 0)
        MR_TRY(fail_io("write", w->idx_partial, err));
    /* an older pair goes first: its .idx must never stand beside the new .bin */
    if (unlink(w->idx) != 0 && errno != ENOENT)
        MR_TRY(fail_io("replace", w->idx, err));
    if (rename(w->bin_partial, w->bin) != 0)
        MR_TRY(fail_io("write", w->bin, err));
    if (rename(w->idx_partial, w->idx) != 0 || sync_folder(w->idx) != 0)
        MR_TRY(fail_io("write", w->idx, err));
out:
    mri_indexed_abandon(w);
    return st;
}

void mri_indexed_abandon(mri_indexed_writer *w)
{
    if (!w)
        return;
    unlink(w->bin_partial); /* gone already after a finish that succeeded */
    unlink(w->idx_partial);
    release(w);
}
