/* SPDX-License-Identifier: Apache-2.0
 *
 * A rank of a job under mpirun that is killed or stops: the job ends in seconds, the rank is named
 * where its launcher leaves it to us, the last checkpoint is whole, and `mrun supervise` goes on
 * with another number of ranks.
 */
#include "../unit/jobs/job.h"

#define MPIRUN "mpirun --allow-run-as-root --oversubscribe "

static void need_mpirun(void)
{
    char *plugin = mri_format("%s/plugins/comm/mpi/mpi.so", getenv("MRUN_BUILD"));
    if (access(plugin, R_OK) || system("mpirun --version >/dev/null 2>&1"))
        cr_skip_test("no mpirun, or comm/mpi is not built");
    free(plugin);
}

/* A launcher's script: trains on 2 ranks; at the first start, once 3 steps are logged, `fate` meets
 * rank 1, which has told its process id. */
static char *script(const job *j, const char *fate)
{
    char *path = job_path(j, "launch.sh");
    char *text = mri_format(
        "cat >rank.sh <<'END'\necho $$ >pid.$OMPI_COMM_WORLD_RANK\nexec %s p.ini -q --set "
        "run.dir=run "
        "--set comm.plugin=mpi --set comm.heartbeat=2s --set train.steps=400 "
        "--set train.global_batch=4 --set checkpoint.every=1 --set train.steps=$1\nEND\n"
        MPIRUN "-n $2 sh rank.sh $1 & m=$!\n"
        "test -f struck || { touch struck; while test $(cat run/log.jsonl 2>/dev/null | wc -l) "
        "-lt 3; "
        "do sleep 0.02; done; kill -%s $(cat pid.1); }\n"
        "wait $m; code=$?; kill -9 $(cat pid.1) 2>/dev/null; exit $code\n", getenv("MRUN_EXE"), fate);
    job_write(path, text, strlen(text));
    free(text);
    return path;
}

static job_result shell(const job *j, const char *command)
{
    char *line = mri_format("cd %s && timeout 100 %s >sh.out 2>&1", j->dir, command);
    int status = system(line);
    job_result r = { WIFEXITED(status) ? WEXITSTATUS(status) : 1000, job_read(job_path(j,
                                                                                       "sh.out")),
                     "" };
    r.err = r.out;
    return r;
}

static int64_t last_step(const job *j)
{
    mri_checkpoint *c = job_checkpoint(job_path(j, "run"));
    int64_t step = mri_checkpoint_info(c)->step;
    mri_checkpoint_close(c);
    return step;
}

Test(lost_rank, one_that_stops_is_named)
{
    need_mpirun();
    job j = job_new();
    script(&j, "STOP");
    double start = job_now();
    job_result r = shell(&j, "sh launch.sh 100000 2");
    cr_expect_neq(r.code, 0);
    cr_expect_lt(job_now() - start, 60, "that took %.0f s", job_now() - start);
    cr_expect(strstr(r.out, "error E0801: rank 1 has not been heard of for 2 s"), "%s", r.out);
    cr_expect_geq(last_step(&j), 1);
    job_free(&j);
}

Test(lost_rank, one_that_is_killed_and_the_rest_goes_on)
{
    need_mpirun();
    job j = job_new();
    script(&j, "KILL");
    char *line = mri_format("%s supervise --wait 0 --restarts 3 --ranks 2,1 -- sh launch.sh 12 "
                            "{ranks}",
                            getenv("MRUN_EXE"));
    job_result r = shell(&j, line);
    cr_expect_eq(r.code, 0, "%d: %s", r.code, r.out);
    cr_expect(strstr(r.out, "restart 1 of 3"), "%s", r.out);
    cr_expect_eq(last_step(&j), 12);
    job_losses(job_path(&j, "run")); /* asserts that no step is missing or there twice */
    job_free(&j);
}
