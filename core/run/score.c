/* SPDX-License-Identifier: Apache-2.0
 * score.c - see score.h. What single ranks have is brought together on the host: each adds its own
 * elements to zeros, in pieces of PART. */
#include "score.h"
#include "core/ops/zigzag.h"
#include "pictures.h"
#include "room.h"
#include "shares.h"
#include "step.h"
#include <stdlib.h>
#include <string.h>

enum { PART = 1 << 16 }; /* elements that are summed at a time */

/* ---- one sequence a replica ------------------------------------------------------------------ */

int64_t mri_scores_at_a_time(const mri_session *s)
{
    return s->world ? s->world->mesh.dp : 1;
}

static int64_t replica(const mri_session *s)
{
    return s->world ? s->world->mesh.i_dp : 0;
}

/* The sequence, or with q NULL none, in the first rows of a micro-batch of this rank. Over cp the
 * rows behind it continue it, so that it can be cut as any other; nothing looks ahead. */
static mr_status lay(mri_session *s, const mri_exec *e, const mri_scoring *q, mri_micro *m,
                     mr_err *err)
{
    int64_t cp = mri_session_cp(s), all = e->opt.tokens * cp;
    int64_t n = q ? q->n : 0, room = s->whole ? s->config->train.seq : all;
    mr_status st = 0;
    if (n > room)
        return mr_fail(err, MR_E_ARG, MR_BLAME_USER, "%lld tokens, the plan holds %lld",
                       (long long)n, (long long)room);
    st = mri_session_pictures(s, q ? q->pixels : NULL, q ? q->tiles : 0, err);
    if (st)
        return st;
    if (cp == 1) {
        mri_micro_sequence(m, q ? q->ids : NULL, n, s->whole ? room : 1);
        return q ? mri_pictures_place(s, m, n, err) : 0;
    }
    mri_micro whole = mri_micro_new(all);
    mri_micro_sequence(&whole, q ? q->ids : NULL, n, all);
    mri_micro_cut(&whole, all, cp, s->world->mesh.i_cp, m);
    mri_micro_free(&whole);
    return 0;
}

/* Rows of the sequence from this rank's rows of an output [T, row]; the others stay. */
static void place_rows(const mri_session *s, const float *own, int64_t t, size_t row, int64_t n,
                       float *out)
{
    int64_t cp = mri_session_cp(s), index = s->world ? s->world->mesh.i_cp : 0;
    for (int64_t i = 0; i < t; i++) {
        int64_t at = cp > 1 ? mri_zigzag_row(i, t * cp, cp, index) : i;
        if (at < n)
            memcpy(out + (size_t)at * row, own + (size_t)i * row, row * sizeof *out);
    }
}

/* n rows of an output; of ranks that do not have it, nothing. */
static mr_status read_rows(mri_session *s, const char *name, int64_t n, float *out, mr_err *err)
{
    const mr_type *type;
    const void *p = mri_exec_output(s->eval, name, &type);
    int64_t t = s->eval->opt.tokens;
    mr_status st = 0;
    if (!p && !mri_relay_alone(&s->eval_relay))
        return 0; /* another stage has it */
    if (!p || mr_numel(type) % t || mr_numel(type) < t)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                       "no block has the output %s of %lld rows that scoring reads", name,
                       (long long)t);
    size_t row = (size_t)(mr_numel(type) / t);
    int64_t rows = mri_session_cp(s) > 1 || n > t ? t : n;
    size_t count = (size_t)rows * row;
    void *raw = mri_alloc(count * mr_dtype_bytes(type->dtype) + 1);
    float *own = mri_alloc(count * sizeof *own + 1);
    MR_TRY(mri_device_read(&s->device, raw, p, count * mr_dtype_bytes(type->dtype), err));
    MR_TRY(mri_convert(own, "f32", raw, type->dtype, count, err));
    place_rows(s, own, rows, row, n, out);
out:
    free(raw);
    free(own);
    return st;
}

/* `mine`: this rank adds what it has of x; afterwards all have all of it. */
static mr_status add_up(mri_world *w, bool mine, float *x, int64_t n, mr_err *err)
{
    mr_status st = 0;
    if (mri_world_alone(w))
        return 0;
    double *sum = mri_alloc(PART * sizeof *sum);
    for (int64_t at = 0; at < n && !st; at += PART) {
        int64_t k = n - at < PART ? n - at : PART;
        for (int64_t i = 0; i < k; i++)
            sum[i] = mine ? (double)x[at + i] : 0;
        st = mri_world_sum(w, MRI_GROUP_WORLD, sum, (size_t)k, err);
        for (int64_t i = 0; i < k; i++)
            x[at + i] = (float)sum[i];
    }
    free(sum);
    return st;
}

