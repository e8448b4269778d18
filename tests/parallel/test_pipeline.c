/* SPDX-License-Identifier: Apache-2.0
 * A pipeline trains as one rank does that takes the same micro-batches one after the other:
 * ten steps' losses agree, whatever the order of work, the number of stages and chunks, and where
 * the layers lie. Validation and tied embeddings too. */
#include "world.h"
#include <math.h>

enum { STEPS = 10, MOST = 8 };

typedef struct run {
    double loss[STEPS], aux[STEPS], norm[STEPS], nll;
    uint64_t slots[MOST];
    bool eval;
} run;

static char *text_file(void)
{
    char *path = mri_format("/tmp/mrun-pipeline-%d.txt", (int)getpid());
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    for (int i = 0; i < 6000; i++)
        fputc('a' + (i * i / 7 + i) % 23, f);
    fclose(f);
    return path;
}

static mr_status train(par_rank *r, void *ctx, mr_err *err)
{
    run *x = ctx;
    mr_status st = 0;
    mri_session_options o = { .needs = MRI_NEED_TRAIN | MRI_NEED_UPDATE | MRI_NEED_DATA };
    o.needs |= x->eval ? MRI_NEED_EVAL : 0;
    MR_TRY(par_session(r, &o, err));
    MR_TRY(mri_session_init_weights(r->session, err));
    x->slots[r->rank] = r->session->train->chunks.v[0].slots;
    for (int i = 0; i < STEPS; i++) {
        mri_step_result step;
        MR_TRY(mri_session_train_step(r->session, &step, err));
        if (!step.ok) {
            st = mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "step %d is not finite", i);
            goto out;
        }
        if (r->rank)
            continue;
        x->loss[i] = step.loss;
        x->norm[i] = step.grad_norm;
        for (uint32_t k = 0; k < step.n_aux; k++)
            x->aux[i] += step.aux[k];
    }
    if (x->eval) {
        mr_data_set set;
        double nll, bits;
        MR_TRY(mri_session_evaluate(r->session, mri_session_find_set(r->session, "train", &set), 3,
                                    &nll, &bits, err));
        if (!r->rank)
            x->nll = nll;
    }
out:
    return st;
}

static const char *const llama4[] = {
    "model.plugin=llama4", "model.layers=4", "model.llama4.experts=3",
    "model.llama4.experts_per_token=2", "model.llama4.expert_hidden=12", "model.llama4.moe_step=2",
    "model.llama4.nope_interval=4", "model.llama4.attention_chunk=5", "model.llama4.aux_loss=0.05",
    "model.llama4.z_loss=0.01", "model.kv_heads=1", "model.head_dim=8", "model.ffn_hidden=20", NULL
};

static const char *const kimi_k2[] = {
    "model.plugin=kimi_k2", "model.layers=4", "model.ffn_hidden=20", "model.kimi_k2.q_lora_rank=9",
    "model.kimi_k2.kv_lora_rank=10", "model.kimi_k2.nope_dim=6", "model.kimi_k2.rope_dim=4",
    "model.kimi_k2.value_dim=5", "model.kimi_k2.experts=4", "model.kimi_k2.expert_hidden=12", NULL
};

static run run_of(const char *const *model, const char *const *more, uint32_t ranks, bool eval)
{
    char *path = text_file(), *data = mri_format("data.text.path=%s", path);
    const char *sets[64] = { data, "model.hidden=16", "model.heads=2", "model.vocab=256",
                             "model.max_positions=64", "model.init_std=0.2", "train.steps=10",
                             "train.seq=12", "train.micro_batch=1", "train.global_batch=8",
                             "backend.plugin=cpu", "backend.cpu.threads=1", "optimizer.lr=1e-2",
                             "optimizer.clip_grad=0.5", "train.eval_steps=3" };
    size_t n = 0;
    run x = { .eval = eval };
    while (sets[n])
        n++;
    for (; *model; model++)
        sets[n++] = *model;
    for (; more && *more; more++)
        sets[n++] = *more;
    cr_assert_lt(n, 64);
    par_run(NULL, sets, ranks, train, &x);
    remove(path);
    free(path);
    free(data);
    return x;
}

static void equal(const run *one, const run *many, const char *what)
{
    for (int i = 0; i < STEPS; i++) {
        cr_expect(fabs(one->loss[i] - many->loss[i]) <= 1e-5 * fabs(one->loss[i]),
                  "%s, step %d: loss %.9g, one rank has %.9g", what, i + 1, many->loss[i],
                  one->loss[i]);
        cr_expect(fabs(one->norm[i] - many->norm[i]) <= 1e-4 * one->norm[i],
                  "%s, step %d: norm %.9g, one rank has %.9g", what, i + 1, many->norm[i],
                  one->norm[i]);
        cr_expect(fabs(one->aux[i] - many->aux[i]) <= 1e-5 * fabs(one->aux[i]),
                  "%s, step %d: auxiliary losses %.9g, one rank has %.9g", what, i + 1,
                  many->aux[i], one->aux[i]);
    }
    cr_expect(one->loss[0] > 1.05 * one->loss[STEPS - 1], "nothing was learnt");
    if (many->eval)
        cr_expect(fabs(one->nll - many->nll) <= 1e-5 * one->nll, "%s: validation %.9g and %.9g",
                  what, many->nll, one->nll);
}

