/* SPDX-License-Identifier: Apache-2.0
 *
 * stage.h - the part of a model that one pipeline rank has: its instances, chunk by chunk, and at
 * the edges of each chunk borders, instances without work that stand for other stages. A border
 * "in" has an output, which the rank receives, and sends back the gradient that comes to it; a
 * border "out" the other way round. So all that follows - layout of memory, gradients, schedules -
 * knows instances and edges only.
 *
 * Which instances lie on which virtual stage, in order of preference: [mesh] layout; else the
 * layers evenly, or as first_stage_layers and last_stage_layers say. The kind of an instance is
 * told by what it reads: E up to the last one before the layers (tokens, pictures), L that with the
 * loss (targets), m what reads both, and t all others, which are layers.
 *
 * Invariant: virtual stages ascend in the order of instances, so every edge leads to the same or a
 * later one; an assembly that is cut has explicit edges only.
 */
#ifndef MRI_STAGE_H
#define MRI_STAGE_H
#include "assembly.h"
#include "border.h"
#include "core/config/sections.h"

typedef struct mri_stage_part { /* instances first .. first + n - 1 */
    uint32_t first, n;
} mri_stage_part;

typedef struct mri_stage_loss { /* a loss of the whole model, and how many instances have it */
    char *name;
    uint32_t instances;
} mri_stage_loss;

typedef struct mri_stage {
    uint32_t stages, chunks, index; /* chunks: virtual stages a rank has      */
    MRI_VEC(mri_stage_part) parts; /* of each chunk: its instances           */
    MRI_VEC(mri_block) blocks;      /* of each instance                       */
    MRI_VEC(mri_link) links;        /* of all stages, in the model's order    */
    MRI_VEC(uint64_t) bytes;        /* of each link's value                   */
    MRI_VEC(const char *) tied;     /* full names that other stages have too; owned by the cut
                                       assembly                                */
    MRI_VEC(mri_stage_loss) losses; /* of all stages                          */
    uint32_t *of;                   /* virtual stage of each instance of the whole model */
} mri_stage;

/* One letter an instance: E t m L. The caller frees. */
char *mri_stage_letters(const mri_assembly *a);
/* Virtual stage of each instance of an assembly of these letters; the caller frees *of. */
mr_status mri_stage_assign(const char *letters, const mri_cfg_mesh *cfg, uint32_t **of,
                           uint32_t *virtual_stages, mr_err *err);
/* Cuts the assembly to stage `index`; cfg->pp 1: everything stays as it is, in one part. */
mr_status mri_stage_cut(mri_assembly *a, const mri_cfg_mesh *cfg, uint32_t index, mri_stage *out,
                        mr_err *err);
void mri_stage_free(mri_stage *s);

/* layout.c: a layout string written out, "Et*3|(tt|)*2L" as "Ettt|tt|tt|L"; the caller frees */
mr_status mri_layout_expand(const char *text, char **out, mr_err *err);

#endif
