/* SPDX-License-Identifier: Apache-2.0
 * step.c - see step.h. */
#include "step.h"
#include "core/schedule/lr.h"
#include "core/plan/shard_experts.h"
#include "comm_order.h"
#include "micro.h"
#include "room.h"
#include "stages.h"
#include "timeline.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint32_t mri_steps_pending(const mri_session *s)
{
    return s->n_pending;
}

/* ---- this rank's share --------------------------------------------------------------------- */

static int64_t micros_of_all(const mri_session *s, int64_t rows)
{
    return (rows + s->config->train.micro_batch - 1) / s->config->train.micro_batch;
}

static uint32_t replicas(const mri_session *s, uint32_t *index)
{
    *index = s->world ? s->world->mesh.i_dp : 0;
    return s->world ? s->world->mesh.dp : 1;
}

uint32_t mri_micros_of(const mri_session *s, int64_t rows)
{
    uint32_t ignored, n = replicas(s, &ignored);
    return (uint32_t)((micros_of_all(s, rows) + n - 1) / n);
}

/* ---- what the device does ------------------------------------------------------------------ */

/* Gradients are summed over ranks. */
static mr_status update(mri_session *s, mr_err *err)
{
    mr_status st = mri_update_launch(s->update, true, err);
    st = st ? st : mri_balance_launch(s->balance, err);
    st = st || !s->dp ? st : mri_dp_updated(s->dp, err);
    return st ? st : mri_feed_store_scalars(&s->feed, err);
}

static mr_status run_block(mri_session *s, const mri_item *it, uint8_t phase, mr_err *err)
{
    bool first = phase != MRI_F && !it->micro_batch;
    if (s->balance && mri_stages_zipped(s)) { /* routers, too, ask whether the batch is blank */
        mr_status st = mri_feed_load_seed(&s->feed, it->micro_batch, err);
        if (st)
            return st;
    }
    if (it->pieces > 1)
        return mri_exec_run_piece(s->train, it->slot, it->instance, phase, first, it->piece, err);
    return (first ? mri_exec_run_first : mri_exec_run_in)(s->train, it->slot, it->instance, phase,
                                                          err);
}

static mr_status run_item(void *ctx, const mri_item *it, mr_err *err)
{
    mri_session *s = ctx;
    mr_status st;
    switch (it->kind) {
    case MRI_ITEM_ZERO:
        if (s->dp)
            mri_dp_begin(s->dp, true);
        if ((st = mri_balance_zero(s->balance, err)))
            return st;
        return mri_exec_zero(s->train, MRI_AT_START, err);
    case MRI_ITEM_LOAD: return mri_feed_load(&s->feed, it->micro_batch, it->chunk, it->slot, err);
    case MRI_ITEM_SEED: return mri_feed_load_seed(&s->feed, it->micro_batch, err);
    case MRI_ITEM_F: return run_block(s, it, MRI_F, err);
    case MRI_ITEM_B:
    case MRI_ITEM_W:
        if (s->dp)
            s->dp->last = it->micro_batch + 1 == s->schedule.micro_batches;
        return run_block(s, it, it->kind == MRI_ITEM_B ? MRI_B : MRI_W, err);
    case MRI_ITEM_SEND:
    case MRI_ITEM_RECEIVE:
    case MRI_ITEM_WAIT:
    case MRI_ITEM_TIES: return mri_relay_run(&s->relay, s->train, it, err);
    case MRI_ITEM_LOSS:
        return mri_feed_store_losses(&s->feed, it->micro_batch, it->chunk, it->slot, err);
    case MRI_ITEM_UPDATE:
        st = s->dp ? mri_dp_finish(s->dp, err) : 0;
        return st ? st : update(s, err);
    }
    return mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST, "schedule: item of kind %u", it->kind);
}

/* Made anew where the number of micro-batches changes. */
mr_status mri_step_order(mri_session *s, uint32_t micros, mr_err *err)
{
    mri_schedule *plan = &s->schedule;
    const mri_stage *stage = &s->relay.stage;
    mri_pipeline p;
    if (plan->micro_batches == micros)
        return 0;
    mri_schedule_free(plan);
    bool alone = mri_relay_alone(&s->relay), zipped = mri_stages_zipped(s);
    uint32_t n = mri_exec_instances(s->train);
    mri_seams *seams = zipped ? mri_stages_seams(s->train) : NULL;
    mr_status st = 0;
    if (!alone)
        MR_TRY(mri_relay_pipeline(&s->relay, &s->config->mesh, s->train->opt.plan.split_w, micros,
                                  &p, err));
    if (!alone)
        mri_schedule_stage(plan, &p, stage->index, stage->blocks.v, seams, n, stage->tied.n > 0);
    else if (zipped && micros > 1)
        mri_schedule_zipped(plan, seams, n, micros);
    else
        mri_schedule_single(plan, n, micros, s->train->opt.plan.split_w);
    if (!alone)
        mri_pipeline_free(&p);
    MR_TRY(mri_schedule_verify(plan, err));
    if (zipped)
        st = mri_comm_order_agree(s->world, s->train, plan, err);
out:
    free(seams);
    return st;
}

