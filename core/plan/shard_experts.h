/* SPDX-License-Identifier: Apache-2.0
 *
 * shard_experts.h - the rewritings of a block that are not a cut of its tensors' dims alone: what
 * experts take, experts on the ranks of ep, and sequences over the ranks of cp. They take a block
 * built for this rank's tokens and give the block of this rank; with the axis 1 they change nothing.
 *
 * Invariant: nodes of one block stand in the same order on every rank of the axis, so that their
 * collectives meet.
 */
#ifndef MRI_SHARD_EXPERTS_H
#define MRI_SHARD_EXPERTS_H
#include "core/program/rewrite.h"

/* Experts take at most their capacity of tokens, if the mesh has a factor; of one rank too. */
mr_status mri_shard_capacity(mr_prog **p, const mri_mesh *mesh, mr_err *err);
/* of `rows` routed rows of one rank */
int64_t mri_expert_capacity(const mri_mesh *mesh, int64_t rows, int64_t experts);
/* Parameters placed "ep:0" become this rank's experts; rows go to them and come back. */
mr_status mri_shard_experts(mr_prog **p, const mri_mesh *mesh, mr_err *err);
/* The same by gathering the tokens of all ranks; called by mri_shard_experts(), which has cut the
 * parameters' types in `w`. */
mr_status mri_gather_experts(mri_rewrite *w, const mri_mesh *mesh, mr_err *err);
/* Experts that every rank of tp has take its part of the tokens, where all ranks have all tokens. */
mr_status mri_share_experts(mr_prog **p, const mri_mesh *mesh, mr_err *err);
/* Do products of parameters placed "ep:D" read these offsets? */
bool mri_plans_experts(const mr_prog *p, mr_val offsets);
/* Does the op, by its rule, compute each row from that row alone? moved[i]: operand i is known by
 * rows that went elsewhere, `first` the first such; rows[i], out: operand i has a row for each. */
bool mri_goes_by_row(const mr_prog *p, const mri_node *n, const bool *moved, uint32_t first,
                     bool *rows);
/* The device scalar by which a dispatch says that a block had too little room: the [mesh]
 * dispatch_bound that would have done; 0: there was room. */
#define MRI_ROOM_WANTED "room_wanted"
bool mri_is_expert(const mri_value *v); /* a parameter placed "ep:D" */
/* Attention sees the keys and values of all ranks of cp. */
mr_status mri_shard_context(mr_prog **p, const mri_mesh *mesh, mr_err *err);

#endif
