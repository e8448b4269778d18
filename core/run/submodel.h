/* SPDX-License-Identifier: Apache-2.0
 *
 * submodel.h - the host service "mrun.model/1": a model family opens another one's unit, with
 * options of its own, as a part of itself.
 */
#ifndef MRI_SUBMODEL_H
#define MRI_SUBMODEL_H
#include "mrun/model.h"

extern const mr_model_service mri_model_service; /* of hosts that are a registry's */

#endif
