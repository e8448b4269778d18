/* SPDX-License-Identifier: Apache-2.0
 *
 * models.h - two small models that can be cut over 2 and 4 ranks of every axis, trained for two
 * steps on one rank, for commands that are compared over ranks; and such a command under mpirun.
 */
#ifndef TEST_PARALLEL_MODELS_H
#define TEST_PARALLEL_MODELS_H
#include "../unit/jobs/job.h"

static const char *const models_llama4[] = { "model.layers=4", "model.heads=4", "model.kv_heads=4",
                                             "model.head_dim=4", "model.llama4.experts=4", NULL };
static const char *const models_kimi_k2[] = {
    "model.plugin=kimi_k2", "model.layers=4", "model.heads=4", "model.kv_heads=4",
    "model.head_dim=10", "model.kimi_k2.q_lora_rank=12", "model.kimi_k2.kv_lora_rank=10",
    "model.kimi_k2.nope_dim=6", "model.kimi_k2.rope_dim=4", "model.kimi_k2.value_dim=5",
    "model.kimi_k2.experts=4", "model.kimi_k2.experts_per_token=2",
    "model.kimi_k2.expert_hidden=12", NULL
};

#define MODELS_ARGS(...) (const char *const[]){ __VA_ARGS__, NULL }

/* The command's words, then `--set` for each of a NULL-ended list. */
static inline job_result models_run(const job *j, const char *const *words,
                                    const char *const *sets)
{
    const char *all[62];
    size_t n = 0;
    for (; *words; words++)
        all[n++] = *words;
    for (; sets && *sets; sets++) {
        cr_assert_lt(n, 59);
        all[n++] = "--set";
        all[n++] = *sets;
    }
    all[n] = NULL;
    return job_wait(job_start(j, all));
}

static inline void models_train(const job *j, const char *dir, const char *const *model)
{
    char *run = mri_format("run.dir=%s", dir);
    job_result r = models_run(j, MODELS_ARGS("p.ini", "-q", "--set", "train.steps=2", "--set",
                                             "train.global_batch=8", "--set", run), model);
    JOB_EXPECT(&r, 0, NULL);
    free(run);
}

static inline void models_need_mpi(void)
{
    char *plugin = mri_format("%s/plugins/comm/mpi/mpi.so", getenv("MRUN_BUILD"));
    if (access(plugin, R_OK) || system("mpirun --version >/dev/null 2>&1"))
        cr_skip_test("no mpirun, or comm/mpi is not built");
    free(plugin);
}

/* `mpirun -n ranks mrun WORDS --set comm.plugin=mpi` */
static inline job_result models_mpi(const job *j, int ranks, const char *const *words)
{
    mri_str c = { 0 };
    char *out = job_path(j, "mpi.out"), *err = job_path(j, "mpi.err");
    mri_str_fmt(&c, "cd '%s' && mpirun --allow-run-as-root --oversubscribe -n %d '%s'", j->dir,
                ranks, getenv("MRUN_EXE"));
    for (; *words; words++)
        mri_str_fmt(&c, " '%s'", *words);
    mri_str_fmt(&c, " --set comm.plugin=mpi >'%s' 2>'%s'", out, err);
    int code = system(c.s);
    mri_str_free(&c);
    job_result r = { WIFEXITED(code) ? WEXITSTATUS(code) : 1000, job_read(out), job_read(err) };
    free(out);
    free(err);
    return r;
}

#endif
