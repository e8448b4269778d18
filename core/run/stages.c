/* SPDX-License-Identifier: Apache-2.0
 * stages.c - see stages.h. */
#include "stages.h"
#include <string.h>

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
    return mri_relay_alone(r) ? 0 : r->stage.chunks;
}

mr_status mri_stages_chunks(const mri_session *s, bool train, uint32_t micros, mri_chunk **out,
                            mr_err *err)
{
    const mri_relay *r = train ? &s->relay : &s->eval_relay;
    mri_pipeline p;
    mr_status st = 0;
    *out = NULL;
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
