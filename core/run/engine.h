/* SPDX-License-Identifier: Apache-2.0
 *
 * engine.h - many requests generated at once. A step is one call of a decode exec, filled with
 * one row of every sequence that writes and, in what is left, with pieces of the prompts of those
 * that still read (chunked prefill, Agrawal et al. 2023), so that requests come and go at any
 * step (continuous batching, Yu et al. 2022).
 *
 * Requests have the order in which they were added. One that finds no slot or no pages waits; a
 * sequence that needs a page when none is free takes those of the youngest, which goes back to
 * waiting and later reads again what it had. So the oldest always gets on, and every request ends.
 *
 * Invariant: what a request is given does not depend on what runs beside it, but for the order of
 * float sums; a draw is a pure function of its seed and position. A request's own ids are all
 * that there is of it besides pages, so nothing is lost with them.
 *
 * One thread at a time, and of a session one engine: it has all its slots and pages. Over ranks each
 * has one; those of a replica are given the same, and where experts lie across replicas all step
 * together, also those that are idle.
 */
#ifndef MRI_ENGINE_H
#define MRI_ENGINE_H
#include "logprobs.h"
#include "sample.h"
#include "session.h"

typedef struct mri_request { /* copied, but for how.bias, which stays the caller's */
    const int32_t *prompt;
    int64_t n_prompt, max_tokens; /* both 1 or more */
    mri_sampling how;
    const int32_t *stop; /* ids that end it; they are reported as its last token */
    int64_t n_stop;
    int64_t top; /* -1: no log-probabilities; else also those of so many likeliest ids */
    int64_t min_tokens; /* until then the ids of `stop` are not drawn */
    const int32_t *image_rows; /* [n_prompt]: which row of the features of the session's pictures
                                  takes an id's place, -1: none; NULL: no pictures */
} mri_request;

enum mri_finish { MRI_GOES_ON = 0, MRI_STOPPED /* by an id */, MRI_FULL /* max_tokens */ };

typedef struct mri_token { /* what a step gives for one request */
    int64_t request;       /* its handle */
    int64_t position;      /* of the id in its sequence */
    int32_t id;
    enum mri_finish finish;
    float logprob;         /* with top, until the next step: */
    int64_t n_top;
    const mri_scored *top; /* falling */
} mri_token;

typedef struct mri_engine mri_engine;

/* The session was opened with MRI_NEED_DECODE. */
mri_engine *mri_engine_create(mri_session *s);
void mri_engine_free(mri_engine *e); /* gives all pages back; NULL is fine */
/* Refuses what could never run: ids outside the vocabulary, more positions than there are. */
mr_status mri_engine_add(mri_engine *e, const mri_request *r, int64_t *handle, mr_err *err);
/* Gives the tokens of this step, at most one a request; a step that only reads prompts gives
 * none. A finished request is forgotten. */
mr_status mri_engine_step(mri_engine *e, const mri_token **out, size_t *n, mr_err *err);
void mri_engine_cancel(mri_engine *e, int64_t handle); /* an unknown one is fine */
bool mri_engine_idle(const mri_engine *e); /* no request is left */

#endif
