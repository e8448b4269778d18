/* SPDX-License-Identifier: Apache-2.0
 *
 * checkpoint_open.c - opens a checkpoint and proves it whole.
 *
 * Invariant: an open checkpoint's manifest and every file matched their checksums when it was
 * opened; nothing is handed out of one that did not.
 */
#include "fsops.h"
#include "internal.h"
#include <inttypes.h>
#include <stdlib.h>

typedef struct group {
    char *name;
    mri_safetensors *tensors;
} group;

struct mri_checkpoint {
    mri_manifest manifest;
    char *profile;
    MRI_VEC(group) groups;
};

#define DAMAGED(...) mr_fail(err, MR_E_STORE_CHECKSUM, MR_BLAME_ENV, __VA_ARGS__)

static mr_status open_file(mri_checkpoint *c, const char *dir, const mri_manifest_file *f,
                           mr_err *err)
{
    char *path = mri_format("%s/%s", dir, f->file);
    mri_map m = { 0 };
    mr_status st = mri_map_open(path, &m, err);
    if (st == MR_E_STORE_MISSING)
        st = DAMAGED("%s is missing, but its manifest lists it", path);
    MR_TRY(st);
    if (m.n != f->bytes) {
        st = DAMAGED("%s is damaged: %zu bytes, its manifest says %" PRIu64, path, m.n, f->bytes);
        goto out;
    }
    uint64_t sum = mri_digest_of(m.p, m.n);
    if (sum != f->sum) {
        st = DAMAGED("%s is damaged: its checksum does not match its manifest", path);
        mr_detail(err, "xxh64 %016" PRIx64 ", the manifest says %016" PRIx64, sum, f->sum);
        goto out;
    }
    if (f->group) {
        group g = { .name = mri_strdup(f->group) };
        st = mri_safetensors_from_map(path, m, &g.tensors, err);
        m = (mri_map){ 0 }; /* taken over */
        MRI_PUSH(&c->groups, g);
    } else if (!strcmp(f->file, MRI_PROFILE_FILE)) {
        c->profile = mri_strndup(m.n ? (const char *)m.p : "", m.n);
    }
out:
    mri_map_close(&m);
    free(path);
    return st;
}

mr_status mri_checkpoint_open(const char *step_dir, mri_checkpoint **out, mr_err *err)
{
    mri_checkpoint *c = mri_alloc(sizeof *c);
    char *manifest = mri_format("%s/" MRI_MANIFEST, step_dir);
    mr_status st = 0;
    *out = NULL;
    MR_TRY(mri_manifest_read(manifest, &c->manifest, err));
    for (size_t i = 0; i < c->manifest.files.n; i++)
        MR_TRY(open_file(c, step_dir, &c->manifest.files.v[i], err));
    c->manifest.meta.profile_text = c->profile;
    *out = c;
    c = NULL;
out:
    mri_checkpoint_close(c);
    free(manifest);
    return st;
}

/* Which older one is whole? Found only after damage, when the time no longer matters. */
static char *whole_older(const char *dir, const int64_t *steps, size_t n)
{
    for (size_t i = 1; i < n; i++) {
        mri_checkpoint *c;
        char *name = mri_checkpoint_name(steps[i]), *path = mri_format("%s/%s", dir, name);
        mr_status st = mri_checkpoint_open(path, &c, NULL);
        mri_checkpoint_close(c);
        free(name);
        if (!st)
            return path;
        free(path);
    }
    return NULL;
}

mr_status mri_checkpoint_open_newest(const char *dir, mri_checkpoint **out, mr_err *err)
{
    int64_t *steps = NULL;
    size_t n = 0;
    char *name = NULL, *path = NULL, *older = NULL;
    mr_status st = 0;
    *out = NULL;
    mri_checkpoint_sweep(dir);
    MR_TRY(mri_checkpoint_list(dir, &steps, &n, err));
    if (!n)
        goto out;
    name = mri_checkpoint_name(steps[0]);
    path = mri_format("%s/%s", dir, name);
    st = mri_checkpoint_open(path, out, err);
    if (st == MR_E_STORE_MISSING)
        st = DAMAGED("%s is damaged: its %s is missing", path, MRI_MANIFEST);
    if (st) {
        older = whole_older(dir, steps, n);
        if (older)
            mr_hint(err, "%s is whole: move %s away to go back to it", older, name);
        else
            mr_hint(err, "no older checkpoint in %s is whole", dir);
    }
out:
    free(older);
    free(path);
    free(name);
    free(steps);
    return st;
}

const mri_checkpoint_meta *mri_checkpoint_info(const mri_checkpoint *c)
{
    return &c->manifest.meta;
}

const mri_safetensors *mri_checkpoint_group(const mri_checkpoint *c, const char *name)
{
    for (size_t i = 0; i < c->groups.n; i++)
        if (!strcmp(c->groups.v[i].name, name))
            return c->groups.v[i].tensors;
    return NULL;
}

const char *mri_checkpoint_group_name(const mri_checkpoint *c, size_t i)
{
    return i < c->groups.n ? c->groups.v[i].name : NULL;
}

void mri_checkpoint_close(mri_checkpoint *c)
{
    if (!c)
        return;
    for (size_t i = 0; i < c->groups.n; i++) {
        mri_safetensors_close(c->groups.v[i].tensors);
        free(c->groups.v[i].name);
    }
    free(c->groups.v);
    free(c->profile);
    mri_manifest_free(&c->manifest);
    free(c);
}