static mr_status forward(mri_session *s, const mri_scoring *q, mr_err *err)
{
    mri_micro m = mri_micro_of(s->eval);
    mr_status st = lay(s, s->eval, q, &m, err);
    mri_batch b = mri_micro_batch(&m, false);
    if (!st)
        st = mri_exec_upload(s->eval, &b, err);
    if (!st)
        st = mri_relay_alone(&s->eval_relay) ? mri_graphs_forward(&s->graphs, s->eval, err)
                                             : mri_relay_forward(&s->eval_relay, s->eval, err);
    mri_micro_free(&m);
    return st;
}

mr_status mri_session_scores(mri_session *s, const mri_scoring *q, int64_t n, mr_err *err)
{
    int64_t own = replica(s), vocab = s->info.vocab;
    bool tells = !s->world || !s->world->mesh.i_tp; /* ranks of tp have the same */
    const mri_scoring *mine = own < n ? &q[own] : NULL;
    mr_status st = 0;
    MRI_ASSERT(n >= 1 && n <= mri_scores_at_a_time(s));
    for (int64_t i = 0; i < n; i++) {
        memset(q[i].nll, 0, (size_t)(q[i].n - 1) * sizeof *q[i].nll);
        if (q[i].logits)
            memset(q[i].logits, 0, (size_t)(q[i].n * vocab) * sizeof *q[i].logits);
    }
    MR_TRY(forward(s, mine, err)); /* also without a sequence: others wait for its collectives */
    MR_TRY(mri_room_check(s, err));
    if (mine && mine->n > 1)
        MR_TRY(read_rows(s, "nll", mine->n - 1, mine->nll, err));
    if (mine && mine->logits)
        MR_TRY(read_rows(s, "logits", mine->n, mine->logits, err));
    for (int64_t i = 0; i < n; i++) {
        MR_TRY(add_up(s->world, tells && i == own, q[i].nll, q[i].n - 1, err));
        if (q[i].logits)
            MR_TRY(add_up(s->world, tells && i == own, q[i].logits, q[i].n * vocab, err));
    }
out:
    return st;
}

mr_status mri_session_score(mri_session *s, const int32_t *ids, int64_t n, float *nll, float *logits,
                            mr_err *err)
{
    mri_scoring q = { ids, n, s->pictures.pixels, s->pictures.tiles, nll, logits };
    return mri_session_scores(s, &q, 1, err);
}

/* ---- gradients ------------------------------------------------------------------------------- */

/* Sequences of a replica that go through the schedule together: chunks of a pipeline that take
 * turns want one a stage. */
static uint32_t in_flight(const mri_session *s)
{
    return s->relay.stage.chunks > 1 ? s->relay.stage.stages : 1;
}

static mr_status run_block(mri_session *s, const mri_item *it, uint8_t phase, bool first,
                           mr_err *err)
{
    if (it->pieces > 1)
        return mri_exec_run_piece(s->train, it->slot, it->instance, phase, first, it->piece, err);
    return (first ? mri_exec_run_first : mri_exec_run_in)(s->train, it->slot, it->instance, phase,
                                                          err);
}

/* n micro-batches through the schedule of a step of so many, without its update. */
static mr_status run_items(mri_session *s, const mri_batch *b, uint32_t n, bool first,
                           bool last, mr_err *err)
{
    mr_status st = mri_step_order(s, n, err);
    for (size_t i = 0; i < s->schedule.items.n && !st; i++) {
        const mri_item *it = &s->schedule.items.v[i];
        bool anew = first && !it->micro_batch;
        switch (it->kind) {
        case MRI_ITEM_ZERO:
            st = first ? mri_exec_zero(s->train, MRI_AT_START, err) : 0;
            break;
        case MRI_ITEM_LOAD:
            st = mri_exec_upload_in(s->train, it->chunk, it->slot, &b[it->micro_batch], err);
            break;
        case MRI_ITEM_F: st = run_block(s, it, MRI_F, false, err); break;
        case MRI_ITEM_B:
        case MRI_ITEM_W:
            if (s->dp)
                s->dp->last = last && it->micro_batch + 1 == n;
            st = run_block(s, it, it->kind == MRI_ITEM_B ? MRI_B : MRI_W, anew, err);
            break;
        case MRI_ITEM_SEND:
        case MRI_ITEM_RECEIVE:
        case MRI_ITEM_WAIT: st = mri_relay_run(&s->relay, s->train, it, err); break;
        default: break; /* TIES once, behind all sequences; no losses, no update */
        }
    }
    return st;
}

