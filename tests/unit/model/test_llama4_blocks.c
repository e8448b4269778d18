/* SPDX-License-Identifier: Apache-2.0
 * Each block of Llama 4 says what the architecture says, in every mode. */
#include "fake.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#define TINY                                                                                       \
    "layers=4 hidden=24 heads=4 kv_heads=2 head_dim=8 ffn_hidden=36 vocab=50 experts=4 "           \
    "expert_hidden=20 moe_step=2 attention_chunk=8 floor_scale=4 rope_theta=10000 "

static fk_model open_tiny(const char *more)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    char sizes[512];
    snprintf(sizes, sizeof sizes, TINY "%s", more);
    cr_assert_eq(fk_open(&m, fk_llama4(), sizes, NULL, &err), 0, "%s", err.what);
    return m;
}

/* ids with their regions, one a line: the block's outline */
static char *outline(const mr_prog *p)
{
    mri_str s = { 0 };
    for (size_t i = 0; i < p->ops.n; i++)
        mri_str_fmt(&s, "%s:%s\n", p->ops.v[i].region, p->ops.v[i].id);
    return mri_str_take(&s);
}

static void expect_outline(fk_model *m, const char *kind, const char *mode, const char *want)
{
    mr_prog *p = fk_build(m, kind, mode, 6);
    char *got = outline(p);
    cr_assert_str_eq(got, want);
    free(got);
    fk_free(p);
}

Test(llama4_blocks, layers_follow_both_patterns)
{
    static const char *const kinds[] = { "embed",          "layer.dense.rope",
                                         "layer.moe.rope", "layer.dense.rope",
                                         "layer.moe.nope", "head" };
    fk_model m = open_tiny("");
    cr_assert_eq(m.as.at.n, 6);
    for (size_t i = 0; i < 6; i++)
        cr_assert_str_eq(m.as.at.v[i].kind, kinds[i]);
    cr_assert_str_eq(m.as.at.v[0].prefix, "model.");
    cr_assert_str_eq(m.as.at.v[2].prefix, "model.layers.1.");
    cr_assert_str_eq(m.as.at.v[5].prefix, "");
    cr_assert_eq(m.as.binds.n, 0);
    fk_close(&m);

    m = open_tiny("nope_layers=0,2 moe_step=1 tie=true");
    cr_assert_str_eq(m.as.at.v[1].kind, "layer.moe.nope");
    cr_assert_str_eq(m.as.at.v[2].kind, "layer.moe.rope");
    cr_assert_str_eq(m.as.at.v[3].kind, "layer.moe.nope");
    cr_assert_eq(m.as.binds.n, 1);
    cr_assert_eq(m.as.binds.v[0].v, 5);
    cr_assert_str_eq(m.as.binds.v[0].name, "lm_head.weight");
    cr_assert_str_eq(m.as.bound_to.v[0], "model.embed_tokens.weight");
    fk_close(&m);
}

#define ATTENTION_ROPE                                                                             \
    "layernorm:rmsnorm\nattn:linear\nattn:linear\nattn:linear\nattn:rope\n"                        \
    "attn/layernorm:rmsnorm\nattn:rope\nattn/layernorm:rmsnorm\nattn/core_attn:attention\n"        \
    "attn:linear\n:add\nlayernorm:rmsnorm\n"

Test(llama4_blocks, dense_layer_with_rope)
{
    fk_model m = open_tiny("");
    expect_outline(&m, "layer.dense.rope", "train",
                   ATTENTION_ROPE "mlp:linear\nmlp:linear\nmlp:swiglu\nmlp:linear\n:add\n");
    fk_close(&m);
}

Test(llama4_blocks, moe_layer_with_rope)
{
    fk_model m = open_tiny("");
    expect_outline(&m, "layer.moe.rope", "infer",
                   ATTENTION_ROPE
                   "moe/moe_router:linear\nmoe/moe_router:route_topk\n"
                   "moe/moe_dispatch:route_plan\nmoe/moe_dispatch:permute\n"
                   "moe/moe_experts:grouped_linear\nmoe/moe_experts/moe_act:swiglu\n"
                   "moe/moe_experts:grouped_linear\nmoe/moe_combine:unpermute\n"
                   "moe/shared_experts:linear\nmoe/shared_experts:linear\n"
                   "moe/shared_experts:swiglu\nmoe/shared_experts:linear\nmoe:add\n:add\n");
    fk_close(&m);
}

