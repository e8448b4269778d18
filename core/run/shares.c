/* SPDX-License-Identifier: Apache-2.0
 *
 * shares.c - see shares.h.
 *
 * Loading goes through one buffer of PART elements: from the checkpoint's maps, cut anew, to
 * wherever this rank keeps the elements. Ranges that it does not keep are not read.
 */
#include "shares.h"
#include <stdlib.h>
#include <string.h>

enum { PART = 1 << 20 }; /* elements that are read at a time */

mri_share mri_share_of_slot(const mri_tensor_slot *slot)
{
    mri_share f = { .name = slot->name, .to = slot->n };
    mr_type stored = mri_slot_stored(slot);
    /* a parameter that is cut is known by the dims that were cut, whatever files say */
    f.box = slot->place.rank ? mri_box_of(&slot->desc.type, &slot->place) : mri_box_whole(&stored);
    return f;
}

/* ---- what is saved ------------------------------------------------------------------------- */

static mr_status get(void *ctx, const mri_share *f, uint64_t first, uint64_t n, void *out,
                     mr_err *err)
{
    mri_session_shares *x = ctx;
    mri_session *s = x->session;
    return mri_fragment_read(&s->params, &s->device, &x->fragments.v[f->key], first - f->from, n,
                             out, err);
}

void mri_shares_add(mri_session_shares *x, bool optimizer, char *name, const mri_box *box,
                    const mri_fragment *f)
{
    mri_share share = { .name = name, .dtype = f->dtype, .box = *box, .from = f->from, .to = f->to,
                        .data = x->session->device.host_memory ? f->data : NULL,
                        .holder = &x->holder, .key = x->fragments.n };
    MRI_PUSH(&x->fragments, *f);
    MRI_PUSH(&x->names, name);
    if (optimizer)
        MRI_PUSH(&x->optimizer, share);
    else
        MRI_PUSH(&x->model, share);
}

static void add_logical(mri_session_shares *x, const mri_mesh *mesh, bool states)
{
    mri_session *s = x->session;
    mri_fragments all = { 0 };
    for (size_t i = 0; i < s->params.slots.n; i++)
        mri_fragments_of(&s->params, s->update, mesh, &s->params.slots.v[i], &all);
    for (size_t i = 0; i < all.n; i++) {
        const mri_fragment *f = &all.v[i];
        mri_share like = mri_share_of_slot(f->slot);
        if (f->state && !states)
            continue;
        mri_shares_add(x, f->state != NULL,
                       f->state ? mri_format("%s.%s", f->state, f->slot->name)
                                : mri_strdup(f->slot->name), &like.box, f);
    }
    free(all.v);
}

void mri_shares_make(mri_session *s, const mri_mesh *mesh, enum mri_shares_kind kind,
                     mri_session_shares *x)
{
    mri_mesh alone;
    mri_mesh_alone(&alone);
    mesh = mesh ? mesh : &alone;
    memset(x, 0, sizeof *x);
    x->session = s;
    x->holder = (mri_share_holder){ get, x };
    if (kind != MRI_SHARES_LOCAL)
        add_logical(x, mesh, kind == MRI_SHARES_LOGICAL);
    if (kind == MRI_SHARES_FLAT)
        mri_shares_flat(x, mesh);
    if (kind == MRI_SHARES_LOCAL)
        mri_shares_local(x, mesh);
    x->group[0] = (mri_shard_group){ "model", x->model.v, x->model.n };
    x->group[1] = (mri_shard_group){ "optimizer", x->optimizer.v, x->optimizer.n };
    x->n_groups = s->update ? 2 : 1;
}

void mri_shares_free(mri_session_shares *x)
{
    for (size_t i = 0; i < x->names.n; i++)
        free(x->names.v[i]);
    free(x->names.v);
    free(x->model.v);
    free(x->optimizer.v);
    free(x->fragments.v);
    free(x->layout);
    memset(x, 0, sizeof *x);
}

static const char *const kinds[] = { "fully_reshardable", "dp_reshardable", "local" };

const char *mri_shares_kind_name(enum mri_shares_kind kind)
{
    return kinds[kind];
}

/* ---- what is loaded ------------------------------------------------------------------------ */

static mr_status stored_dtype(const mri_checkpoint *c, const char *group, const char *name,
                              const char **dtype, mr_err *err)
{
    mr_type type;
    if (mri_checkpoint_find(c, group, name, &type)) {
        *dtype = type.dtype;
        return 0;
    }
    mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "the checkpoint has no tensor %s", name);
    mr_hint(err, "is it of another model? mrun inspect lists what it holds");
    return MR_E_STORE_MISSING;
}

