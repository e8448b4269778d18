/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_state.h - what the files of the shard pass share: the two programs side by side, and
 * where each value of the old one is in the new one. Moves between placements are remembered, so
 * that three products of one cut value gather it once. */
#ifndef MRI_SHARD_STATE_H
#define MRI_SHARD_STATE_H
#include "shard.h"

enum { MRI_WHOLE = -1, MRI_ROUTED = MR_MAX_RANK }; /* else the dim that is cut */
enum { MRI_USED_WHOLE = 1, MRI_USED_PARTIAL = 2, MRI_USED_CUT = 4 }; /* of parameters, states */

typedef struct mri_moved { /* a value at another placement */
    mr_val from, to;
    int32_t at;
    uint32_t way;
} mri_moved;

typedef struct mri_sharding {
    const mr_prog *old;
    mr_prog *p;
    const mri_mesh *mesh;
    int64_t n, index; /* tp */
    mr_val *to;       /* by old value: in the new program */
    int32_t *at;      /* by old value: its placement */
    uint8_t *used;    /* by old value */
    MRI_VEC(mri_moved) moved;
    mr_err *err;
} mri_sharding;

/* How an operand reaches the op, which decides what becomes of its gradient. */
enum {
    MRI_FOR_ALL,  /* the op is the same on all ranks: so is the gradient   */
    MRI_FOR_PART, /* each rank's op does its part: gradients are partial   */
};

/* Old value v in the new program at placement `want`. `gradient`: MRI_FOR_* */
mr_status mri_shard_move(mri_sharding *s, mr_val v, int32_t want, uint32_t gradient, mr_val *out);
/* One collective (or comm.slice) of the new program's value x; grad NULL: it has no such
 * attribute. */
mr_status mri_shard_comm(mri_sharding *s, const char *id, const char *grad, mr_val x, mr_val *out);
/* x [A, n*C] of every rank's partial sums: summed, and cut along dim 0 if `cut` */
mr_status mri_shard_resolve(mri_sharding *s, mr_val x, bool cut, mr_val *out);
/* a parameter or state that nobody used yet is cut along `dim` from now on */
mr_status mri_shard_cut_named(mri_sharding *s, mr_val v, uint32_t dim);
/* "S(0)" as the stream's: is a value of this (whole) type one? */
bool mri_shard_streams(const mri_sharding *s, const mr_type *t);
/* one node of the old program */
mr_status mri_shard_node(mri_sharding *s, const mri_node *n);
/* "block X cannot be cut over tp = 2: ..." */
MR_PRINTF(2, 3) mr_status mri_shard_fail(mri_sharding *s, const char *fmt, ...);

#endif
