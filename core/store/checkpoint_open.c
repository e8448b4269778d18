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

#define DAMAGED(...) mr_fail(err, MR_E_STORE_CHECKSUM, MR_BLAME_ENV, __VA_ARGS__)

/* `verify`: by this rank; its peers verify the others */
static mr_status map_file(const char *path, const mri_manifest_file *f, bool verify, mri_map *m,
                          mr_err *err)
{
    mr_status st = mri_map_open(path, m, err);
    if (st == MR_E_STORE_MISSING)
        return DAMAGED("%s is missing, but its manifest lists it", path);
    if (st)
        return st;
    if (m->n != f->bytes)
        return DAMAGED("%s is damaged: %zu bytes, its manifest says %" PRIu64, path, m->n,
                       f->bytes);
    uint64_t sum = verify ? mri_digest_of(m->p, m->n) : f->sum;
    if (sum == f->sum)
        return 0;
    DAMAGED("%s is damaged: its checksum does not match its manifest", path);
    mr_detail(err, "xxh64 %016" PRIx64 ", the manifest says %016" PRIx64, sum, f->sum);
    return MR_E_STORE_CHECKSUM;
}

/* Takes a file that is known to be sound into the checkpoint; m is taken over. */
static mr_status take_file(mri_checkpoint *c, const char *path, const mri_manifest_file *f,
                           mri_map *m, mr_err *err)
{
    mri_safetensors *set = NULL;
    mr_status st = 0;
    if (f->group) {
        st = mri_safetensors_from_map(path, *m, &set, err);
        *m = (mri_map){ 0 };
    } else if (!strcmp(f->file, MRI_PROFILE_FILE)) {
        c->profile = mri_strndup(m->n ? (const char *)m->p : "", m->n);
    }
    if (f->group && !c->manifest.shards.tensors.n) { /* a group is one file */
        mri_checkpoint_set g = { mri_strdup(f->group), set };
        MRI_PUSH(&c->groups, g);
        set = NULL;
    }
    MRI_PUSH(&c->sets, set);
    return st;
}

/* All files are mapped and verified, each by one rank, before any is looked into. */
static mr_status open_files(mri_checkpoint *c, const mri_peers *p, const char *dir, mr_err *err)
{
    size_t ranks = mri_peers_alone(p) ? 1 : p->n, rank = ranks > 1 ? p->rank : 0;
    size_t n = c->manifest.files.n;
    mri_map *map = mri_alloc(n * sizeof *map);
    char **path = mri_alloc(n * sizeof *path);
    mr_status st = 0;
    for (size_t i = 0; i < n && !st; i++) {
        const mri_manifest_file *f = &c->manifest.files.v[i];
        path[i] = mri_format("%s/%s", dir, f->file);
        st = map_file(path[i], f, i % ranks == rank, &map[i], err);
    }
    st = mri_peers_agree(p, st, err);
    for (size_t i = 0; i < n && !st; i++)
        st = take_file(c, path[i], &c->manifest.files.v[i], &map[i], err);
    for (size_t i = 0; i < n; i++) {
        mri_map_close(&map[i]);
        free(path[i]);
    }
    free(map);
    free(path);
    return st;
}

mr_status mri_checkpoint_open(const char *step_dir, mri_checkpoint **out, mr_err *err)
{
    return mri_checkpoint_open_with(NULL, step_dir, out, err);
}

mr_status mri_checkpoint_open_with(const mri_peers *p, const char *step_dir, mri_checkpoint **out,
                                   mr_err *err)
{
    mri_checkpoint *c = mri_alloc(sizeof *c);
    char *manifest = mri_format("%s/" MRI_MANIFEST, step_dir);
    mr_status st = 0;
    *out = NULL;
    MR_TRY(mri_peers_agree(p, mri_manifest_read(manifest, &c->manifest, err), err));
    st = open_files(c, p, step_dir, err);
    if (!st)
        st = mri_checkpoint_link(c, step_dir, err);
    if (!st)
        st = mri_checkpoint_list_groups(c, step_dir, err);
    MR_TRY(mri_peers_agree(p, st, err));
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
    return mri_checkpoint_open_newest_with(NULL, dir, out, err);
}

/* The newest as rank 0 sees it, so that all open the same. -1: there is none. */
static mr_status agree_on_step(const mri_peers *p, int64_t *newest, mr_err *err)
{
    int64_t *all = mri_alloc((mri_peers_alone(p) ? 1 : p->n) * sizeof *all);
    mr_status st = mri_peers_gather(p, newest, sizeof *newest, all, err);
    *newest = all[0];
    free(all);
    return st;
}

mr_status mri_checkpoint_open_newest_with(const mri_peers *p, const char *dir,
                                          mri_checkpoint **out, mr_err *err)
{
    int64_t *steps = NULL, newest;
    size_t n = 0;
    char *name = NULL, *path = NULL, *older = NULL;
    bool first = mri_peers_alone(p) || !p->rank;
    mr_status st = 0;
    *out = NULL;
    if (first) {
        mri_checkpoint_sweep(dir);
        st = mri_checkpoint_list(dir, &steps, &n, err);
    }
    MR_TRY(mri_peers_agree(p, st, err));
    newest = n ? steps[0] : -1;
    MR_TRY(agree_on_step(p, &newest, err));
    if (newest < 0)
        goto out;
    name = mri_checkpoint_name(newest);
    path = mri_format("%s/%s", dir, name);
    st = mri_checkpoint_open_with(p, path, out, err);
    if (st == MR_E_STORE_MISSING)
        st = DAMAGED("%s is damaged: its %s is missing", path, MRI_MANIFEST);
    if (st && first) {
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
    for (size_t i = 0; i < c->sets.n; i++)
        mri_safetensors_close(c->sets.v[i]);
    free(c->groups.v);
    free(c->sets.v);
    free(c->profile);
    mri_manifest_free(&c->manifest);
    free(c);
}
