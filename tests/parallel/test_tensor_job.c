/* SPDX-License-Identifier: Apache-2.0
 * Ten steps of training on 2 and 4 tensor-parallel ranks have the losses and gradient norms of one
 * rank: dense and mixture layers of Llama 4, and Kimi-K2. */
#include "../unit/jobs/job.h"
#include <math.h>

enum { STEPS = 10 };

static const char *const llama4[] = { "model.heads=4", "model.kv_heads=4", "model.head_dim=4",
                                      "model.llama4.experts=4", NULL };
static const char *const kimi[] = {
    "model.plugin=kimi_k2", "model.heads=4", "model.kv_heads=4", "model.head_dim=10",
    "model.kimi_k2.q_lora_rank=12", "model.kimi_k2.kv_lora_rank=10", "model.kimi_k2.nope_dim=6",
    "model.kimi_k2.rope_dim=4", "model.kimi_k2.value_dim=5", "model.kimi_k2.experts=4",
    "model.kimi_k2.experts_per_token=2", "model.kimi_k2.expert_hidden=12", NULL
};

static char *losses(job *j, const char *dir, const char *const *model, const char *const *more)
{
    const char *words[64] = { "p.ini", "-q", "--set", "train.steps=10", "--set" };
    size_t n = 5;
    char *at = mri_format("run.dir=%s", dir);
    words[n++] = at;
    for (int list = 0; list < 2; list++)
        for (const char *const *w = list ? more : model; w && *w; w++) {
            words[n++] = "--set";
            words[n++] = *w;
        }
    job_child c = job_start(j, words);
    job_result r = job_wait(c);
    JOB_EXPECT(&r, 0, NULL);
    free(at);
    return job_losses(job_path(j, dir));
}

static void same(const char *one, const char *many, const char *what)
{
    int64_t step, other;
    double loss, loss_b, norm, norm_b, lr;
    int n = 0, used;
    for (; sscanf(one, "%ld loss %lg norm %lg lr %lg\n%n", &step, &loss, &norm, &lr, &used) == 4;
         n++) {
        one += used;
        cr_assert_eq(sscanf(many, "%ld loss %lg norm %lg lr %lg\n%n", &other, &loss_b, &norm_b,
                            &lr, &used), 4, "%s: %s", what, many);
        many += used;
        cr_assert(fabs(loss - loss_b) <= 1e-5 * loss, "%s, step %ld: loss %.9g, of one rank %.9g",
                  what, (long)step, loss_b, loss);
        cr_assert(fabs(norm - norm_b) <= 1e-5 * norm, "%s, step %ld: norm %.9g, of one rank %.9g",
                  what, (long)step, norm_b, norm);
    }
    cr_assert_eq(n, STEPS);
}

static void check(const char *const *model)
{
    job j = job_new();
    char *one = losses(&j, "one", model, NULL);
    static const struct {
        const char *dir, *more[6];
    } meshes[] = {
        { "tp2", { "comm.plugin=sim", "comm.sim.ranks=2", "mesh.tp=2", NULL } },
        { "tp2-plain", { "comm.plugin=sim", "comm.sim.ranks=2", "mesh.tp=2",
                         "mesh.sequence_parallel=false", NULL } },
        { "tp4", { "comm.plugin=sim", "comm.sim.ranks=4", "mesh.tp=4", NULL } },
        { "tp2-dp2", { "comm.plugin=sim", "comm.sim.ranks=4", "mesh.tp=2", NULL } },
    };
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++)
        same(one, losses(&j, meshes[i].dir, model, meshes[i].more), meshes[i].dir);
    job_free(&j);
}

Test(tensor_job, llama4)
{
    check(llama4);
}

Test(tensor_job, kimi_k2)
{
    check(kimi);
}