static mr_status sum_over_ranks(mri_session *s, mr_err *err)
{
    const mri_item ties = { .kind = MRI_ITEM_TIES };
    mr_status st = s->relay.stage.tied.n ? mri_relay_run(&s->relay, s->train, &ties, err) : 0;
    return st || !s->dp ? st : mri_dp_finish(s->dp, err);
}

mr_status mri_session_score_gradients(mri_session *s, const mri_scoring *q, int64_t n, mr_err *err)
{
    int64_t replicas = mri_scores_at_a_time(s), predicted = 0;
    uint32_t together = in_flight(s);
    int64_t step = replicas * together;
    mri_micro *m = mri_alloc(together * sizeof *m);
    mri_batch *b = mri_alloc(together * sizeof *b);
    mr_status st = 0;
    for (uint32_t k = 0; k < together; k++)
        m[k] = mri_micro_of(s->train);
    for (int64_t i = 0; i < n; i++)
        predicted += q[i].n - 1;
    if (!predicted) {
        st = mr_fail(err, MR_E_ARG, MR_BLAME_USER,
                     "sequences of one token predict nothing: there is no loss, and no gradient");
        goto out;
    }
    if (mri_dp_pieces(s->dp)) {
        st = mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER, "gradients of scores are kept whole, "
                     "and the shard plugin keeps pieces of them");
        mr_hint(err, "set shard.plugin = none");
        goto out;
    }
    MR_TRY(mri_scalar_set(&s->scalars, &s->device, MRI_LOSS_SEED, 1 / (double)predicted, err));
    if (s->dp)
        mri_dp_begin(s->dp, true);
    for (int64_t i = 0; i < n; i += step) {
        for (uint32_t k = 0; k < together; k++) {
            int64_t at = i + k * replicas + replica(s);
            MR_TRY(lay(s, s->train, at < n ? &q[at] : NULL, &m[k], err));
            b[k] = mri_micro_batch(&m[k], false);
        }
        MR_TRY(run_items(s, b, together, !i, i + step >= n, err));
    }
    MR_TRY(sum_over_ranks(s, err));
    MR_TRY(mri_room_check(s, err));
out:
    for (uint32_t k = 0; k < together; k++)
        mri_micro_free(&m[k]);
    free(m);
    free(b);
    return st;
}

/* This rank's box of a gradient, in f32. */
static mr_status read_box(mri_session *s, const mri_tensor_slot *slot, float *out, mr_err *err)
{
    const mri_params *p = &s->params;
    size_t bytes = slot->n * mr_dtype_bytes(p->acc_dtype);
    void *raw = mri_alloc(bytes + 1);
    mr_status st = mri_device_read(&s->device, raw, mri_params_grad(p, slot), bytes, err);
    if (!st)
        st = mri_convert(out, "f32", raw, p->acc_dtype, slot->n, err);
    free(raw);
    return st;
}

mr_status mri_session_whole_gradient(mri_session *s, const mri_tensor_slot *whole, float *out,
                                     bool *found, mr_err *err)
{
    int64_t k = mri_params_find(&s->params, whole->name);
    const mri_tensor_slot *slot = k < 0 ? NULL : &s->params.slots.v[k];
    bool has = slot && mri_params_grad(&s->params, slot);
    bool tells = has && (!s->world || (mri_piece_first(&s->params, slot->at, &s->world->mesh) &&
                                       !slot->twin));
    float *box = NULL;
    mr_status st = 0;
    *found = has;
    MR_TRY(mri_world_any(s->world, found, err));
    if (!*found)
        goto out;
    memset(out, 0, whole->n * sizeof *out);
    if (tells) {
        mri_share own = mri_share_of_slot(slot), all = own;
        memset(all.box.at, 0, sizeof all.box.at);
        memcpy(all.box.dim, all.box.full, sizeof all.box.dim);
        all.to = whole->n;
        box = mri_alloc(slot->n * sizeof *box + 1);
        MR_TRY(read_box(s, slot, box, err));
        mri_share_copy(&all, out, &own, box, sizeof *box);
    }
    MR_TRY(add_up(s->world, tells, out, (int64_t)whole->n, err));
out:
    free(box);
    return st;
}
