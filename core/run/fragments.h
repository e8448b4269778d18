/* SPDX-License-Identifier: Apache-2.0
 *
 * fragments.h - what of the parameters and of the optimizer states this rank keeps, for whoever
 * saves it or puts it back: ranges of logical tensors, wherever and in whichever form they lie.
 *
 * A parameter's box (slot->place, of the dims of slot->desc.type; place.rank 0: all of it) is what
 * the rank's blocks compute with; a fragment is a range of the box's elements in row-major order.
 * Over all ranks the fragments of one (parameter, state) for which `writes` is set cover every
 * element of the logical tensor exactly once.
 */
#ifndef MRI_FRAGMENTS_H
#define MRI_FRAGMENTS_H
#include "update.h"

typedef struct mri_fragment {
    const mri_tensor_slot *slot;
    const char *state;  /* "exp_avg" ...; NULL: the parameter's exact value                   */
    uint64_t from, to;  /* elements of the box                                                */
    const char *dtype;  /* in which it is read and written on the host                        */
    bool writes;        /* of all ranks that keep the same elements, this is the first        */
    void *data;         /* device memory of element `from`, in that dtype; NULL: exact values
                           that are put together from halves                                   */
} mri_fragment;

typedef MRI_VEC(mri_fragment) mri_fragments;

/* Appends the fragments of one parameter: of its value, then of each state (`u` may be NULL). */
void mri_fragments_of(const mri_params *p, const mri_update *u, const mri_mesh *mesh,
                      const mri_tensor_slot *slot, mri_fragments *out);
/* Elements [at, at + n) of the fragment, counted from its `from`, to or from host memory; waits.
 * Values that are set go to every form that the rank keeps of them. */
mr_status mri_fragment_read(const mri_params *p, mri_device *d, const mri_fragment *f, uint64_t at,
                            uint64_t n, void *host, mr_err *err);
mr_status mri_fragment_write(mri_params *p, mri_device *d, const mri_fragment *f, uint64_t at,
                             uint64_t n, const void *host, mr_err *err);
/* Is this rank the first of those that keep element `at` of the flat space? They differ in axes
 * that do not split its group: dp and cp (edp) where it is whole or in other copies, often tp. */
bool mri_piece_first(const mri_params *p, uint64_t at, const mri_mesh *mesh);

#endif
