/* SPDX-License-Identifier: Apache-2.0
 *
 * draw.h - what the kinds of initialisation mean, for the op draw and for core's own fills. */
#ifndef MRI_OPS_DRAW_H
#define MRI_OPS_DRAW_H
#include "core/base/rng.h"
#include <stdbool.h>

/* out[j] = element first + j, rounded once to f32. normal: mean 0, deviation `scale`; uniform:
 * between -scale and scale; constant: scale. false: no such kind. */
bool mri_draw(const char *kind, mri_rng r, uint64_t first, uint64_t n, double scale, float *out);

#endif
