/* SPDX-License-Identifier: Apache-2.0
 *
 * images.h - the pictures of one sequence on the command line: files (--image, repeatable), or
 * prepared pixels (--pixel-values FILE.safetensors: tensor pixel_values [tiles, 3, S, S], taken
 * as they are).
 *
 * Invariant: pictures that app_pictures_read() passed fit the model that was asked, and ids that
 * app_pictures_ids() made take all their features. Ids given as ids are taken as they are; core
 * counts them.
 */
#ifndef MRUN_IMAGES_H
#define MRUN_IMAGES_H
#include "app.h"
#include "core/run/session.h"

typedef struct app_pictures {
    MRI_VEC(char *) files;
    char *values;
    mri_tiles *grid; /* of each file; pixels NULL */
    float *pixels;   /* [tiles, 3, S, S] of all */
    int64_t tiles;
} app_pictures; /* {0} is none */

void app_pictures_add(app_pictures *p, const char *file);
/* --image and --pixel-values of a command line; both together are refused */
mr_status app_pictures_args(app_pictures *p, const app_args *args, mr_err *err);
bool app_pictures_any(const app_pictures *p);
/* Prepares the pixels for the session's model; again is no work. */
mr_status app_pictures_read(app_pictures *p, mri_session *s, mr_err *err);
/* A text with a placeholder a file, to ids; the caller frees. */
mr_status app_pictures_ids(const app_pictures *p, mri_session *s, const char *text, uint64_t len,
                           bool begin, int32_t **ids, uint64_t *n, mr_err *err);
void app_pictures_free(app_pictures *p);

#endif
