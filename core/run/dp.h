/* SPDX-License-Identifier: Apache-2.0
 *
 * dp.h - the ranks of data parallelism in one session: parameters in buckets (params.h), what a
 * rank keeps of each, and the collectives around every forward, backward and update.
 *
 * The plan comes from the profile's shard plugin (mrun/shard.h); without one, each group is one
 * bucket that all keep whole and whose gradients are summed behind the last micro-batch. A *unit*
 * is what a block has of buckets that are kept as pieces: while the block runs it lies whole in one
 * of a few buffers that units take in turn, unit u in buffer u % n.
 *
 * Calls around the blocks of a step (mri_exec_run makes enter and leave):
 *     begin, enter F .. leave, ..., enter B .. leave, ..., finish, (update), updated
 *
 * Invariant: all ranks make the same calls in the same order, so they submit the same collectives;
 * what is submitted depends on no time, so overlap changes no bit.
 */
#ifndef MRI_DP_H
#define MRI_DP_H
#include "core/mesh/world.h"
#include "exec.h"
#include "mrun/shard.h"

enum { MRI_NO_UNIT = UINT32_MAX };

typedef struct mri_unit { /* the pieces of one block */
    uint32_t instance;
    uint64_t weights, grads; /* elements of it that are gathered, and that are reduced as pieces */
    uint64_t pieces;         /* of the latter, this rank's */
    bool fresh;              /* nothing was added to its gradients in this step */
    bool reducing;           /* its gradients are under way */
} mri_unit;

typedef struct mri_bucket_run { /* one for each bucket: what is under way */
    uint32_t unit, users;       /* blocks that train its parameters */
    uint32_t pending;           /* of those, which will still add to its gradients in this step */
    bool reduced;
    uint64_t reduce, gather;    /* tickets; 0: none */
    uint64_t arrived;           /* elements of the arrival buffer before its piece */
    bool narrow;                /* its gradients travel in bf16, from `wire` elements on */
    uint64_t wire;
} mri_bucket_run;

/* Programs of one input and one state, of n elements each. */
enum mri_dp_op { MRI_DP_ADD, MRI_DP_NARROW, MRI_DP_WIDEN, MRI_DP_ADD_NARROW };

typedef struct mri_dp_plan {
    enum mri_dp_op op;
    uint64_t n;
    mri_plan *plan;
} mri_dp_plan;

typedef struct mri_bucket_list {
    MRI_VEC(uint32_t) bucket;
} mri_bucket_list;

typedef struct mri_dp {
    mri_world *world;
    mri_device *device;
    mri_params *params;
    const mr_shard_ops *ops; /* NULL: no plugin */
    void *plugin;
    uint32_t overlap, instances;
    uint32_t n_weights, n_grads; /* buffers */
    uint64_t weight_room, grad_room, piece_room; /* elements of one */
    bool narrow;                  /* gradients travel in bf16 where they travel */
    uint64_t wire_room;           /* elements of all of them */
    char *weights, *grads, *arrived, *wire; /* device */
    uint32_t *weight_tenant, *grad_tenant;       /* unit whose values a buffer has */
    MRI_VEC(mri_unit) units;
    MRI_VEC(mri_bucket_run) runs; /* by bucket */
    MRI_VEC(mri_dp_plan) plans;
    bool last;                    /* the step's last micro-batch runs */
} mri_dp;

/* Plans, with the profile's shard plugin if it has one: cuts `params`, which are planned and not
 * allocated. */
mr_status mri_dp_open(mri_world *w, mri_device *d, mri_params *params, const mri_assembly *a,
                      uint32_t micro_batches, const mri_config *config, const mr_host *host,
                      mri_dp **out, mr_err *err);
mr_status mri_dp_compile(mri_dp *dp, mr_err *err); /* its programs, once it is planned */
void mri_dp_close(mri_dp *dp);
uint64_t mri_dp_bytes(const mri_dp *dp); /* of buffers; NULL: 0 */
mr_status mri_dp_alloc(mri_dp *dp, mr_err *err); /* before execs are bound */
bool mri_dp_pieces(const mri_dp *dp); /* are gradients of some bucket kept as pieces? */
/* Which buckets each instance of an exec needs; the exec then calls enter() and leave(). */
void mri_dp_attach(mri_dp *dp, mri_exec *e);
void mri_dp_detach(mri_exec *e);

/* One of its programs: to = op(from), or to += from. */
mr_status mri_dp_run(mri_dp *dp, enum mri_dp_op op, uint64_t n, void *from, void *to, mr_err *err);

/* ---- around the work ---- */
void mri_dp_begin(mri_dp *dp, bool fresh);
mr_status mri_dp_enter(mri_dp *dp, const mri_exec *e, uint32_t instance, uint8_t phase,
                          mr_err *err);
mr_status mri_dp_leave(mri_dp *dp, const mri_exec *e, uint32_t instance, uint8_t phase,
                          mr_err *err);
/* All gradients are summed and kept when what is enqueued from now on runs. */
mr_status mri_dp_finish(mri_dp *dp, mr_err *err);
/* What this rank keeps of the weights has changed: the others get it. */
mr_status mri_dp_updated(mri_dp *dp, mr_err *err);

#endif
