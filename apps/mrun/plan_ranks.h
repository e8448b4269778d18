/* SPDX-License-Identifier: Apache-2.0
 *
 * plan_ranks.h - `mrun plan PROFILE.ini --ranks N --rank R`: what one rank of many has, sends and
 * waits for, and how long a step would take, told without the others and without their devices.
 */
#ifndef MRUN_PLAN_RANKS_H
#define MRUN_PLAN_RANKS_H
#include "app.h"
#include "core/run/session.h"

typedef struct plan_machine { /* what times are predicted from: rates that are reached */
    const char *name;
    double flops, memory;  /* of a device: a second, bytes a second             */
    double node, network;  /* a rank's link within a node, and beyond: bytes a second */
    uint32_t ranks;        /* of a node                                         */
} plan_machine;
const plan_machine *plan_machine_find(const char *name); /* NULL: unknown */
void plan_machines(mri_str *out);                        /* their names */

/* plan_cost.c: seconds of one phase of an instance, compute and collectives */
double plan_seconds(const mri_exec *e, uint32_t instance, uint8_t phase, const mri_mesh *mesh,
                    const plan_machine *m, double link);
/* seconds that `bytes` of a rank take on a group; link > 0: at that rate, wherever its ranks are */
double plan_link(const mri_mesh *mesh, uint32_t group, double bytes, const plan_machine *m,
                 double link);
/* a line for each collective of this rank's blocks, per step */
void plan_collectives(const mri_exec *e, const mri_mesh *mesh, uint32_t micros,
                      const plan_machine *m, double link, mri_str *out);

/* plan.c */
void plan_memory(const mri_session *s, mri_str *out);

mr_status plan_ranks(app *a, mri_config *c, uint32_t ranks, uint32_t rank, const plan_machine *m,
                     mri_str *out, mr_err *err);

#endif
