/* SPDX-License-Identifier: Apache-2.0
 *
 * generate_input.h - what `mrun generate` goes on from: a prompt, ids, a chat, or a file of them.
 *
 * Invariant: a list that prompts_resolve() passed holds ids of the model's vocabulary only, one at
 * least a prompt, and fewer than the model's context takes.
 */
#ifndef MRUN_GENERATE_INPUT_H
#define MRUN_GENERATE_INPUT_H
#include "core/base/json.h"
#include "core/chat/chat.h"
#include "core/run/session.h"
#include "images.h"

typedef struct gen_prompt {
    char *where; /* "--prompt", "lines.jsonl:7", for messages */
    char *text;  /* NULL: it came as ids */
    size_t text_n;
    bool rendered; /* by a chat template: special words are special, nothing goes in front */
    int32_t *ids;
    uint64_t n;
} gen_prompt;

typedef struct gen_prompts {
    MRI_VEC(gen_prompt) all;
    mri_chat *chat; /* opened when the first chat is met */
} gen_prompts;

/* What [generate] names. MR_E_USAGE: nothing, or two things at once. */
mr_status prompts_gather(gen_prompts *p, const mri_config *c, mr_err *err);
bool prompts_have_text(const gen_prompts *p);
/* pictures: those of the one prompt that there is, read here; NULL: none */
mr_status prompts_resolve(gen_prompts *p, mri_session *s, const mri_config *c,
                          app_pictures *pictures, mr_err *err);
void prompts_free(gen_prompts *p);

/* The template of the config's model; the text of messages and tools (either may be NULL). */
mr_status prompts_open_chat(const mri_config *c, mri_chat **out, mr_err *err);
/* [{system}, {user: text}], to be freed */
mri_json *prompts_messages(const char *system, const char *user);

#endif
