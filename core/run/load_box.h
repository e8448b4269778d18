/* SPDX-License-Identifier: Apache-2.0
 *
 * load_box.h - tensors of a folder into parameters of which this rank has a box only (tensor and
 * expert parallelism): of the files it reads the elements of the box alone.
 */
#ifndef MRI_LOAD_BOX_H
#define MRI_LOAD_BOX_H
#include "pieces.h"

/* Reads slot s, whose place says which box it is. The pieces that the whole parameter consists of
 * are appended to `out`, for whoever wants to know what was read. */
mr_status mri_load_box(mri_params *p, mri_device *d, const mri_safetensors *f, const mri_quant *q,
                       const mri_tensor_slot *s, const char *where, mri_pieces *out, mr_err *err);

#endif
