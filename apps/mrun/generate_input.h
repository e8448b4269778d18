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
#include "images.h"

typedef struct gen_prompt {
    char *where; /* "--prompt", "lines.jsonl:7", for messages */
    char *text;  /* NULL: it came as ids */
    size_t text_n;
    bool rendered; /* by a chat template: special words are special, nothing goes in front */
    int32_t *ids;
    uint64_t n;
    app_pictures pictures; /* that its placeholders stand for */
    int32_t *image_rows;   /* [n]: rows of the features of all prompts' pictures; NULL: none */
} gen_prompt;

typedef struct gen_prompts {
    MRI_VEC(gen_prompt) all;
    mri_chat *chat; /* opened when the first chat is met */
} gen_prompts;

/* Of the command line; the lines of a file of prompts name their own ("images"). */
typedef struct gen_pictures {
    const char *const *files;
    size_t n;
    const char *values; /* prepared pixels in their place, or NULL */
} gen_pictures;

/* What [generate] names. MR_E_USAGE: nothing, or two things at once. */
mr_status prompts_gather(gen_prompts *p, const mri_config *c, gen_pictures pictures, mr_err *err);
bool prompts_have_text(const gen_prompts *p);
mr_status prompts_resolve(gen_prompts *p, mri_session *s, const mri_config *c, mr_err *err);
/* The pixels of all prompts' pictures, one after the other; the caller frees. *tiles 0: none. */
float *prompts_pixels(const gen_prompts *p, int64_t side, int64_t *tiles);
void prompts_free(gen_prompts *p);

/* The template of the config's model; the text of messages and tools (either may be NULL). */
mr_status prompts_open_chat(const mri_config *c, mri_chat **out, mr_err *err);
/* [{system}, {user: text}], to be freed; pictures come before the text */
mri_json *prompts_messages(const char *system, const char *user, size_t pictures);

#endif
