/* SPDX-License-Identifier: Apache-2.0
 * Every block of every family, cut over 2 and 4 tensor-parallel ranks, with and without sequence
 * parallelism, computes what the whole block does: outputs and all gradients, in f64. */
#include "tensor_rig.h"

enum { ROWS = 2, SEQ = 8 };

#define COMMON "precision.recipe=fp64", "backend.plugin=ref", "train.steps=1", "train.seq=8", \
               "data.text.path=unused"

/* A model that is only described, and all its blocks cut for n ranks. */
static void check_model(const char *const *sets, const char *mode, uint32_t tp, bool sequence,
                        int64_t vocab)
{
    mri_session_options o = { .describe = true };
    kit k = kit_open(NULL, sets, o);
    mr_err err = MR_ERR_INIT;
    bool decode = !strcmp(mode, "decode");
    mr_block_env env = { .size = sizeof env, .mode = mode, .tokens = ROWS * SEQ, .seq = SEQ,
                         .images = k.session->info.image_size ? 2 : 0 };
    if (decode)
        env = (mr_block_env){ .size = sizeof env, .mode = mode, .tokens = ROWS * SEQ, .slots = SEQ,
                              .max_seq = 8, .page = 4, .pages = SEQ, .logit_rows = 4 };
    mri_assembly *one = NULL, *cut[RIG_RANKS] = { NULL };
    bool train = !strcmp(mode, "train");
    kit_ok(mri_assemble(k.session->model_ops, k.session->model, &env, "f64", &one, &err), &err,
           "assemble");
    for (uint32_t r = 0; r < tp; r++) {
        mri_mesh m;
        mri_cfg_mesh c = { .tp = tp, .dp = 1, .pp = 1, .vpp = 1, .cp = 1, .ep = 1, .etp = 1,
                           .copies = 1, .sequence_parallel = sequence };
        kit_ok(mri_mesh_make(&c, tp, r, &m, &err), &err, "mesh");
        kit_ok(mri_assemble(k.session->model_ops, k.session->model, &env, "f64", &cut[r], &err),
               &err, "assemble");
        kit_ok(mri_shard_assembly(cut[r], &m, &env, &err), &err, "shard");
    }
    mr_list streams[32];
    cr_assert_leq(one->kinds.n, 32);
    for (uint32_t i = 0; i < one->kinds.n; i++)
        streams[i] = mri_assembly_consumed(one, i, NULL);
    for (uint32_t i = 0; i < one->kinds.n; i++) {
        mr_prog *ranks[RIG_RANKS];
        for (uint32_t r = 0; r < tp; r++) {
            ranks[r] = cut[r]->kinds.v[i].prog;
            cut[r]->kinds.v[i].prog = NULL;
        }
        mr_prog *whole = one->kinds.v[i].prog;
        one->kinds.v[i].prog = mri_prog_new("taken", "f64");
        rig_check(whole, ranks, tp, &streams[i], train, vocab, SEQ, NULL);
        free((void *)streams[i].v);
    }
    for (uint32_t r = 0; r < tp; r++)
        mri_assembly_free(cut[r]);
    mri_assembly_free(one);
    kit_close(&k);
}

static void all_meshes(const char *const *sets, uint32_t max_tp, int64_t vocab)
{
    for (uint32_t tp = 2; tp <= max_tp; tp += 2)
        for (int sequence = 0; sequence < 2; sequence++) {
            check_model(sets, "train", tp, sequence, vocab);
            check_model(sets, "infer", tp, sequence, vocab);
            check_model(sets, "decode", tp, sequence, vocab);
        }
}

#define SIZES "model.layers=4", "model.hidden=16", "model.heads=4", "model.kv_heads=4", \
              "model.head_dim=4", "model.ffn_hidden=20", "model.vocab=24", \
              "model.max_positions=64", "model.init_std=0.2"

/* dense and mixture layers, RoPE and NoPE, both router losses */
Test(tensor_blocks, llama4)
{
    all_meshes((const char *[]){ COMMON, SIZES, "model.plugin=llama4", "model.llama4.experts=4",
                                 "model.llama4.experts_per_token=2",
                                 "model.llama4.expert_hidden=12", "model.llama4.moe_step=2",
                                 "model.llama4.nope_interval=4", "model.llama4.attention_chunk=5",
                                 "model.llama4.aux_loss=0.05", "model.llama4.z_loss=0.01", NULL },
               4, 24);
}

