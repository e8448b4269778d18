/* SPDX-License-Identifier: Apache-2.0
 * load.h - tensors of files into the parameters that they are. */
#ifndef MRI_LOAD_H
#define MRI_LOAD_H
#include "pieces.h"

/* Reads all pieces, in the order of their files, which it puts them in. Parameters that are not
 * whole after an error are not to be used. */
mr_status mri_load(mri_params *p, mri_device *d, const mri_safetensors *f, mri_pieces *pieces,
                   mr_err *err);

#endif
