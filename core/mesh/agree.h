/* SPDX-License-Identifier: Apache-2.0
 *
 * agree.h - what the ranks of a world tell each other beside the step: that they were started
 * alike, how they fare, small figures.
 *
 * Invariant: what agree and gather give is the same on all ranks, so all take the same way on.
 */
#ifndef MRI_AGREE_H
#define MRI_AGREE_H
#include "world.h"

/* The same profile and the same binary on all ranks; else an error that names the rank and the
 * first line of the profile that differs. */
mr_status mri_agree_same(mri_world *w, mr_err *err);

#endif
