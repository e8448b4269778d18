/* SPDX-License-Identifier: Apache-2.0
 *
 * image.h - pictures: PNG and JPEG to RGB of 8 bits, and RGB to another size.
 *
 * Invariants: a picture's bytes are rows from the top, three a pixel, width * height * 3 of them,
 * and both sides are at least 1. What a file says of itself is held against the limits before
 * memory is taken for it, so a small file cannot ask for much. A file that is cut off or damaged
 * is refused, never shown with a grey rest.
 *
 * As PIL reads them: palettes, grey and 16 bits become RGB of 8 bits, an orientation in the EXIF
 * data is applied, colour profiles and gamma are left alone. What is transparent is laid on white.
 */
#ifndef MRI_IMAGE_H
#define MRI_IMAGE_H
#include "core/base/base.h"

typedef struct mri_image {
    int64_t width, height;
    uint8_t *rgb;
} mri_image; /* {0} is none */

typedef struct mri_image_limits {
    uint64_t bytes;        /* of the file                                */
    int64_t side, pixels;  /* longest side; width * height               */
    int64_t ratio;         /* the longer side is at most ratio * shorter */
} mri_image_limits;
extern const mri_image_limits mri_image_usual_limits;

/* `name` stands in messages. limits NULL: the usual ones. */
mr_status mri_image_decode(const void *data, size_t n, const char *name,
                           const mri_image_limits *limits, mri_image *out, mr_err *err);
mr_status mri_image_load(const char *path, const mri_image_limits *limits, mri_image *out,
                         mr_err *err);
/* black; MR_E_NOMEM where the host has no room */
mr_status mri_image_new(int64_t width, int64_t height, mri_image *out, mr_err *err);
/* appends a PNG of it */
mr_status mri_image_to_png(const mri_image *image, mri_str *out, mr_err *err);
void mri_image_free(mri_image *image); /* {0} is fine */

typedef enum mri_resample { MRI_BILINEAR, MRI_BICUBIC } mri_resample;
/* Antialiased, in fixed point of 16 bits as torchvision computes it on bytes: equal to its result
 * bit by bit. The same size is a copy. */
mr_status mri_image_resize(const mri_image *image, int64_t width, int64_t height, mri_resample how,
                           mri_image *out, mr_err *err);
/* `image` on a ground of one colour, its upper left corner at (x, y), which may be negative: what
 * lies outside is cut off. */
mr_status mri_image_place(const mri_image *image, int64_t width, int64_t height, int64_t x,
                          int64_t y, const uint8_t ground[3], mri_image *out, mr_err *err);

#endif
