/* SPDX-License-Identifier: Apache-2.0
 *
 * persist.c - a session to and from files: checkpoints, and weights from a Hugging Face
 * folder (read by load.c). A checkpoint holds logical tensors under their full names, never the
 * flat layout, so that another grouping, precision or (later) mesh can read it.
 */
#include "load.h"
#include "load_box.h"
#include "local.h"
#include "saver.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

/* A tensor to be written: in place on host memory, else a host copy. */
typedef struct outgoing {
    MRI_VEC(mri_tensor) tensors;
    MRI_VEC(void *) copies;
    MRI_VEC(char *) names;
} outgoing;

/* `data` NULL: the parameter's exact value, put together from its halves */
static mr_status add(mri_session *s, outgoing *o, char *name, const mri_tensor_slot *slot,
                     const char *dtype, const void *data, mr_err *err)
{
    mri_tensor t = { name, mri_slot_stored(slot), data };
    t.type.dtype = dtype;
    MRI_PUSH(&o->names, name);
    if (!s->device.host_memory || !data) {
        void *copy = mri_alloc(mr_bytes(&t.type));
        MRI_PUSH(&o->copies, copy);
        t.data = copy;
        mr_status st = data ? mri_device_read(&s->device, copy, data, mr_bytes(&t.type), err)
                            : mri_params_get(&s->params, &s->device, slot, copy, err);
        if (st)
            return st;
    }
    MRI_PUSH(&o->tensors, t);
    return 0;
}

static void outgoing_free(outgoing *o)
{
    for (size_t i = 0; i < o->copies.n; i++)
        free(o->copies.v[i]);
    for (size_t i = 0; i < o->names.n; i++)
        free(o->names.v[i]);
    free(o->copies.v);
    free(o->names.v);
    free(o->tensors.v);
}

/* where parameter `slot`'s part of a group's state lies */
static char *state_part(const mri_session *s, const mri_opt_state *x, const mri_tensor_slot *slot)
{
    return mri_update_state(s->update, x, slot->at);
}

/* ---- progress -------------------------------------------------------------------------------- */

static const char SEEN[] = "first_losses", MOST[] = "largest_first_loss"; /* mri_spikes */

mri_checkpoint_meta mri_session_meta(mri_session *s, const char *profile)
{
    mri_spikes *x = &s->spikes;
    mri_checkpoint_meta m = { s->done.step, s->done.samples, s->done.tokens,
                              profile ? profile : "", { 0 } };
    x->counters[0] = mr_ai(SEEN, x->seen);
    x->counters[1] = mr_af(MOST, x->most);
    m.counters.v = x->counters;
    m.counters.n = x->seen ? 2 : 0;
    return m;
}

/* ---- of several ranks, or behind training ---------------------------------------------------- */

static mr_status gather(void *ctx, const void *mine, uint64_t bytes, void *all, mr_err *err)
{
    return mri_world_gather(ctx, mine, bytes, all, err);
}

static mr_status agree(void *ctx, mr_status st, mr_err *err)
{
    return mri_world_agree(ctx, st, err);
}

mri_peers mri_session_peers(const mri_session *s)
{
    if (mri_world_alone(s->world))
        return (mri_peers){ .n = 1 };
    return (mri_peers){ s->world->mesh.rank, s->world->mesh.world, gather, agree, s->world };
}

static const mri_mesh *mesh_of(const mri_session *s)
{
    return s->world ? &s->world->mesh : NULL;
}

static mr_status save_shares(mri_session *s, const char *dir, int64_t keep, bool behind,
                             mr_err *err)
{
    const mri_peers p = mri_session_peers(s);
    bool flat = !strcmp(s->config->checkpoint.format, "dp_reshardable");
    if (!s->saver)
        s->saver = mri_saver_create(s);
    return mri_saver_begin(s->saver, &p, mesh_of(s),
                           flat ? MRI_SHARES_FLAT : MRI_SHARES_LOGICAL, dir, keep, behind, err);
}

mr_status mri_session_save_behind(mri_session *s, const char *dir, int64_t keep, mr_err *err)
{
    return save_shares(s, dir, keep, true, err);
}

mr_status mri_session_saved(mri_session *s, bool wait, int64_t *step, mr_err *err)
{
    *step = -1;
    return s->saver ? mri_saver_poll(s->saver, wait, step, err) : 0;
}

mr_status mri_session_save_local(mri_session *s, mr_err *err)
{
    const mri_peers p = mri_session_peers(s);
    return mri_local_save(s, &p, mesh_of(s), s->config->checkpoint.local_dir, err);
}

mr_status mri_session_resume(mri_session *s, const char *dir, bool *found, int64_t *saved,
                             mr_err *err)
{
    const char *local_dir = s->config->checkpoint.local_dir;
    const mri_peers p = mri_session_peers(s);
    mri_checkpoint *ck = NULL, *local = NULL;
    mr_status st = 0;
    *found = false;
    *saved = -1;
    MR_TRY(mri_checkpoint_open_newest_with(&p, dir, &ck, err));
    *saved = ck ? mri_checkpoint_info(ck)->step : -1;
    if (local_dir)
        MR_TRY(mri_local_open(&p, local_dir, *saved, &local, err));
    *found = ck || local;
    if (*found)
        st = mri_session_load(s, local ? local : ck, false, err);
out:
    mri_checkpoint_close(local);
    mri_checkpoint_close(ck);
    return st;
}

