/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_read.c - any share of any tensor of an open checkpoint, whoever wrote it and however it
 * was cut then. What is read lies in maps, so only the pages that hold the share are read.
 *
 * A checkpoint of one rank is read here too: each of its tensors is one part, whole.
 */
#include "dtype.h"
#include "internal.h"
#include <inttypes.h>
#include <stdlib.h>

#define DAMAGED(...) mr_fail(err, MR_E_STORE_CHECKSUM, MR_BLAME_ENV, __VA_ARGS__)

/* Where each part lies in the files that are open now: as many elements as the manifest says? */
mr_status mri_checkpoint_link(mri_checkpoint *c, const char *dir, mr_err *err)
{
    mri_shards *s = &c->manifest.shards;
    for (size_t i = 0; i < s->tensors.n; i++)
        for (size_t k = 0; k < s->tensors.v[i].parts.n; k++) {
            mri_part *p = &s->tensors.v[i].parts.v[k];
            const mri_safetensors *f = c->sets.v[p->file];
            const mri_tensor *t = f ? mri_safetensors_find(f, p->as) : NULL;
            const char *file = c->manifest.files.v[p->file].file;
            if (!t)
                return DAMAGED("%s/%s does not have %s, which its manifest says is there", dir,
                               file, p->as);
            if (strcmp(t->type.dtype, p->f.dtype) ||
                (uint64_t)mr_numel(&t->type) != p->f.to - p->f.from)
                return DAMAGED("%s/%s: %s is not what its manifest says: %s, %" PRId64 " elements",
                               dir, file, p->as, t->type.dtype, mr_numel(&t->type));
            p->f.data = t->data;
        }
    return 0;
}

static mr_type whole_type(const mri_shard_tensor *t)
{
    mr_type x = { .size = sizeof x, .dtype = t->dtype, .rank = t->whole.rank };
    memcpy(x.dim, t->whole.full, sizeof x.dim);
    return x;
}

/* A set a group, of the whole tensors; those in one part have their data, the others none yet. */
mr_status mri_checkpoint_list_groups(mri_checkpoint *c, const char *dir, mr_err *err)
{
    const mri_shards *s = &c->manifest.shards;
    mr_status st = 0;
    for (size_t i = 0; i < s->tensors.n && !st; i++) {
        const mri_shard_tensor *t = &s->tensors.v[i];
        if (!i || strcmp(t->group, t[-1].group)) {
            mri_checkpoint_set g = { mri_strdup(t->group), mri_safetensors_empty() };
            MRI_PUSH(&c->groups, g);
        }
        mr_type type = whole_type(t);
        mri_safetensors *set = c->groups.v[c->groups.n - 1].tensors;
        mri_safetensors_put(set, t->name, &type, t->parts.n == 1 ? t->parts.v[0].f.data : NULL);
        if (i + 1 == s->tensors.n || strcmp(t->group, t[1].group))
            st = mri_safetensors_seal(set, dir, err);
    }
    return st;
}

mr_status mri_checkpoint_join(mri_checkpoint *c, const char *group, mr_err *err)
{
    mri_safetensors *set = (mri_safetensors *)(uintptr_t)mri_checkpoint_group(c, group);
    mr_status st = 0;
    /* of one with a layout only the model may be tensors, and that only if all ranks wrote it */
    if (c->manifest.layout && (strcmp(group, "model") || !strcmp(c->manifest.format, "local"))) {
        mr_fail(err, MR_E_STORE_LAYOUT, MR_BLAME_USER,
                "group %s of the checkpoint has ranks' buffers as they lay, not tensors", group);
        mr_detail(err, "its layout: %s", c->manifest.layout);
        mr_hint(err, "resume under that mesh with [checkpoint] format = fully_reshardable");
        return MR_E_STORE_LAYOUT;
    }
    for (size_t i = 0; set && i < mri_safetensors_count(set) && !st; i++) {
        const mri_tensor *t = mri_safetensors_at(set, i);
        uint64_t n = (uint64_t)mr_numel(&t->type);
        if (t->data || !n)
            continue;
        mri_share all = { .name = t->name, .dtype = t->type.dtype,
                             .box = mri_box_whole(&t->type), .to = n };
        void *to = mri_alloc(n * mr_dtype_bytes(t->type.dtype));
        st = mri_checkpoint_read(c, group, &all, 0, n, to, err);
        mri_safetensors_fill(set, i, to);
    }
    return st;
}

