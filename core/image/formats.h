/* SPDX-License-Identifier: Apache-2.0
 *
 * formats.h - between decode.c and the formats. A format's function checks what the header says
 * with mri_image_check() before it takes memory, and leaves *out empty when it fails.
 */
#ifndef MRI_IMAGE_FORMATS_H
#define MRI_IMAGE_FORMATS_H
#include "image.h"

typedef struct mri_image_source {
    const uint8_t *data;
    size_t n;
    const char *name;
    const mri_image_limits *limits;
} mri_image_source;

mr_status mri_image_check(const mri_image_source *s, uint64_t width, uint64_t height, mr_err *err);
mr_status mri_image_broken(const mri_image_source *s, const char *format, const char *why,
                           mr_err *err);

/* *orientation: 1 to 8 as EXIF counts them, untouched where the file has none */
mr_status mri_png_decode(const mri_image_source *s, mri_image *out, int *orientation, mr_err *err);
mr_status mri_jpeg_decode(const mri_image_source *s, mri_image *out, int *orientation, mr_err *err);

/* The orientation in a block of EXIF data (it begins with a TIFF header), 1 if there is none. */
int mri_exif_orientation(const uint8_t *tiff, size_t n);
/* Turns and mirrors so that orientation 1 is left. */
mr_status mri_image_upright(mri_image *image, int orientation, mr_err *err);

#endif
