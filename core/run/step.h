/* SPDX-License-Identifier: Apache-2.0
 *
 * step.h - optimizer steps in a queue. mri_step_begin() reads the batch, enqueues the whole
 * step on the device - as graphs, if the profile says so - and returns; mri_step_end() waits for
 * the oldest one's results. With one step in flight the host reads and logs while the device
 * computes.
 *
 * Invariant: `done` of the session counts begun steps. A step whose gradients are not finite
 * changes nothing, nor do those queued behind it (the device's ok scalar stays 0 until the host
 * has seen it); ending it sets `done` back to what was before it, and drops the others.
 */
#ifndef MRI_STEP_H
#define MRI_STEP_H
#include "session.h"

/* At most MRI_FEED_SLOTS steps may be pending. */
mr_status mri_step_begin(mri_session *s, mr_err *err);
mr_status mri_step_end(mri_session *s, mri_step_result *out, mr_err *err);
uint32_t mri_steps_pending(const mri_session *s);

/* How many micro-batches of a global batch of `rows` this rank runs: as many as every other. The
 * m-th of rank d of dp is the (m dp + d)-th of the batch; one past the last is blank. */
uint32_t mri_micros_of(const mri_session *s, int64_t rows);

/* The order of a step of so many micro-batches, in s->schedule. */
mr_status mri_step_order(mri_session *s, uint32_t micros, mr_err *err);

/* Adds one micro-batch's loss to a result: "lm_loss" is the loss, all others are reported by
 * name, averaged over the instances that have them; then sums over tokens become means. */
void mri_step_add_loss(const mri_exec *e, size_t loss, double x, mri_step_result *r);
void mri_step_mean_losses(mri_step_result *r);
/* Means of the losses of a step whose copies have come, of all ranks, which all call it. */
mr_status mri_step_losses(mri_session *s, const mri_pending *p, mri_step_result *r, mr_err *err);

#endif
