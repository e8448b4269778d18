/* SPDX-License-Identifier: Apache-2.0
 * Each block of Kimi-K2 says what the architecture says, in every mode. */
#include "fake.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TINY                                                                                       \
    "layers=3 hidden=24 heads=3 ffn_hidden=36 vocab=50 q_lora_rank=14 kv_lora_rank=10 nope_dim=6 " \
    "rope_dim=8 value_dim=5 experts=8 expert_hidden=10 "

static fk_model open_tiny(const char *more)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    char sizes[512];
    snprintf(sizes, sizeof sizes, TINY "%s", more);
    cr_assert_eq(fk_open(&m, fk_kimi_k2(), sizes, NULL, &err), 0, "%s", err.what);
    return m;
}

/* ids with their regions, one a line: the block's outline */
static void expect_outline(fk_model *m, const char *kind, const char *mode, const char *want)
{
    mri_str s = { 0 };
    mr_prog *p = fk_build(m, kind, mode, 6);
    for (size_t i = 0; i < p->ops.n; i++)
        mri_str_fmt(&s, "%s:%s\n", p->ops.v[i].region, p->ops.v[i].id);
    cr_assert_str_eq(s.s, want);
    mri_str_free(&s);
    fk_free(p);
}

#define TO_LATENTS                                                                                 \
    "layernorm:rmsnorm\nattn:linear\nattn/layernorm:rmsnorm\nattn:linear\nattn:split\n"            \
    "attn/layernorm:rmsnorm\n"
#define EXPANDED                                                                                   \
    "attn/mla_up_proj:linear\nattn/mla_up_proj:rope_tail\nattn/mla_up_proj:linear\n"              \
    "attn/mla_up_proj:mla_kv\n"                                                                   \
    "attn/core_attn:attention\nattn:linear\n:add\nlayernorm:rmsnorm\n"
#define MLP "mlp:linear\nmlp:linear\nmlp:swiglu\nmlp:linear\n:add\n"

Test(kimi_k2_blocks, dense_layer_expands_latents)
{
    fk_model m = open_tiny("");
    expect_outline(&m, "layer.dense", "train", TO_LATENTS EXPANDED MLP);
    expect_outline(&m, "layer.dense", "infer", TO_LATENTS EXPANDED MLP);
    fk_close(&m);
}

Test(kimi_k2_blocks, moe_layer)
{
    fk_model m = open_tiny("");
    expect_outline(&m, "layer.moe", "train",
                   TO_LATENTS EXPANDED
                   "moe/moe_router:linear\nmoe/moe_router:route_topk\n"
                   "moe/moe_dispatch:route_plan\nmoe/moe_dispatch:permute\n"
                   "moe/moe_experts:grouped_linear\nmoe/moe_experts/moe_act:swiglu\n"
                   "moe/moe_experts:grouped_linear\nmoe/moe_combine:unpermute\n"
                   "moe/shared_experts:linear\nmoe/shared_experts:linear\n"
                   "moe/shared_experts:swiglu\nmoe/shared_experts:linear\nmoe:add\n:add\n");
    fk_close(&m);
}

Test(kimi_k2_blocks, decoding_caches_the_latent_alone)
{
    fk_model m = open_tiny("");
    expect_outline(&m, "layer.dense", "decode",
                   TO_LATENTS "attn/mla_up_proj:linear\nattn/core_attn:mla_attention.paged\n"
                              "attn:linear\n:add\nlayernorm:rmsnorm\n" MLP);
    mr_prog *p = fk_build(&m, "layer.dense", "decode", 2);
    const fk_op *a = fk_find(p, "mla_attention.paged", 0);
    cr_assert_eq(p->states.n, 1);
    cr_assert_eq(p->states.v[0].flags, MR_STATE_PAGED);
    cr_assert_eq(a->in[7], p->states.v[0].v);
    const mr_type *t = fk_type(p, a->in[7]);
    cr_assert(t->dim[0] == 5 && t->dim[1] == 16 && t->dim[2] == 18);
    cr_assert_float_eq(fk_attr(a, "scale")->u.f, 1 / sqrt(14), 1e-15);
    fk_free(p);
    fk_close(&m);
}

Test(kimi_k2_blocks, queries_may_have_no_latent)
{
    fk_model m = open_tiny("q_lora_rank=0");
    expect_outline(&m, "layer.dense", "train",
                   "layernorm:rmsnorm\nattn:linear\nattn:split\n"
                   "attn/layernorm:rmsnorm\n" EXPANDED MLP);
    mr_prog *p = fk_build(&m, "layer.dense", "train", 6);
    cr_assert_not_null(fk_param_named(p, "self_attn.q_proj.weight"));
    cr_assert_null(fk_param_named(p, "self_attn.q_a_proj.weight"));
    fk_free(p);
    fk_close(&m);
}