/* The whole step, or all of it but the update. */
static mr_status launch(mri_session *s, uint32_t micros, bool update, mr_err *err)
{
    mri_schedule *plan = &s->schedule;
    mr_status st = mri_step_order(s, micros, err);
    if (st)
        return st;
    uint32_t n = (uint32_t)plan->items.n - !update;
    uint64_t key = mri_hash(mri_exec_key(s->train), &n, sizeof n); /* n says how many micro-batches */
    char *obstacle = mri_update_obstacle(s->update);
    if (!obstacle)
        obstacle = mri_balance_obstacle(s->balance);
    mri_work w = { "train", key, plan->items.v, n, s->train, obstacle, run_item, s };
    st = mri_graphs_run(&s->graphs, &w, err);
    if (!st && !update && s->dp)
        st = mri_dp_finish(s->dp, err);
    free(obstacle);
    return st;
}

/* The same, recorded. */
static mr_status launch_watched(mri_session *s, uint32_t micros, bool update, mr_err *err)
{
    const char *dir = s->config->run.dir;
    char *path = mri_format("%s/timeline.json", dir ? dir : ".");
    mr_err later = MR_ERR_INIT;
    mri_timeline t;
    mr_status st = mri_timeline_begin(&t, &s->device, s->world, err), end;
    st = st ? st : launch(s, micros, update, err);
    end = mri_timeline_end(&t, st ? &later : err);
    st = st ? st : end;
    st = st ? st : mri_timeline_write(&t, path, err);
    mri_timeline_free(&t);
    free(path);
    return st;
}

/* ---- what the host gives ------------------------------------------------------------------- */

static mr_status read_batch(mri_session *s, mri_pending *p, double *weight, mr_err *err)
{
    int64_t first = s->done.samples, end = first + p->result.samples;
    int64_t size = s->config->train.micro_batch;
    uint32_t mine, n = replicas(s, &mine);
    mr_data_set set;
    uint32_t train = mri_session_find_set(s, "train", &set);
    mr_status st = 0;
    if (train == UINT32_MAX)
        return mr_fail(err, MR_E_DATA_SHORT, MR_BLAME_USER, "the data plugin has no set 'train'");
    for (uint32_t i = 0; i < p->micros && !st; i++) {
        mri_micro m = mri_micro_at(mri_feed_fields(&s->feed, p->slot, i), &s->train->opt);
        weight[i] = 0;
        st = mri_micro_read(s, &m, train, first + ((int64_t)i * n + mine) * size, end, &weight[i],
                            err);
        p->result.weight += weight[i];
    }
    if (!st && n > 1) /* the ranks of a replica have read the same */
        st = mri_world_sum(s->world, MRI_GROUP_DP, &p->result.weight, 1, err);
    return st;
}

/* The loss of a token counts 1 / (those of the global batch that count), or, per micro-batch,
 * the mean of the micro-batches' means. What is blank counts nothing, auxiliary losses neither. */
static void put_seeds(mri_session *s, mri_pending *p, const double *weight)
{
    bool per_token = strcmp(s->config->train.loss, "per_micro_batch") != 0;
    for (uint32_t i = 0; i < p->micros; i++) {
        double scale = per_token ? p->result.weight
                                 : (weight[i] > 1 ? weight[i] : 1) *
                                       (double)micros_of_all(s, p->result.samples);
        double seed = scale > 0 && i < p->read ? 1 / scale : 0;
        mri_feed_seed(&s->feed, p->slot, i, s->spoil ? seed * s->spoil : seed);
    }
    p->spoil = s->spoil;
    s->spoil = 0;
}

typedef struct put_to {
    mri_feed *feed;
    uint32_t slot;
} put_to;

static void put_scalar(void *ctx, const char *name, double value)
{
    const put_to *to = ctx;
    mri_feed_scalar(to->feed, to->slot, name, value);
}

/* ---- what comes back ----------------------------------------------------------------------- */

static mr_status end(mri_session *s, mri_step_result *out, mr_err *err)
{
    mri_pending *p = &s->pending[(s->begun - s->n_pending) % MRI_FEED_SLOTS];
    mr_status st = mri_feed_await(&s->feed, p->slot, err);
    mri_step_result *r = &p->result;
    if (!st)
        st = mri_step_losses(s, p, r, err);
    if (st)
        return st;
    r->grad_norm = r->spike ? 0 : mri_feed_result(&s->feed, p->slot, "norm");
    r->ok = !r->spike && mri_feed_result(&s->feed, p->slot, "ok") != 0;
    s->n_pending--;
    *out = *r;
    return r->ok || r->spike
               ? 0
               : mri_room_verdict(s, mri_feed_result(&s->feed, p->slot, MRI_ROOM_WANTED), err);
}

