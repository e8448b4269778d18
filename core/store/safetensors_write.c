/* SPDX-License-Identifier: Apache-2.0
 *
 * safetensors_write.c - writes one safetensors file, byte for byte as the format's own
 * library does: tensors by falling alignment then name, compact JSON, the header padded with
 * spaces to a multiple of 8 so that all data is aligned.
 *
 * Invariant: a tensor's bytes go from the caller's memory, or from where its source puts them, to
 * the file; nothing of its size is allocated here.
 */
#include "dtype.h"
#include "fsops.h"
#include "internal.h"
#include <stdlib.h>
#include <unistd.h>

enum { HEADER_MAX = 100000000 };
#define BAD(...) mr_fail(err, MR_E_ARG, MR_BLAME_HOST, __VA_ARGS__)

static int write_order(const void *a, const void *b)
{
    const mri_tensor *x = *(const mri_tensor *const *)a, *y = *(const mri_tensor *const *)b;
    const mri_dtype *p = mri_dtype_of_name(x->type.dtype), *q = mri_dtype_of_name(y->type.dtype);
    if (p != q)
        return p > q ? -1 : 1; /* rows of one table, by growing alignment */
    return strcmp(x->name, y->name);
}

static mr_status check(const mri_tensor *t, uint64_t *bytes, mr_err *err)
{
    if (!t->name || !strcmp(t->name, "__metadata__"))
        return BAD("a tensor to be saved has no usable name");
    for (const char *c = t->name; *c; c++)
        if ((unsigned char)*c < 0x20 || *c == 0x7f)
            return BAD("the name of tensor %s has control characters", t->name);
    if (t->type.layout || t->type.n_parts)
        return BAD("tensor %s is not dense, or has companions: save each part by itself", t->name);
    if (!mri_type_bytes(&t->type, bytes))
        return BAD("tensor %s has a type that safetensors cannot hold (dtype %s, rank %u)", t->name,
                   t->type.dtype ? t->type.dtype : "(none)", t->type.rank);
    return 0;
}

static void put_metadata(mri_str *h, const char *const *metadata)
{
    if (!metadata || !*metadata)
        return;
    mri_str_add(h, "\"__metadata__\":{");
    for (size_t i = 0; metadata[i]; i += 2) {
        mri_str_add(h, i ? "," : "");
        mri_str_json(h, metadata[i]);
        mri_str_add(h, ":");
        mri_str_json(h, metadata[i + 1]);
    }
    mri_str_add(h, "}");
}

/* Checks and sorts the tensors and makes the header, its length in front. */
static mr_status make_header(const mri_tensor *t, size_t n, const char *const *metadata,
                             const mri_tensor ***sorted, mri_str *h, uint64_t *data, mr_err *err)
{
    const mri_tensor **v = *sorted = mri_alloc((n + 1) * sizeof *v);
    uint64_t at = 0, bytes;
    for (size_t i = 0; i < n; i++) {
        mr_status st = check(v[i] = &t[i], &bytes, err);
        if (st)
            return st;
    }
    if (n)
        qsort(v, n, sizeof *v, write_order);
    mri_str_addn(h, "\0\0\0\0\0\0\0\0{", 9);
    put_metadata(h, metadata);
    for (size_t i = 0; i < n; i++) {
        const mr_type *y = &v[i]->type;
        mri_type_bytes(y, &bytes);
        mri_str_add(h, h->n > 9 ? "," : "");
        mri_str_json(h, v[i]->name);
        mri_str_fmt(h, ":{\"dtype\":\"%s\",\"shape\":[", mri_dtype_of_name(y->dtype)->file);
        for (uint32_t k = 0; k < y->rank; k++)
            mri_str_fmt(h, "%s%lld", k ? "," : "", (long long)y->dim[k]);
        mri_str_fmt(h, "],\"data_offsets\":[%llu,%llu]}", (unsigned long long)at,
                    (unsigned long long)(at + bytes));
        if (__builtin_add_overflow(at, bytes, &at) || at > INT64_MAX)
            return BAD("the tensors are over 2^63 bytes together");
    }
    mri_str_add(h, "}");
    while (h->n % 8)
        mri_str_add(h, " ");
    uint64_t length = h->n - 8;
    if (length > HEADER_MAX)
        return BAD("the header of %zu tensors takes %llu bytes, over the format's limit of %d", n,
                   (unsigned long long)length, HEADER_MAX);
    memcpy(h->s, &length, 8);
    *data = at;
    return 0;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

/* Sorted by dtype first, equal names need not be neighbours; so by name alone. */
static mr_status check_unique(const mri_tensor *t, size_t n, mr_err *err)
{
    const char **names = mri_alloc((n + 1) * sizeof *names);
    mr_status st = 0;
    for (size_t i = 0; i < n; i++)
        names[i] = t[i].name;
    if (n)
        qsort(names, n, sizeof *names, by_text);
    for (size_t i = 1; i < n && !st; i++)
        if (!strcmp(names[i - 1], names[i]))
            st = BAD("two tensors to be saved are named %s", names[i]);
    free(names);
    return st;
}

static mr_status check_data(const mri_tensor *t, size_t n, mr_err *err)
{
    for (size_t i = 0; i < n; i++)
        if (!t[i].data && mr_numel(&t[i].type))
            return BAD("tensor %s has no data", t[i].name);
    return 0;
}

uint64_t mri_safetensors_size(const mri_tensor *t, size_t n)
{
    const mri_tensor **sorted = NULL;
    mri_str h = { 0 };
    uint64_t data = 0;
    mr_status st = make_header(t, n, NULL, &sorted, &h, &data, NULL);
    uint64_t size = st ? 0 : h.n + data;
    mri_str_free(&h);
    free(sorted);
    return size;
}

mr_status mri_safetensors_write_sum(const char *path, const mri_tensor *t, size_t n,
                                    const mri_tensor_source *source, const char *const *metadata,
                                    uint64_t *bytes, uint64_t *sum, mr_err *err)
{
    const mri_tensor **sorted = NULL;
    mri_str h = { 0 };
    mri_out o = { 0 };
    uint64_t data;
    mr_status st = 0;
    MR_TRY(make_header(t, n, metadata, &sorted, &h, &data, err));
    MR_TRY(check_unique(t, n, err));
    if (!source)
        MR_TRY(check_data(t, n, err));
    MR_TRY(mri_out_create(&o, path, err));
    MR_TRY(mri_out_write(&o, h.s, h.n, err));
    for (size_t i = 0; i < n; i++) {
        const void *from = sorted[i]->data;
        uint64_t size;
        mri_type_bytes(&sorted[i]->type, &size);
        if (source && size)
            MR_TRY(source->bytes(source->ctx, sorted[i], &from, err));
        MR_TRY(mri_out_write(&o, from, size, err));
    }
    *bytes = o.bytes;
    MR_TRY(mri_out_finish(&o, sum, err));
out:
    mri_out_abandon(&o);
    mri_str_free(&h);
    free(sorted);
    return st;
}

mr_status mri_safetensors_write(const char *path, const mri_tensor *t, size_t n,
                                const char *const *metadata, mr_err *err)
{
    uint64_t bytes, sum;
    mr_status st = 0;
    char *dir = mri_fs_parent(path);
    if (!access(path, F_OK))
        MR_TRY(mri_fs_remove(path, err));
    MR_TRY(mri_safetensors_write_sum(path, t, n, NULL, metadata, &bytes, &sum, err));
    MR_TRY(mri_fs_sync_dir(dir, err));
out:
    free(dir);
    return st;
}
