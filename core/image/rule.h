/* SPDX-License-Identifier: Apache-2.0
 *
 * rule.h - how a model wants its pictures: which size, cut into which tiles, in which numbers. A
 * rule comes from a Hugging Face folder (preprocessor_config.json, or the image_processor of
 * processor_config.json; both spellings of transformers 4 and 5), else from the kind of the tower.
 * Prepared pixels equal those of transformers' own processors, bit by bit.
 *
 * Two forms. TILES is Llama 4's: the picture is laid on the canvas of S x S tiles that suits its
 * shape, cut into them, and shown once more as a whole behind them. WHOLE is CLIP's, SigLIP's and
 * LLaVA's: padded to a square if asked, resized, cut from the middle if asked; one tile.
 */
#ifndef MRI_IMAGE_RULE_H
#define MRI_IMAGE_RULE_H
#include "image.h"

typedef enum mri_image_form { MRI_WHOLE, MRI_TILES } mri_image_form;

typedef struct mri_image_rule {
    mri_image_form form;
    int64_t side;     /* S: of a tile                                                   */
    int64_t shortest; /* WHOLE: the shorter side after resizing; 0: to S x S, shape lost */
    bool resize, crop, pad_square;
    int64_t max_tiles; /* TILES: of the canvas, the global one not counted              */
    bool fill_canvas;  /* TILES: enlarge as far as the canvas allows                    */
    mri_resample resample;
    bool rescale, normalize, bf16; /* bf16: rounded so after every step, as Llama 4's   */
    double factor, mean[3], std[3];
} mri_image_rule;

/* A tower's kind: "llama4_vision_model", "clip_vision_model", "siglip_vision_model"; NULL or any
 * other: resized to S x S, values from -1 to 1. */
mri_image_rule mri_image_rule_usual(const char *tower, int64_t side);
/* From a folder; side > 0 is the tower's and must be the processor's too. */
mr_status mri_image_rule_read(const char *dir, int64_t side, mri_image_rule *out, mr_err *err);

typedef struct mri_tiles {
    int64_t rows, cols; /* of the canvas                                                  */
    int64_t n, side;    /* tiles: rows * cols, and one more if that is not 1 and TILES    */
    float *pixels;      /* [n, 3, side, side]                                             */
} mri_tiles;
/* The numbers alone for a picture of that size: pixels stays NULL. */
mri_tiles mri_image_layout(const mri_image_rule *rule, int64_t width, int64_t height);
/* The most tiles that any picture gives. */
int64_t mri_image_most_tiles(const mri_image_rule *rule);
mr_status mri_image_prepare(const mri_image_rule *rule, const mri_image *image, mri_tiles *out,
                            mr_err *err);
/* The same into the caller's memory, of `room` tiles; MR_E_IMAGE_LIMIT where that is too few. */
mr_status mri_image_prepare_into(const mri_image_rule *rule, const mri_image *image, float *pixels,
                                 int64_t room, mri_tiles *out, mr_err *err);
void mri_tiles_free(mri_tiles *t);
/* A prepared tile as a picture again, for people to look at. */
mr_status mri_image_from_tile(const mri_image_rule *rule, const float *pixels, mri_image *out,
                              mr_err *err);

#endif
