/* SPDX-License-Identifier: Apache-2.0
 *
 * export.h - a parameter as a Hugging Face folder holds it: one tensor of its name, or those that
 * its declaration lists (mr_param.tensors). The way back of pieces.h, from the same declaration.
 *
 * Invariant: the tensors of a parameter cover it once; they are stretches of it, in order, or
 * columns of its matrices (MR_PARAM_TURNED).
 */
#ifndef MRI_EXPORT_H
#define MRI_EXPORT_H
#include "core/store/quant.h"
#include "params.h"
#include "turned.h"

typedef struct mri_export {
    char *name;
    mr_type type; /* in the dtype that the block sees */
    size_t slot;  /* index into mri_params.slots */
    uint64_t at;  /* its first element within the parameter */
    int64_t ld;   /* 0, or element [r,c] of the tensor is the parameter's at + c ld + r */
} mri_export;

typedef MRI_VEC(mri_export) mri_exports;

/* Appends the tensors of one parameter; `whole`: one, of its own name. */
mr_status mri_export_slot(const mri_params *p, size_t slot, bool whole, mri_exports *out,
                          mr_err *err);
/* Of all parameters, each in the form in which `like` has it, plain or quantised; like and q may
 * be NULL. `usual`: those of MR_PARAM_WHOLE as one whatever it has. */
mr_status mri_export_all(const mri_params *p, const mri_safetensors *like, const mri_quant *q,
                         bool usual, mri_exports *out, mr_err *err);
void mri_exports_free(mri_exports *e);

#endif
