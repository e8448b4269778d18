/* SPDX-License-Identifier: Apache-2.0
 *
 * pipeline.h - the order of work of all stages of a pipeline, as data: for each stage its tasks -
 * forward, backward, weight gradients of one chunk for one micro-batch - and the messages between
 * stages in one order that all agree on. Pure arithmetic on a few numbers: each rank makes the
 * whole of it and runs its own stage's part.
 *
 * A stage has `chunks` chunks of the model; chunk c of stage s is virtual stage c * stages + s. A
 * link leads from one virtual stage to a later one: a message forwards per micro-batch, and one
 * backwards (its gradient).
 *
 * Invariants of a finished pipeline (checked by mri_pipeline_verify, by running all stages with
 * the poorest transport there is: a message is passed when both sides have come to it, and one
 * side's messages one after the other): it ends; each (kind, chunk, micro-batch) runs once, after
 * what it reads; no slot is written before its last reader ran. Chunks of a stage share its slots.
 * A pair is one task to all others: messages stand before it or behind it.
 */
#ifndef MRI_PIPELINE_H
#define MRI_PIPELINE_H
#include "core/base/base.h"
#include "core/program/border.h"

enum { MRI_TASK_F = 0, MRI_TASK_B, MRI_TASK_W };

enum mri_pipeline_kind {
    MRI_PIPELINE_1F1B = 0,
    MRI_PIPELINE_INTERLEAVED, /* 1F1B over several chunks a stage                              */
    MRI_PIPELINE_ZERO_BUBBLE  /* 1F1B, weight gradients put off into what would be a bubble    */
};

typedef struct mri_task {
    uint32_t chunk, micro, slot;
    uint8_t kind;
    bool pair;         /* a forward that runs zipped with the backward behind it: as one task     */
    double start, end; /* in the simulation */
    double done;       /* when others see it: of a pair, the end of both */
} mri_task;

typedef struct mri_message {
    uint32_t link, micro;
    bool back;
    uint32_t from, to;     /* stages                                                     */
    uint32_t after;        /* task of `from` that makes it                               */
    uint32_t before;       /* task of `to` that reads it                                 */
    uint32_t sent, posted; /* tasks that `from` (`to`) runs before it sends (receives)   */
    double time;
} mri_message;

typedef MRI_VEC(mri_task) mri_tasks;

typedef struct mri_pipeline_options {
    uint32_t kind, stages, chunks, micros;
    uint32_t group;        /* interleaved: micro-batches of a chunk in a row; 0: stages         */
    bool split_w;          /* B and W are tasks of their own                                    */
    bool zip;              /* interleaved: one more forward goes ahead, so that each later one runs
                              zipped with the backward behind it, of another micro-batch        */
    bool early;            /* receive as soon as there is room, not when the sender is ready: only
                              where tasks have no collectives, which would queue behind it      */
    const mri_link *links; /* NULL: each virtual stage to the next                              */
    uint32_t n_links;
    /* Time of a virtual stage's F, B, W; of a message. NULL: 1, 1, 1 (B 2 if it has W in it), 0.
     * Orders are made of the defaults, so that all ranks agree; figures only fill in times. */
    const double (*cost)[3];
    double latency;
} mri_pipeline_options;

typedef struct mri_pipeline {
    mri_pipeline_options o;
    mri_tasks *stage;                 /* of each stage, in order                        */
    uint32_t *slots;                  /* [stages]: chunks' micro-batches in flight      */
    MRI_VEC(mri_link) links;
    MRI_VEC(mri_message) messages;    /* in the order that every stage keeps            */
    const double *saved; /* by stage: seconds that a pair takes less than its tasks one after the
                            other; the caller's, NULL: none                            */
    double time, ideal;               /* of the simulation; of the busiest stage's tasks alone */
} mri_pipeline;

/* Orders, slots and messages, verified. Numbers that make no pipeline are refused by name. */
mr_status mri_pipeline_make(const mri_pipeline_options *o, mri_pipeline *out, mr_err *err);
void mri_pipeline_free(mri_pipeline *p);
mr_status mri_pipeline_verify(const mri_pipeline *p, mr_err *err);
/* Starts and ends of all tasks; -1: it does not end */
int mri_pipeline_simulate(mri_pipeline *p, const double (*cost)[3], double latency);
/* time / ideal - 1: (stages - 1) / (micros * chunks) for equal costs */
double mri_pipeline_bubble(const mri_pipeline *p);
/* A text Gantt over all stages, `columns` wide. */
void mri_pipeline_print(const mri_pipeline *p, uint32_t columns, mri_str *out);

/* The first task of the pair that task i is of, or i; and the one behind both, or i + 1 */
static inline uint32_t mri_pipeline_unit(const mri_tasks *t, uint32_t i)
{
    return i && t->v[i - 1].pair ? i - 1 : i;
}
static inline uint32_t mri_pipeline_behind(const mri_tasks *t, uint32_t i)
{
    return i + 1 + t->v[i].pair;
}

/* order.c: the tasks of each stage by kind of schedule */
void mri_pipeline_order(mri_pipeline *p);

#endif
