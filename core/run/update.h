/* SPDX-License-Identifier: Apache-2.0
 *
 * update.h - from summed gradients to new weights: gradient norm, clipping, the optimizer
 * plugin's program over every group, weights with the masters or from them (masters.h).
 *
 * Invariant: nothing is written unless the device's `ok` scalar is 1, which the norm step
 * clears where the norm of all gradients is not finite. So a step with an overflow or a NaN
 * changes neither weights nor optimizer state, and neither do steps queued behind it: ok stays
 * 0 until the host has read it and calls mri_update_rearm().
 *
 * A step is its scalars (mri_update_scalars), then mri_update_launch(), which only enqueues;
 * mri_update_run() is both, and waits for the verdict.
 */
#ifndef MRI_UPDATE_H
#define MRI_UPDATE_H
#include "exec.h"
#include "mrun/optimizer.h"

typedef struct mri_opt_state { /* one state of one group */
    const char *name;          /* "exp_avg" */
    uint32_t group;
    void *data;                /* device, mri_params_states() elements of acc dtype */
} mri_opt_state;

typedef struct mri_sumsq { /* sum of squares of a range of the gradients */
    mri_plan *plan;
    uint64_t at;   /* element of the flat space */
    bool in_steps; /* no: the backward of a step has done it */
} mri_sumsq;

typedef struct mri_update_part { /* a group, or this rank's piece of a bucket */
    uint32_t group;
    uint64_t at, n;
    mri_plan *update, *store; /* store NULL: the update writes weights, or they are the masters */
} mri_update_part;

typedef struct mri_update {
    mri_device *device;
    mri_params *params;
    mri_scalars *scalars;
    struct mri_world *world; /* over all its ranks the norm is taken; NULL: alone */
    double max_norm;
    bool deterministic;
    mri_plan *norm; /* clip_scale */
    MRI_VEC(mri_sumsq) sumsq;
    MRI_VEC(mri_update_part) parts;
    MRI_VEC(mri_plan *) plans; /* of sums and parts; those of one length are shared */
    MRI_VEC(mri_opt_state) states;
    char *scratch;
    uint64_t scratch_bytes, state_bytes;
} mri_update;

/* Plans; state_bytes and scratch_bytes say what mri_update_alloc() will take. `params` need be
 * planned only. `train` (or NULL): the exec whose gradients these are. `world` (or NULL): the ranks
 * that step together. */
mr_status mri_update_create(mri_device *d, struct mri_world *world, mri_params *params,
                            mri_scalars *scalars, const mri_exec *train,
                            const mr_optimizer_ops *ops, void *optimizer, double max_norm,
                            bool deterministic, mri_update **out, mr_err *err);
mr_status mri_update_alloc(mri_update *u, mr_err *err);
void mri_update_free(mri_update *u);
/* device address of element `at` of the flat space in a state; NULL: on another rank */
void *mri_update_state(const mri_update *u, const mri_opt_state *x, uint64_t at);

typedef struct mri_update_result {
    double grad_norm;
    bool ok; /* false: the gradients were not finite, nothing was changed */
} mri_update_result;

/* Names every scalar that one step reads and its value, in an order that never changes. lr and
 * decay are those before group multipliers; step counts from 1. */
void mri_update_scalars(const mri_update *u, double lr, double weight_decay, int64_t step,
                        void (*put)(void *ctx, const char *name, double value), void *ctx);
/* Norm, clipping and update on the device's stream: no scalar is written or read, nothing waits,
 * nothing is zeroed. Results: scalars "norm" and "ok". */
/* `summed`: the backward has added up squares of its own (mri_exec.summed) since "sumsq" was set */
mr_status mri_update_launch(mri_update *u, bool summed, mr_err *err);
/* Sets ok to 1: after a bad step was seen. mri_update_alloc() does it at the start. */
mr_status mri_update_rearm(mri_update *u, mr_err *err);
/* Scalars, launch, verdict; a bad step is rearmed. */
mr_status mri_update_run(mri_update *u, double lr, double weight_decay, int64_t step,
                         mri_update_result *out, mr_err *err);
/* What of the launch cannot be captured, as text (the caller frees), or NULL. */
char *mri_update_obstacle(const mri_update *u);

#endif
