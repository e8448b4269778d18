/* SPDX-License-Identifier: Apache-2.0
 *
 * catalogue.h - looks an op up, and reads the small languages that op definitions are
 * written in: signatures ("x w bias? dw! -> y"), sharding rules, sample cases.
 */
#ifndef MRI_CATALOGUE_H
#define MRI_CATALOGUE_H
#include "core/base/base.h"
#include "mrun/op.h"

const mr_op_def *mri_op_find(const char *id);
const mr_op_def *mri_op_at(uint32_t i);
/* A plugin's op joins the catalogue; [main]. Refused: an id that exists, a malformed definition. */
mr_status mri_op_register(const mr_op_def *def, mr_err *err);
extern const mr_ref_service mri_ref_service;

enum { MRI_MAX_OPERANDS = 16 };
typedef struct mri_sig {
    uint32_t n_in, n_out;
    struct {
        char name[24];
        bool optional, mutated;
    } in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
} mri_sig;
mr_status mri_sig_parse(const char *sig, mri_sig *out, mr_err *err);

typedef struct mri_shard_axis {
    char name[16];
    char mode; /* 'm' map, 's' sum */
    char attrs[4][24];
    uint32_t n_attrs;
} mri_shard_axis;
typedef struct mri_shard {
    uint32_t n_in, n_out, n_axes;
    int8_t in[MRI_MAX_OPERANDS][MR_MAX_RANK];  /* index of the axis, -1: none; by operand and dim */
    int8_t out[MRI_MAX_OPERANDS][MR_MAX_RANK];
    mri_shard_axis axis[8]; /* only those that may be split come first: n_axes */
} mri_shard;
mr_status mri_shard_parse(const char *rule, mri_shard *out, mr_err *err);

/* One sample case made concrete: types and filled host buffers. */
typedef struct mri_case {
    mr_call call;
    mr_type in_type[MRI_MAX_OPERANDS], out_type[MRI_MAX_OPERANDS];
    const mr_type *in_ptr[MRI_MAX_OPERANDS], *out_ptr[MRI_MAX_OPERANDS];
    mr_attr attr[16];
    mr_buf in[MRI_MAX_OPERANDS], out[MRI_MAX_OPERANDS];
    double *arrays; /* backing store of array attributes */
    char *text;     /* backing store of strings           */
} mri_case;
/* `dtype` replaces f32 in the case text where it is not NULL (f64 for finite differences,
 * bf16 for the backend table); operands marked f32! in the text stay f32. Checks the case
 * against the op's shape function. */
mr_status mri_case_make(const mr_op_def *def, const char *text, const char *dtype, uint64_t seed,
                        mri_case *out, mr_err *err);
void mri_case_free(mri_case *c);
/* number of optional/absent aware operands that the case gives is call.n_in */

#endif
