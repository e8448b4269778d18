/* SPDX-License-Identifier: Apache-2.0
 * Keys that meet: what is accepted on many ranks equals one rank, to 1e-5 in losses and norms; what
 * could not is refused by name. Each row is a pair that no other test has. */
#include "models.h"
#include <math.h>

enum { STEPS = 3 };

static void near(const char *a, const char *b, const char *what)
{
    char *x = job_losses(a), *y = job_losses(b), *p = x, *q = y;
    for (int n = 0, used; n < STEPS; n++) {
        long step;
        double loss[2], norm[2], lr;
        cr_assert_eq(sscanf(p, "%ld loss %lg norm %lg lr %lg\n%n", &step, &loss[0], &norm[0], &lr,
                            &used), 4, "%s: %s", what, x);
        p += used;
        cr_assert_eq(sscanf(q, "%ld loss %lg norm %lg lr %lg\n%n", &step, &loss[1], &norm[1], &lr,
                            &used), 4, "%s: %s", what, y);
        q += used;
        cr_assert(fabs(loss[0] - loss[1]) <= 1e-5 * loss[0] &&
                      fabs(norm[0] - norm[1]) <= 1e-5 * norm[0],
                  "%s, step %ld: loss %.9g and %.9g, norm %.9g and %.9g", what, step, loss[0],
                  loss[1], norm[0], norm[1]);
    }
    free(x);
    free(y);
}

static mri_safetensors *to_hf(const job *j, const char *run, const char *out)
{
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    job_result r = job_run(j, "convert", run, "--to", "hf", "--out", out);
    cr_assert_eq(r.code, 0, "%s: %s", run, r.err);
    cr_assert_eq(mri_safetensors_open_folder(job_path(j, out), &f, &err), 0, "%s", err.what);
    return f;
}

static job_result train(const job *j, const char *dir, const char *const *model,
                        const char *const *sets)
{
    const char *all[40];
    size_t n = 0;
    char *run = mri_format("run.dir=%s", dir);
    for (; *model; model++)
        all[n++] = *model;
    for (size_t i = 0; sets && sets[i]; i++)
        all[n++] = sets[i];
    all[n++] = run;
    all[n] = NULL;
    return models_run(j, MODELS_ARGS("p.ini", "-q", "--set", "train.steps=3", "--set",
                                     "train.global_batch=8"), all);
}

static void check(const char *const *model, const char *key, const char *const meshes[][6],
                  size_t n)
{
    job j = job_new();
    job_result r = train(&j, "one", model, (const char *const[]){ key, NULL });
    JOB_EXPECT(&r, 0, NULL);
    for (size_t i = 0; i < n; i++) {
        const char *sets[9] = { "comm.plugin=sim", key };
        for (size_t k = 0; k < 6 && meshes[i][k]; k++)
            sets[2 + k] = meshes[i][k];
        char *what = mri_format("%s with %s, %s", key, meshes[i][1], meshes[i][2]);
        char *dir = mri_format("run%zu", i);
        r = train(&j, dir, model, sets);
        cr_assert_eq(r.code, 0, "%s: %s", what, r.err);
        near(job_path(&j, "one"), job_path(&j, dir), what);
        free(what);
        free(dir);
    }
    job_free(&j);
}
#define CHECK(model, key, ...) do {                                                               \
        static const char *const meshes_[][6] = { __VA_ARGS__ };                                  \
        check(model, key, meshes_, sizeof meshes_ / sizeof *meshes_);                             \
    } while (0)

Test(combinations, losses_per_micro_batch)
{
    CHECK(models_llama4, "train.loss=per_micro_batch",
          { "comm.sim.ranks=2", "shard.plugin=fsdp", NULL },
          { "comm.sim.ranks=4", "mesh.cp=2", "mesh.pp=2", NULL });
}

Test(combinations, weight_gradients_apart)
{
    CHECK(models_llama4, "train.split_weight_gradient=true",
          { "comm.sim.ranks=2", "mesh.tp=2", "mesh.ep=2", NULL },
          { "comm.sim.ranks=2", "mesh.cp=2", NULL },
          { "comm.sim.ranks=2", "shard.plugin=distopt", NULL });
}

Test(combinations, recomputation)
{
    CHECK(models_kimi_k2, "train.recompute=full",
          { "comm.sim.ranks=2", "mesh.pp=2", "mesh.vpp=2", NULL },
          { "comm.sim.ranks=2", "mesh.pp=2", "mesh.schedule=zero_bubble", NULL },
          { "comm.sim.ranks=2", "mesh.ep=2", "shard.plugin=fsdp", NULL });
}

Test(combinations, losses_looked_at_before_the_update)
{
    CHECK(models_llama4, "run.check_for_spiky_loss=true",
          { "comm.sim.ranks=2", "shard.plugin=fsdp", NULL },
          { "comm.sim.ranks=4", "shard.plugin=fsdp", "mesh.copies=2", NULL },
          { "comm.sim.ranks=2", "shard.plugin=distopt", NULL },
          { "comm.sim.ranks=2", "mesh.pp=2", "mesh.schedule=zero_bubble", NULL });
}

Test(combinations, several_tokens_predicted)
{
    CHECK(models_kimi_k2, "model.kimi_k2.mtp_layers=1",
          { "comm.sim.ranks=2", "mesh.tp=2", NULL },
          { "comm.sim.ranks=4", "mesh.tp=2", "mesh.ep=2", "mesh.pp=2", NULL });
    job j = job_new();
    job_result r = train(&j, "cut", models_kimi_k2,
                         (const char *const[]){ "model.kimi_k2.mtp_layers=1", "comm.plugin=sim",
                                                "mesh.cp=2", NULL });
    JOB_EXPECT(&r, 2, "cp = 2", "further on", "mtp_layers = 0");
    job_free(&j);
}

/* What tp, pp and ep have saved together becomes the Hugging Face folder of one rank's run. */
Test(combinations, a_folder_of_what_eight_ranks_saved)
{
    job j = job_new();
    job_result r = train(&j, "one", models_llama4, NULL);
    JOB_EXPECT(&r, 0, NULL);
    r = train(&j, "many", models_llama4,
              (const char *const[]){ "comm.plugin=sim", "comm.sim.ranks=8", "mesh.tp=2",
                                     "mesh.pp=2", "mesh.ep=2", NULL });
    JOB_EXPECT(&r, 0, NULL);
    mri_safetensors *a = to_hf(&j, "one", "one.hf"), *b = to_hf(&j, "many", "many.hf");
    cr_assert_eq(mri_safetensors_count(a), mri_safetensors_count(b));
    for (size_t i = 0; i < mri_safetensors_count(a); i++) {
        const mri_tensor *x = mri_safetensors_at(a, i), *y = mri_safetensors_find(b, x->name);
        cr_assert(y && mr_same_type(&x->type, &y->type), "%s", x->name);
        cr_assert_str_eq(x->type.dtype, "f32");
        const float *p = x->data, *q = y->data;
        double most = 0, gap = 0;
        for (int64_t k = 0; k < mr_numel(&x->type); k++) {
            most = fmax(most, fabs(p[k]));
            gap = fmax(gap, isfinite(q[k]) ? fabs(p[k] - q[k]) : INFINITY);
        }
        cr_assert(gap <= 1e-4 * most, "%s differs by %g of %g", x->name, gap, most);
    }
    mri_safetensors_close(a);
    mri_safetensors_close(b);
    job_free(&j);
}
