/* SPDX-License-Identifier: Apache-2.0
 *
 * checkpoint_save.c - saves a checkpoint, all or nothing.
 *
 * The order that keeps the invariant of store.h at every instant:
 *   room for all of it? -> .tmp folder, locked -> each file, fsync -> manifest, fsync ->
 *   fsync of the folder -> rename to step-N -> fsync of the parent -> older ones away.
 * An older checkpoint is renamed to a .tmp name before its files go, so that no step-N ever
 * lacks some. A step-N that exists already is replaced by one atomic exchange of names.
 */
#include "fsops.h"
#include "internal.h"
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <unistd.h>

/* What folders, the manifest and block rounding may take beside the tensors. */
enum { SLACK = 256 << 10 };

mr_status mri_checkpoint_check_meta(const mri_checkpoint_meta *meta, mr_err *err)
{
    if (meta->step < 0)
        return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "a checkpoint of step %" PRId64, meta->step);
    for (size_t i = 0; i < meta->counters.n; i++) {
        const mr_attr *a = &meta->counters.v[i];
        if (a->type != MR_A_I64 && a->type != MR_A_F64)
            return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "checkpoint counter %s is not a number",
                           a->key);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(a->key, meta->counters.v[k].key))
                return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "two checkpoint counters named %s",
                               a->key);
    }
    return 0;
}

static mr_status check_args(const mri_checkpoint_meta *meta, const mri_checkpoint_file *files,
                            size_t n, mr_err *err)
{
    for (size_t i = 0; i < n; i++) {
        const char *name = files[i].name;
        for (const char *c = name; *c; c++)
            if (!isalnum((unsigned char)*c) && *c != '_' && *c != '-')
                return mr_fail(err, MR_E_ARG, MR_BLAME_HOST,
                               "checkpoint group \"%s\": letters, digits, _ and - only", name);
        for (size_t k = 0; k < i; k++)
            if (!strcmp(name, files[k].name))
                return mr_fail(err, MR_E_ARG, MR_BLAME_HOST, "two checkpoint groups named %s",
                               name);
    }
    return mri_checkpoint_check_meta(meta, err);
}

static uint64_t bytes_needed(const mri_checkpoint_meta *meta, const mri_checkpoint_file *files,
                             size_t n)
{
    uint64_t sum = SLACK + (meta->profile_text ? strlen(meta->profile_text) : 0);
    for (size_t i = 0; i < n; i++)
        if (__builtin_add_overflow(sum, mri_safetensors_size(files[i].tensors, files[i].n), &sum))
            return UINT64_MAX;
    return sum;
}

/* The numbers that a full disk's error has to give, whether found before or during. */
static void detail_room(const char *dir, uint64_t need, mr_err *err)
{
    char *a = mri_bytes_text((double)need), *b = mri_fs_free_text(dir);
    mr_detail(err, "needed: %" PRIu64 " bytes (%s); free on the file system of %s: %s", need, a,
              dir, b);
    mr_hint(err, "earlier checkpoints are untouched; make room, or set [checkpoint] dir or keep");
    free(a);
    free(b);
}

mr_status mri_checkpoint_check_room(const char *dir, uint64_t need, mr_err *err)
{
    if (need <= mri_fs_free(dir))
        return 0;
    mr_fail(err, MR_E_STORE_FULL, MR_BLAME_ENV, "no room for the checkpoint in %s", dir);
    detail_room(dir, need, err);
    return MR_E_STORE_FULL;
}

static mr_status save_text(const char *path, const char *text, uint64_t *bytes, uint64_t *sum,
                           mr_err *err)
{
    mri_out o = { 0 };
    mr_status st = 0;
    MR_TRY(mri_out_create(&o, path, err));
    MR_TRY(mri_out_write(&o, text, strlen(text), err));
    *bytes = o.bytes;
    MR_TRY(mri_out_finish(&o, sum, err));
out:
    mri_out_abandon(&o);
    return st;
}

static mr_status save_group(const char *tmp, const mri_checkpoint_file *g, mri_manifest *m,
                            mr_err *err)
{
    static const char *const metadata[] = { "format", "pt", NULL };
    mri_manifest_file f = { .group = mri_strdup(g->name),
                            .file = mri_format("%s.safetensors", g->name) };
    char *path = mri_format("%s/%s", tmp, f.file);
    mr_status st =
        mri_safetensors_write_sum(path, g->tensors, g->n, g->source, metadata, &f.bytes, &f.sum,
                                  err);
    MRI_PUSH(&m->files, f);
    free(path);
    return st;
}

