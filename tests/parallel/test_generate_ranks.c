/* SPDX-License-Identifier: Apache-2.0
 * `mrun generate` on many ranks gives the answers of one rank, text, ids and endings, whatever axes
 * share the work: prompts over dp, experts across replicas that finish at different times, heads over
 * tp. `mrun bench step` speaks of the whole model. Rank 0 alone prints. */
#include "models.h"

static const char prompts[] =
    "{\"prompt\":\"the cat \"}\n{\"prompt\":\"on\"}\n"
    "{\"prompt\":\"and then it slept. the cat sat on a mat and then it\"}\n"
    "{\"prompt\":\"a\"}\n{\"prompt\":\"it sl\"}\n";

static char *answers(const job *j, const char *const *sets)
{
    job_result r = models_run(j, MODELS_ARGS("generate", "run", "-q", "--jsonl", "in.jsonl", "--json",
                                             "--max-tokens", "18", "--n", "2", "--temperature",
                                             "0.7", "--batch", "3", "--seed", "3", "--stop", "at"),
                              sets);
    cr_assert_eq(r.code, 0, "%s: exit code %d:\n%s", sets[0], r.code, r.err);
    return r.out;
}

static void check(const char *const *model)
{
    static const char *const meshes[][6] = {
        { "comm.sim.ranks=2", "comm.plugin=sim" },
        { "comm.sim.ranks=4", "comm.plugin=sim", "mesh.tp=4" },
        { "comm.sim.ranks=4", "comm.plugin=sim", "mesh.ep=2" },
        { "comm.sim.ranks=4", "comm.plugin=sim", "mesh.ep=4", "mesh.tp=2" },
        { "comm.sim.ranks=4", "comm.plugin=sim", "mesh.ep=4", "mesh.dispatcher=allgather" },
        { "comm.sim.ranks=2", "comm.plugin=sim", "mesh.cp=2" },
    };
    job j = job_new();
    models_train(&j, "run", model);
    job_write(job_path(&j, "in.jsonl"), prompts, sizeof prompts - 1);
    char *one = answers(&j, (const char *const[]){ "comm.plugin=none", NULL });
    for (size_t i = 0; i < sizeof meshes / sizeof *meshes; i++)
        cr_assert_str_eq(answers(&j, meshes[i]), one, "%s, %s, %s", meshes[i][0], meshes[i][2],
                         meshes[i][3]);
    job_free(&j);
}

Test(generate_ranks, llama4)
{
    check(models_llama4);
}

Test(generate_ranks, kimi_k2)
{
    check(models_kimi_k2);
}

Test(generate_ranks, what_ranks_cannot_do_is_refused)
{
    job j = job_new();
    models_train(&j, "run", models_llama4);
    job_result r = job_run(&j, "generate", "run", "--prompt", "a", "--set", "comm.plugin=sim",
                           "--set", "mesh.pp=2");
    JOB_EXPECT(&r, 3, "pp = 2");
    r = job_run(&j, "generate", "run", "--interactive", "--set", "comm.plugin=sim");
    JOB_EXPECT(&r, 2, "--interactive", "2 ranks");
    r = job_run(&j, "bench", "decode", "run", "--set", "comm.plugin=sim");
    JOB_EXPECT(&r, 2, "bench decode", "one rank");
    job_free(&j);
}

static double figure(const char *json, const char *key)
{
    const char *at = strstr(json, key);
    cr_assert_not_null(at, "no %s in:\n%s", key, json);
    return atof(at + strlen(key));
}

Test(generate_ranks, bench_step_is_of_the_whole_model)
{
    static const char *const keys[] = { "\"parameters\": ", "\"active\": ", "\"tokens\": ",
                                        "\"flops_per_token\": ", "\"loss\": " };
    job j = job_new();
    const char *words[] = { "bench", "step", "p.ini", "-q", "--json", "--brief", "--steps", "1",
                            "--set", "train.global_batch=8", NULL };
    job_result one = models_run(&j, words, models_llama4);
    const char *const more[] = { "model.layers=4", "model.heads=4", "model.kv_heads=4",
                                 "model.head_dim=4", "model.llama4.experts=4", "comm.plugin=sim",
                                 "comm.sim.ranks=4", "mesh.tp=2", "mesh.pp=2", NULL };
    job_result r = models_run(&j, words, more);
    JOB_EXPECT(&r, 0, NULL);
    cr_assert_eq(figure(r.out, "\"ranks\": "), 4);
    for (size_t i = 0; i < sizeof keys / sizeof *keys; i++)
        cr_assert_float_eq(figure(r.out, keys[i]), figure(one.out, keys[i]),
                           1e-5 * figure(one.out, keys[i]), "%s", keys[i]);
    cr_assert_null(strstr(strstr(r.out, "\"step\"") + 1, "\"step\""), "printed twice");
    job_free(&j);
}
