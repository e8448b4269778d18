/* SPDX-License-Identifier: Apache-2.0
 * Who a process is, by each launcher's variables; two that contradict each other, half a set, and
 * words that are no numbers are refused by name. */
#include "core/mesh/world.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const char *const all[] = { "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE",
    "MASTER_ADDR", "MASTER_PORT", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_LOCAL_SIZE", "SLURM_PROCID", "SLURM_NTASKS",
    "SLURM_LOCALID", "SLURM_STEP_ID", "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID",
    "MPI_LOCALNRANKS" };

static void clean(void)
{
    for (size_t i = 0; i < sizeof all / sizeof *all; i++)
        unsetenv(all[i]);
}

TestSuite(launchers, .init = clean);

static mri_launcher found(void)
{
    mri_launcher l;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_launch_find(&l, &err), 0, "%s", err.what);
    return l;
}

static void refused(const char *a, const char *b)
{
    mri_launcher l;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_launch_find(&l, &err), MR_E_COMM);
    cr_expect(strstr(err.what, a) && strstr(err.what, b), "'%s' names not both %s and %s", err.what,
              a, b);
}

Test(launchers, none_is_one_rank)
{
    mri_launcher l = found();
    cr_expect_eq(l.world, 1);
    cr_expect_str_eq(l.name, "none");
}

Test(launchers, torchrun)
{
    setenv("RANK", "3", 1);
    setenv("WORLD_SIZE", "8", 1);
    setenv("LOCAL_RANK", "1", 1);
    setenv("LOCAL_WORLD_SIZE", "2", 1);
    setenv("MASTER_ADDR", "node7", 1);
    setenv("MASTER_PORT", "29500", 1);
    mri_launcher l = found();
    cr_expect(l.rank == 3 && l.world == 8 && l.local_rank == 1 && l.local_world == 2);
    cr_expect_str_eq(l.address, "node7");
    cr_expect_eq(l.port, 29500);
    cr_expect_str_eq(l.name, "torchrun");
}

Test(launchers, openmpi_slurm_pmi)
{
    setenv("OMPI_COMM_WORLD_RANK", "2", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    setenv("OMPI_COMM_WORLD_LOCAL_RANK", "0", 1);
    mri_launcher l = found();
    cr_expect(l.rank == 2 && l.world == 4 && l.local_rank == 0);
    cr_expect_str_eq(l.name, "openmpi");
    clean();
    setenv("SLURM_PROCID", "5", 1);
    setenv("SLURM_NTASKS", "6", 1);
    cr_expect_str_eq(found().name, "none", "a batch script is no task");
    setenv("SLURM_STEP_ID", "0", 1);
    l = found();
    cr_expect(l.rank == 5 && l.world == 6);
    clean();
    setenv("PMI_RANK", "1", 1);
    setenv("PMI_SIZE", "2", 1);
    cr_expect_str_eq(found().name, "pmi");
}

Test(launchers, contradictions_name_both)
{
    setenv("RANK", "0", 1);
    setenv("WORLD_SIZE", "4", 1);
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    setenv("OMPI_COMM_WORLD_SIZE", "8", 1);
    refused("WORLD_SIZE=4", "OMPI_COMM_WORLD_SIZE=8");
    setenv("OMPI_COMM_WORLD_SIZE", "4", 1);
    setenv("OMPI_COMM_WORLD_RANK", "1", 1);
    refused("RANK=0", "OMPI_COMM_WORLD_RANK=1");
    setenv("OMPI_COMM_WORLD_RANK", "0", 1);
    cr_expect_str_eq(found().name, "torchrun", "both say the same");
}

Test(launchers, halves_and_nonsense)
{
    setenv("RANK", "0", 1);
    refused("RANK", "WORLD_SIZE is not");
    setenv("WORLD_SIZE", "many", 1);
    refused("WORLD_SIZE", "many");
    setenv("WORLD_SIZE", "-1", 1);
    refused("WORLD_SIZE", "-1");
    setenv("WORLD_SIZE", "4", 1);
    setenv("RANK", "4", 1);
    refused("RANK=4", "WORLD_SIZE=4");
}
