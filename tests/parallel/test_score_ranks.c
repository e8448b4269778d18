/* SPDX-License-Identifier: Apache-2.0
 * `mrun score` on many ranks writes what one rank writes: log-probabilities, logits and gradients
 * of sequences of several lengths, of a model with dense and mixture layers, over every axis. */
#include "../unit/jobs/job.h"
#include "models.h"
#include <math.h>

static const char sequences[] =
    "{\"ids\":[8,36,4,16,7]}\n"
    "{\"ids\":[31,28,200,41,24,13,6,31,1,24,27,138,0,44,28,17,46]}\n"
    "{\"ids\":[14]}\n"
    "{\"ids\":[37,6,20,1,1,1,41,34,0]}\n"
    "{\"ids\":[24,43,13,27,46,1,33,14,28,31,35,14,22,14,243,14,29,18,1,26,35]}\n";

typedef struct scores {
    char *out;
    mri_safetensors *logits, *grad;
} scores;

static mri_safetensors *open_file(char *path)
{
    mri_safetensors *f;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_safetensors_open(path, &f, &err), 0, "%s", err.what);
    free(path);
    return f;
}

static void same_tensors(const char *mesh, const mri_safetensors *a, const mri_safetensors *b)
{
    cr_assert_eq(mri_safetensors_count(a), mri_safetensors_count(b), "%s", mesh);
    for (size_t i = 0; i < mri_safetensors_count(a); i++) {
        const mri_tensor *x = mri_safetensors_at(a, i), *y = mri_safetensors_find(b, x->name);
        cr_assert(y && mr_same_type(&x->type, &y->type), "%s: %s", mesh, x->name);
        const float *p = x->data, *q = y->data;
        double most = 0, gap = 0;
        for (int64_t k = 0; k < mr_numel(&x->type); k++) {
            most = fmax(most, fabs(p[k]));
            gap = fmax(gap, isfinite(q[k]) ? fabs(p[k] - q[k]) : INFINITY);
        }
        cr_assert(gap <= 1e-5 * most, "%s: %s differs by %g of %g", mesh, x->name, gap, most);
    }
}

static void same_lines(const char *mesh, const char *a, const char *b)
{
    int n = 0;
    for (; *a && *b; n++) {
        char *end_a, *end_b;
        double x = strtod(a, &end_a), y = strtod(b, &end_b);
        if (end_a == a) {
            cr_assert_eq(*a++, *b++, "%s", mesh);
            continue;
        }
        cr_assert(end_b != b && fabs(x - y) <= 1e-5 * fmax(1, fabs(x)), "%s: %g, %g", mesh, x, y);
        a = end_a;
        b = end_b;
    }
    cr_assert(n && !*a && !*b, "%s: other lines:\n%s", mesh, b);
}

static scores score(job *j, const char *name, const char *const *mesh)
{
    const char *words[64] = { "score", "run", "--jsonl", "in.jsonl", "--logits",
                              mri_format("%s.l", name), "--grad", mri_format("%s.g", name) };
    size_t n = 8;
    for (; *mesh; mesh++) {
        words[n++] = "--set";
        words[n++] = *mesh;
    }
    job_child c = job_start(j, words);
    job_result r = job_wait(c);
    cr_assert_eq(r.code, 0, "%s: exit code %d:\n%s", name, r.code, r.err);
    return (scores){ r.out, open_file(job_path(j, words[5])), open_file(job_path(j, words[7])) };
}

static void close_all(scores *x)
{
    mri_safetensors_close(x->logits);
    mri_safetensors_close(x->grad);
}