Test(llama4_blocks, nope_layer_scales_queries_and_sees_everything)
{
    fk_model m = open_tiny("");
    mr_prog *p = fk_build(&m, "layer.moe.nope", "train", 6);
    cr_assert_null(fk_find(p, "rope", 0));
    const fk_op *t = fk_find(p, "attn_temperature", 0), *a = fk_find(p, "attention", 0);
    cr_assert_null(fk_find(p, "attn_temperature", 1));
    cr_assert_eq(t->out[0], a->in[0], "the query, and it alone, is scaled");
    cr_assert_eq(fk_attr(t, "floor_scale")->u.f, 4);
    cr_assert_eq(fk_attr(a, "chunk")->u.i, 0);
    cr_assert_null(fk_find(p, "rmsnorm", 2), "no QK norm without rotary positions");
    fk_free(p);

    p = fk_build(&m, "layer.moe.rope", "train", 6);
    a = fk_find(p, "attention", 0);
    cr_assert_eq(fk_attr(a, "chunk")->u.i, 8);
    cr_assert_float_eq(fk_attr(a, "scale")->u.f, 1 / sqrt(8), 1e-15);
    cr_assert_eq(fk_attr(fk_find(p, "rope", 0), "interleaved")->u.i, 1);
    cr_assert_eq(fk_attr(fk_find(p, "rmsnorm", 1), "group")->u.i, 8);
    cr_assert_eq(fk_find(p, "rmsnorm", 1)->in[1], 0, "QK norm has no weight");
    cr_assert_eq(fk_find(p, "rmsnorm", 1)->out[0], a->in[0], "norm comes after rotation");
    fk_free(p);
    fk_close(&m);
}

Test(llama4_blocks, plain_layer_when_options_are_off)
{
    fk_model m = open_tiny("qk_norm=false attn_temperature=false shared_expert=false "
                           "attention_bias=true");
    mr_prog *p = fk_build(&m, "layer.moe.nope", "train", 6);
    cr_assert_null(fk_find(p, "attn_temperature", 0));
    cr_assert_null(fk_named_in(p->inputs.v, p->inputs.n, "positions"));
    cr_assert_null(fk_param_named(p, "feed_forward.shared_expert.up_proj.weight"));
    cr_assert(fk_param_named(p, "self_attn.o_proj.bias")->flags & MR_PARAM_NO_DECAY);
    fk_free(p);
    p = fk_build(&m, "layer.dense.rope", "train", 6);
    cr_assert_null(fk_find(p, "rmsnorm", 2), "only the two norms of the layer are left");
    fk_free(p);
    fk_close(&m);
}

Test(llama4_blocks, scores_multiply_the_input_of_the_experts)
{
    fk_model m = open_tiny("experts_per_token=2");
    mr_prog *p = fk_build(&m, "layer.moe.rope", "train", 6);
    const fk_op *route = fk_find(p, "route_topk", 0), *in = fk_find(p, "permute", 0);
    const fk_op *gate_up = fk_find(p, "grouped_linear", 0), *out = fk_find(p, "unpermute", 0);
    cr_assert_eq(in->in[3], route->out[0]);
    cr_assert_eq(out->in[3], 0, "not scaled again on the way out");
    cr_assert_eq(gate_up->in[0], in->out[0]);
    cr_assert_eq(fk_type(p, in->out[0])->dim[0], 12, "a row for each of two experts a token");
    cr_assert_str_eq(fk_attr(route, "score")->u.s, "sigmoid");
    cr_assert_eq(fk_attr(route, "norm")->u.i, 0);
    cr_assert(mr_is(fk_type(p, route->in[0]), "f32"), "router logits are f32");
    /* the shared expert sees the unscaled token, the one that was routed */
    cr_assert_eq(fk_find(p, "linear", 5)->in[0], in->in[0]);
    fk_free(p);
    fk_close(&m);
}

Test(llama4_blocks, router_losses_exist_in_training_only)
{
    fk_model m = open_tiny("aux_loss=0.01 aux_loss_type=seq_aux z_loss=0.001");
    mr_prog *p = fk_build(&m, "layer.moe.rope", "train", 6);
    cr_assert_eq(p->losses.n, 2);
    cr_assert_not_null(fk_named_in(p->losses.v, 2, "seq_load_balancing_loss"));
    cr_assert_not_null(fk_named_in(p->losses.v, 2, "z_loss"));
    const fk_op *aux = fk_find(p, "moe_aux_loss", 0);
    cr_assert_eq(fk_attr(aux, "coeff")->u.f, 0.01);
    cr_assert_str_eq(fk_attr(aux, "type")->u.s, "seq_aux");
    cr_assert_str_eq(aux->region, "moe/moe_router");
    fk_free(p);
    p = fk_build(&m, "layer.moe.rope", "infer", 6);
    cr_assert_eq(p->losses.n, 0);
    cr_assert_null(fk_find(p, "moe_aux_loss", 0));
    cr_assert_null(fk_find(p, "router_z_loss", 0));
    fk_free(p);
    fk_close(&m);

    m = open_tiny("aux_loss=0.01 aux_loss_type=aux");
    p = fk_build(&m, "layer.moe.rope", "train", 6);
    cr_assert_eq(p->losses.n, 1);
    cr_assert_str_eq(p->losses.v[0].name, "load_balancing_loss");
    fk_free(p);
    fk_close(&m);
}

