/* SPDX-License-Identifier: Apache-2.0
 * recipe.c - see recipe.h. */
#include "recipe.h"
#include <string.h>

static const mri_recipe recipes[] = {
    { "fp32", "f32", NULL, NULL, MRI_SCALE_NONE, 1 },
    { "bf16", "bf16", NULL, NULL, MRI_SCALE_NONE, 1 },
    { "fp64", "f64", NULL, NULL, MRI_SCALE_NONE, 1 },
    /* "hybrid": more mantissa for what is bounded, more exponent for gradients */
    { "fp8-tensor", "bf16", "f8e4m3", "f8e5m2", MRI_SCALE_TENSOR, 16 },
};

const mri_recipe *mri_recipe_find(const char *name)
{
    for (size_t i = 0; i < sizeof recipes / sizeof *recipes; i++)
        if (!strcmp(recipes[i].name, name))
            return &recipes[i];
    return NULL;
}
