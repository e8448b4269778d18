/* SPDX-License-Identifier: Apache-2.0
 *
 * rendezvous.h - a rank's line to rank 0's hub: service "mrun.rendezvous/1", the heartbeat, and the
 * verdict that ends the job on all ranks. For ranks that are processes.
 *
 * Invariant: calls may come from any thread; each of those that wait ends by what it waited for, by
 * the verdict, or by its time.
 */
#ifndef MRI_RENDEZVOUS_H
#define MRI_RENDEZVOUS_H
#include "world.h"

typedef struct mri_rendezvous mri_rendezvous;

typedef struct mri_meeting {
    uint32_t rank, world;
    const char *host; /* of rank 0 */
    uint32_t port;
    int listening;    /* rank 0: a socket that listens already, or -1 */
    double timeout_s; /* for all to come, and for each key            */
    double silence_s; /* without a heartbeat a rank counts as lost    */
    const mri_pulse *pulse;
    void (*ended)(void *ctx); /* the verdict is there; on a thread of its own */
    void *ctx;
} mri_meeting;

mr_status mri_rendezvous_open(const mri_meeting *m, mri_rendezvous **out, mr_err *err);
/* lost: the job ends by a verdict; rank 0 goes first, so that it can say so */
void mri_rendezvous_close(mri_rendezvous *r, bool lost);
const mr_rendezvous *mri_rendezvous_service(const mri_rendezvous *r);
/* `bytes` of each rank to all, in order of ranks; waits */
mr_status mri_rendezvous_gather(mri_rendezvous *r, const void *mine, uint64_t bytes, void *all,
                                mr_err *err);
/* Tells all that this rank failed; *err becomes the verdict. */
void mri_rendezvous_fail(mri_rendezvous *r, mr_err *err);
/* 0, or the verdict */
mr_status mri_rendezvous_check(mri_rendezvous *r, mr_err *err);
bool mri_rendezvous_orphan(mri_rendezvous *r); /* rank 0 is gone: nobody speaks for all */

#endif
