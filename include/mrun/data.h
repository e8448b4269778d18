/* SPDX-License-Identifier: Apache-2.0
 *
 * data.h - unit kind "data": samples by number. Sample i of a set is a pure function of the
 * configuration, the seed and i, so resuming needs one number (samples consumed), and any
 * rank reads any sample.
 */
#ifndef MRUN_DATA_H
#define MRUN_DATA_H
#include "tokenizer.h"
#ifdef __cplusplus
extern "C" {
#endif

typedef struct mr_data_env {
    uint32_t size, pad;
    int64_t seq;           /* S: tokens of a sample                                          */
    int64_t seed;
    int64_t train_samples; /* that the run will ask for (steps x global batch), 0: unknown   */
    int64_t valid_samples; /* per validation, 0: each validation set once, whole             */
    const mr_tokenizer_ops *tokenizer;
    void *tok;
} mr_data_env;

typedef struct mr_data_set {
    uint32_t size, flags;
    const char *name;      /* "train", "valid", or "valid.NAME"; lives as long as the data   */
    int64_t samples;       /* for "train" the samples of one epoch; asking beyond goes on    */
    int64_t tokens;        /* that one epoch predicts                                        */
    double bytes_per_token; /* of the source text, 0: unknown; turns nats into bits per byte */
} mr_data_set;

/* One sample, arrays of S, written by read(). */
typedef struct mr_sample {
    uint32_t size, pad;
    int32_t *tokens, *targets;
    int32_t *positions; /* 0-based; restarts with a document if the plugin resets there      */
    int32_t *seq_start; /* index in [0,S) of the first token of this token's document        */
    float *loss_weight; /* 0 for targets that do not count                                   */
} mr_sample;

enum { MR_DATA_WHOLE = 1 /* every sample is one sequence: seq_start is 0 throughout */ };

typedef struct mr_data_ops {
    uint32_t size, flags;
    mr_status (*create)(const mr_host *, const mr_data_env *, const void *config, void **data,
                        mr_err *);                                                       /* [main] */
    void (*destroy)(void *data);                                                         /* [main] */
    mr_status (*set)(void *data, uint32_t i, mr_data_set *, mr_err *); /* MR_E_ARG past the last [any-thread] */
    mr_status (*read)(void *data, uint32_t set, int64_t sample, mr_sample *, mr_err *); /* [any-thread] */
    uint32_t (*promises)(const void *config); /* MR_DATA_... of all samples, told by the options
                                                 alone; NULL: none                  [any-thread] */
} mr_data_ops;

#ifdef __cplusplus
}
#endif
#endif
