/* SPDX-License-Identifier: Apache-2.0
 *
 * model.h - unit kind "model": a family only describes. assemble() lists the block
 * instances in order and how they share parameters; build() says what one block kind
 * computes. Core plans each KIND once, however many instances there are.
 *
 * A parameter's full name is its instance's prefix + its local name, and is the name in a
 * Hugging Face checkpoint of the family ("model.layers.3.self_attn.q_proj.weight").
 *
 * Inputs that core feeds by name to any block (T = tokens of the micro-batch):
 *   tokens i32 [T]; positions i32 [T] (0-based in the sequence or document);
 *   seq_start i32 [T] (index in [0,T) of the first token that token t may attend to: its
 *   document's or sequence's first); targets i32 [T]; loss_weight f32 [T] (0: not counted).
 * In mode "decode" (generation with a cache) also: slot i32 [T] (row of the cache).
 * Any other input is the output of that name ("x" <- "y" by default) of an earlier block.
 */
#ifndef MRUN_MODEL_H
#define MRUN_MODEL_H
#include "program.h"
#ifdef __cplusplus
extern "C" {
#endif

/* Section [model]: sizes that all families share; 0 where the profile leaves it out. */
typedef struct mr_model_sizes {
    uint32_t size, pad;
    int64_t layers, hidden, heads, kv_heads, head_dim, ffn_hidden, vocab, max_positions;
    double norm_eps, rope_theta, init_std;
    int64_t seed;
} mr_model_sizes;

/* Host service "mrun.json/1": reads a JSON document by path ("text_config.rope_scaling.factor",
 * "moe_layers.3"). Returns 1 if found with that type, else 0. Booleans are numbers 0 and 1. */
typedef struct mr_json_service {
    uint32_t size, pad;
    int32_t (*number)(const void *json, const char *path, double *out);      /* [any-thread] */
    int32_t (*string)(const void *json, const char *path, const char **out); /* [any-thread] */
    int64_t (*length)(const void *json, const char *path); /* of an array; -1: none [any-thread] */
    int32_t (*has)(const void *json, const char *path);    /* present and not null [any-thread] */
    int32_t (*is_null)(const void *json, const char *path); /* present and null    [any-thread] */
} mr_json_service;
#define MR_EXT_JSON "mrun.json/1"

typedef struct mr_model_env {
    uint32_t size, pad;
    const mr_model_sizes *sizes;
    const void *hf_config; /* a parsed config.json for mrun.json/1, or NULL */
} mr_model_env;

typedef struct mr_model_info {
    uint32_t size, pad;
    int64_t vocab, layers, hidden, max_positions;
} mr_model_info;

/* What one build of a block is for. */
typedef struct mr_block_env {
    uint32_t size, pad;
    const char *mode;     /* "train", "infer" (whole sequences, no gradients), "decode"    */
    int64_t tokens;       /* T                                                             */
    int64_t slots, max_seq; /* decode: rows of the cache, positions a row holds            */
    int64_t seq; /* no sequence of the T tokens is longer than this (0: T). A hint for costs */
    uint32_t whole, pad2; /* 1: every sequence has exactly seq tokens and starts at a multiple of
                             seq; say it on with attribute packed = 0 of op attention. 0: unknown */
} mr_block_env;

typedef struct mr_asm mr_asm; /* the host's assembly under construction */
typedef struct mr_assembler {
    uint32_t size, pad;
    /* appends an instance of a block kind; returns its index, or -1 */
    int32_t (*instance)(mr_asm *, const char *kind, const char *prefix);
    /* input `in` of `to` comes from output `out` of `from`; default: "x" from "y" of to-1 */
    void (*edge)(mr_asm *, int32_t from, const char *out, int32_t to, const char *in);
    /* the parameter that the instance calls `name` is the one with this full name        */
    void (*bind)(mr_asm *, int32_t instance, const char *name, const char *full_name);
} mr_assembler;

typedef struct mr_model_ops {
    uint32_t size, flags;
    mr_status (*create)(const mr_host *, const mr_model_env *, const void *config, void **model,
                        mr_err *);                                        /* [main]     */
    void (*destroy)(void *model);                                         /* [main]     */
    mr_status (*info)(void *model, mr_model_info *, mr_err *);            /* [instance] */
    mr_status (*assemble)(void *model, const mr_assembler *, mr_asm *, mr_err *); /* [instance] */
    mr_status (*build)(void *model, const char *kind, const mr_block_env *, const mr_builder *,
                       mr_prog *, mr_err *);                              /* [instance] */
    mr_status (*hf_config)(void *model, char *json, uint64_t cap, mr_err *); /* writes config.json;
                                                           may be NULL       [instance] */
} mr_model_ops;

#ifdef __cplusplus
}
#endif
#endif
