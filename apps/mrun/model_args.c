/* SPDX-License-Identifier: Apache-2.0
 * model_args.c - see model_args.h. */
#include "model_args.h"
#include "core/run/source.h"
#include "ranks.h"
#include "core/mesh/world.h"
#include <stdlib.h>

mr_status app_model_config(app *a, const app_args *args, const char *const *extra, size_t n_extra,
                           mri_config **out, mr_err *err)
{
    MRI_VEC(const char *) sets = { 0 };
    for (size_t i = 0; i < n_extra; i++)
        MRI_PUSH(&sets, extra[i]);
    for (size_t i = 0; i < args->sets.n; i++)
        MRI_PUSH(&sets, args->sets.v[i]);
    mr_status st = mri_source_config(a->registry, args->positional.n ? args->positional.v[0] : NULL,
                                     app_arg(args, "--hf"), sets.v, sets.n, out, err);
    free(sets.v);
    return st;
}

const char *const app_alone[APP_ALONE] = {
    "comm.plugin=none", "shard.plugin=none", "mesh.dp=auto", "mesh.tp=1", "mesh.cp=1", "mesh.pp=1",
    "mesh.vpp=1", "mesh.ep=1", "mesh.copies=1", "mesh.schedule=1f1b", "mesh.layout=",
    "mesh.first_stage_layers=-1", "mesh.last_stage_layers=-1",
    "mesh.overlap_moe_expert_parallel_comm=false",
};

/* Started as one process, of a run of several: that was its training's mesh. What is measured must
 * be what was asked for. */
static bool wants_alone(const app_args *args, const mri_config *c)
{
    const mri_choice *comm = mri_config_choice(c, "comm", 0);
    const mr_comm_ops *ops = comm ? comm->unit->table : NULL;
    mri_launcher l;
    mr_err ignored = MR_ERR_INIT;
    if (!args->positional.n || !ops || ops->flags & MR_COMM_THREADS)
        return false;
    return strcmp(c->job.run, "bench") && !mri_launch_find(&l, &ignored) && l.world == 1;
}

int app_model_run(app *a, const app_args *args, const char *const *extra, size_t n_extra,
                  int (*job)(app *a, mri_config *c, const void *user), const void *user)
{
    MRI_VEC(const char *) sets = { 0 };
    mri_config *c = NULL;
    mr_err err = MR_ERR_INIT;
    for (size_t i = 0; i < APP_ALONE; i++)
        MRI_PUSH(&sets, app_alone[i]);
    for (size_t i = 0; i < n_extra; i++)
        MRI_PUSH(&sets, extra[i]);
    for (size_t i = 0; i < args->sets.n; i++)
        MRI_PUSH(&sets, args->sets.v[i]);
    app_start start = { args->positional.n ? args->positional.v[0] : NULL, app_arg(args, "--hf"),
                        sets.v + APP_ALONE, sets.n - APP_ALONE, job, user };
    mr_status st = mri_source_config(a->registry, start.profile, start.hf, start.sets, start.n_sets,
                                     &c, &err);
    if (!st && wants_alone(args, c)) {
        mri_config_free(c);
        c = NULL;
        start.sets = sets.v; /* those of the command line, behind these, still win */
        start.n_sets = sets.n;
        st = mri_source_config(a->registry, start.profile, start.hf, start.sets, start.n_sets, &c,
                               &err);
    }
    int code = st ? app_fail(a, &err) : app_run_ranks(a, c, &start);
    mri_config_free(c);
    free(sets.v);
    return code;
}

mr_status app_model_weights(mri_session *s, mr_err *err)
{
    return mri_source_weights(s, err);
}
