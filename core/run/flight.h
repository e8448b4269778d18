/* SPDX-License-Identifier: Apache-2.0
 *
 * flight.h - the collectives of one block's phase that are under way: submitted where their steps
 * stand, waited for where their results are read. A block that is launched in pieces keeps its
 * flight from piece to piece; two blocks that take turns have one each.
 *
 * Invariant: collectives of a world end in the order of submission, so a wait for one is a wait for
 * all before it, those of other flights too. A phase that ended has none under way.
 */
#ifndef MRI_FLIGHT_H
#define MRI_FLIGHT_H
#include "device.h"

typedef struct mri_flight {
    uint64_t ticket[2 * MRI_COMM_PENDING]; /* by order, see mri_step */
    uint32_t last; /* order of the last one that was submitted and may not be done; 0: all are */
} mri_flight;

/* The step's collective, or its copy on the device. */
mr_status mri_flight_submit(mri_device *d, const mri_plan *plan, const mri_step *s,
                            const mr_buf *in, const mr_buf *out, mri_flight *f, mr_err *err);
mr_status mri_flight_wait(mri_device *d, mri_flight *f, uint32_t order, mr_err *err);
mr_status mri_flight_end(mri_device *d, mri_flight *f, mr_err *err); /* waits for all */

#endif
