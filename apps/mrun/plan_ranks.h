/* SPDX-License-Identifier: Apache-2.0
 *
 * plan_ranks.h - `mrun plan PROFILE.ini --ranks N --rank R`: what one rank of many has, sends and
 * waits for, and how long a step would take, told without the others and without their devices.
 */
#ifndef MRUN_PLAN_RANKS_H
#define MRUN_PLAN_RANKS_H
#include "app.h"
#include "core/run/session.h"
#include "core/run/stages.h"

typedef struct plan_machine { /* what times are predicted from: rates that are reached */
    const char *name;
    double flops, memory;  /* of a device: a second, bytes a second             */
    double node, network;  /* a rank's link within a node, and beyond: bytes a second */
    uint32_t ranks;        /* of a node                                         */
} plan_machine;
const plan_machine *plan_machine_find(const char *name); /* NULL: unknown */
void plan_machines(mri_str *out);                        /* their names */

typedef struct plan_rates {
    const plan_machine *m;
    const mri_mesh *mesh;
    double link; /* bytes a second; 0: the machine's */
} plan_rates;

/* plan_cost.c: seconds of one step; is it a collective? */
bool plan_step_seconds(const mri_plan *p, const mri_step *s, const plan_rates *r, double *seconds);
/* seconds that `bytes` of a rank take on a group; link > 0: at that rate, wherever its ranks are */
double plan_link(const mri_mesh *mesh, uint32_t group, double bytes, const plan_machine *m,
                 double link);
/* a line for each collective of this rank's blocks, per step */
void plan_collectives(const mri_exec *e, const mri_mesh *mesh, uint32_t micros,
                      const plan_machine *m, double link, mri_str *out);

typedef struct plan_lanes { /* kernels and collectives of some items */
    char *row[2];    /* a Gantt of `columns` over `span` seconds, or NULL */
    uint32_t columns;
    double span, busy[2];
} plan_lanes;
/* plan_lanes.c: seconds until both lanes are done */
double plan_lanes_run(const mri_exec *e, const mri_schedule *s, const plan_rates *r,
                      plan_lanes *out);
double plan_chunk_seconds(const mri_session *x, uint32_t chunk, int phase, const plan_rates *r);
/* F of one chunk zipped with B of one, whatever the profile says */
double plan_pair_seconds(const mri_session *x, uint32_t forward, uint32_t backward,
                         const plan_rates *r, plan_lanes *out);

/* plan.c */
void plan_memory(const mri_session *s, mri_str *out);

mr_status plan_ranks(app *a, mri_config *c, uint32_t ranks, uint32_t rank, const plan_machine *m,
                     mri_str *out, mr_err *err);

#endif
