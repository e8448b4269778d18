/* SPDX-License-Identifier: Apache-2.0
 * Every block of every family, cut over 2 and 4 tensor-parallel ranks, with and without sequence
 * parallelism, computes what the whole block does: outputs and all gradients, in f64. */
#include "shard_rig.h"

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
    mr_block_env env = { .size = sizeof env, .mode = mode, .tokens = ROWS * SEQ, .seq = SEQ };
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
        streams[i] = mri_assembly_consumed(one, i);
    for (uint32_t i = 0; i < one->kinds.n; i++) {
        mr_prog *ranks[RIG_RANKS];
        for (uint32_t r = 0; r < tp; r++) {
            ranks[r] = cut[r]->kinds.v[i].prog;
            cut[r]->kinds.v[i].prog = NULL;
        }
        mr_prog *whole = one->kinds.v[i].prog;
        one->kinds.v[i].prog = mri_prog_new("taken", "f64");
        rig_check(whole, ranks, tp, &streams[i], train, vocab, SEQ);
        free((void *)streams[i].v);
    }
    for (uint32_t r = 0; r < tp; r++)
        mri_assembly_free(cut[r]);
    mri_assembly_free(one);
    kit_close(&k);
}

static const char *const llama4[] = {
    COMMON, "model.plugin=llama4", "model.layers=4", "model.hidden=16", "model.heads=4",
    "model.kv_heads=4", "model.head_dim=4", "model.ffn_hidden=20", "model.vocab=24",
    "model.max_positions=64", "model.init_std=0.2", "model.llama4.experts=4",
    "model.llama4.experts_per_token=2", "model.llama4.expert_hidden=12", "model.llama4.moe_step=2",
    "model.llama4.nope_interval=4", "model.llama4.attention_chunk=5", "model.llama4.aux_loss=0.05",
    "model.llama4.z_loss=0.01", NULL
};

static void all_meshes(const char *const *sets, int64_t vocab)
{
    for (uint32_t tp = 2; tp <= 4; tp += 2)
        for (int sequence = 0; sequence < 2; sequence++) {
            check_model(sets, "train", tp, sequence, vocab);
            check_model(sets, "infer", tp, sequence, vocab);
        }
}

Test(shard, llama4)
{
    all_meshes(llama4, 24);
}
