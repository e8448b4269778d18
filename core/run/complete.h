/* SPDX-License-Identifier: Apache-2.0
 *
 * complete.h - prompts to answers: the engine's tokens gathered by prompt, as text, cut at words
 * that end it. Invariant: an answer is the same whatever is completed beside it, up to the order
 * of float sums; the text is what its ids decode to without special tokens, up to the word or id
 * that ended it.
 */
#ifndef MRI_COMPLETE_H
#define MRI_COMPLETE_H
#include "engine.h"
#include "text.h"

enum mri_reason { MRI_BY_LENGTH, MRI_BY_ID, MRI_BY_WORD, MRI_BY_CALLER };

typedef struct mri_answer {
    MRI_VEC(int32_t) ids; /* all that were drawn, the one that ended it among them */
    MRI_VEC(float) logprobs;   /* one an id, where they were asked for */
    MRI_VEC(mri_scored) top;   /* n_top an id */
    int64_t n_top;
    mri_str text;
    enum mri_reason reason;
    const char *word; /* that ended it, or NULL */
    bool done;
} mri_answer;

typedef struct mri_wish { /* one prompt; all of it is the caller's */
    const int32_t *ids;
    int64_t n;
    uint64_t seed;      /* in place of how.seed */
    int64_t max_tokens; /* 0: that of all */
    const int32_t *image_rows; /* [n], or NULL: as in mri_request */
} mri_wish;

typedef struct mri_completing { /* what holds for all of them */
    mri_sampling how;
    int64_t max_tokens, min_tokens;
    const int32_t *stop_ids;
    int64_t n_stop_ids;
    const char *const *stop_words;
    size_t n_stop_words;
    int64_t top; /* -1: no log-probabilities; else also those of so many likeliest ids */
    /* Both may be NULL. show: text of prompt i, as soon as it is sure. stop: true ends all answers
     * where they are; asked once a step. */
    void (*show)(void *user, size_t i, const char *text, size_t n);
    bool (*stop)(void *user);
    void *user;
} mri_completing;

/* ops NULL: no text, and no words that end it. out: n answers, zeroed; the caller frees each. Over
 * ranks dp shares the prompts, number i to replica i % dp; all ranks call this with the same, and
 * get all answers. `show` is called where a prompt is answered. */
mr_status mri_complete(mri_session *s, const mr_tokenizer_ops *ops, void *tok,
                       const mri_completing *c, const mri_wish *wishes, size_t n, mri_answer *out,
                       mr_err *err);
void mri_answer_free(mri_answer *a);
/* answers.c: those of other replicas, on all ranks */
mr_status mri_answers_gather(mri_world *w, const mri_completing *c, mri_answer *out, size_t n,
                             mr_err *err);

#endif
