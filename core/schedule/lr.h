/* SPDX-License-Identifier: Apache-2.0
 *
 * lr.h - what changes from step to step by a formula: learning rate, weight decay, global
 * batch. All are pure functions of how far the run is, so a resumed run needs no state.
 *
 * `step` counts the optimizer steps done so far, as Megatron's scheduler does: the first step
 * of a run trains with mri_lr(o, 0, total). A parameter group multiplies by its own factor.
 */
#ifndef MRI_LR_H
#define MRI_LR_H
#include "core/config/sections.h"

/* total: the run's length, which is the decay's where o->decay_steps is 0 */
double mri_lr(const mri_cfg_optimizer *o, int64_t step, int64_t total);

/* style "constant" (= end), "linear", "cosine": from start at step 0 to end at `steps` */
double mri_weight_decay(const char *style, double start, double end, int64_t steps, int64_t step);

/* Sequences in the next step, after `samples_done` sequences. With rampup_start > 0 the batch
 * grows from it by rampup_increment, in equal shares of rampup_samples, up to global_batch. */
int64_t mri_global_batch(const mri_cfg_train *t, int64_t samples_done);

#endif
