/* SPDX-License-Identifier: Apache-2.0
 * family.h - which model plugin takes a Hugging Face folder. */
#ifndef MRI_FAMILY_H
#define MRI_FAMILY_H
#include "core/plugin/registry.h"

/* The plugin's name, which the caller frees: the first of the folder's own names (model_type,
 * text_config's, those of architectures) that is a unit of kind model. An architecture that none
 * takes is an error with the nearest family. */
mr_status mri_family_of(mri_registry *reg, const char *dir, char **name, mr_err *err);

#endif
