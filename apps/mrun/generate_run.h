/* SPDX-License-Identifier: Apache-2.0
 *
 * generate_run.h - job generate between the profile and the engine: the session opened as large as
 * the prompts need, and answers written out; as text while they are made, or as JSON lines.
 */
#ifndef MRUN_GENERATE_RUN_H
#define MRUN_GENERATE_RUN_H
#include "generate_how.h"
#include "generate_input.h"

typedef struct gen_words { /* from the command line: texts that end answers, and pictures */
    const char *const *v;
    size_t n;
    gen_pictures pictures;
} gen_words;

int generate_run(app *a, const mri_config *c, gen_words words);
/* generate_talk.c: a chat on the terminal, until the end of stdin */
int generate_talk(app *a, const mri_config *c, gen_words words);

/* The weights loaded, room for `slots` sequences of `positions` and for `tiles` of pictures; prefill
 * is read in pieces of `piece` tokens. */
mr_status generate_open(app *a, const mri_config *c, int64_t slots, int64_t positions,
                        int64_t piece, int64_t tiles, bool tokenizer, mri_session **out,
                        mr_err *err);
/* Ctrl-C from here on ends answers where they are; a second one ends the process. */
void generate_catch_signals(void);
bool generate_interrupted(void);
/* Tokens that may follow a prompt of n; an error where max_tokens was asked for and is more. */
mr_status generate_room(const mri_config *c, const mri_completing *how, int64_t context,
                        const char *where, int64_t n, int64_t *max_tokens, mr_err *err);

#endif
