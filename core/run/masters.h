/* SPDX-License-Identifier: Apache-2.0
 *
 * masters.h - how an optimizer's program comes by the weights that the model reads. The plugin
 * updates f32 masters and knows nothing of weights; core fits its program to what is stored:
 *   separate  the masters are the weights, or core stores them in a pass of its own
 *   written   the op that writes the masters writes bf16 weights too (operand `weights`)
 *   split     masters exist only as bf16 weights and the i16 rest (core/ops/ref.h)
 *
 * Invariant: a program is fitted as a whole or stays as the plugin built it.
 */
#ifndef MRI_MASTERS_H
#define MRI_MASTERS_H
#include "core/program/program.h"

enum mri_masters { MRI_MASTERS_SEPARATE = 0, MRI_MASTERS_WRITTEN, MRI_MASTERS_SPLIT };

/* Can it be fitted: does every op that touches state "master" write it and have the optional
 * in-place operand "weights", left out by the plugin? If not, *op names the first that does not. */
bool mri_masters_can(const mr_prog *p, const char **op);
/* Fits a program that can be: adds the state "weights". MR_E_OP_SHAPE: an op refuses. */
mr_status mri_masters_fit(mr_prog *p, enum mri_masters how, mr_err *err);

#endif
