/* SPDX-License-Identifier: Apache-2.0
 *
 * llama4.h - what the files of the Llama 4 family share: the profile's options, and the
 * model that they (or a config.json) resolve to.
 *
 * Invariant: an l4_model that l4_resolve() returned is free of contradictions; the files
 * that describe blocks only read it.
 */
#ifndef L4_LLAMA4_H
#define L4_LLAMA4_H
#include "mrun/model.h"
#include <stdbool.h>

/* [model.llama4], as the option rows of llama4.c fill it */
typedef struct l4_config {
    int64_t experts, experts_per_token, expert_hidden, moe_step;
    int64_t nope_interval, attention_chunk;
    mr_list nope_layers;
    double floor_scale, attn_scale;
    double rope_factor, rope_low_freq_factor, rope_high_freq_factor;
    int64_t rope_original_max_positions;
    double aux_loss, z_loss;
    const char *aux_loss_type;
    int32_t shared_expert, qk_norm, attn_temperature, attention_bias, tie, pad;
} l4_config;

typedef struct l4_model {
    int64_t layers, hidden, heads, kv_heads, head_dim, vocab, max_positions;
    int64_t dense_hidden, expert_hidden, experts, top_k;
    int64_t chunk; /* of RoPE layers; 0: they attend to the whole sequence */
    double eps, init_std, rope_theta, floor_scale, attn_scale;

    /* Llama 3's frequency scaling; factor 1: none */
    double rope_factor, rope_low, rope_high;
    int64_t rope_original;

    double aux_loss, z_loss; /* coefficients in mode "train"; 0: none */
    const char *aux_type;    /* "aux" | "seq_aux" */
    bool qk_norm, temperature, shared_expert, bias, tie;
    int64_t pad; /* the embedding's row that is not trained; -1: none */
    bool plain; /* Llama 2 and 3: every layer dense, rotary pairs (i, i + C/2), other names */

    const char *prefix;  /* of all names: "" or, in a multimodal checkpoint, "language_model." */
    unsigned char *nope; /* [layers] 1: no rotary positions, full attention, temperature */
    unsigned char *moe;  /* [layers] 1: mixture of experts */
    double *inv_freq;    /* [head_dim / 2] */
} l4_model;

/* A block kind is one of four layers or an end of the model. */
typedef struct l4_block {
    const mr_block_env *env;
    mr_net net;
    bool moe, nope, train, decode;
} l4_block;

/* config.c: the model from the profile's sizes and options, or from config.json. `plain`: it is
 * to be one of Llama 2 or 3, whose profile leaves the options of Llama 4 at 0. */
mr_status l4_resolve(const mr_host *host, const mr_model_env *env, const l4_config *cfg,
                     bool plain, l4_model **out, mr_err *err);
void l4_free(l4_model *m);
/* check.c: the first contradiction, as one error */
mr_status l4_check(const l4_model *m, mr_err *err);
/* hf_read.c, hf_write.c: config.json */
mr_status l4_read_hf(l4_model *m, const mr_json_service *js, const void *json, mr_err *err);
mr_status l4_write_hf(const l4_model *m, char *json, uint64_t cap, mr_err *err);
mr_status l4_layer_marks(l4_model *m, mr_err *err); /* allocates nope and moe, all 0 */
/* rope.c: inv_freq [head_dim / 2] in double */
void l4_inv_freq(const l4_model *m, double *inv_freq);

/* attention.c, feedforward.c, ends.c: what the blocks compute */
mr_val l4_attention(const l4_model *m, const l4_block *b, mr_val x);
mr_val l4_dense(const l4_model *m, const l4_block *b, mr_val x);
mr_val l4_moe(const l4_model *m, const l4_block *b, mr_val x);
void l4_embed(const l4_model *m, const l4_block *b);
void l4_head(const l4_model *m, const l4_block *b);

/* params.c: one declaration a kind of parameter, with Megatron's initialisers */
mr_val l4_norm_weight(const l4_model *m, mr_net n, const char *name);
mr_val l4_bias(const l4_model *m, mr_net n, const char *name, int64_t out, const char *placement);
mr_val l4_in_weight(const l4_model *m, mr_net n, const char *name, int64_t out, int64_t in);
mr_val l4_out_weight(const l4_model *m, mr_net n, const char *name, int64_t out, int64_t in);
mr_val l4_router_weight(const l4_model *m, mr_net n, const char *name);
mr_val l4_expert_in(const l4_model *m, mr_net n, const char *name);
mr_val l4_expert_out(const l4_model *m, mr_net n, const char *name);

/* One of the inputs that core feeds: i32 or f32 [T] */
static inline mr_val l4_fed(const l4_block *b, const char *name, const char *dtype)
{
    mr_type t = mr_type1(dtype, b->env->tokens);
    return b->net.b->input(b->net.p, name, &t);
}

static inline void l4_region(const l4_block *b, const char *name)
{
    b->net.b->region(b->net.p, name);
}

static inline void l4_end(const l4_block *b)
{
    b->net.b->end(b->net.p);
}

/* rmsnorm in its own region; w 0: without a weight; group 0: over the whole row */
static inline mr_val l4_norm_(const l4_model *m, const l4_block *b, mr_val x, mr_val w,
                              int64_t group, const char *file, int32_t line)
{
    mr_val out[2] = { 0, 0 }; /* y, rstd */
    l4_region(b, "layernorm");
    mr_opn_(b->net, file, line, "rmsnorm", out, 2, MR_IN(x, w),
            MR_AT(mr_af("eps", m->eps), mr_ai("group", group)));
    l4_end(b);
    return out[0];
}
#define l4_norm(m, b, x, w, group) l4_norm_(m, b, x, w, group, __FILE__, __LINE__)

#endif