Test(kimi_k2_blocks, latents_have_an_epsilon_of_their_own)
{
    fk_model m = open_tiny("norm_eps=0.01 latent_norm_eps=0.02");
    mr_prog *p = fk_build(&m, "layer.dense", "train", 6);
    static const double want[] = { 0.01, 0.02, 0.02, 0.01 };
    for (size_t i = 0; i < 4; i++)
        cr_assert_eq(fk_attr(fk_find(p, "rmsnorm", i), "eps")->u.f, want[i]);
    fk_free(p);
    fk_close(&m);
}

Test(kimi_k2_blocks, router_chooses_with_the_bias_and_weighs_without)
{
    fk_model m = open_tiny("groups=4 group_topk=2 experts_per_token=3 routed_scale=2.5");
    mr_prog *p = fk_build(&m, "layer.moe", "train", 6);
    const fk_op *route = fk_find(p, "route_topk", 0), *out = fk_find(p, "unpermute", 0);
    const fk_param *bias = fk_param_named(p, "mlp.gate.e_score_correction_bias");
    cr_assert(bias->flags & MR_PARAM_FROZEN && bias->flags & MR_PARAM_F32);
    cr_assert_str_eq(fk_attr(route, "score")->u.s, "sigmoid");
    cr_assert_eq(fk_attr(route, "norm")->u.i, 1);
    cr_assert_eq(fk_attr(route, "scale")->u.f, 2.5);
    cr_assert_eq(fk_attr(route, "groups")->u.i, 4);
    cr_assert_eq(fk_attr(route, "group_topk")->u.i, 2);
    cr_assert_eq(fk_attr(route, "group_best")->u.i, 2);
    cr_assert_eq(out->in[3], route->out[0], "scores multiply the output of the experts");
    cr_assert_eq(fk_find(p, "permute", 0)->in[3], 0, "and not their input");
    cr_assert(mr_is(fk_type(p, route->in[0]), "f32"), "router logits are f32");
    fk_free(p);
    fk_close(&m);

    m = open_tiny("shared_experts=0");
    p = fk_build(&m, "layer.moe", "train", 6);
    cr_assert_eq(fk_attr(fk_find(p, "route_topk", 0), "groups")->u.i, 0);
    cr_assert_null(fk_param_named(p, "mlp.shared_experts.up_proj.weight"));
    fk_free(p);
    fk_close(&m);
}

Test(kimi_k2_blocks, first_layers_are_dense_and_the_head_may_be_tied)
{
    fk_model m = open_tiny("first_dense=2 tie=true");
    static const char *const kinds[] = { "embed", "layer.dense", "layer.dense", "layer.moe",
                                         "head" };
    cr_assert_eq(m.as.at.n, 5);
    for (size_t i = 0; i < 5; i++)
        cr_assert_str_eq(m.as.at.v[i].kind, kinds[i]);
    cr_assert_str_eq(m.as.at.v[2].prefix, "model.layers.1.");
    cr_assert_str_eq(m.as.bound_to.v[0], "model.embed_tokens.weight");
    fk_close(&m);
    m = open_tiny("experts=0");
    cr_assert_str_eq(m.as.at.v[3].kind, "layer.dense");
    fk_close(&m);
}

Test(kimi_k2_blocks, router_losses_exist_in_training_only)
{
    fk_model m = open_tiny("aux_loss=0.01 z_loss=0.001");
    mr_prog *p = fk_build(&m, "layer.moe", "train", 6);
    cr_assert_eq(p->losses.n, 2);
    cr_assert_not_null(fk_named_in(p->losses.v, 2, "seq_load_balancing_loss"));
    cr_assert_not_null(fk_named_in(p->losses.v, 2, "z_loss"));
    fk_free(p);
    p = fk_build(&m, "layer.moe", "infer", 6);
    cr_assert_eq(p->losses.n, 0);
    fk_free(p);
    fk_close(&m);
}

Test(kimi_k2_blocks, biases_are_where_transformers_has_them)
{
    fk_model m = open_tiny("attention_bias=true");
    mr_prog *p = fk_build(&m, "layer.dense", "train", 6);
    cr_assert_not_null(fk_param_named(p, "self_attn.q_a_proj.bias"));
    cr_assert_not_null(fk_param_named(p, "self_attn.kv_a_proj_with_mqa.bias"));
    cr_assert(fk_param_named(p, "self_attn.o_proj.bias")->flags & MR_PARAM_NO_DECAY);
    cr_assert_null(fk_param_named(p, "self_attn.q_b_proj.bias"));
    cr_assert_null(fk_param_named(p, "self_attn.kv_b_proj.bias"));
    fk_free(p);
    fk_close(&m);
}