Test(llama4_blocks, head_gives_what_the_mode_needs)
{
    fk_model m = open_tiny("");
    mr_prog *p = fk_build(&m, "head", "train", 6);
    cr_assert_eq(p->losses.n, 1);
    cr_assert_str_eq(p->losses.v[0].name, "lm_loss");
    cr_assert_eq(p->outputs.n, 1);
    cr_assert_str_eq(p->outputs.v[0].name, "nll");
    fk_free(p);
    p = fk_build(&m, "head", "infer", 6);
    cr_assert_eq(p->losses.n, 0);
    cr_assert_eq(p->outputs.n, 2);
    const fk_named *logits = fk_named_in(p->outputs.v, 2, "logits");
    cr_assert_not_null(logits);
    cr_assert_not_null(fk_named_in(p->outputs.v, 2, "nll"));
    cr_assert_eq(mr_last(fk_type(p, logits->v)), 50);
    fk_free(p);
    p = fk_build(&m, "head", "decode", 6);
    cr_assert_eq(p->outputs.n, 1);
    cr_assert_str_eq(p->outputs.v[0].name, "logits");
    cr_assert_eq(fk_type(p, p->outputs.v[0].v)->dim[0], 2, "only the rows that are asked for");
    cr_assert_null(fk_find(p, "cross_entropy", 0));
    fk_free(p);
    fk_close(&m);
}

/* core puts the cache behind op attention: tests/unit/plan/test_decode_form.c */
Test(llama4_blocks, layers_say_the_same_for_decoding)
{
    fk_model m = open_tiny("");
    for (int i = 0; i < 2; i++) {
        const char *kind = i ? "layer.moe.nope" : "layer.moe.rope";
        mr_prog *p = fk_build(&m, kind, "decode", 2), *whole = fk_build(&m, kind, "infer", 2);
        cr_assert_eq(p->ops.n, whole->ops.n);
        for (size_t k = 0; k < p->ops.n; k++)
            cr_assert_str_eq(p->ops.v[k].id, whole->ops.v[k].id);
        cr_assert_eq(fk_attr(fk_find(p, "attention", 0), "chunk")->u.i, i ? 0 : 8);
        fk_free(p);
        fk_free(whole);
    }
    fk_close(&m);
}

Test(llama4_blocks, initialisers_are_megatrons)
{
    static const char *const scaled[] = { "self_attn.o_proj.weight",
                                          "feed_forward.experts.down_proj",
                                          "feed_forward.shared_expert.down_proj.weight" };
    static const char *const plain[] = { "self_attn.q_proj.weight", "feed_forward.router.weight",
                                         "feed_forward.experts.gate_up_proj",
                                         "feed_forward.shared_expert.gate_proj.weight" };
    fk_model m = open_tiny("init_std=0.01");
    mr_prog *p = fk_build(&m, "layer.moe.rope", "train", 6);
    for (size_t i = 0; i < 3; i++) {
        cr_assert_str_eq(fk_param_named(p, scaled[i])->init, "normal");
        cr_assert_float_eq(fk_param_named(p, scaled[i])->scale, 0.01 / sqrt(8), 1e-15);
    }
    for (size_t i = 0; i < 4; i++)
        cr_assert_float_eq(fk_param_named(p, plain[i])->scale, 0.01, 1e-15);
    const fk_param *norm = fk_param_named(p, "input_layernorm.weight");
    cr_assert_str_eq(norm->init, "constant");
    cr_assert_eq(norm->scale, 1);
    cr_assert(norm->flags & MR_PARAM_NO_DECAY);
    fk_free(p);
    fk_close(&m);
}

Test(llama4_blocks, unknown_block_and_mode_are_refused)
{
    fk_model m = open_tiny("");
    mr_err err = MR_ERR_INIT;
    mr_block_env env = { sizeof env, 0, "train", 4, 0, 0, 0 };
    cr_assert_eq(m.ops->build(m.model, "layer.sparse", &env, NULL, NULL, &err), MR_E_PROGRAM);
    cr_assert(strstr(err.what, "layer.sparse"));
    env.mode = "dream";
    cr_assert_eq(m.ops->build(m.model, "head", &env, NULL, NULL, &err), MR_E_UNSUPPORTED);
    cr_assert(strstr(err.what, "dream"));
    fk_close(&m);
}
