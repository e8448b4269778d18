/* SPDX-License-Identifier: Apache-2.0
 *
 * shard.h - tensor parallelism: from a block's program for the whole micro-batch to the program
 * that one tp rank runs, with collectives as ops (core/ops/comm.c). Before every other pass:
 * gradients, fusion and memory are those of the local program.
 *
 * A value of the local program is
 *     whole   R, the same on every rank; its gradient is the same too
 *     cut     S(d), this rank's part of dim d
 *     routed  rows that this rank's tokens were sorted into (mixture of experts under sequence
 *             parallelism): dim 0 is as many of them as tokens, but not a cut of anything
 * and a partial sum is resolved where it is made. Between blocks the stream is S(0) under
 * sequence parallelism where the ranks divide its rows, else R; what the batch feeds is R.
 *
 * Invariant: the ranks of a tp group run the same collectives in the same order.
 */
#ifndef MRI_SHARD_H
#define MRI_SHARD_H
#include "core/program/assembly.h"

/* Cuts every kind that is not cut yet - over tp, then cp and ep (shard_experts.h) - and says of
 * every parameter which part it is (place). Call it after mri_assemble(), and again after what
 * rebuilds kinds. In mode train sequence parallelism holds for certain or is refused. */
mr_status mri_shard_assembly(mri_assembly *a, const mri_mesh *mesh, const mr_block_env *env,
                             mr_err *err);

/* One program, replaced by that of rank mesh->i_tp. `streams`: the outputs that other blocks read
 * (mri_assembly_consumed); the others end up whole. */
mr_status mri_shard_program(mr_prog **prog, const mri_mesh *mesh, const mr_list *streams,
                            mr_err *err);

#endif
