/* SPDX-License-Identifier: Apache-2.0
 *
 * order.c - generators: which task each stage runs after which.
 *
 *   1F1B          min(M, S - s - 1) forwards, then forward and backward in turn, then the rest of
 *                 the backwards: stage s has S - s micro-batches in flight.
 *   interleaved   the same over M x C pairs of micro-batch and chunk; of each group of micro-batches
 *                 all chunks one after the other, backwards from the last chunk. (S - s - 1) * 2 +
 *                 (C - 1) * group pairs go ahead; zipped, one more.
 *   zero bubble   1F1B whose backward only passes gradients back (ZB-H1 of Qi et al. 2023): stage s
 *                 runs weight gradients s micro-batches late, so that all stages have S in flight
 *                 and the end of the pipeline, where 1F1B waits, is filled with them.
 */
#include "pipeline.h"

static void add(mri_pipeline *p, uint32_t stage, uint8_t kind, uint32_t chunk, uint32_t micro)
{
    mri_task t = { .kind = kind, .chunk = chunk, .micro = micro };
    MRI_PUSH(&p->stage[stage], t);
}

/* Pair k of M x C in the order of forwards. */
static void pair_at(const mri_pipeline *p, uint32_t k, uint32_t *chunk, uint32_t *micro)
{
    uint32_t group = p->o.group, whole = group * p->o.chunks, first = k / whole * group;
    uint32_t size = p->o.micros - first < group ? p->o.micros - first : group;
    k -= first * p->o.chunks;
    *chunk = k / size;
    *micro = first + k % size;
}

static void backward(mri_pipeline *p, uint32_t stage, uint32_t chunk, uint32_t micro)
{
    add(p, stage, MRI_TASK_B, chunk, micro);
    if (p->o.split_w && p->o.kind != MRI_PIPELINE_ZERO_BUBBLE)
        add(p, stage, MRI_TASK_W, chunk, micro);
}

/* Forwards `ahead`, then in turn; with weight gradients `late` backwards behind theirs. */
static void in_turn(mri_pipeline *p, uint32_t stage, uint32_t ahead, uint32_t late)
{
    uint32_t all = p->o.micros * p->o.chunks, chunk, micro;
    ahead = ahead < all ? ahead : all;
    for (uint32_t k = 0; k < ahead; k++) {
        pair_at(p, k, &chunk, &micro);
        add(p, stage, MRI_TASK_F, chunk, micro);
    }
    for (uint32_t k = 0; k < all; k++) {
        if (k + ahead < all) {
            pair_at(p, k + ahead, &chunk, &micro);
            add(p, stage, MRI_TASK_F, chunk, micro);
            p->stage[stage].v[p->stage[stage].n - 1].pair = p->o.zip;
        }
        pair_at(p, k, &chunk, &micro);
        backward(p, stage, p->o.chunks - 1 - chunk, micro);
        if (p->o.kind == MRI_PIPELINE_ZERO_BUBBLE && k >= late)
            add(p, stage, MRI_TASK_W, 0, k - late);
    }
    for (uint32_t k = all > late ? all - late : 0;
         p->o.kind == MRI_PIPELINE_ZERO_BUBBLE && k < all; k++)
        add(p, stage, MRI_TASK_W, 0, k);
}

void mri_pipeline_order(mri_pipeline *p)
{
    uint32_t stages = p->o.stages;
    for (uint32_t s = 0; s < stages; s++) {
        uint32_t behind = stages - 1 - s;
        if (p->o.kind == MRI_PIPELINE_INTERLEAVED)
            in_turn(p, s, behind * 2 + (p->o.chunks - 1) * p->o.group + p->o.zip, 0);
        else
            in_turn(p, s, behind, s);
    }
}
