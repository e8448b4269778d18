/* SPDX-License-Identifier: Apache-2.0
 *
 * canvas.h - which grid of tiles suits a picture. Among the grids that hold it enlarged, the one
 * that enlarges least; else the one that shrinks least; of equals the smallest. Pure arithmetic.
 */
#ifndef MRI_IMAGE_CANVAS_H
#define MRI_IMAGE_CANVAS_H
#include "rule.h"

enum { MRI_CANVAS_TILES = 64, MRI_CANVAS_SHAPES = 300 /* pairs of factors up to 64: 280 */ };

typedef struct mri_canvas {
    int64_t rows, cols;    /* tiles                                      */
    int64_t width, height; /* of the picture in its upper left corner    */
} mri_canvas;
mri_canvas mri_canvas_for(const mri_image_rule *rule, int64_t width, int64_t height);

#endif
