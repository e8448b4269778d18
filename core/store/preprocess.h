/* SPDX-License-Identifier: Apache-2.0
 *
 * preprocess.h - JSON lines to an indexed data set: a line is a document, its text is
 * tokenised by several threads and written in the order of the file.
 *
 * With `chat` a line holds messages instead of a text, and a second data set,
 * PREFIX_loss.bin/.idx, tells for each token whether it is learnt (1) or only read (0).
 *
 * Invariant: what is written depends on the input and the tokenizer, not on `workers`.
 */
#ifndef MRI_PREPROCESS_H
#define MRI_PREPROCESS_H
#include "core/base/base.h"
#include "mrun/tokenizer.h"

#define MRI_LOSS_SUFFIX "_loss"

typedef struct mri_preprocess_count {
    int64_t documents, tokens, learnt; /* learnt: tokens of weight 1, with chat */
    int64_t bytes_read, bytes_in_all;
} mri_preprocess_count;

typedef struct mri_preprocess {
    const char *input, *prefix;
    const char *key;      /* of the text, or with chat of the messages */
    const char *chat;     /* NULL, or how a message reads: "{role}: {content}\n" */
    const char *learn;    /* with chat: the role whose words are learnt */
    bool append_eod;
    int64_t workers;      /* 0: as many as there are processors */
    const mr_tokenizer_ops *tokenizer;
    void *tok;
    void (*progress)(void *arg, const mri_preprocess_count *);
    int32_t (*cancelled)(void *arg);
    void *arg;            /* of the two, either of which may be NULL */
} mri_preprocess;

/* Errors in the input name file:line. A failure leaves what stood at PREFIX as it was. */
mr_status mri_preprocess_run(const mri_preprocess *p, mri_preprocess_count *count, mr_err *err);

#endif
