/* SPDX-License-Identifier: Apache-2.0
 *
 * bind.h - what exec.c and bind.c share: the layout of an exec's memory and names of its ports.
 */
#ifndef MRI_BIND_H
#define MRI_BIND_H
#include "exec.h"

enum { /* arrays of mri_batch, in its order */
    MRI_TEXT_FIELDS = 6, /* of T elements each */
    MRI_FIELD_IMAGE_ROWS = MRI_TEXT_FIELDS, MRI_FIELD_PIXELS, /* where there are pictures */
    MRI_BATCH_FIELDS
};

enum { MRI_ARENA_ALIGN = 256 }; /* bytes, of the saved values and of the gradients over them */

void mri_exec_lay_out(mri_exec *e);
char *mri_exec_field(const mri_exec *e, uint32_t k); /* device address of the k-th field */
uint64_t mri_exec_field_bytes(const mri_exec_options *o, uint32_t k); /* its contents; 0: none */
const mri_plan *mri_exec_plan(const mri_exec *e, uint32_t instance);
bool mri_is_loss(const mr_prog *p, const char *output);
/* "d:x" outputs are gradient edges; everything else that is no loss is an edge of F. */
bool mri_is_grad_edge(const char *name);
/* Parameter k (0, 1, ...) of those that a plan's param is: one, or several side by side whose
 * names "|" joins (core/plan/join.c). NULL past the last. */
const mri_tensor_slot *mri_exec_slot(const mri_exec *e, uint32_t instance, size_t param,
                                     uint32_t k);
int32_t mri_output_index(const mri_plan *pl, const char *name); /* -1: none */

/* gradients.c: the least offset from the saved values at which the main gradients may begin;
 * reach[i]: the end of what the backward of instance i, and of those before it, reads of them */
uint64_t mri_gradients_over(const mri_exec *e, const uint64_t *reach);
void mri_gradients_plan(mri_exec *e); /* e->zeroed, e->summed and every frame's `sole` */

#endif
