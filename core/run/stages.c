/* SPDX-License-Identifier: Apache-2.0
 * stages.c - see stages.h. */
#include "stages.h"
#include "bind.h"
#include <string.h>

bool mri_stages_zipped(const mri_session *s)
{
    return s->config->mesh.overlap_moe_expert_parallel_comm && s->world && s->world->mesh.ep > 1;
}

mr_status mri_stages_check_zipped(const mri_session *s, mr_err *err)
{
    const mri_cfg_mesh *c = &s->config->mesh;
    bool pieces = false, bubble = !strcmp(c->schedule, "zero_bubble");
    for (size_t i = 0; s->dp && i < s->dp->units.n; i++)
        pieces |= s->dp->units.v[i].weights > 0;
    const struct {
        bool broken;
        const char *what, *hint;
    } rules[] = {
        { c->ep < 2, "experts are on one rank",
          "set [mesh] ep above 1, or overlap_moe_expert_parallel_comm = false" },
        { !c->overlap, "[mesh] overlap = false waits for every collective at once",
          "set [mesh] overlap = true" },
        { !strcmp(c->dispatcher, "allgather"), "[mesh] dispatcher = allgather sends no rows to "
          "experts", "set [mesh] dispatcher = alltoall" },
        { c->pp > 1 && bubble, "[mesh] schedule = zero_bubble has its own place for every task",
          "set [mesh] schedule = 1f1b and vpp above 1" },
        { c->pp > 1 && s->relay.stage.chunks < 2, "the last of the [mesh] pp stages runs each backward right "
          "behind its forward", "set [mesh] vpp above 1, or pp = 1" },
        { s->config->train.split_weight_gradient, "weight gradients stand beside what blocks send, "
          "not apart from them", "set [train] split_weight_gradient = false" },
        { pieces, "the shard plugin keeps weights in pieces, whose buffers serve one direction at "
          "a time", "choose a strategy that keeps whole weights (shard/distopt, no_shard, optim)" },
    };
    for (size_t i = 0; i < sizeof rules / sizeof *rules; i++) {
        if (!rules[i].broken || !c->overlap_moe_expert_parallel_comm)
            continue;
        mr_fail(err, MR_E_PROFILE_CONFLICT, MR_BLAME_USER,
                "[mesh] overlap_moe_expert_parallel_comm: %s", rules[i].what);
        mr_hint(err, "%s", rules[i].hint);
        return MR_E_PROFILE_CONFLICT;
    }
    return 0;
}

mri_seams *mri_stages_seams(const mri_exec *e)
{
    uint32_t n = mri_exec_instances(e);
    mri_seams *x = mri_alloc((n + 1) * sizeof *x);
    for (uint32_t i = 0; i < n; i++) {
        const mri_plan *p = mri_exec_plan(e, i);
        x[i] = (mri_seams){ (uint16_t)mri_plan_pieces(p, MRI_F),
                            (uint16_t)mri_plan_pieces(p, MRI_B) };
    }
    return x;
}

bool mri_stages_split_w(const mri_session *s)
{
    return s->config->train.split_weight_gradient ||
           (!mri_relay_alone(&s->relay) && !strcmp(s->config->mesh.schedule, "zero_bubble"));
}

mr_status mri_stages_cut(mri_session *s, const char *mode, mri_assembly *a,
                         mr_err *err)
{
    bool train = !strcmp(mode, "train");
    if (!s->world || s->world->mesh.pp == 1)
        return 0;
    if (!train && strcmp(mode, "infer")) {
        mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER,
                "mode %s runs on one stage, [mesh] pp = %u", mode, s->world->mesh.pp);
        mr_hint(err, "generate and score from a checkpoint with pp = 1");
        return MR_E_UNSUPPORTED;
    }
    return mri_relay_open(train ? &s->relay : &s->eval_relay, s->world, &s->params,
                          &s->config->mesh, a, err);
}

uint32_t mri_stages_n_chunks(const mri_session *s, bool train)
{
    const mri_relay *r = train ? &s->relay : &s->eval_relay;
    if (mri_relay_alone(r))
        return train && mri_stages_zipped(s);
    return r->stage.chunks;
}

/* One stage has a micro-batch's forward and another's backward in flight. */
static mri_chunk *two_slots(const mri_session *s, bool train, uint32_t instances, uint32_t micros)
{
    mri_chunk *c = train && mri_stages_zipped(s) ? mri_alloc(sizeof *c) : NULL;
    if (c)
        *c = (mri_chunk){ .n = instances, .slots = micros > 1 ? 2 : 1 };
    return c;
}

mr_status mri_stages_chunks(const mri_session *s, bool train, uint32_t instances, uint32_t micros,
                            mri_chunk **out, mr_err *err)
{
    const mri_relay *r = train ? &s->relay : &s->eval_relay;
    mri_pipeline p;
    mr_status st = 0;
    *out = mri_relay_alone(r) ? two_slots(s, train, instances, micros) : NULL;
    if (mri_relay_alone(r))
        return 0;
    if (train)
        st = mri_relay_pipeline(r, &s->config->mesh, mri_stages_split_w(s), micros, &p, err);
    if (!st)
        *out = mri_relay_chunks(r, train ? &p : NULL);
    if (!st && train)
        mri_pipeline_free(&p);
    return st;
}