/* ---- reading ------------------------------------------------------------------------------- */

bool mri_checkpoint_find(const mri_checkpoint *c, const char *group, const char *name,
                         mr_type *type)
{
    const mri_safetensors *set = mri_checkpoint_group(c, group);
    const mri_tensor *t = set ? mri_safetensors_find(set, name) : NULL;
    if (t)
        *type = t->type;
    return t != NULL;
}

static bool is_whole(const mri_box *b)
{
    return mri_box_count(b) == mri_box_full(b);
}

/* A whole box is a line of elements, in whatever shape it is told. */
static void reshape(mri_box *b, const mri_box *like)
{
    mri_box whole = *like;
    for (uint32_t d = 0; d < whole.rank; d++) {
        whole.at[d] = 0;
        whole.dim[d] = whole.full[d];
    }
    *b = whole;
}

static bool same_shape(mri_share *want, mri_share *have)
{
    if (mri_box_same_full(&want->box, &have->box))
        return true;
    if (mri_box_full(&want->box) != mri_box_full(&have->box))
        return false;
    if (is_whole(&have->box))
        reshape(&have->box, &want->box);
    else if (is_whole(&want->box))
        reshape(&want->box, &have->box);
    else
        return false;
    return true;
}

static mr_status other_shape(const mri_share *want, const mri_share *have, mr_err *err)
{
    mri_str s = { 0 };
    mri_box_print(&have->box, &s);
    mri_str_add(&s, ", wanted is ");
    mri_box_print(&want->box, &s);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "the checkpoint's %s has another shape",
            want->name);
    mr_detail(err, "%s", s.s);
    mr_hint(err, "is it a checkpoint of another model?");
    mri_str_free(&s);
    return MR_E_STORE_FORMAT;
}

/* Copies what part `have` has of `want`; *left counts what is still missing. */
static mr_status read_part(const mri_share *want, const mri_share *have, void *out,
                           uint64_t *left, mr_err *err)
{
    mri_share a = *want, b = *have;
    if (!same_shape(&a, &b))
        return other_shape(want, have, err);
    *left -= mri_share_copy(&a, out, &b, b.data, mr_dtype_bytes(b.dtype));
    return 0;
}

mr_status mri_checkpoint_read(const mri_checkpoint *c, const char *group, const mri_share *want,
                              uint64_t first, uint64_t n, void *out, mr_err *err)
{
    const mri_shard_tensor *s = mri_shards_find(&c->manifest.shards, group, want->name);
    const mri_safetensors *set = mri_checkpoint_group(c, group);
    const mri_tensor *t = set ? mri_safetensors_find(set, want->name) : NULL;
    mri_share w = *want;
    uint64_t left = n;
    mr_status st = 0;
    if (!t)
        return mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "the checkpoint has no tensor %s",
                       want->name);
    w.from = first;
    w.to = first + n;
    if (!s) {
        mri_share all = { .name = t->name, .dtype = t->type.dtype,
                             .box = mri_box_whole(&t->type), .to = (uint64_t)mr_numel(&t->type),
                             .data = t->data };
        st = read_part(&w, &all, out, &left, err);
    }
    for (size_t k = 0; s && k < s->parts.n && left && !st; k++)
        st = read_part(&w, &s->parts.v[k].f, out, &left, err);
    if (!st && left)
        st = mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "%" PRIu64 " of %" PRIu64
                     " elements of %s were not found in the checkpoint", left, n, want->name);
    return st;
}

const char *mri_checkpoint_format(const mri_checkpoint *c)
{
    return c->manifest.format;
}

const char *mri_checkpoint_layout(const mri_checkpoint *c)
{
    return c->manifest.layout;
}

const mri_shards *mri_checkpoint_shards(const mri_checkpoint *c)
{
    return &c->manifest.shards;
}
