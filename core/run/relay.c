/* SPDX-License-Identifier: Apache-2.0
 * relay.c - see relay.h. */
#include "relay.h"
#include "mrun/shard.h"
#include <stdlib.h>
#include <string.h>

/* ---- the stage ------------------------------------------------------------------------------- */

mr_status mri_relay_open(mri_relay *r, mri_world *w, const mri_params *params,
                         const mri_cfg_mesh *cfg, mri_assembly *a, mr_err *err)
{
    memset(r, 0, sizeof *r);
    r->world = w;
    r->params = params;
    r->stage.stages = 1;
    return w && w->mesh.pp > 1 ? mri_stage_cut(a, cfg, w->mesh.i_pp, &r->stage, err) : 0;
}

void mri_relay_close(mri_relay *r)
{
    mri_stage_free(&r->stage);
    free(r->ticket);
    memset(r, 0, sizeof *r);
}

/* A receive that is submitted early stands before what a block sends in the one queue, so with
 * collectives in blocks it is submitted when the other side is ready. */
static bool blocks_talk(const mri_mesh *m)
{
    return m->tp > 1 || m->cp > 1 || m->ep > 1 || m->etp > 1;
}

mr_status mri_relay_pipeline(const mri_relay *r, const mri_cfg_mesh *cfg, bool split_w,
                             uint32_t micros, mri_pipeline *out, mr_err *err)
{
    bool zero_bubble = !strcmp(cfg->schedule, "zero_bubble");
    mri_pipeline_options o = { .stages = r->stage.stages, .chunks = r->stage.chunks,
                               .micros = micros, .group = (uint32_t)cfg->group, .split_w = split_w,
                               .zip = cfg->overlap_moe_expert_parallel_comm,
                               .early = !blocks_talk(&r->world->mesh), .links = r->stage.links.v,
                               .n_links = (uint32_t)r->stage.links.n };
    o.kind = zero_bubble        ? MRI_PIPELINE_ZERO_BUBBLE
             : o.chunks > 1 ? MRI_PIPELINE_INTERLEAVED
                                : MRI_PIPELINE_1F1B;
    return mri_pipeline_make(&o, out, err);
}

mr_status mri_relay_twins(const mri_relay *r, mri_params *p, mr_err *err)
{
    for (size_t i = 0; i < r->stage.tied.n; i++) {
        int64_t k = mri_params_find(p, r->stage.tied.v[i]);
        if (k < 0)
            continue;
        mri_tensor_slot *s = &p->slots.v[k];
        const mri_bucket *b = mri_params_bucket(p, s->at);
        s->twin = r->stage.index > 0;
        if (!b || b->strategy == MR_SHARD_NONE || b->ranks < 2)
            continue;
        mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                "%s lies on two stages of the pipeline, and the shard plugin keeps pieces of it",
                s->name);
        mr_hint(err, "choose the strategy no_shard, or untie the embedding from the head");
        return MR_E_UNSUPPORTED;
    }
    return 0;
}

mri_chunk *mri_relay_chunks(const mri_relay *r, const mri_pipeline *p)
{
    const mri_stage *s = &r->stage;
    mri_chunk *chunks = mri_alloc((s->chunks + 1u) * sizeof *chunks);
    for (uint32_t k = 0; k < s->chunks; k++) {
        chunks[k].n = s->parts.v[k].n;
        chunks[k].slots = p ? p->slots[s->index] : 1;
    }
    return chunks;
}

/* ---- messages -------------------------------------------------------------------------------- */

/* A border's value and its gradient: where they lie in a slot, and their type. */
static void *place_of(const mri_frame *f, bool gradient, const mr_type **type)
{
    const mri_plan *p = f->plan;
    const char *value = p->prog->border == MRI_BORDER_IN ? "y" : "x";
    const char *name = gradient ? (*value == 'y' ? "d:y" : "d:x") : value;
    int32_t i = mri_plan_port_find(p->inputs.v, p->inputs.n, name);
    int32_t o = mri_plan_port_find(p->outputs.v, p->outputs.n, name);
    if (i < 0 && o < 0)
        return NULL; /* a value without a gradient */
    *type = i >= 0 ? &p->inputs.v[i].type : &p->outputs.v[o].type;
    return i >= 0 ? f->input[i] : f->output[o];
}