/* ---- spikes -------------------------------------------------------------------------------- */

enum { FIRST_LOSSES = 100 };

/* A step whose gradients are made and summed: its loss is awaited, and the update follows unless
 * it is a spike. The first step has nothing to be compared with. */
static mr_status update_unless_spike(mri_session *s, mri_pending *p, mr_err *err)
{
    mri_spikes *x = &s->spikes;
    mri_step_result now = p->result;
    mr_status st = 0;
    MR_TRY(mri_feed_fetch(&s->feed, p->slot, err));
    MR_TRY(mri_feed_await(&s->feed, p->slot, err));
    MR_TRY(mri_step_losses(s, p, &now, err));
    p->result.spike = !x->pass && x->seen && isfinite(now.loss) &&
                      now.loss >= s->config->run.spiky_loss_factor * x->most;
    if (!p->result.spike && !x->pass && x->seen < FIRST_LOSSES && isfinite(now.loss))
        x->most = x->seen++ && x->most > now.loss ? x->most : now.loss;
    x->pass = false;
    if (!p->result.spike)
        MR_TRY(update(s, err));
out:
    return st;
}

/* ---- steps --------------------------------------------------------------------------------- */

static mr_status begin(mri_session *s, bool updates, mr_err *err)
{
    const mri_cfg_optimizer *o = &s->config->optimizer;
    const mri_cfg_train *t = &s->config->train;
    mri_pending *p = &s->pending[s->begun % MRI_FEED_SLOTS];
    int64_t rows = mri_global_batch(t, s->done.samples);
    double *weight = NULL;
    mr_status st = 0;
    MRI_ASSERT(s->n_pending < MRI_FEED_SLOTS);
    memset(p, 0, sizeof *p);
    p->slot = s->begun % MRI_FEED_SLOTS;
    p->before = s->done;
    p->micros = mri_micros_of(s, rows);
    p->read = p->micros;
    uint32_t mine, n = replicas(s, &mine);
    if ((int64_t)(p->micros - 1) * n + mine >= micros_of_all(s, rows))
        p->read--;
    p->result.step = s->done.step + 1;
    p->result.samples = rows;
    p->result.samples_done = s->done.samples + rows;
    p->result.tokens = rows * t->seq;
    p->result.lr = mri_lr(o, s->done.step, t->steps);
    MRI_ASSERT(p->micros <= s->feed.room);
    weight = mri_alloc((p->micros + 1) * sizeof *weight);
    MR_TRY(read_batch(s, p, weight, err));
    put_seeds(s, p, weight);
    put_to to = { &s->feed, p->slot };
    mri_update_scalars(s->update, p->result.lr, o->weight_decay, p->result.step, put_scalar, &to);
    MR_TRY(mri_feed_send(&s->feed, p->slot, p->micros, err));
    bool recorded = updates && p->result.step == s->config->run.timeline;
    bool looks = updates && s->config->run.check_for_spiky_loss;
    MR_TRY((recorded ? launch_watched : launch)(s, p->micros, updates && !looks, err));
    if (looks)
        MR_TRY(update_unless_spike(s, p, err));
    MR_TRY(mri_feed_fetch(&s->feed, p->slot, err));
    s->begun++;
    s->n_pending++;
    if (updates) {
        s->done.step++;
        s->done.samples += p->result.samples;
        s->done.tokens += p->result.tokens;
    }
out:
    free(weight);
    return st;
}

/* Nothing was changed since the bad step began, so all is as it was then; those behind it are
 * awaited only because their copies are under way. */
static mr_status forget_bad(mri_session *s, mr_err *err)
{
    mri_progress before = s->pending[(s->begun - s->n_pending - 1) % MRI_FEED_SLOTS].before;
    mri_step_result dropped;
    mr_status st = 0;
    while (s->n_pending && !st)
        st = end(s, &dropped, err);
    s->done = before;
    return st ? st : mri_update_rearm(s->update, err);
}

mr_status mri_step_begin(mri_session *s, mr_err *err)
{
    return begin(s, true, err);
}

mr_status mri_step_end(mri_session *s, mri_step_result *out, mr_err *err)
{
    MRI_ASSERT(s->n_pending);
    mr_status st = end(s, out, err);
    return st || out->ok ? st : forget_bad(s, err);
}

mr_status mri_session_train_step(mri_session *s, mri_step_result *out, mr_err *err)
{
    MRI_ASSERT(!s->n_pending);
    mr_status st = mri_step_begin(s, err);
    return st ? st : mri_step_end(s, out, err);
}

mr_status mri_session_gradients(mri_session *s, mri_step_result *out, mr_err *err)
{
    MRI_ASSERT(!s->n_pending);
    mr_status st = begin(s, false, err);
    st = st ? st : end(s, out, err);
    return st ? st : mri_room_check(s, err);
}
