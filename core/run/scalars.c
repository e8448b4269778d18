/* SPDX-License-Identifier: Apache-2.0
 * scalars.c - see scalars.h. */
#include "scalars.h"
#include "core/plan/shard_experts.h"
#include <stdlib.h>
#include <string.h>

/* what a dispatch of experts' rows, and the norm and clipping step write */
static const char *const written[] = { "grad_scale", "norm", "ok", MRI_ROOM_WANTED };
enum { N_WRITTEN = sizeof written / sizeof *written,
       FIRST_WRITTEN = MRI_MAX_SCALARS - N_WRITTEN };

mr_status mri_scalars_create(mri_scalars *s, mri_device *d, mr_err *err)
{
    memset(s, 0, sizeof *s);
    mr_status st = d->ops->alloc(d->dev, MRI_MAX_SCALARS * MRI_SCALAR_STRIDE * sizeof(float),
                                 MR_MEM_WEIGHTS, (void **)&s->data, err);
    return st ? st : mri_scalar_set(s, d, MRI_ROOM_WANTED, 0, err);
}

void mri_scalars_free(mri_scalars *s, mri_device *d)
{
    if (s->data)
        d->ops->free(d->dev, s->data, MRI_MAX_SCALARS * MRI_SCALAR_STRIDE * sizeof(float));
    for (size_t i = 0; i < s->names.n; i++)
        free((char *)s->names.v[i]);
    free(s->names.v);
    memset(s, 0, sizeof *s);
}

static size_t find_written(const char *name)
{
    size_t i = 0;
    while (i < N_WRITTEN && strcmp(written[i], name))
        i++;
    return i;
}

size_t mri_scalar_written_at(const char *name)
{
    size_t i = find_written(name);
    MRI_ASSERT(i < N_WRITTEN);
    return i * MRI_SCALAR_STRIDE;
}

float *mri_scalars_written(mri_scalars *s, size_t *n)
{
    *n = N_WRITTEN * MRI_SCALAR_STRIDE;
    return s->data + FIRST_WRITTEN * MRI_SCALAR_STRIDE;
}

size_t mri_scalar_at(mri_scalars *s, const char *name)
{
    size_t i = 0;
    while (i < s->names.n && strcmp(s->names.v[i], name))
        i++;
    if (i == s->names.n) {
        MRI_ASSERT(i < FIRST_WRITTEN);
        MRI_PUSH(&s->names, mri_strdup(name));
    }
    return i * MRI_SCALAR_STRIDE;
}

void *mri_scalar(mri_scalars *s, const char *name)
{
    size_t w = find_written(name), n;
    return w < N_WRITTEN ? mri_scalars_written(s, &n) + w * MRI_SCALAR_STRIDE
                         : s->data + mri_scalar_at(s, name);
}

mr_status mri_scalar_set(mri_scalars *s, mri_device *d, const char *name, double v, mr_err *err)
{
    float f = (float)v;
    return mri_device_write(d, mri_scalar(s, name), &f, sizeof f, err);
}

mr_status mri_scalar_get(mri_scalars *s, mri_device *d, const char *name, double *v, mr_err *err)
{
    float f = 0;
    mr_status st = mri_device_read(d, &f, mri_scalar(s, name), sizeof f, err);
    *v = f;
    return st;
}