static mr_status message(mri_relay *r, const mri_exec *e, uint32_t slot, uint32_t instance,
                         bool send, mr_err *err)
{
    const mri_block *b = &r->stage.blocks.v[instance];
    const mri_link *l = &r->stage.links.v[b->link];
    const mri_frame *f = mri_exec_frame(e, slot, instance);
    bool in = b->border == MRI_BORDER_IN;
    const mr_type *type = NULL;
    void *data = place_of(f, send == in, &type);
    mri_comm_job job = { .kind = send ? MRI_COMM_SEND : MRI_COMM_RECEIVE, .group = MRI_GROUP_PP,
                         .peer = (in ? l->from : l->to) % r->stage.stages };
    if (!data)
        return 0;
    job.in = send ? data : NULL;
    job.out = send ? NULL : data;
    job.n = (uint64_t)mr_numel(type);
    job.dtype = type->dtype;
    if (!r->ticket)
        r->ticket = mri_alloc((e->frames.n + 1) * sizeof *r->ticket);
    return mri_comm_submit(r->world, &job, &r->ticket[f - e->frames.v], err);
}

static mr_status await(mri_relay *r, const mri_exec *e, uint32_t slot, uint32_t instance,
                       mr_err *err)
{
    size_t at = (size_t)(mri_exec_frame(e, slot, instance) - e->frames.v);
    uint64_t ticket = r->ticket ? r->ticket[at] : 0;
    if (!ticket)
        return 0;
    r->ticket[at] = 0;
    return mri_comm_wait(r->world, ticket, err);
}

/* In place, for each parameter that both ends have. */
static mr_status sum_ties(mri_relay *r, mr_err *err)
{
    const mri_params *p = r->params;
    mr_status st = 0;
    for (size_t i = 0; i < r->stage.tied.n && !st; i++) {
        int64_t k = mri_params_find(p, r->stage.tied.v[i]);
        const mri_tensor_slot *s = &p->slots.v[k];
        void *g = k >= 0 ? mri_params_grad(p, s) : NULL;
        if (!g)
            continue; /* frozen */
        mri_comm_job job = { .kind = MRI_COMM_ALL_REDUCE, .group = MRI_GROUP_ENDS,
                             .op = MR_COMM_SUM, .in = g, .out = g, .n = s->n,
                             .dtype = p->acc_dtype };
        st = mri_comm_run(r->world, &job, err);
    }
    return st;
}

mr_status mri_relay_run(mri_relay *r, const mri_exec *e, const mri_item *it, mr_err *err)
{
    switch (it->kind) {
    case MRI_ITEM_SEND: return message(r, e, it->slot, it->instance, true, err);
    case MRI_ITEM_RECEIVE: return message(r, e, it->slot, it->instance, false, err);
    case MRI_ITEM_WAIT: return await(r, e, it->slot, it->instance, err);
    case MRI_ITEM_TIES: return sum_ties(r, err);
    }
    return mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST, "relay: item of kind %u", it->kind);
}

mr_status mri_relay_forward(mri_relay *r, mri_exec *e, mr_err *err)
{
    uint32_t n = mri_exec_instances(e);
    mr_status st = 0;
    for (uint32_t i = 0; i < n && !st; i++) {
        uint8_t border = r->stage.blocks.v[i].border;
        st = border ? message(r, e, 0, i, border == MRI_BORDER_OUT, err)
                    : mri_exec_run(e, i, MRI_F, err);
        if (!st && border)
            st = await(r, e, 0, i, err);
    }
    return st;
}