/* All that this rank keeps of a parameter: what blocks read may be more than what it updates. */
static mr_status load_slot(mri_session *s, const mri_checkpoint *c, const mri_tensor_slot *slot,
                           void *room, mr_err *err)
{
    mri_share want = mri_share_of_slot(slot);
    mr_status st = stored_dtype(c, "model", slot->name, &want.dtype, err);
    for (uint64_t i = 0, n; i < slot->n && !st; i += n) {
        bool held;
        n = mri_params_span(&s->params, slot, i, &held);
        if (!held)
            continue;
        n = n < PART ? n : PART;
        st = mri_checkpoint_read(c, "model", &want, i, n, room, err);
        if (!st)
            st = mri_params_set_part(&s->params, &s->device, slot, i, n, room, want.dtype, err);
    }
    return st;
}

/* What was saved under the same name as this rank's share, to where the share lies. */
static mr_status load_share(mri_session_shares *x, const mri_checkpoint *c, const char *group,
                            const mri_share *f, void *room, mr_err *err)
{
    mri_session *s = x->session;
    const mri_fragment *g = &x->fragments.v[f->key];
    mri_share want = *f;
    mr_status st = stored_dtype(c, group, f->name, &want.dtype, err);
    if (!st && strcmp(want.dtype, f->dtype))
        st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                     "the checkpoint: %s is %s, this run keeps %s", f->name, want.dtype, f->dtype);
    for (uint64_t i = f->from, n; i < f->to && !st; i += n) {
        n = f->to - i < PART ? f->to - i : PART;
        st = mri_checkpoint_read(c, group, &want, i, n, room, err);
        if (!st)
            st = mri_fragment_write(&s->params, &s->device, g, i - f->from, n, room, err);
    }
    return st;
}

/* Which of its kinds the checkpoint is, and whether it is this mesh's where that matters. */
static mr_status kind_of(const mri_checkpoint *c, enum mri_shares_kind *kind, mr_err *err)
{
    const char *format = mri_checkpoint_format(c);
    for (*kind = 0; format && *kind < sizeof kinds / sizeof *kinds; (*kind)++)
        if (!strcmp(format, kinds[*kind]))
            return 0;
    *kind = MRI_SHARES_LOGICAL; /* of one rank */
    return !format ? 0 : mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                                 "the checkpoint's sharding is %s, which this mrun does not know",
                                 format);
}

static mr_status check_layout(const mri_checkpoint *c, const mri_session_shares *x, mr_err *err)
{
    const char *its = mri_checkpoint_layout(c);
    if (!x->layout || !its || !strcmp(its, x->layout))
        return 0;
    mr_fail(err, MR_E_STORE_LAYOUT, MR_BLAME_USER, "the checkpoint (%s) is of another layout",
            mri_checkpoint_format(c));
    mr_detail(err, "its layout: %s; this run's: %s", its, x->layout);
    mr_hint(err, "[checkpoint] format = fully_reshardable saves what any mesh reads");
    return MR_E_STORE_LAYOUT;
}

mr_status mri_shares_load(mri_session *s, const mri_mesh *mesh, const mri_checkpoint *c,
                          bool weights_only, mr_err *err)
{
    mri_session_shares x = { 0 };
    enum mri_shares_kind kind;
    void *room = mri_alloc(PART * sizeof(double));
    mr_status st = 0;
    MR_TRY(kind_of(c, &kind, err));
    mri_shares_make(s, mesh, kind, &x);
    if (!weights_only || kind == MRI_SHARES_LOCAL)
        MR_TRY(check_layout(c, &x, err));
    for (size_t i = 0; i < s->params.slots.n && kind != MRI_SHARES_LOCAL; i++)
        MR_TRY(load_slot(s, c, &s->params.slots.v[i], room, err));
    for (size_t i = 0; i < x.model.n && kind == MRI_SHARES_LOCAL; i++)
        MR_TRY(load_share(&x, c, "model", &x.model.v[i], room, err));
    for (size_t i = 0; i < x.optimizer.n && !weights_only; i++)
        MR_TRY(load_share(&x, c, "optimizer", &x.optimizer.v[i], room, err));
out:
    mri_shares_free(&x);
    free(room);
    return st;
}