mr_status mri_checkpoint_seal(const char *tmp, mri_manifest *m, mr_err *err)
{
    char *profile = mri_format("%s/" MRI_PROFILE_FILE, tmp);
    char *manifest = mri_format("%s/" MRI_MANIFEST, tmp), *text = NULL;
    uint64_t bytes;
    mr_status st = 0;
    if (m->meta.profile_text) {
        mri_manifest_file f = { .file = mri_strdup(MRI_PROFILE_FILE) };
        st = save_text(profile, m->meta.profile_text, &f.bytes, &f.sum, err);
        MRI_PUSH(&m->files, f);
        MR_TRY(st);
    }
    text = mri_manifest_text(m);
    MR_TRY(save_text(manifest, text, &bytes, NULL, err));
    MR_TRY(mri_fs_sync_dir(tmp, err));
out:
    free(text);
    free(manifest);
    free(profile);
    return st;
}

mr_status mri_checkpoint_publish(const char *dir, const char *tmp, const char *final, bool *made,
                                 mr_err *err)
{
    bool replaces = !access(final, F_OK);
    mr_status st = replaces ? mri_fs_exchange(tmp, final, err) : mri_fs_rename(tmp, final, err);
    if (st)
        return st;
    *made = replaces; /* then the temporary name now holds the replaced one */
    return mri_fs_sync_dir(dir, err);
}

/* Fills the temporary folder and makes it durable under its temporary name. */
static mr_status fill(const char *tmp, const mri_checkpoint_meta *meta,
                      const mri_checkpoint_file *files, size_t n, mr_err *err)
{
    /* the counters are only lent to the manifest: it frees what it owns, its files */
    mri_manifest m = { .meta = *meta };
    mr_status st = 0;
    for (size_t i = 0; i < n; i++)
        MR_TRY(save_group(tmp, &files[i], &m, err));
    MR_TRY(mri_checkpoint_seal(tmp, &m, err));
out:
    memset(&m.meta, 0, sizeof m.meta);
    mri_manifest_free(&m);
    return st;
}

mr_status mri_checkpoint_prune(const char *dir, int64_t saved, int64_t keep, mr_err *err)
{
    int64_t *steps = NULL, kept = 1;
    size_t n = 0;
    mr_status st = 0;
    MR_TRY(mri_checkpoint_list(dir, &steps, &n, err));
    for (size_t i = 0; i < n && !st; i++) {
        if (steps[i] == saved || kept++ < keep)
            continue;
        char *name = mri_checkpoint_name(steps[i]);
        char *old = mri_format("%s/%s", dir, name);
        char *gone = mri_format("%s/" MRI_TMP_PREFIX "gone-%s-%ld", dir, name, (long)getpid());
        st = mri_fs_rename(old, gone, err);
        if (!st)
            st = mri_fs_remove(gone, err);
        free(gone);
        free(old);
        free(name);
    }
out:
    free(steps);
    return st;
}

mr_status mri_checkpoint_save(const char *dir, const mri_checkpoint_meta *meta,
                              const mri_checkpoint_file *files, size_t n_files, int64_t keep,
                              mr_err *err)
{
    char *name = mri_checkpoint_name(meta->step), *final = mri_format("%s/%s", dir, name);
    char *tmp = mri_format("%s/" MRI_TMP_PREFIX "%s-%ld", dir, name, (long)getpid());
    uint64_t need = bytes_needed(meta, files, n_files);
    bool made = false;
    int lock = -1;
    mr_status st = 0;

    MR_TRY(check_args(meta, files, n_files, err));
    MR_TRY(mri_fs_mkdirs(dir, err));
    mri_checkpoint_sweep(dir);
    MR_TRY(mri_checkpoint_check_room(dir, need, err));
    MR_TRY(mri_fs_mkdir(tmp, err));
    made = true;
    lock = mri_checkpoint_lock(tmp);
    MR_TRY(fill(tmp, meta, files, n_files, err));
    MR_TRY(mri_checkpoint_publish(dir, tmp, final, &made, err));
    if (keep > 0)
        MR_TRY(mri_checkpoint_prune(dir, meta->step, keep, err));
out:
    if (st == MR_E_STORE_FULL)
        detail_room(dir, need, err);
    if (made)
        mri_fs_remove(tmp, NULL);
    if (lock >= 0)
        close(lock);
    free(tmp);
    free(final);
    free(name);
    return st;
}
