/* SPDX-License-Identifier: Apache-2.0
 *
 * set.h - one set of samples ("train", "valid" ...) over one or several corpora.
 *
 * A corpus is a pair of files, and maybe a parallel pair with the loss weights of its tokens.
 * A part is the documents of one corpus that a set may use, in the order of its sampling. A
 * set of several parts has a blend: which part, and which of its samples, comes at each step.
 *
 * Invariant: a set's samples [0, size) each name an existing sample of an existing part.
 */
#ifndef INDEXED_SET_H
#define INDEXED_SET_H
#include "blend.h"
#include "cache.h"
#include "token_file.h"

typedef struct corpus {
    token_file tokens, weights; /* weights closed: every token counts 1 */
} corpus;

typedef struct set_part {
    const corpus *from;
    sampling s;
    cache_entry memory;
} set_part;

typedef struct data_set {
    char *name; /* owned */
    set_part *parts;
    uint32_t n_parts;
    int32_t train;
    uint16_t *which; /* [size]; NULL: one part, its samples as they come */
    int64_t *sample; /* [size] */
    int64_t size;
    mr_data_set info;
} data_set;

typedef struct set_request {
    const char *name;
    const corpus *corpora;
    uint32_t n_corpora;
    const double *weights; /* one a corpus, summing to 1; NULL: by size */
    const char *split;     /* NULL: the whole corpus */
    int32_t split_index, train;
    int64_t samples;       /* 0: everything once */
    int64_t seq;
    uint32_t seed, pad;
    double surplus;        /* further share of samples built, so that no part of a blend runs out */
    const char *cache;     /* folder, or NULL */
    const mr_host *host;
} set_request;

mr_status corpus_open(corpus *c, const char *prefix, const char *weights_suffix,
                      char **weights_prefix, mr_err *err);
void corpus_close(corpus *c);

mr_status set_build(data_set *s, const set_request *q, mr_err *err);
void set_free(data_set *s);

/* The part and its sample (in shuffled order) of a set's sample i < size. */
const set_part *set_find(const data_set *s, int64_t i, int64_t *sample);

#endif
