/* SPDX-License-Identifier: Apache-2.0
 * comm/mpi under mpirun: every collective, a rank that is late, and a training job that is the same
 * as on one rank. Skipped where there is no mpirun or the plugin is not built. */
#include "../unit/jobs/job.h"
#include "losses.h"

#define MPIRUN "mpirun --allow-run-as-root --oversubscribe "

static void need_mpirun(void)
{
    char *plugin = mri_format("%s/plugins/comm/mpi/mpi.so", getenv("MRUN_BUILD"));
    if (access(plugin, R_OK) || system("mpirun --version >/dev/null 2>&1"))
        cr_skip_test("no mpirun, or comm/mpi is not built");
    free(plugin);
}

/* in the job's folder; what it says on both streams */
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

#define RANK "%s/tests/parallel/mpi_rank p.ini "

Test(mpi, every_collective_in_every_group)
{
    need_mpirun();
    job j = job_new();
    job_result r = shell(&j, mri_format(MPIRUN "-n 4 " RANK "claims comm.plugin=mpi mesh.tp=2",
                                        getenv("MRUN_BUILD")));
    JOB_EXPECT(&r, 0, NULL);
    job_free(&j);
}

Test(mpi, bytes_are_those_of_plans_and_counts)
{
    static const char *const meshes[] = { "mesh.tp=2", "mesh.ep=2" };
    need_mpirun();
    job j = job_new();
    for (int i = 0; i < 2; i++) {
        char *line = mri_format(MPIRUN "-n 2 " RANK "bytes comm.plugin=mpi %s model.kv_heads=2 "
                                "model.llama4.experts=4", getenv("MRUN_BUILD"), meshes[i]);
        job_result r = shell(&j, line);
        cr_assert_eq(r.code, 0, "%s:\n%s", meshes[i], r.out);
        free(line);
    }
    job_free(&j);
}

Test(mpi, a_late_rank_is_named_on_all)
{
    need_mpirun();
    job j = job_new();
    job_result r = shell(&j, mri_format(MPIRUN "-n 4 " RANK "late comm.plugin=mpi mesh.tp=2 "
                                        "comm.timeout=1500ms", getenv("MRUN_BUILD")));
    JOB_EXPECT(&r, 3, "rank 2 does not come", "rank 0 ends with");
    job_free(&j);
}

Test(mpi, two_processes_train_as_one)
{
    need_mpirun();
    job j = job_new();
    const char *exe = getenv("MRUN_EXE");
    job_result r = shell(&j, mri_format("%s p.ini -q --set train.steps=4 --set run.dir=a", exe));
    JOB_EXPECT(&r, 0, NULL);
    r = shell(&j, mri_format(MPIRUN "-n 2 %s p.ini --set train.steps=4 --set run.dir=b "
                             "--set comm.plugin=mpi", exe));
    JOB_EXPECT(&r, 0, "2 ranks, as openmpi says");
    same_losses(job_path(&j, "a"), job_path(&j, "b"), 4);
    r = shell(&j, mri_format(MPIRUN "-n 1 %s p.ini --set comm.plugin=mpi --set optimizer.lr=1e-3 : "
                             "-n 1 %s p.ini --set comm.plugin=mpi", exe, exe));
    cr_expect_eq(r.code, 2, "%d: %s", r.code, r.out);
    cr_expect(strstr(r.out, "rank 1 was started with another profile") && strstr(r.out,
                                                                                 "lr = 1e-3"),
              "%s", r.out);
    job_free(&j);
}

Test(mpi, micro_batches_in_turn_change_no_bit)
{
    need_mpirun();
    job j = job_new();
    for (int on = 0; on < 2; on++) {
        job_result r = shell(&j, mri_format(MPIRUN "-n 2 %s %s/profiles/parity-tiny.ini --set "
                                            "train.steps=4 --set train.global_batch=16 --set "
                                            "mesh.ep=2 --set comm.plugin=mpi --set run.dir=%s "
                                            "--set mesh.overlap_moe_expert_parallel_comm=%s",
                                            getenv("MRUN_EXE"), getenv("MRUN_SOURCE"),
                                            on ? "on" : "off", on ? "true" : "false"));
        JOB_EXPECT(&r, 0, NULL);
    }
    cr_assert_str_eq(job_losses(job_path(&j, "on")), job_losses(job_path(&j, "off")));
    cr_assert(*job_losses(job_path(&j, "on")));
    job_free(&j);
}
