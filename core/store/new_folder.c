/* SPDX-License-Identifier: Apache-2.0
 *
 * new_folder.c - a model folder, written as a whole or not at all: .tmp-NAME-PID beside its
 * place, locked, each file fsynced, then renamed; and its tensors, in shards.
 *
 * Invariant: only folders named after the same NAME are ever swept, and one that stands in the
 * way is replaced only when asked, if it looks like a model's or a run's.
 */
#include "dtype.h"
#include "fsops.h"
#include "internal.h"
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

/* What folders, small files and block rounding may take beside the tensors. */
enum { SLACK = 1 << 20 };
#define INDEX "model.safetensors.index.json"

static const char *base_of(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static bool has(const char *dir, const char *name)
{
    char *path = mri_format("%s/%s", dir, name);
    bool found = !access(path, F_OK);
    free(path);
    return found;
}

static bool is_empty(const char *dir)
{
    struct dirent *e;
    DIR *d = opendir(dir);
    size_t n = 0;
    while (d && (e = readdir(d)))
        n += strcmp(e->d_name, ".") && strcmp(e->d_name, "..");
    if (d)
        closedir(d);
    return d && !n;
}

static mr_status check_place(const char *path, bool force, mr_err *err)
{
    if (access(path, F_OK) || is_empty(path))
        return 0;
    bool ours = has(path, "config.json") || has(path, MRI_PROFILE_FILE);
    if (force && ours)
        return 0;
    mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%s exists already%s", path,
            force ? ", and is no model folder" : "");
    mr_hint(err, force ? "only a folder with config.json or profile.resolved.ini is replaced"
                       : "choose another folder, or replace it with --force");
    return MR_E_ARG;
}

static mr_status check_room(const char *parent, uint64_t need, mr_err *err)
{
    if (need > UINT64_MAX - SLACK || need + SLACK > mri_fs_free(parent)) {
        char *a = mri_bytes_text((double)need), *b = mri_fs_free_text(parent);
        mr_fail(err, MR_E_STORE_FULL, MR_BLAME_ENV, "no room for a model folder in %s", parent);
        mr_detail(err, "needed: %" PRIu64 " bytes (%s); free there: %s", need, a, b);
        mr_hint(err, "make room there, or choose a folder on a larger disk");
        free(a);
        free(b);
        return MR_E_STORE_FULL;
    }
    return 0;
}

/* Removes what dead writers of this folder left. A living one holds a lock. */
static void sweep(const char *parent, const char *base)
{
    char *prefix = mri_format(MRI_TMP_PREFIX "%s-", base);
    struct dirent *e;
    DIR *d = opendir(parent);
    while (d && (e = readdir(d))) {
        size_t n = strlen(prefix);
        if (strncmp(e->d_name, prefix, n) || !e->d_name[n] ||
            e->d_name[n + strspn(e->d_name + n, "0123456789")])
            continue;
        char *path = mri_format("%s/%s", parent, e->d_name);
        int lock = mri_checkpoint_lock(path);
        if (lock >= 0) {
            mri_fs_remove(path, NULL);
            close(lock);
        }
        free(path);
    }
    if (d)
        closedir(d);
    free(prefix);
}

mr_status mri_new_folder_begin(mri_new_folder *f, const char *path, uint64_t need, bool force,
                               mr_err *err)
{
    size_t n = strlen(path);
    char *parent = NULL;
    mr_status st = 0;
    memset(f, 0, sizeof *f);
    f->lock = -1;
    while (n > 1 && path[n - 1] == '/')
        n--;
    f->path = mri_strndup(path, n);
    const char *base = base_of(f->path);
    if (!*base || !strcmp(base, ".") || !strcmp(base, "..")) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER, "'%s' is no name for a new folder", path);
        goto out;
    }
    parent = mri_fs_parent(f->path);
    MR_TRY(check_place(f->path, force, err));
    MR_TRY(mri_fs_mkdirs(parent, err));
    sweep(parent, base);
    MR_TRY(check_room(parent, need, err));
    f->tmp = mri_format("%s/" MRI_TMP_PREFIX "%s-%ld", parent, base, (long)getpid());
    st = mri_fs_mkdir(f->tmp, err);
    if (st) { /* not ours: nothing to remove */
        free(f->tmp);
        f->tmp = NULL;
        goto out;
    }
    f->lock = mri_checkpoint_lock(f->tmp);
out:
    free(parent);
    return st;
}

mr_status mri_new_folder_commit(mri_new_folder *f, mr_err *err)
{
    char *parent = mri_fs_parent(f->path);
    bool replaces = !access(f->path, F_OK);
    mr_status st = 0;
    MR_TRY(mri_fs_sync_dir(f->tmp, err));
    MR_TRY(replaces ? mri_fs_exchange(f->tmp, f->path, err) : mri_fs_rename(f->tmp, f->path, err));
    if (replaces) /* the temporary name now holds the replaced one */
        mri_fs_remove(f->tmp, NULL);
    free(f->tmp);
    f->tmp = NULL;
    MR_TRY(mri_fs_sync_dir(parent, err));
out:
    free(parent);
    return st;
}

