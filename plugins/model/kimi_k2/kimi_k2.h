/* SPDX-License-Identifier: Apache-2.0
 *
 * kimi_k2.h - what the files of the Kimi-K2 and DeepSeek-V3 family share: the profile's options,
 * and the model that they (or a config.json) resolve to.
 *
 * Invariant: a k2_model that k2_resolve() returned is free of contradictions; the files that
 * describe blocks only read it.
 */
#ifndef K2_KIMI_K2_H
#define K2_KIMI_K2_H
#include "mrun/model.h"
#include <stdbool.h>

/* [model.kimi_k2], as the option rows of kimi_k2.c fill it */
typedef struct k2_config {
    int64_t q_lora_rank, kv_lora_rank, nope_dim, rope_dim, value_dim;
    int64_t experts, experts_per_token, expert_hidden, shared_experts, first_dense;
    int64_t groups, group_topk;
    double routed_scale, latent_norm_eps;
    double rope_factor, beta_fast, beta_slow, mscale, mscale_all_dim;
    int64_t rope_original_max_positions;
    double aux_loss, z_loss, mtp_loss;
    const char *aux_loss_type;
    int64_t mtp_layers;
    int32_t norm_topk, attention_bias, tie, pad;
} k2_config;

typedef struct k2_model {
    int64_t layers, hidden, heads, vocab, max_positions;
    int64_t q_rank, kv_rank, nope, rope, value; /* q_rank 0: one projection; widths of a head */
    int64_t dense_hidden, expert_hidden, experts, top_k, shared, first_dense;
    int64_t groups, group_topk; /* of experts; 1 and 1: no groups */
    double eps, latent_eps, init_std, routed_scale;

    /* rotary positions; factor 1: plain, else YaRN */
    double rope_theta, rope_factor, beta_fast, beta_slow, mscale, mscale_all_dim;
    double attention_factor; /* of cosines and sines; 0: by factor, mscale and mscale_all_dim */
    int64_t rope_original;
    bool truncate; /* the ramp of YaRN begins and ends at whole pairs */

    double aux_loss, z_loss, mtp_loss; /* coefficients in mode "train"; 0: none */
    const char *aux_type;    /* "aux" | "seq_aux" */
    bool norm_topk, bias, tie;
    bool imported; /* from config.json: what is merely unwise is taken as it is */
    int64_t mtp_layers; /* modules for multi-token prediction, behind the layers; 0: none */
    int64_t pad; /* the embedding's row that is not trained; -1: none */

    const char *prefix; /* of all names: "" or, in a multimodal checkpoint, "language_model." */
    double *inv_freq;   /* [rope / 2] */
    double turn_factor, scale; /* of cosines and sines; of the attention's scores */
} k2_model;

/* A block kind is one of two layers, an end of the model, or a module for multi-token prediction
 * ("mtp.1" ...), which holds a layer. */
#define K2_MTP "mtp."
typedef struct k2_block {
    const mr_block_env *env;
    mr_net net;
    bool moe, train, decode;
    int64_t mtp; /* module 1 .. mtp_layers; 0: none */
} k2_block;

/* config.c: the model from the profile's sizes and options, or from config.json */
mr_status k2_resolve(const mr_host *host, const mr_model_env *env, const k2_config *cfg,
                     k2_model **out, mr_err *err);
void k2_free(k2_model *m);
/* check.c: the first contradiction, as one error */
mr_status k2_check(const k2_model *m, mr_err *err);
/* hf_read.c, hf_write.c: config.json */
mr_status k2_read_hf(k2_model *m, const mr_json_service *js, const void *json, mr_err *err);
mr_status k2_write_hf(const k2_model *m, char *json, uint64_t cap, mr_err *err);
/* yarn.c: fills inv_freq, turn_factor and scale */
void k2_positions(k2_model *m);

/* attention.c, feedforward.c, ends.c: what the blocks compute */
mr_val k2_attention(const k2_model *m, const k2_block *b, mr_val x);
mr_val k2_dense(const k2_model *m, const k2_block *b, mr_val x);
mr_val k2_moe(const k2_model *m, const k2_block *b, mr_val x);
void k2_embed(const k2_model *m, const k2_block *b);
void k2_head(const k2_model *m, const k2_block *b);
/* kimi_k2.c: x [T, D] -> x + attention(norm x), then + feed_forward(norm x) */
mr_val k2_layer(const k2_model *m, const k2_block *b, mr_val x);
/* mtp.c: the modules behind block `at`, the head; returns the last, or -1 */
int32_t k2_assemble_mtp(const k2_model *m, const mr_assembler *a, mr_asm *as, int32_t at);
void k2_mtp(const k2_model *m, const k2_block *b);
bool k2_predicts_more(const k2_model *m, const char *mode);

/* params.c: one declaration a kind of parameter, with Megatron's initialisers */
mr_val k2_norm_weight(mr_net n, const char *name, int64_t width);
mr_val k2_bias(const k2_model *m, mr_net n, const char *name, int64_t out);
mr_val k2_in_weight(const k2_model *m, mr_net n, const char *name, int64_t out, int64_t in);
mr_val k2_down_weight(const k2_model *m, mr_net n, const char *name, int64_t out, int64_t in);
mr_val k2_out_weight(const k2_model *m, mr_net n, const char *name, int64_t out, int64_t in);
mr_val k2_router_weight(const k2_model *m, mr_net n, const char *name);
mr_val k2_router_bias(const k2_model *m, mr_net n, const char *name);
mr_val k2_expert_in(const k2_model *m, mr_net n, const char *name);
mr_val k2_expert_out(const k2_model *m, mr_net n, const char *name);

/* One of the inputs that core feeds: i32 or f32 [T] */
static inline mr_val k2_fed(const k2_block *b, const char *name, const char *dtype)
{
    mr_type t = mr_type1(dtype, b->env->tokens);
    return b->net.b->input(b->net.p, name, &t);
}

static inline void k2_region(const k2_block *b, const char *name)
{
    b->net.b->region(b->net.p, name);
}

static inline void k2_end(const k2_block *b)
{
    b->net.b->end(b->net.p);
}

/* rmsnorm with the weight `name` of that width, in its own region */
static inline mr_val k2_norm_(const k2_block *b, mr_val x, const char *name, int64_t width,
                              double eps, const char *file, int32_t line)
{
    mr_val out[2] = { 0, 0 }; /* y, rstd */
    k2_region(b, "layernorm");
    mr_opn_(b->net, file, line, "rmsnorm", out, 2,
            MR_IN(x, k2_norm_weight(b->net, name, width)), MR_AT(mr_af("eps", eps)));
    k2_end(b);
    return out[0];
}
#define k2_norm(b, x, name, width, eps) k2_norm_(b, x, name, width, eps, __FILE__, __LINE__)

#endif