/* ---- of this process alone ------------------------------------------------------------------- */

mr_status mri_session_save(mri_session *s, const char *dir, int64_t keep, mr_err *err)
{
    if (mri_session_peers(s).n > 1 || strcmp(s->config->checkpoint.format, "fully_reshardable"))
        return save_shares(s, dir, keep, false, err);
    outgoing model = { 0 }, optimizer = { 0 };
    const mri_params *p = &s->params;
    mr_status st = 0;
    mri_str profile = { 0 };
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_tensor_slot *slot = &p->slots.v[i];
        const char *dtype;
        const void *exact = mri_params_exact(p, slot, &dtype);
        MR_TRY(add(s, &model, mri_strdup(slot->name), slot, dtype, exact, err));
        for (size_t j = 0; s->update && j < s->update->states.n; j++) {
            const mri_opt_state *x = &s->update->states.v[j];
            if (x->group == slot->group)
                MR_TRY(add(s, &optimizer, mri_format("%s.%s", x->name, slot->name), slot,
                           p->acc_dtype, state_part(s, x, slot), err));
        }
    }
    mri_profile_print(s->config->profile, false, &profile);
    mri_checkpoint_meta meta = mri_session_meta(s, profile.s);
    mri_checkpoint_file files[] = { { "model", model.tensors.v, model.tensors.n },
                                    { "optimizer", optimizer.tensors.v, optimizer.tensors.n } };
    MR_TRY(mri_checkpoint_save(dir, &meta, files, optimizer.tensors.n ? 2 : 1, keep, err));
out:
    outgoing_free(&model);
    outgoing_free(&optimizer);
    mri_str_free(&profile);
    return st;
}

static mr_status same_shape(const mri_tensor *t, const mri_tensor_slot *slot, const char *where,
                            mr_err *err)
{
    mr_type own = mri_slot_stored(slot);
    const mr_type *a = &t->type, *b = &own;
    if (a->rank == b->rank && !memcmp(a->dim, b->dim, a->rank * sizeof a->dim[0]))
        return 0;
    mri_str s = { 0 };
    mri_type_print(a, &s);
    mri_str_add(&s, ", the model's is ");
    mri_type_print(b, &s);
    mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER, "%s: tensor %s is %s", where, t->name, s.s);
    mri_str_free(&s);
    return MR_E_STORE_FORMAT;
}

static mr_status missing(const char *where, const char *name, mr_err *err)
{
    mr_fail(err, MR_E_STORE_MISSING, MR_BLAME_USER, "%s has no tensor %s", where, name);
    mr_hint(err, "mrun inspect %s lists what it holds", where);
    return MR_E_STORE_MISSING;
}

/* Tensors that no parameter is made of are no error (another tower, modules for multi-token
 * prediction); they are told to who listens. */
static void tell_unread(const mri_session *s, const mri_safetensors *f, const mri_quant *q,
                        const mri_pieces *p, const char *where)
{
    const mr_host *h = mri_registry_host(s->registry);
    size_t n = mri_safetensors_count(f), unread = 0;
    const mri_tensor *first = NULL;
    uint8_t *used = mri_alloc(n);
    const mri_stored *part;
    for (size_t i = 0; i < p->list.n; i++)
        for (uint32_t k = 0; (part = mri_stretch_part(&p->list.v[i], k)); k++)
            used[part->data - mri_safetensors_at(f, 0)] = 1;
    for (size_t i = n; i-- > 0;) {
        const mri_tensor *t = mri_safetensors_at(f, i);
        if (used[i] || mri_quant_companion(q, t->name))
            continue;
        unread++;
        first = t;
    }
    free(used);
    if (!unread || !MR_CAN(h, log))
        return;
    char *text = mri_format("%s: %zu of %zu tensors are not read by this model, from %s on; mrun "
                            "inspect lists them", where, unread, n, first->name);
    h->log(h->self, MR_LOG_INFO, "load", text);
    free(text);
}

static mr_status load_weights(mri_session *s, const mri_safetensors *f, const mri_quant *q,
                              const char *where, mr_err *err)
{
    mri_pieces pieces = { 0 }, boxed = { 0 };
    mr_status st = 0;
    for (size_t i = 0; i < s->params.slots.n; i++)
        if (!s->params.slots.v[i].place.rank)
            MR_TRY(mri_pieces_find(f, q, &s->params.slots.v[i], where, &pieces, err));
    if (mri_session_peers(s).n == 1) /* other ranks may read what this one does not */
        tell_unread(s, f, q, &pieces, where);
    MR_TRY(mri_load(&s->params, &s->device, f, &pieces, err));
    for (size_t i = 0; i < s->params.slots.n; i++)
        if (s->params.slots.v[i].place.rank)
            MR_TRY(mri_load_box(&s->params, &s->device, f, q, &s->params.slots.v[i], where,
                                &boxed, err));
out:
    mri_pieces_free(&pieces);
    mri_pieces_free(&boxed);
    return st;
}

