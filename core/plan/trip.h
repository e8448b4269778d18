/* SPDX-License-Identifier: Apache-2.0
 *
 * trip.h - how rows sorted by expert get to where the experts' products read them, and back. One
 * trip serves all rows of one route_plan or route_drop: it is made of their offsets.
 *
 *   ragged   to the ranks of ep that have the experts, as many as there are (counts on the host)
 *   blocks   the same in blocks of equal size (counts on the device alone)
 *   padded   nowhere: every expert's rows are filled up with zeros to its capacity
 *
 * Invariant: what comes is what went: zeros are added and left out on the way, nothing else.
 */
#ifndef MRI_TRIP_H
#define MRI_TRIP_H
#include "core/program/rewrite.h"

typedef enum mri_trip_kind { MRI_TRIP_RAGGED = 0, MRI_TRIP_BLOCKS, MRI_TRIP_PADDED } mri_trip_kind;

typedef struct mri_trip {
    mr_val of;      /* the offsets that it is for, in the old block */
    mr_val offsets; /* by which the products read what went         */
    mr_val all;     /* ragged: the offsets of all ranks             */
    mr_val order, back, send, sent; /* take_rows goes from one of two to the other and back */
    int64_t rows, bound;            /* of what goes; that there is room for                 */
} mri_trip;

/* Plans a trip of `rows` rows in the place of node `n`. */
mri_trip mri_trip_make(mri_rewrite *w, const mri_mesh *mesh, mri_trip_kind kind, const mri_node *n,
                       mr_val of, int64_t rows);
mr_val mri_trip_go(mri_rewrite *w, const mri_mesh *mesh, mri_trip_kind kind, const mri_trip *t,
                   const mri_node *n, mr_val v);
mr_val mri_trip_come(mri_rewrite *w, const mri_mesh *mesh, mri_trip_kind kind, const mri_trip *t,
                     const mri_node *n, mr_val v);

#endif
