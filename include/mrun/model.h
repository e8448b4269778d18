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
 * In mode "decode" (generation with a cache) also: slot i32 [T] (the running sequence, -1: an
 * unused row); pages i32 [slots, ceil(max_seq / page)] (which pages of the caches a slot has);
 * logit_rows i32 [R] (tokens whose logits are wanted, ascending, then zeros).
 *
 * Pictures come as square tiles, N a micro-batch, of S x S pixels: a tile is image_tokens rows
 * of features, and each row replaces the embedding of one token image_token. Where N > 0 core
 * also feeds, if a block asks:
 *   pixels f32 [N,3,S,S] (normalised; unused tiles are zeros), not in mode "decode";
 *   image_rows i32 [T] (-1, or the row of the features that takes token t's place);
 *   features model [N*image_tokens, hidden] in mode "decode": what mode "images" computed,
 *   once for all chunks of the prompt.
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
    /* the part at the path, as a document of its own that lives as long; NULL     [any-thread] */
    const void *(*at)(const void *json, const char *path);
} mr_json_service;
#define MR_EXT_JSON "mrun.json/1"

typedef struct mr_model_env {
    uint32_t size, pad;
    const mr_model_sizes *sizes;
    const void *hf_config; /* a parsed config.json for mrun.json/1, or NULL */
    const void *weights;   /* of that folder, to ask: does it hold a tensor of this name? 0 also
                              where the folder has no weights; valid during create()          */
    int32_t (*has_tensor)(const void *weights, const char *name); /* or NULL     [instance] */
} mr_model_env;

typedef struct mr_model_info {
    uint32_t size, pad;
    int64_t vocab, layers, hidden, max_positions;
    int64_t image_size;   /* S: side of a tile (pixels); 0: takes no pictures              */
    int64_t image_tokens; /* rows of features that a tile gives                            */
    int32_t image_token, pad2; /* the id whose embeddings are replaced                     */
} mr_model_info;

/* What one build of a block is for. */
typedef struct mr_block_env {
    uint32_t size, pad;
    const char *mode;     /* "train", "infer" (whole sequences, no gradients), "decode", and
                             "images": pixels alone to output features                     */
    int64_t tokens;       /* T                                                             */
    int64_t slots, max_seq; /* decode: rows of the cache, positions a row holds            */
    int64_t seq; /* no sequence of the T tokens is longer than this (0: T). A hint for costs */
    uint32_t whole, pad2; /* 1: every sequence has exactly seq tokens and starts at a multiple of
                             seq; say it on with attribute packed = 0 of op attention. 0: unknown */
    int64_t images; /* N: tiles of the micro-batch; 0: none, then the assembly is of text alone */
    int64_t pages, page;  /* decode: a cache has so many pages, of so many positions           */
    int64_t logit_rows;   /* decode: R, logits are wanted of so many tokens; 0: of every token */
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
    const mr_block_env *env; /* what the blocks will be built for; NULL: the host is older    */
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

/* Host service "mrun.model/1": another family's unit, for one that is composed of others. */
typedef struct mr_model_part {
    uint32_t size, pad;
    const mr_model_ops *ops;
    void *model;
    void *own; /* the host's */
} mr_model_part;

typedef struct mr_model_service {
    uint32_t size, pad;
    /* Makes an instance of unit model/NAME. Of its options those in `set` ("key=value") are
     * given, the others have their defaults. The env is the part's own: sizes, and a
     * config.json or a part of one (mr_json_service.at), which may end when open() returns. */
    mr_status (*open)(const mr_host *, const char *name, const mr_list *set, const mr_model_env *,
                      mr_model_part *, mr_err *);                         /* [main] */
    void (*close)(mr_model_part *);                                       /* [main] */
} mr_model_service;
#define MR_EXT_MODEL "mrun.model/1"
/* ---- mode "decode": what every family's blocks have there ----------------------------- */

/* The page table: operand `pages` of attention.paged and mla_attention.paged. */
MR_UNUSED static inline mr_val mr_fed_pages(mr_net n, const mr_block_env *env)
{
    int64_t page = MR_HAS(env, page) && env->page > 0 ? env->page : 1;
    mr_type t = mr_type2("i32", env->slots, (env->max_seq + page - 1) / page);
    return n.b->input(n.p, "pages", &t);
}

/* A cache of the layer, of `width` values a token. */
MR_UNUSED static inline mr_val mr_paged_state(mr_net n, const mr_block_env *env, const char *name,
                                              int64_t width)
{
    mr_type t = mr_type3("model", MR_HAS(env, page) ? env->pages : 0,
                         MR_HAS(env, page) ? env->page : 0, width);
    return n.b->state(n.p, name, &t, MR_STATE_PAGED);
}

/* The head's input: of x [T, D], in mode decode, the rows whose logits are wanted. */
MR_UNUSED static inline mr_val mr_logit_rows(mr_net n, const mr_block_env *env, mr_val x)
{
    mr_val in[2] = { 0, x };
    if (strcmp(env->mode, "decode") || !MR_HAS(env, logit_rows) || !env->logit_rows)
        return x;
    mr_type t = mr_type1("i32", env->logit_rows);
    in[0] = n.b->input(n.p, "logit_rows", &t);
    return mr_op1_(n, __FILE__, __LINE__, "embedding", in, 2, NULL, 0);
}

#ifdef __cplusplus
}
#endif
#endif
