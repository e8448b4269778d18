/* SPDX-License-Identifier: Apache-2.0
 *
 * chat.h - messages to the text that a model was trained on, by its folder's chat template. What
 * the template sees is what transformers' apply_chat_template shows it: messages, tools,
 * documents, add_generation_prompt, and the special tokens by name (bos_token ...).
 */
#ifndef MRI_CHAT_H
#define MRI_CHAT_H
#include "template.h"

typedef struct mri_chat mri_chat;

/* The template of a model's folder: chat_template.jinja (and additional_chat_templates/), else the
 * member chat_template of tokenizer_config.json or chat_template.json: one text, or a list of named
 * ones, of which "tool_use" is for messages with tools. `file`: a template in its place, or NULL.
 * dir may be NULL if file is not. */
mr_status mri_chat_open(const char *dir, const char *file, mri_chat **out, mr_err *err);
void mri_chat_free(mri_chat *c);

typedef struct mri_chat_request {
    const mri_json *messages; /* an array of objects, one at least */
    const mri_json *tools;    /* an array of objects, or NULL */
    const mri_json *more;     /* an object of further variables, or NULL */
    bool answer;              /* ends with what begins the assistant's answer */
    int64_t now;              /* for strftime_now(); negative: the clock */
} mri_chat_request;

/* Appends the text. The special tokens in it are words: encode them without MR_TOK_PLAIN and
 * without the id that begins a text, which the template writes itself. */
mr_status mri_chat_text(const mri_chat *c, const mri_chat_request *q, mri_str *out, mr_err *err);

#endif
