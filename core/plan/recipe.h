/* SPDX-License-Identifier: Apache-2.0
 *
 * recipe.h - precision recipes: what weights and activations are kept in, and what each product
 * of a layer computes in. A recipe is a row of the table in recipe.c.
 *
 * A product has three uses, which differ in what they bear: forward y = x wᵀ, the data gradient
 * dx = dy w, the weight gradient dw = dyᵀ x. A recipe gives a format to each of x, w and dy; the
 * names of the three uses' ops, and what must be made of the operands first, are its `form`.
 */
#ifndef MRI_RECIPE_H
#define MRI_RECIPE_H
#include "core/base/base.h"

enum mri_scaling {
    MRI_SCALE_NONE = 0, /* products read weights and activations as they are kept       */
    MRI_SCALE_TENSOR    /* one scale a tensor, from its own largest magnitude (current) */
};

typedef struct mri_recipe {
    const char *name, *dtype;          /* of weights and activations                       */
    const char *operand, *gradient;    /* what products read of x and w, and of dy         */
    uint32_t scaling, multiple;        /* dims of a product must be multiples of the latter */
} mri_recipe;

const mri_recipe *mri_recipe_find(const char *name); /* NULL: unknown */

#endif