static void check(const char *const *model)
{
    static const struct {
        const char *name, *sets[7];
    } meshes[] = {
        { "dp2", { "comm.sim.ranks=2" } },
        { "tp2-dp2-ep4", { "comm.sim.ranks=4", "mesh.tp=2", "mesh.ep=4" } },
        { "cp2-tp2", { "comm.sim.ranks=4", "mesh.cp=2", "mesh.tp=2" } },
        { "plain-tp2", { "comm.sim.ranks=2", "mesh.tp=2", "mesh.sequence_parallel=false" } },
        { "pp2-tp2-ep2", { "comm.sim.ranks=4", "mesh.pp=2", "mesh.tp=2", "mesh.ep=2" } },
        { "pp2-zero", { "comm.sim.ranks=2", "mesh.pp=2", "mesh.schedule=zero_bubble" } },
        { "pp2-vpp2", { "comm.sim.ranks=4", "mesh.pp=2", "mesh.vpp=2" } },
    };
    job j = job_new();
    models_train(&j, "run", model);
    job_write(job_path(&j, "in.jsonl"), sequences, sizeof sequences - 1);
    scores one = score(&j, "one", (const char *const[]){ NULL });
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++) {
        const char *sets[9] = { "comm.plugin=sim" };
        size_t n = 1;
        for (size_t k = 0; k < 7 && meshes[i].sets[k]; k++)
            sets[n++] = meshes[i].sets[k];
        sets[n] = NULL;
        scores many = score(&j, meshes[i].name, sets);
        same_lines(meshes[i].name, one.out, many.out);
        same_tensors(meshes[i].name, one.logits, many.logits);
        same_tensors(meshes[i].name, one.grad, many.grad);
        close_all(&many);
    }
    close_all(&one);
    job_free(&j);
}

Test(score_ranks, llama4)
{
    check(models_llama4);
}

Test(score_ranks, kimi_k2)
{
    check(models_kimi_k2);
}

/* Pieces of gradients are not gradients. */
Test(score_ranks, pieces_of_gradients_are_refused)
{
    job j = job_new();
    models_train(&j, "run", models_llama4);
    job_result r = job_run(&j, "score", "run", "--ids", "1 2 3", "--grad", "g", "--set",
                           "comm.plugin=sim", "--set", "shard.plugin=fsdp");
    JOB_EXPECT(&r, 2, "shard plugin keeps pieces", "shard.plugin = none");
    job_free(&j);
}

/* Processes: rank 0 alone prints, and all end alike. */
Test(score_ranks, mpi_prints_once)
{
    models_need_mpi();
    job j = job_new();
    models_train(&j, "run", models_llama4);
    job_result one = job_run(&j, "score", "run", "--ids", "1 2 3 4 5 6 7");
    job_result r = models_mpi(&j, 2, MODELS_ARGS("score", "run", "--ids", "1 2 3 4 5 6 7", "--set",
                                                 "mesh.tp=2"));
    JOB_EXPECT(&r, 0, NULL);
    same_lines("mpi", one.out, r.out);
    job_free(&j);
}

/* A run that processes trained over tp and pp is read by one that nobody launched. */
Test(score_ranks, one_process_reads_what_many_have_saved)
{
    models_need_mpi();
    job j = job_new();
    job_result r = models_mpi(&j, 4, MODELS_ARGS("p.ini", "-q", "--set", "train.steps=2", "--set",
                                                 "train.global_batch=8", "--set", "run.dir=many",
                                                 "--set", "model.layers=4", "--set",
                                                 "model.heads=4", "--set", "model.kv_heads=4",
                                                 "--set", "model.head_dim=4", "--set",
                                                 "mesh.tp=2", "--set", "mesh.pp=2"));
    JOB_EXPECT(&r, 0, NULL);
    job_result many = models_mpi(&j, 4, MODELS_ARGS("score", "many", "--ids", "1 2 3 4 5 6 7"));
    JOB_EXPECT(&many, 0, NULL);
    job_result one = job_run(&j, "score", "many", "--ids", "1 2 3 4 5 6 7");
    JOB_EXPECT(&one, 0, NULL);
    same_lines("alone", many.out, one.out);
    r = job_run(&j, "generate", "many", "--ids", "1 2 3", "--max-tokens", "3");
    JOB_EXPECT(&r, 0, NULL);
    r = job_run(&j, "score", "many", "--ids", "1 2 3", "--set", "mesh.tp=2");
    JOB_EXPECT(&r, 2, "E0107");
    job_free(&j);
}