void mri_new_folder_end(mri_new_folder *f)
{
    if (f->tmp)
        mri_fs_remove(f->tmp, NULL);
    if (f->lock >= 0 && f->path)
        close(f->lock);
    free(f->tmp);
    free(f->path);
    memset(f, 0, sizeof *f);
}

/* ---- its files ---------------------------------------------------------------------------- */

static mr_status write_bytes(const mri_new_folder *f, const char *name, const void *p, size_t n,
                             mr_err *err)
{
    char *path = mri_format("%s/%s", f->tmp, name);
    mri_out o = { 0 };
    mr_status st = 0;
    MR_TRY(mri_out_create(&o, path, err));
    MR_TRY(mri_out_write(&o, p, n, err));
    MR_TRY(mri_out_finish(&o, NULL, err));
out:
    mri_out_abandon(&o);
    free(path);
    return st;
}

mr_status mri_new_folder_text(const mri_new_folder *f, const char *name, const char *text,
                              mr_err *err)
{
    return write_bytes(f, name, text, strlen(text), err);
}

mr_status mri_new_folder_copy(const mri_new_folder *f, const char *from, const char *name,
                              mr_err *err)
{
    mri_map m = { 0 };
    mr_status st = mri_map_open(from, &m, err);
    if (!st)
        st = write_bytes(f, name, m.p, m.n, err);
    mri_map_close(&m);
    return st;
}

/* ---- its tensors -------------------------------------------------------------------------- */

static uint64_t bytes_of(const mri_tensor *t)
{
    uint64_t n = 0;
    mri_type_bytes(&t->type, &n); /* a type that cannot be written is refused by the writer */
    return n;
}

/* The end of the shard that begins at `from`. */
static size_t shard_end(const mri_tensor *t, size_t n, size_t from, uint64_t most)
{
    uint64_t sum = bytes_of(&t[from]);
    size_t i = from + 1;
    while (i < n && bytes_of(&t[i]) <= most && sum <= most - bytes_of(&t[i]))
        sum += bytes_of(&t[i++]);
    return i;
}

typedef struct home { /* which shard a tensor is in */
    const char *name;
    size_t shard;
} home;

static int by_name(const void *a, const void *b)
{
    return strcmp(((const home *)a)->name, ((const home *)b)->name);
}

static mr_status write_index(const mri_new_folder *f, const mri_tensor *t, size_t n, home *homes,
                             size_t shards, mr_err *err)
{
    mri_str b = { 0 };
    uint64_t size = 0, count = 0;
    mr_status st = 0;
    qsort(homes, n, sizeof *homes, by_name);
    for (size_t i = 0; i < n; i++) {
        size += bytes_of(&t[i]);
        count += (uint64_t)mr_numel(&t[i].type);
    }
    mri_str_fmt(&b, "{\n  \"metadata\": {\n    \"total_parameters\": %" PRIu64
                    ",\n    \"total_size\": %" PRIu64 "\n  },\n  \"weight_map\": {", count, size);
    for (size_t i = 0; i < n; i++) {
        mri_str_add(&b, i ? ",\n    " : "\n    ");
        mri_str_json(&b, homes[i].name);
        mri_str_fmt(&b, ": \"model-%05zu-of-%05zu.safetensors\"", homes[i].shard, shards);
    }
    mri_str_add(&b, "\n  }\n}\n");
    st = write_bytes(f, INDEX, b.s, b.n, err);
    mri_str_free(&b);
    return st;
}

mr_status mri_new_folder_tensors(const mri_new_folder *f, const mri_tensor *t, size_t n,
                                 const mri_tensor_source *source, uint64_t most, mr_err *err)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    home *homes = mri_alloc((n + 1) * sizeof *homes);
    size_t shards = 0, k = 0;
    uint64_t bytes;
    mr_status st = 0;
    for (size_t i = 0; i < n; i = shard_end(t, n, i, most))
        shards++;
    for (size_t i = 0, end; i < n && !st; i = end) {
        end = shard_end(t, n, i, most);
        k++;
        for (size_t j = i; j < end; j++)
            homes[j] = (home){ t[j].name, k };
        char *path = shards == 1 ? mri_format("%s/model.safetensors", f->tmp)
                                 : mri_format("%s/model-%05zu-of-%05zu.safetensors", f->tmp, k,
                                              shards);
        st = mri_safetensors_write_sum(path, t + i, end - i, source, metadata, &bytes, NULL, err);
        free(path);
    }
    if (!st && shards > 1)
        st = write_index(f, t, n, homes, shards, err);
    free(homes);
    return st;
}
