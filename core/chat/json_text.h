/* SPDX-License-Identifier: Apache-2.0
 *
 * json_text.h - a template's values from and to JSON. Invariant: keys keep the order in which they
 * came, and text stays as it is unless `ascii` asks for escapes.
 */
#ifndef MRI_CHAT_JSON_TEXT_H
#define MRI_CHAT_JSON_TEXT_H
#include "core/base/json.h"
#include "value.h"

typedef struct mri_json_style {
    const char *indent; /* of one level; NULL: all on one line */
    const char *comma, *colon;
    bool ascii, sort;
} mri_json_style;

void mri_json_text(mri_render *r, mri_val v, const mri_json_style *s, int depth, mri_str *out);
mri_val mri_from_json(mri_render *r, const mri_json *json);

#endif
