/* SPDX-License-Identifier: Apache-2.0
 *
 * template.h - a chat template: Jinja as transformers' apply_chat_template runs it (trim_blocks,
 * lstrip_blocks, break and continue, {% generation %}, the immutable sandbox), in plain C.
 * Invariant: a template is data. It reads no file, starts nothing, and ends within the limits of
 * value.h whatever it says.
 */
#ifndef MRI_CHAT_TEMPLATE_H
#define MRI_CHAT_TEMPLATE_H
#include "core/base/json.h"

typedef struct mri_template mri_template;

/* `name` stands in messages, as NAME:LINE. MR_E_TEMPLATE on what is no template. */
mr_status mri_template_parse(const char *text, size_t n, const char *name, mri_template **out,
                             mr_err *err);
void mri_template_free(mri_template *t);

/* Appends the text. vars: an object, its members are the template's variables. now: seconds since
 * 1970 for strftime_now(); negative: the clock's. Safe on several threads at once. */
mr_status mri_template_render(const mri_template *t, const mri_json *vars, int64_t now,
                              mri_str *out, mr_err *err);

#endif
