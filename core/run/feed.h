/* SPDX-License-Identifier: Apache-2.0
 *
 * feed.h - what the host gives an optimizer step and what it gets back, without waiting: one
 * copy each way a step, through pinned memory that is used in turn, to and from device memory
 * that stays where it is (so that a captured step finds it).
 *
 *   in:  the host's scalars | micro-batch 0: fields, loss seed | micro-batch 1 | ...
 *   out: losses of micro-batch 0 | 1 | ... | the scalars that the device wrote
 *
 * Invariant: slot k % 2 of the host is written for step k only after the results of step k - 2
 * were awaited, and device memory is touched by the run's one compute stream only.
 */
#ifndef MRI_FEED_H
#define MRI_FEED_H
#include "exec.h"

enum { MRI_FEED_SLOTS = 2 };

typedef struct mri_feed {
    mri_device *device;
    mri_scalars *scalars;
    const mri_exec *exec;
    uint32_t room; /* micro-batches */
    uint64_t micro_bytes, loss_bytes, scalar_bytes, in_bytes, out_bytes;
    char *in, *out; /* device; in: from the first micro-batch on */
    char *host_in[MRI_FEED_SLOTS], *host_out[MRI_FEED_SLOTS];
    void *done[MRI_FEED_SLOTS]; /* event: the results of the slot's step are there */
} mri_feed;

/* Sizes for steps of up to `room` micro-batches of the exec; takes no memory yet. */
void mri_feed_plan(mri_feed *f, mri_device *d, mri_scalars *s, const mri_exec *e, uint32_t room);
mr_status mri_feed_alloc(mri_feed *f, mr_err *err);
void mri_feed_free(mri_feed *f);
uint64_t mri_feed_bytes(const mri_feed *f); /* of device memory */

/* ---- the host's side of one slot ---- */
void *mri_feed_fields(mri_feed *f, uint32_t slot, uint32_t micro); /* a micro-batch's block */
void mri_feed_seed(mri_feed *f, uint32_t slot, uint32_t micro, double seed);
void mri_feed_scalar(mri_feed *f, uint32_t slot, const char *name, double value);
mr_status mri_feed_send(mri_feed *f, uint32_t slot, uint32_t micros, mr_err *err); /* enqueues */
mr_status mri_feed_fetch(mri_feed *f, uint32_t slot, mr_err *err);                 /* enqueues */
mr_status mri_feed_await(mri_feed *f, uint32_t slot, mr_err *err);                 /* waits    */
float mri_feed_loss(const mri_feed *f, uint32_t slot, uint32_t micro, size_t loss);
float mri_feed_result(const mri_feed *f, uint32_t slot, const char *scalar);

/* ---- the device's side, inside the step: copies within device memory ---- */
/* the seed alone, as load has set it: several micro-batches may be loaded */
mr_status mri_feed_load_seed(mri_feed *f, uint32_t micro, mr_err *err);
mr_status mri_feed_load(mri_feed *f, uint32_t micro, uint32_t chunk, uint32_t slot, mr_err *err);
mr_status mri_feed_store_losses(mri_feed *f, uint32_t micro, uint32_t chunk, uint32_t slot,
                                mr_err *err);
mr_status mri_feed_store_scalars(mri_feed *f, mr_err *err);

#endif
