/* SPDX-License-Identifier: Apache-2.0
 *
 * balance.h - the biases by which routers choose, moved once a step towards an even load of the
 * experts ([train] moe_router_bias_update_rate; core/ops/router_bias.c). Blocks count in states that
 * lie here side by side; they are zeroed before a step, summed over the ranks that have other tokens
 * of the step, and move the biases, which are parameters without gradients: saved and exported as
 * such, in no group of the optimizer and in no norm.
 *
 * Invariant: every rank that has a router sums the same loads, so all copies of a bias stay equal;
 * a step that is not ok moves none. Nothing of it waits for the host.
 */
#ifndef MRI_BALANCE_H
#define MRI_BALANCE_H
#include "exec.h"
#include "core/mesh/world.h"

typedef struct mri_balance_run { /* routers whose biases lie side by side in the parameters */
    mri_plan *plan;
    const mri_tensor_slot *first_bias;
    uint64_t first; /* element of its load in `loads`    */
} mri_balance_run;

typedef struct mri_balance {
    mri_device *device;
    mri_params *params;
    mri_scalars *scalars;
    mri_world *world; /* or NULL */
    mri_exec *train;
    MRI_VEC(mri_balance_run) runs;
    MRI_VEC(mri_plan *) plans;
    uint64_t n; /* elements of loads */
    float *loads; /* device */
    char *scratch;
    uint64_t scratch_bytes;
} mri_balance;

/* Plans; the exec that trains has the states. *out NULL: this rank has no such router. */
mr_status mri_balance_create(mri_device *d, mri_world *world, mri_params *params,
                             mri_scalars *scalars, mri_exec *train, double rate, bool deterministic,
                             mri_balance **out, mr_err *err);
/* Memory, and the states in it: before the exec is bound. */
mr_status mri_balance_alloc(mri_balance *b, mr_err *err);
void mri_balance_free(mri_balance *b);
/* On the device's stream, before the first micro-batch, and behind the update's verdict. A
 * session without one (NULL) does nothing. */
mr_status mri_balance_zero(mri_balance *b, mr_err *err);
mr_status mri_balance_launch(mri_balance *b, mr_err *err);
/* What of it cannot be captured, as text (the caller frees), or NULL. */
char *mri_balance_obstacle(const mri_balance *b);

#endif
