/* SPDX-License-Identifier: Apache-2.0
 *
 * sampling.h - which tokens make sample i: Megatron's GPT data order, index for index.
 *
 * Documents are laid end to end in a shuffled order, epoch after epoch; the row is cut every
 * S tokens (a sample reads S + 1, its last token being the next one's first); the samples
 * are shuffled. If the last epoch is needed by less than four fifths it is shuffled apart,
 * so that the epochs before it are seen in full.
 *
 * Invariant: the three arrays are a function of the request alone, and equal Megatron's.
 */
#ifndef INDEXED_SAMPLING_H
#define INDEXED_SAMPLING_H
#include "mrun/data.h"

typedef struct sampling_request {
    const unsigned char *lengths; /* of all documents: unaligned little-endian i32 */
    int64_t first, last;          /* the documents [first, last) are sampled       */
    int64_t seq;                  /* S                                             */
    int64_t samples;              /* wanted; 0: one epoch                          */
    uint32_t seed;
    int32_t partial; /* keep a last sample that is shorter than S + 1 */
} sampling_request;

typedef struct sampling_plan { /* sizes that follow from the request */
    int64_t tokens;            /* T, of one epoch */
    int64_t per_epoch;         /* samples that one epoch holds */
    int64_t epochs;
    int64_t documents;         /* length of the document order */
    int64_t samples;           /* M, may exceed what was wanted */
    int64_t apart;             /* samples before the last epoch, if it is shuffled apart; else M */
} sampling_plan;

typedef struct sampling_start {
    uint32_t place; /* in the document order */
    int32_t token;  /* in that document       */
} sampling_start;

/* The arrays are one block of 4-byte words in this order, as the cache keeps them. */
typedef struct sampling {
    sampling_plan plan;
    uint32_t *documents;    /* [plan.documents] */
    sampling_start *starts; /* [M + 1]          */
    uint32_t *shuffle;      /* [M]              */
} sampling;

/* Errors name `who` (a prefix) and say how many tokens are needed. */
mr_status sampling_make_plan(const sampling_request *q, const char *who, sampling_plan *plan,
                             mr_err *err);
uint64_t sampling_bytes(const sampling_plan *p);
void sampling_place(sampling *s, const sampling_plan *p, void *block);
void sampling_build(sampling *s, const sampling_request *q);
/* Could sampling_build() have made these arrays: is every index in its range? */
int sampling_check(const sampling *s, const sampling_request *q);

#endif