/* grouped queries, biases behind a product of partial sums, a tied head */
Test(tensor_blocks, llama)
{
    all_meshes((const char *[]){ COMMON, SIZES, "model.plugin=llama", "model.kv_heads=2",
                                 "model.llama.attention_bias=true", "model.llama.tie=true", NULL },
               2, 24);
}

/* latents that every rank has, heads that are cut, groups of experts */
Test(tensor_blocks, kimi_k2)
{
    all_meshes((const char *[]){ COMMON, SIZES, "model.plugin=kimi_k2", "model.head_dim=10",
                                 "model.kimi_k2.q_lora_rank=12", "model.kimi_k2.kv_lora_rank=10",
                                 "model.kimi_k2.nope_dim=6", "model.kimi_k2.rope_dim=4",
                                 "model.kimi_k2.value_dim=5", "model.kimi_k2.experts=8",
                                 "model.kimi_k2.experts_per_token=3",
                                 "model.kimi_k2.expert_hidden=12", "model.kimi_k2.groups=4",
                                 "model.kimi_k2.group_topk=2", "model.kimi_k2.attention_bias=true",
                                 "model.kimi_k2.aux_loss=0.02", NULL },
               4, 24);
}

/* a tower of pictures beside the text */
Test(tensor_blocks, vlm)
{
    static const char *const towers[] = { "model.vlm.tower=siglip", "model.vlm.tower=clip",
                                          "model.vlm.tower=llama4" };
    for (size_t i = 0; i < 3; i++) {
        const char *const sets[] = { COMMON, SIZES, "model.plugin=vlm", towers[i],
                                     "model.vlm.image_size=16", "model.vlm.patch_size=4",
                                     "model.vlm.tower_layers=2", "model.vlm.tower_hidden=16",
                                     "model.vlm.tower_heads=2", "model.vlm.image_token=3", NULL };
        for (int sequence = 0; sequence < 2; sequence++) {
            check_model(sets, "train", 2, sequence, 24);
            check_model(sets, "infer", 2, sequence, 24);
        }
    }
}

/* an outside plugin: learned positions, layer norms, biases, a tied head */
Test(tensor_blocks, gpt2)
{
    char *path = mri_format("%s:%s/tests/unit/model", getenv("MRUN_PLUGIN_PATH"),
                            getenv("MRUN_BUILD"));
    setenv("MRUN_PLUGIN_PATH", path, 1);
    all_meshes((const char *[]){ COMMON, "model.layers=1", "model.hidden=16", "model.heads=4",
                                 "model.vocab=24", "model.max_positions=16", "model.plugin=gpt2",
                                 NULL },
               4, 24);
    free(path);
}

static void refused(const char *more, const char *says)
{
    const char *const sets[] = { COMMON, SIZES, "model.plugin=llama", more, NULL };
    mri_session_options o = { .describe = true };
    kit k = kit_open(NULL, sets, o);
    mr_err err = MR_ERR_INIT;
    mr_block_env env = { .size = sizeof env, .mode = "train", .tokens = ROWS * SEQ, .seq = SEQ };
    mri_cfg_mesh c = { .tp = 2, .dp = 1, .pp = 1, .vpp = 1, .cp = 1, .ep = 1, .etp = 1,
                       .copies = 1, .sequence_parallel = true };
    mri_assembly *a = NULL;
    mri_mesh m;
    kit_ok(mri_mesh_make(&c, 2, 0, &m, &err), &err, "mesh");
    kit_ok(mri_assemble(k.session->model_ops, k.session->model, &env, "f64", &a, &err), &err,
           "assemble");
    cr_assert_eq(mri_shard_assembly(a, &m, &env, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, says), "%s", err.what);
    cr_assert(strstr(err.hint, "tp must divide"), "%s", err.hint);
    mri_assembly_free(a);
    kit_close(&k);
}

Test(tensor_blocks, what_does_not_divide_is_refused_by_name)
{
    refused("model.vocab=25", "embed_tokens.weight is 25");
    refused("model.kv_heads=1", "head_dim is 4, must divide the width of x, 2");
    refused("model.ffn_hidden=21", "mlp.gate_proj.weight is 21");
}
