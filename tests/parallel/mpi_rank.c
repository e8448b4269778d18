/* SPDX-License-Identifier: Apache-2.0
 * One rank of test_mpi, started by mpirun: opens the world of PROFILE with the given --set words
 * and checks the claims; or, with "late", rank 2 does not come to a sum. Exit 0: all is right. */
#include "claims.h"
#include "core/ops/catalogue.h"
#include <unistd.h>

static mr_status late_sum(mri_world *w, mr_err *err)
{
    double x = 1;
    if (w->mesh.rank == 2)
        sleep(6);
    return mri_world_sum(w, MRI_GROUP_WORLD, &x, 1, err);
}

int main(int argc, char **argv)
{
    mr_err err = MR_ERR_INIT;
    mri_registry *reg = mri_registry_create(NULL);
    mri_config *c = NULL;
    mri_world *w = NULL;
    claims found = { 0 };
    mr_status st = mri_registry_set_op_hook(reg, mri_op_register, &err);
    const char *what = argc > 2 ? argv[2] : "";
    if (!st && argc > 2)
        st = mri_config_load(reg, argv[1], (const char *const *)(uintptr_t)(argv + 3),
                             (size_t)(argc - 3), &c, &err);
    if (!st)
        st = mri_world_open(reg, c, 0, NULL, 0, &w, &err);
    if (!st && mri_world_alone(w))
        st = mr_fail(&err, MR_E_COMM, MR_BLAME_ENV, "this rank is alone");
    if (!st)
        st = !strcmp(what, "late") ? late_sum(w, &err) : claims_of(w, &found, &err);
    if (w)
        st = mri_world_fail(w, st, &err);
    if (st)
        fprintf(stderr, "rank %u ends with: %s\n", w ? w->mesh.rank : 99, err.what);
    if (found.wrong)
        fprintf(stderr, "rank %u: %d wrong: %s\n", w->mesh.rank, found.wrong, found.note);
    mri_world_close(w);
    if (c)
        mri_config_free(c);
    mri_registry_free(reg);
    return st || found.wrong ? 3 : 0;
}
