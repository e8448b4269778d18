/* SPDX-License-Identifier: Apache-2.0
 *
 * channel.h - the order in which one rank's collectives run, beside its compute.
 *
 * A host plugin's run on a thread of their own: device -> host, the collective, host -> device,
 * where the host cannot reach the device's memory. A stream plugin's are enqueued by the caller on
 * a second stream of the device, tied to the compute stream by events.
 *
 * Invariant: jobs run in the order of submission, also the calls of world.c; after the first error
 * none runs any more, and every wait returns that error.
 */
#ifndef MRI_CHANNEL_H
#define MRI_CHANNEL_H
#include "world.h"

typedef mr_status (*mri_channel_fn)(void *ctx, mr_err *err);

/* Needs w->ops. */
mr_status mri_channel_open(mri_world *w, mr_err *err);
/* w->device was set */
mr_status mri_channel_device(mri_world *w, mr_err *err);
void mri_channel_leave(mri_world *w); /* waits for all, forgets the device */
void mri_channel_close(mri_world *w);
/* Runs fn after all that was submitted, where collectives run, and waits for it. */
mr_status mri_channel_call(mri_world *w, mri_channel_fn fn, void *ctx, mr_err *err);

/* the plugin's function of a job, with these buffers */
mr_status mri_comm_do(mri_world *w, const mri_comm_job *job, void *stream, const void *in,
                      void *out, mr_err *err);
/* A group of one: what is read is what is written. */
mr_status mri_comm_alone(mri_world *w, const mri_comm_job *job, mr_err *err);
void mri_comm_count(mri_world *w, const mri_comm_job *job); /* into w->sent, w->received */
/* bytes that a job reads and writes on this rank */
void mri_comm_span(const mri_comm_job *job, uint32_t n, uint64_t *in, uint64_t *out);

#endif
