/* SPDX-License-Identifier: Apache-2.0
 *
 * router_load.h - the pass by which routers count how often they choose each expert.
 */
#ifndef MRI_ROUTER_LOAD_H
#define MRI_ROUTER_LOAD_H
#include "core/program/assembly.h"
#include "core/program/rewrite.h"
#include "plan.h"

#define MRI_ROUTER_LOAD ".load" /* the state's name is the bias's and this */

/* In every kind that does not count yet. */
mr_status mri_router_loads(mri_assembly *a, mr_err *err);
/* Refuses a whole model without a router that has a bias: `rate` ([train]
 * moe_router_bias_update_rate) would do nothing. */
mr_status mri_router_biased(const mri_assembly *a, double rate, mr_err *err);

#endif
