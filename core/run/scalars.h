/* SPDX-License-Identifier: Apache-2.0
 *
 * scalars.h - the run's device scalars by name: f32, one a 64-byte line of one table.
 *
 * Those that the host sets (lr.G, step, ...) fill the table from its front, so that one copy
 * gives a step all of them; those that the device writes (norm, ok, ...) from its back,
 * so that one copy reads them, and the host's copy never overwrites them.
 */
#ifndef MRI_SCALARS_H
#define MRI_SCALARS_H
#include "device.h"

enum { MRI_MAX_SCALARS = 256, MRI_SCALAR_STRIDE = 16 };

typedef struct mri_scalars {
    MRI_VEC(const char *) names; /* set by the host; line i of the table */
    float *data;                 /* device */
} mri_scalars;

mr_status mri_scalars_create(mri_scalars *s, mri_device *d, mr_err *err);
void mri_scalars_free(mri_scalars *s, mri_device *d);
void *mri_scalar(mri_scalars *s, const char *name); /* device address; made on first use */
/* the part that the device writes: its address, floats in it, and a name's place in it */
float *mri_scalars_written(mri_scalars *s, size_t *n);
size_t mri_scalar_written_at(const char *name);
/* a value's place in a host copy of the part that the host sets */
size_t mri_scalar_at(mri_scalars *s, const char *name);
/* These wait. */
mr_status mri_scalar_set(mri_scalars *s, mri_device *d, const char *name, double v, mr_err *err);
mr_status mri_scalar_get(mri_scalars *s, mri_device *d, const char *name, double *v, mr_err *err);

#endif