Test(pipeline, stages_of_1f1b)
{
    run one = run_of(llama4, NULL, 1, true);
    run two = run_of(llama4, (const char *[]){ "mesh.pp=2", NULL }, 2, true);
    run four = run_of(llama4, (const char *[]){ "mesh.pp=4", NULL }, 4, false);
    equal(&one, &two, "pp 2");
    equal(&one, &four, "pp 4");
    for (int s = 0; s < 4; s++)
        cr_expect_eq(four.slots[s], 4 - s, "stage %d has %llu slots", s,
                     (unsigned long long)four.slots[s]);
}

Test(pipeline, of_another_family)
{
    run one = run_of(kimi_k2, NULL, 1, false);
    run two = run_of(kimi_k2, (const char *[]){ "mesh.pp=2", "mesh.vpp=2", NULL }, 2, false);
    run four = run_of(kimi_k2, (const char *[]){ "mesh.pp=4", "mesh.schedule=zero_bubble", NULL },
                      4, false);
    equal(&one, &two, "pp 2, vpp 2");
    equal(&one, &four, "zero bubble, pp 4");
}

/* Blocks with collectives of their own: receives wait for the sender. */
Test(pipeline, of_tensor_parallel_stages)
{
    const char *const heads = "model.kv_heads=2";
    run one = run_of(llama4, (const char *[]){ heads, NULL }, 1, true);
    run four = run_of(llama4, (const char *[]){ heads, "mesh.pp=2", "mesh.vpp=2", "mesh.tp=2",
                                                NULL }, 4, true);
    equal(&one, &four, "pp 2, vpp 2, tp 2");
}

Test(pipeline, of_expert_parallel_stages)
{
    const char *const experts = "model.llama4.experts=4";
    run one = run_of(llama4, (const char *[]){ experts, NULL }, 1, false);
    run four = run_of(llama4, (const char *[]){ experts, "mesh.pp=2", "mesh.dp=2", "mesh.ep=2",
                                                NULL }, 4, false);
    equal(&one, &four, "pp 2, ep 2");
}

Test(pipeline, chunks_in_turn)
{
    run one = run_of(llama4, NULL, 1, true);
    run two = run_of(llama4, (const char *[]){ "mesh.pp=2", "mesh.vpp=2", NULL }, 2, true);
    run both = run_of(llama4, (const char *[]){ "mesh.pp=2", "mesh.vpp=2", "mesh.dp=2", NULL }, 4,
                      true);
    equal(&one, &two, "pp 2, vpp 2");
    equal(&one, &both, "pp 2, vpp 2, dp 2");
    cr_expect_eq(two.slots[0], 5);
    cr_expect_eq(two.slots[1], 3);
}

Test(pipeline, zero_bubble)
{
    run one = run_of(llama4, NULL, 1, false);
    run two = run_of(llama4, (const char *[]){ "mesh.pp=2", "mesh.schedule=zero_bubble", NULL }, 2,
                     false);
    run four = run_of(llama4, (const char *[]){ "mesh.pp=4", "mesh.schedule=zero_bubble", NULL }, 4,
                      false);
    equal(&one, &two, "zero bubble, pp 2");
    equal(&one, &four, "zero bubble, pp 4");
}

Test(pipeline, uneven_layouts)
{
    run one = run_of(llama4, NULL, 1, false);
    run numbers = run_of(llama4, (const char *[]){ "mesh.pp=2", "mesh.first_stage_layers=1", NULL },
                         2, false);
    run text = run_of(llama4, (const char *[]){ "mesh.pp=2", "mesh.layout=Et|tt|tL|", NULL }, 2,
                      false);
    equal(&one, &numbers, "1 and 3 layers");
    equal(&one, &text, "layout");
}

Test(pipeline, tied_embeddings)
{
    const char *const tied[] = { "model.llama4.tie=true", NULL };
    run one = run_of(llama4, tied, 1, false);
    run two = run_of(llama4, (const char *[]){ tied[0], "mesh.pp=2", NULL }, 2, false);
    run both = run_of(llama4, (const char *[]){ tied[0], "mesh.pp=2", "mesh.dp=2", NULL }, 4,
                      false);
    equal(&one, &two, "tied embeddings");
    equal(&one, &both, "tied embeddings, dp 2");
}
