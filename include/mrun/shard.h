/* SPDX-License-Identifier: Apache-2.0
 *
 * shard.h - unit kind "shard": what the ranks of data parallelism split between them. A plugin
 * plans: it sees the parameters by block and group, cuts them into buckets, and says of each what
 * a rank keeps whole and what as its piece. Core checks the plan, lays the memory out, and moves
 * the bytes; the optimizer, the blocks and the kernels know nothing of it.
 *
 * A bucket is reduced and gathered by one collective each. What a rank keeps, by strategy:
 *                          weights   gradients   masters and states
 *     NONE                 whole     whole       whole     gradients summed once a step
 *     OPTIM                whole     whole       piece     the same; weights gathered after it
 *     OPTIM_GRADS          whole     piece       piece     gradients summed every micro-batch
 *     OPTIM_GRADS_PARAMS   piece     piece       piece     and weights gathered around every use
 * Where gradients or weights are pieces, a block works on whole ones in buffers that blocks take
 * in turn.
 */
#ifndef MRUN_SHARD_H
#define MRUN_SHARD_H
#include "plugin.h"
#ifdef __cplusplus
extern "C" {
#endif

enum mr_shard_strategy {
    MR_SHARD_NONE = 0,
    MR_SHARD_OPTIM,
    MR_SHARD_OPTIM_GRADS,
    MR_SHARD_OPTIM_GRADS_PARAMS
};

enum { /* mr_shard_part.flags */
    MR_SHARD_EXPERT = 1, /* experts: split over the ranks that hold the same ones            */
    MR_SHARD_F32 = 2,    /* blocks read the masters: weights are kept whole, OPTIM_GRADS at
                            most                                                             */
    MR_SHARD_SHARED = 4  /* several blocks bind them: OPTIM at most, bucket of their own     */
};

/* The trainable parameters of one group in one block. Frozen struct. */
typedef struct mr_shard_part {
    uint32_t flags, instance; /* of SHARED ones meaningless                                  */
    uint32_t group;           /* one learning rate, one weight decay, one set of ranks       */
    uint32_t ranks;           /* between which they may be split                             */
    uint64_t elements;        /* alignment included                                          */
    const char *block;        /* "model.layers.3."; "" where they are SHARED                 */
} mr_shard_part;

typedef struct mr_shard_model {
    uint32_t size, n_parts;
    const mr_shard_part *part; /* by group, in a group by instance, SHARED last              */
    uint32_t n_instances;
    uint32_t micro_batches;    /* of a step, at most                                         */
    const char *weight_dtype, *grad_dtype; /* "bf16", "f32"                                  */
} mr_shard_model;

enum { /* mr_shard_builder.overlap() */
    MR_SHARD_OVERLAP_REDUCE = 1, /* a bucket is summed while earlier blocks run backward     */
    MR_SHARD_OVERLAP_GATHER = 2  /* and gathered while the next forward begins, or while the
                                    block before runs                                        */
};

/* What a plan is told to. All calls [main]. */
typedef struct mr_shard_builder {
    uint32_t size, pad;
    /* The next bucket: parts first .. first + n - 1, all of one group. Every part is in exactly
     * one, in order; where gradients or weights are pieces, all of one block. */
    mr_status (*bucket)(void *plan, uint32_t first, uint32_t n, uint32_t strategy, mr_err *);
    /* Buffers in turn for whole weights and for whole gradients of blocks that keep pieces: 1 or
     * more. With `weights` of them at most weights - 1 blocks are gathered ahead. */
    mr_status (*buffers)(void *plan, uint32_t weights, uint32_t gradients, mr_err *);
    mr_status (*overlap)(void *plan, uint32_t flags, mr_err *);
    /* dtype in which gradients travel: grad_dtype of the model, or "bf16" */
    mr_status (*reduce_in)(void *plan, const char *dtype, mr_err *);
} mr_shard_builder;

typedef struct mr_shard_ops {
    uint32_t size, flags;
    mr_status (*create)(const mr_host *, const void *config, void **shard, mr_err *);  /* [main] */
    void (*destroy)(void *shard);                                                     /* [main] */
    mr_status (*plan)(void *shard, const mr_shard_model *, const mr_shard_builder *, void *plan,
                      mr_err *);                                                      /* [main] */
} mr_shard_ops;

#ifdef __cplusplus
}
#endif
#endif
