/* SPDX-License-Identifier: Apache-2.0
 *
 * held.h - which tensors a Hugging Face folder holds, for a family that must know what its
 * checkpoint calls things (mr_model_env.has_tensor). The folder is opened at the first question.
 */
#ifndef MRI_HELD_H
#define MRI_HELD_H
#include "core/store/store.h"

typedef struct mri_held {
    const char *dir; /* NULL: no folder, no tensors */
    mri_safetensors *f;
    bool tried;
} mri_held;

int32_t mri_held_has(const void *held, const char *name); /* a folder that does not open has none */
void mri_held_close(mri_held *h);

#endif
