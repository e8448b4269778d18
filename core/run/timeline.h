/* SPDX-License-Identifier: Apache-2.0
 *
 * timeline.h - one step of this rank as intervals on two lanes: ops, and collectives. Where the
 * device has a timer they are its own times, between marks on the two streams; else the host's, of
 * the thread that computes and of the one that the collectives run on. Written for Perfetto and
 * chrome://tracing, all ranks in one file.
 *
 * Invariant: between begin() and end() nothing else watches the device; recording runs eagerly and,
 * without a timer, waits for the device after every op, but never for a collective.
 */
#ifndef MRI_TIMELINE_H
#define MRI_TIMELINE_H
#include "core/mesh/world.h"
#include "device.h"
#include <pthread.h>

enum { MRI_LANE_COMPUTE = 0, MRI_LANE_COMM, MRI_LANES };

typedef struct mri_interval {
    double start, end; /* seconds since the step began */
    char name[48], of[80]; /* the op or collective; its block and region, or its group */
    uint8_t lane;
    double bytes;      /* that a collective sends */
    void *from, *to;   /* marks, until end() */
} mri_interval;

typedef struct mri_timeline {
    mri_device *device;
    mri_world *world; /* NULL: alone */
    pthread_mutex_t lock;
    MRI_VEC(mri_interval) intervals;
    mri_trace trace;
    mri_comm_watch watch;
    double clock; /* when it began, and the mark of the same moment */
    void *base, *opened; /* of the collective at work: its first mark */
    double opened_at;
} mri_timeline;

mr_status mri_timeline_begin(mri_timeline *t, mri_device *d, mri_world *w, mr_err *err);
mr_status mri_timeline_end(mri_timeline *t, mr_err *err); /* waits for all; also after a failure */
/* seconds in which an op and a collective of this rank are both at work */
double mri_timeline_shared(const mri_timeline *t);
/* All ranks of the world call it; rank 0 writes what all have, and says how it went. */
mr_status mri_timeline_write(const mri_timeline *t, const char *path, mr_err *err);
void mri_timeline_free(mri_timeline *t);

#endif
