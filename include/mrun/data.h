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
    int64_t tiles;         /* of pictures that a sample has room for, 0: none                */
    const void *pictures;  /* how the model wants them, for mrun.image/1; NULL: it takes none */
} mr_data_env;

typedef struct mr_data_set {
    uint32_t size, flags;
    const char *name;      /* "train", "valid", or "valid.NAME"; lives as long as the data   */
    int64_t samples;       /* for "train" the samples of one epoch; asking beyond goes on    */
    int64_t tokens;        /* that one epoch predicts                                        */
    double bytes_per_token; /* of the source text, 0: unknown; turns nats into bits per byte */
    int64_t choices; /* each sample answers one of so many, with the loss on the answer; 0: no   */
} mr_data_set;

/* One sample, arrays of S, written by read(). */
typedef struct mr_sample {
    uint32_t size, pad;
    int32_t *tokens, *targets;
    int32_t *positions; /* 0-based; restarts with a document if the plugin resets there      */
    int32_t *seq_start; /* index in [0,S) of the first token of this token's document        */
    float *loss_weight; /* 0 for targets that do not count                                   */
    float *pixels; /* [room,3,S,S], zeroed; NULL: pictures are not asked for. Tokens that are the
                      model's image token take the rows of features that the tiles give, in order */
    int64_t room, tiles; /* tiles: written by read(); each needs its image tokens            */
    int64_t choice; /* 1 ..: the sample with that of its set's choices as its answer; 0: its own */
    int64_t answer; /* written by read(): which of the choices is the right one; 0: none        */
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

/* Host service "mrun.image/1": pictures as the model of this run wants them. `pictures` is the
 * env's. Both first functions write tiles to pixels, if `room` is enough (pixels NULL: they only
 * count), and fill the grid; they are the same for the same picture, on any thread. */
typedef struct mr_image_grid {
    uint32_t size, pad;
    int64_t rows, cols, tiles; /* tiles: with the one that shows all, if there are several   */
} mr_image_grid;

typedef struct mr_image_service {
    uint32_t size, pad;
    mr_status (*file)(const void *pictures, const char *path, float *pixels, int64_t room,
                      mr_image_grid *, mr_err *); /* a PNG or JPEG               [any-thread] */
    mr_status (*bytes)(const void *pictures, const uint8_t *values, int64_t width, int64_t height,
                       int64_t channels /* 1 or 3 */, float *pixels, int64_t room,
                       mr_image_grid *, mr_err *); /*                            [any-thread] */
    /* The ids that stand for one picture in a sequence; *n is what it needs, cap 0 asks. */
    mr_status (*ids)(const void *pictures, const mr_image_grid *, int32_t *ids, uint64_t cap,
                     uint64_t *n, mr_err *); /*                                  [any-thread] */
} mr_image_service;
#define MR_EXT_IMAGE "mrun.image/1"

#ifdef __cplusplus
}
#endif
#endif
