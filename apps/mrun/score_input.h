/* SPDX-License-Identifier: Apache-2.0
 *
 * score_input.h - what `mrun score` is asked about: sequences of ids, given as ids (taken as they
 * are) or as text (tokenized, with the id that begins a text in front).
 *
 * Invariant: a list that score_resolve() passed holds ids of the model's vocabulary only, at
 * least one a sequence and no more than its context.
 */
#ifndef MRUN_SCORE_INPUT_H
#define MRUN_SCORE_INPUT_H
#include "images.h"

typedef struct score_sequence {
    int32_t *ids; /* NULL while it is text only */
    int64_t n;
    char *text;
    size_t text_n;
    char *where; /* "--ids", "lines.jsonl:7" */
    app_pictures pictures; /* that its image tokens stand for */
} score_sequence;

typedef MRI_VEC(score_sequence) score_list;

mr_status score_add_ids(score_list *l, const char *text, mr_err *err); /* "1 2 3", "1,2,3" */
void score_add_text(score_list *l, const char *where, const char *text, size_t n);
/* a JSON Lines file: objects with either "ids" or "text", and "images": [FILE ...] if any */
mr_status score_add_jsonl(score_list *l, const char *path, mr_err *err);

bool score_has_text(const score_list *l);
/* Texts become ids, and all are checked. The session needs its tokenizer where there is text. */
mr_status score_resolve(score_list *l, mri_session *s, bool special, mr_err *err);
int64_t score_longest(const score_list *l);
int64_t score_most_tiles(const score_list *l);
void score_list_free(score_list *l);

#endif
