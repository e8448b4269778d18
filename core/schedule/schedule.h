/* SPDX-License-Identifier: Apache-2.0
 *
 * schedule.h - what runs when in one optimizer step, as data: an array of items that the
 * runtime walks and `mrun plan` prints. Generators make it; nobody decides order elsewhere.
 *
 * Invariant (checked by mri_schedule_verify): ZERO (of the gradients) first, UPDATE last; per
 * micro-batch and chunk LOAD, then F of the instances in order, then B in reverse, each W after its
 * B, LOSS after the last F; a micro-batch's saved values are live from its first F to its last B
 * (or W), in one slot. SEED comes before the B of a micro-batch where several are in flight. Blocks
 * in pieces run these in order, and of F and of B one block is open at a time (zip.c).
 *
 * In a stage of a pipeline some instances stand for other stages: a border receives what a chunk
 * reads and sends its gradient back, or the other way round. Borders have no F, B, W. WAIT waits for
 * the last message that its border sent or received in that slot.
 */
#ifndef MRI_SCHEDULE_H
#define MRI_SCHEDULE_H
#include "core/base/base.h"
#include "mrun/graph.h"
#include "pipeline.h"

enum mri_item_kind { /* as graph plugins see them */
    MRI_ITEM_LOAD = MR_WORK_LOAD,
    MRI_ITEM_F = MR_WORK_FORWARD,
    MRI_ITEM_B = MR_WORK_BACKWARD,
    MRI_ITEM_W = MR_WORK_WGRAD,
    MRI_ITEM_LOSS = MR_WORK_LOSS,
    MRI_ITEM_ZERO = MR_WORK_ZERO_GRADS,
    MRI_ITEM_UPDATE = MR_WORK_UPDATE,
    MRI_ITEM_SEND = MR_WORK_SEND,
    MRI_ITEM_RECEIVE = MR_WORK_RECEIVE,
    MRI_ITEM_WAIT = MR_WORK_WAIT,
    MRI_ITEM_TIES = MR_WORK_TIES,
    MRI_ITEM_SEED = MR_WORK_SEED
};

typedef struct mri_item {
    uint32_t instance, micro_batch;
    uint32_t slot, chunk; /* where its values lie; the chunk of instances that it belongs to */
    uint8_t kind;
    uint16_t piece, pieces; /* of F and B: which piece of the block; pieces 0: all of it */
} mri_item;

typedef struct mri_seams { /* pieces that an instance's F and B are cut into, 1 or more */
    uint16_t forward, backward;
} mri_seams;

typedef struct mri_schedule {
    MRI_VEC(mri_item) items;
    MRI_VEC(mri_block) blocks; /* one each instance; none: one chunk without borders */
    MRI_VEC(mri_seams) seams;  /* one each instance; none: nothing is zipped         */
    uint32_t instances, micro_batches, chunks;
    bool split_w;
} mri_schedule;

/* One stage: micro-batches one after the other, so that one set of saved values suffices.
 * With split_w every W comes after the micro-batch's last B. */
void mri_schedule_single(mri_schedule *s, uint32_t instances, uint32_t micro_batches, bool split_w);
/* A stage of a pipeline; `ties`: some of its parameters are another stage's too; seams: of each
 * instance, where the pipeline has pairs, or NULL. */
void mri_schedule_stage(mri_schedule *s, const mri_pipeline *p, uint32_t stage,
                        const mri_block *blocks, const mri_seams *seams, uint32_t instances,
                        bool ties);
/* zip.c: one stage in two slots, each micro-batch's backward zipped with the next one's forward */
void mri_schedule_zipped(mri_schedule *s, const mri_seams *seams, uint32_t instances,
                         uint32_t micro_batches);
/* Appends F of one micro-batch and B of another, in turn from seam to seam. */
void mri_schedule_zip(mri_schedule *s, const mri_item *forward, const mri_item *backward);
mr_status mri_schedule_verify(const mri_schedule *s, mr_err *err);
void mri_schedule_free(mri_schedule *s);

/* A text Gantt: one row an instance label, one column an item. */
void mri_schedule_print(const mri_schedule *s, const char *const *labels, mri_str *out);

#endif
