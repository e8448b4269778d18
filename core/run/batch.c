/* SPDX-License-Identifier: Apache-2.0
 *
 * batch.c - what is computed from batches beside training steps (step.c): gradients of one
 * batch, validation.
 */
#include "micro.h"
#include "pictures.h"
#include "room.h"
#include "step.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>

uint32_t mri_session_find_set(mri_session *s, const char *name, mr_data_set *out)
{
    for (uint32_t i = 0;; i++) {
        mr_err e = MR_ERR_INIT;
        memset(out, 0, sizeof *out);
        out->size = sizeof *out;
        if (s->data_ops->set(s->data, i, out, &e))
            return UINT32_MAX;
        if (!strcmp(out->name, name))
            return i;
    }
}

/* Forward and backward, whatever was in the main gradients; the losses are added to *out. */
static mr_status run_batch(mri_session *s, const mri_batch *b, mri_step_result *out, mr_err *err)
{
    float *x = mri_alloc((s->train->losses.n + 1) * sizeof *x);
    mr_status st = 0;
    MR_TRY(mri_exec_upload(s->train, b, err));
    MR_TRY(mri_exec_forward(s->train, err));
    MR_TRY(mri_exec_backward_first(s->train, err));
    MR_TRY(mri_exec_losses(s->train, x, err));
    for (size_t i = 0; i < s->train->losses.n; i++)
        mri_step_add_loss(s->train, i, x[i], out);
out:
    free(x);
    return st;
}

mr_status mri_session_gradients_of(mri_session *s, const mri_batch *b, mri_step_result *out,
                                   mr_err *err)
{
    mr_status st = 0;
    memset(out, 0, sizeof *out);
    for (int64_t i = 0; i < s->train->opt.tokens; i++)
        out->weight += b->loss_weight[i];
    MR_TRY(mri_scalar_set(&s->scalars, &s->device, MRI_LOSS_SEED,
                          1 / (out->weight > 0 ? out->weight : 1), err));
    if (s->dp)
        mri_dp_begin(s->dp, true);
    MR_TRY(run_batch(s, b, out, err));
    if (s->dp)
        MR_TRY(mri_dp_finish(s->dp, err));
    MR_TRY(mri_room_check(s, err));
    mri_step_mean_losses(out);
out:
    return st;
}

/* Ranks of one replica have evaluated the same, or, over cp, rows of what all of them have read. */
static mr_status sum_over_ranks(mri_session *s, double *sum, double *weight, mr_err *err)
{
    if (mri_world_alone(s->world))
        return 0;
    mr_status st = mri_world_sum(s->world, MRI_GROUP_DP_CP, sum, 1, err);
    return st ? st : mri_world_sum(s->world, MRI_GROUP_DP, weight, 1, err);
}

mr_status mri_session_evaluate(mri_session *s, uint32_t set, int64_t steps, double *nll,
                               double *bits_per_byte, mr_err *err)
{
    mr_data_set info = { .size = sizeof info };
    int64_t rows = s->eval->opt.tokens * mri_session_cp(s) / s->config->train.seq;
    mri_micro m = mri_micro_of(s->eval);
    double *x = mri_alloc((size_t)m.t * sizeof *x), *raw = mri_alloc((size_t)m.t * sizeof *raw);
    double sum = 0, weight = 0;
    mr_status st = 0;
    const mr_type *type;
    MR_TRY(s->data_ops->set(s->data, set, &info, err));
    int64_t n = (info.samples + rows - 1) / rows;
    if (steps > 0 && steps < n)
        n = steps;
    int64_t dp = s->world ? s->world->mesh.dp : 1, mine = s->world ? s->world->mesh.i_dp : 0;
    int64_t end = n * rows < info.samples ? n * rows : info.samples;
    for (int64_t i = 0; i < n; i += dp) { /* every rank runs as many: past the end blank ones */
        MR_TRY(mri_micro_read(s, &m, set, (i + mine) * rows, end, &weight, err));
        mri_batch b = mri_micro_batch(&m, false);
        MR_TRY(mri_exec_upload(s->eval, &b, err));
        MR_TRY(mri_relay_alone(&s->eval_relay) ? mri_graphs_forward(&s->graphs, s->eval, err)
                                               : mri_relay_forward(&s->eval_relay, s->eval, err));
        const void *p = mri_exec_output(s->eval, "nll", &type);
        if (!p && !mri_relay_alone(&s->eval_relay))
            continue; /* another stage has it */
        if (!p || mr_numel(type) != m.t) {
            st = mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                         "no block has the output nll [T] that validation reads");
            goto out;
        }
        MR_TRY(mri_device_read(&s->device, raw, p, mr_bytes(type), err));
        MR_TRY(mri_convert(x, "f64", raw, type->dtype, (uint64_t)m.t, err));
        for (int64_t t = 0; t < m.t; t++)
            if (m.weight[t] > 0)
                sum += (double)m.weight[t] * x[t];
    }
    if (!mri_relay_alone(&s->eval_relay))
        MR_TRY(mri_world_sum(s->world, MRI_GROUP_PP, &sum, 1, err));
    MR_TRY(sum_over_ranks(s, &sum, &weight, err));
    MR_TRY(mri_room_check(s, err));
    *nll = weight > 0 ? sum / weight : 0;
    *bits_per_byte = info.bytes_per_token > 0 ? *nll / log(2) / info.bytes_per_token : 0;
out:
    mri_micro_free(&m);
    free(x);
    free(raw);
    return st;
}
