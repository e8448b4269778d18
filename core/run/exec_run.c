/* SPDX-License-Identifier: Apache-2.0
 *
 * exec_run.c - running the blocks of an exec: whole, or a piece at a time where two micro-batches
 * take turns; with what data parallelism does before and behind each block.
 */
#include "bind.h"
#include "dp.h"

/* Before the first step of a block. Gradients that are kept as pieces begin anew in each
 * micro-batch, in a buffer that others had. */
static mr_status enter(mri_exec *e, uint32_t instance, uint8_t phase, bool first, mr_err *err)
{
    mr_status st = e->dp ? mri_dp_enter(e->dp, e, instance, phase, err) : 0;
    if (!st && phase == MRI_B && (first || mri_dp_pieces(e->dp)))
        st = mri_exec_zero(e, instance, err);
    return st;
}

static mri_frame frame_of(const mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase,
                          bool first)
{
    mri_frame f = *mri_exec_frame(e, slot, instance);
    f.first = first;
    if (phase == MRI_F)
        f.scratch = e->base + e->at_forward_scratch;
    return f;
}

static mr_status run(mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase, bool first,
                     mr_err *err)
{
    mri_frame f = frame_of(e, slot, instance, phase, first);
    mr_status st = 0;
    MR_TRY(enter(e, instance, phase, first, err));
    MR_TRY(mri_launch(e->device, &f, phase, e->trace, err));
    if (e->dp)
        MR_TRY(mri_dp_leave(e->dp, e, instance, phase, err));
out:
    return st;
}

mr_status mri_exec_run_piece(mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase,
                             bool first, uint32_t piece, mr_err *err)
{
    mri_frame f = frame_of(e, slot, instance, phase, first);
    mri_flight *flight = &e->flight[phase == MRI_B];
    uint32_t from, to;
    mr_status st = 0;
    if (!piece)
        *flight = (mri_flight){ 0 };
    if (!piece)
        MR_TRY(enter(e, instance, phase, first, err));
    mri_plan_piece(f.plan, phase, piece, &from, &to);
    MR_TRY(mri_launch_part(e->device, &f, phase, from, to, flight, e->trace, err));
    if (e->dp && piece + 1 == mri_plan_pieces(f.plan, phase))
        MR_TRY(mri_dp_leave(e->dp, e, instance, phase, err));
out:
    return st;
}

mr_status mri_exec_run(mri_exec *e, uint32_t instance, uint8_t phase, mr_err *err)
{
    return run(e, 0, instance, phase, false, err);
}

mr_status mri_exec_run_in(mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase,
                          mr_err *err)
{
    return run(e, slot, instance, phase, false, err);
}

mr_status mri_exec_run_first(mri_exec *e, uint32_t slot, uint32_t instance, uint8_t phase,
                             mr_err *err)
{
    return run(e, slot, instance, phase, true, err);
}

mr_status mri_exec_forward(mri_exec *e, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = 0; i < mri_exec_instances(e) && !st; i++)
        st = mri_exec_run(e, i, MRI_F, err);
    return st;
}

mr_status mri_exec_backward(mri_exec *e, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = mri_exec_instances(e); i-- > 0 && !st;)
        st = mri_exec_run(e, i, MRI_B, err);
    for (uint32_t i = mri_exec_instances(e); e->opt.plan.split_w && i-- > 0 && !st;)
        st = mri_exec_run(e, i, MRI_W, err);
    return st;
}

mr_status mri_exec_backward_first(mri_exec *e, mr_err *err)
{
    mr_status st = mri_exec_zero(e, MRI_AT_START, err);
    for (uint32_t i = mri_exec_instances(e); i-- > 0 && !st;)
        st = mri_exec_run_first(e, 0, i, MRI_B, err);
    for (uint32_t i = mri_exec_instances(e); e->opt.plan.split_w && i-- > 0 && !st;)
        st = mri_exec_run_first(e, 0, i, MRI_W, err);
    return st;
}
