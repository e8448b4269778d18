/* SPDX-License-Identifier: Apache-2.0
 *
 * score.h - log-probabilities of given sequences, and gradients of their mean, on one rank or many.
 * Sequences are spread over dp; within a replica each is computed by all ranks, cut as training's
 * are (over cp zig-zag, over pp from stage to stage).
 *
 * Invariant: all ranks of the world call these alike, with the same sequences, and each gets all
 * the results.
 */
#ifndef MRI_SCORE_H
#define MRI_SCORE_H
#include "session.h"

typedef struct mri_scoring { /* one sequence; all of it is the caller's */
    const int32_t *ids;
    int64_t n;
    const float *pixels; /* that its image tokens stand for: [tiles, 3, S, S], or NULL */
    int64_t tiles;
    float *nll;    /* [n - 1]: -log p(ids[i+1] | ids[..i]) */
    float *logits; /* [n, V], or NULL */
} mri_scoring;

/* How many sequences are computed at a time: one a replica. */
int64_t mri_scores_at_a_time(const mri_session *s);
/* Of so many sequences at most; `q` beyond is the next call's. */
mr_status mri_session_scores(mri_session *s, const mri_scoring *q, int64_t n, mr_err *err);
/* Of all n: the gradient of the mean of nll over all predicted tokens, in the main gradients. */
mr_status mri_session_score_gradients(mri_session *s, const mri_scoring *q, int64_t n, mr_err *err);

/* What ranks have of one tensor's gradient, on all of them: `out` is [box of all], row-major, of
 * the tensor `name`, whose full dims are those of `whole`. *found false: nobody trains it. */
mr_status mri_session_whole_gradient(mri_session *s, const mri_tensor_slot *whole, float *out,
                                     bool *found, mr_err *err);

#endif
