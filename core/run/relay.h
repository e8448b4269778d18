/* SPDX-License-Identifier: Apache-2.0
 *
 * relay.h - what a stage of a pipeline tells the others while it runs: values and their gradients
 * at its borders, and the sums of gradients of parameters that first and last stage both have.
 *
 * Invariant: messages of a step are submitted in the order of the schedule, which all stages
 * agree on; a border's buffer in a slot is read or written by one message at a time, which is
 * waited for before the slot's next use (MRI_ITEM_WAIT).
 */
#ifndef MRI_RELAY_H
#define MRI_RELAY_H
#include "core/mesh/world.h"
#include "core/program/stage.h"
#include "core/schedule/schedule.h"
#include "exec.h"

typedef struct mri_relay {
    mri_world *world;
    const mri_params *params;
    mri_stage stage;
    uint64_t *ticket; /* by frame: of the last message of a border in a slot; 0: none */
} mri_relay;

/* Cuts the assembly to this rank's stage; in a world of one stage it stays as it is. */
mr_status mri_relay_open(mri_relay *r, mri_world *w, const mri_params *params,
                         const mri_cfg_mesh *cfg, mri_assembly *a, mr_err *err);
void mri_relay_close(mri_relay *r);
static inline bool mri_relay_alone(const mri_relay *r) /* one stage, so nothing to tell */
{
    return r->stage.stages < 2;
}
/* The pipeline of so many micro-batches. `blocks_talk`: blocks have collectives of their own. */
mr_status mri_relay_pipeline(const mri_relay *r, const mri_cfg_mesh *cfg, bool split_w,
                             uint32_t micros, mri_pipeline *out, mr_err *err);
/* Marks the parameters that the first stage has too. Their gradients are summed over both stages
 * before the update, so no bucket may have been reduced to pieces by then: refused by name. */
mr_status mri_relay_twins(const mri_relay *r, mri_params *p, mr_err *err);
/* n and slots of each chunk, for mri_exec_options; the caller frees. */
mri_chunk *mri_relay_chunks(const mri_relay *r, const mri_pipeline *p);
/* MRI_ITEM_SEND, RECEIVE, WAIT, TIES */
mr_status mri_relay_run(mri_relay *r, const mri_exec *e, const mri_item *it, mr_err *err);
/* Forward of one micro-batch, slot 0 of each chunk, borders and all; every stage calls it. */
mr_status mri_relay_forward(mri_relay *r, mri_exec *e, mr_err *err);

#endif