static mr_status load_states(mri_session *s, const mri_safetensors *f, mr_err *err)
{
    mri_pieces pieces = { 0 };
    mr_status st = 0;
    for (size_t i = 0; i < s->params.slots.n && !st; i++)
        for (size_t j = 0; j < s->update->states.n && !st; j++) {
            const mri_tensor_slot *slot = &s->params.slots.v[i];
            const mri_opt_state *x = &s->update->states.v[j];
            if (x->group != slot->group)
                continue;
            char *name = mri_format("%s.%s", x->name, slot->name);
            const mri_tensor *t = f ? mri_safetensors_find(f, name) : NULL;
            st = t ? same_shape(t, slot, "the checkpoint", err)
                   : missing("the checkpoint", name, err);
            free(name);
            if (!st && !mr_is(&t->type, s->params.acc_dtype))
                st = mr_fail(err, MR_E_STORE_FORMAT, MR_BLAME_USER,
                             "the checkpoint: %s is %s, this run keeps %s", t->name, t->type.dtype,
                             s->params.acc_dtype);
            if (st)
                break;
            mri_stretch piece = { slot, 0, mr_numel(&t->type),
                                  { .name = t->name, .type = t->type, .data = t }, NULL,
                                  state_part(s, x, slot) };
            MRI_PUSH(&pieces.list, piece);
        }
    if (!st && pieces.list.n)
        st = mri_load(&s->params, &s->device, f, &pieces, err);
    mri_pieces_free(&pieces);
    return st;
}

static void go_on_from(mri_session *s, const mri_checkpoint_meta *meta)
{
    s->done = (mri_progress){ meta->step, meta->samples, meta->tokens };
    s->spikes = (mri_spikes){ 0 };
    for (size_t i = 0; i < meta->counters.n; i++) {
        const mr_attr *a = &meta->counters.v[i];
        if (!strcmp(a->key, SEEN) && a->type == MR_A_I64)
            s->spikes.seen = a->u.i;
        if (!strcmp(a->key, MOST))
            s->spikes.most = a->type == MR_A_F64 ? a->u.f : (double)a->u.i;
    }
}

/* A checkpoint of several ranks, or into a session that has a part of the model only. */
static mr_status load_shares(mri_session *s, const mri_checkpoint *c, bool weights_only,
                             mr_err *err)
{
    const mri_peers p = mri_session_peers(s);
    bool states = !weights_only && s->update;
    mr_status st = mri_shares_load(s, mesh_of(s), c, !states, err);
    if (!st && !weights_only)
        go_on_from(s, mri_checkpoint_info(c));
    st = mri_peers_agree(&p, st, err);
    return st || !s->dp ? st : mri_dp_updated(s->dp, err); /* a local one has own pieces alone */
}

mr_status mri_session_load(mri_session *s, const mri_checkpoint *c, bool weights_only, mr_err *err)
{
    if (mri_session_peers(s).n > 1 || mri_checkpoint_format(c))
        return load_shares(s, c, weights_only, err);
    const mri_safetensors *model = mri_checkpoint_group(c, "model");
    const mri_safetensors *optimizer = mri_checkpoint_group(c, "optimizer");
    mr_status st = 0;
    if (!model)
        return missing("the checkpoint", "model (the whole file)", err);
    st = load_weights(s, model, NULL, "the checkpoint", err);
    if (st || weights_only)
        return st;
    go_on_from(s, mri_checkpoint_info(c));
    return s->update ? load_states(s, optimizer, err) : 0;
}

mr_status mri_session_load_hf(mri_session *s, const char *dir, mr_err *err)
{
    mri_safetensors *f = NULL;
    mri_quant *q = NULL;
    mr_status st = 0;
    MR_TRY(mri_safetensors_open_folder(dir, &f, err));
    MR_TRY(mri_quant_open(dir, &q, err));
    MR_TRY(load_weights(s, f, q, dir, err));
out:
    mri_quant_free(q);
    mri_safetensors_close(f);
    return st;
}

static bool has_weights(const char *dir)
{
    static const char *const names[] = { "model.safetensors", "model.safetensors.index.json" };
    struct stat sb;
    bool found = false;
    for (int i = 0; dir && i < 2; i++) {
        char *path = mri_format("%s/%s", dir, names[i]);
        found |= stat(path, &sb) == 0;
        free(path);
    }
    return found;
}

mr_status mri_session_init_weights(mri_session *s, mr_err *err)
{
    if (has_weights(s->config->model.hf))
        return mri_session_load_hf(s, s->config->model.hf, err);
    return mri_params_init(&s->params, &s->device, (uint64_t)s->config->model.sizes.seed, err);
}
