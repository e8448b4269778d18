/* SPDX-License-Identifier: Apache-2.0
 *
 * mesh.h - where a rank stands: sizes of the axes, this rank's coordinates, and the groups of
 * ranks that differ in some axes only.
 *
 * Two grids share the ranks, as in Megatron-LM: of the dense parts (tp, cp, dp, pp) and of the
 * experts (etp, ep, edp, pp), with etp*ep*edp = tp*cp*dp. The first named varies fastest:
 *     rank = tp + TP*(cp + CP*(dp + DP*pp))     rank = etp + ETP*(ep + EP*(edp + EDP*pp))
 *
 * Invariant: ranks of one group are listed in ascending order, which is that of the coordinates;
 * everything here is arithmetic on (sizes, rank), so any rank's mesh can be made without it.
 */
#ifndef MRI_MESH_H
#define MRI_MESH_H
#include "core/config/sections.h"

enum { /* axes, as bits: a group is named by the axes in which its ranks differ */
    MRI_AXIS_TP = 1, MRI_AXIS_CP = 2, MRI_AXIS_DP = 4, MRI_AXIS_PP = 8, /* dense grid  */
    MRI_AXIS_ETP = 16, MRI_AXIS_EP = 32, MRI_AXIS_EDP = 64              /* expert grid */
};

enum mri_group_id { /* the groups that core uses */
    MRI_GROUP_TP = 0,
    MRI_GROUP_CP,
    MRI_GROUP_DP,
    MRI_GROUP_DP_CP,  /* gradients of dense parameters are summed over it                */
    MRI_GROUP_PP,     /* the stages of a pipeline, in order                              */
    MRI_GROUP_EP,     /* experts are spread over it                                      */
    MRI_GROUP_ETP,
    MRI_GROUP_EDP,    /* gradients of experts are summed over it                         */
    MRI_GROUP_TP_CP,  /* the ranks that share a micro-batch: its auxiliary statistics    */
    MRI_GROUP_DP_IN,  /* hybrid sharding: the ranks of dp x cp that hold one copy between
                         them, and those of the same part of other copies                */
    MRI_GROUP_DP_OUT,
    MRI_GROUP_ENDS,   /* first and last stage of a pipeline (tied embeddings)            */
    MRI_GROUP_WORLD,
    MRI_GROUPS
};
const char *mri_group_name(uint32_t group); /* "tp", "cp", ... as attributes name them */

typedef struct mri_mesh {
    uint32_t rank, world;
    uint32_t tp, cp, dp, pp, vpp, ep, etp, edp;                 /* sizes */
    uint32_t i_tp, i_cp, i_dp, i_pp, i_ep, i_etp, i_edp;        /* this rank's coordinates */
    uint32_t copies;  /* hybrid sharding: copies of the parameters within dp x cp */
    bool sequence;    /* sequence parallelism: outside of tp regions tokens are split over tp */
    double dispatch_bound; /* rows that a rank's experts have room for, by those that it sends;
                              0: for all */
    bool gather_experts; /* tokens of all ep ranks are gathered, instead of sent to their experts */
    bool equal_blocks;   /* rows are sent in blocks of a size that is known beforehand */
    double capacity_factor; /* tokens that an expert takes of a rank, by the mean; 0: all */
    bool drop_by_position;
    bool pad_to_capacity; /* every expert gets exactly its capacity of rows, the last of them zeros */
    bool ring; /* keys and values pass round the ranks of cp, instead of being gathered */
} mri_mesh;

/* Fills sizes from [mesh] for `world` ranks: dp auto takes what the others leave. Illegal
 * products are refused by name, with the rule. */
mr_status mri_mesh_make(const mri_cfg_mesh *cfg, uint32_t world, uint32_t rank, mri_mesh *out,
                        mr_err *err);
/* one rank alone: all sizes 1 */
void mri_mesh_alone(mri_mesh *out);
/* The ranks of this rank's group, ascending: the caller frees ranks. *index: this rank's place. */
void mri_mesh_group(const mri_mesh *m, uint32_t group, uint32_t **ranks, uint32_t *n,
                    uint32_t *index);
uint32_t mri_mesh_group_size(const mri_mesh *m, uint32_t group);
uint32_t mri_mesh_group_index(const mri_mesh *m, uint32_t group);
/* a color by which the groups of one id are told apart over the world; ENDS: -1 for others */
int32_t mri_mesh_color(const mri_mesh *m, uint32_t group);
int32_t mri_group_find(const char *name); /* -1: none */
void mri_mesh_print(const mri_mesh *m, mri_str *out);

/* ---- what part of a tensor a rank has ------------------------------------------------------ */
/* A box of a logical tensor. rank 0: the whole of it. Its own dims are those of the type that
 * stands beside it. */
typedef struct mri_place {
    uint32_t rank;
    uint32_t split;   /* axes (MRI_AXIS_*) that cut it                                         */
    uint32_t partial; /* axes beside dp and cp (edp) over which its gradient is a partial sum:
                         TP for a parameter that is whole on each rank but sees a part of the
                         tokens, or of the heads                                                */
    bool expert;      /* on the expert grid: gradients are summed over EDP, not DP x CP        */
    int64_t full[MR_MAX_RANK], at[MR_MAX_RANK]; /* of the whole; where the box begins            */
} mri_place;

#endif
