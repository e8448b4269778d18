/* SPDX-License-Identifier: Apache-2.0
 *
 * inspect.h - what a folder of tensors holds: a view of it (inspect_view.c), printed for
 * people or as JSON (inspect_print.c).
 */
#ifndef MRUN_INSPECT_H
#define MRUN_INSPECT_H
#include "core/store/store.h"

typedef struct inspect_group {
    const char *name; /* "model"; "" for a set that is no checkpoint's group */
    const mri_safetensors *tensors;
} inspect_group;

typedef struct inspect_view {
    const char *kind; /* "checkpoint", "folder", "file" */
    char *path;       /* of what was opened: the step's folder if a run's was given */
    char *family;     /* config.json's model_type, or NULL */
    mri_checkpoint *checkpoint; /* or NULL */
    mri_safetensors *set;       /* or NULL */
    MRI_VEC(inspect_group) groups;
    int64_t *steps; /* all checkpoints beside it, newest first */
    size_t n_steps;
} inspect_view;

/* path: a .safetensors file, a Hugging Face folder, a checkpoint's step folder, or a folder
 * (or a run's) with checkpoints, of which the newest is taken. Nothing is changed on disk. */
mr_status inspect_open(const char *path, inspect_view *v, mr_err *err);
void inspect_close(inspect_view *v);

/* differences: lines of the profile's differences from its run's, or NULL if not compared */
void inspect_print(const inspect_view *v, const char *differences, bool json, mri_str *out);

#endif
