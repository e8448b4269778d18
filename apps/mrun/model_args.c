/* SPDX-License-Identifier: Apache-2.0
 * model_args.c - see model_args.h. */
#include "model_args.h"
#include "core/run/source.h"
#include "ranks.h"
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

int app_model_run(app *a, const app_args *args, const char *const *extra, size_t n_extra,
                  int (*job)(app *a, mri_config *c, const void *user), const void *user)
{
    MRI_VEC(const char *) sets = { 0 };
    mri_config *c = NULL;
    mr_err err = MR_ERR_INIT;
    for (size_t i = 0; i < n_extra; i++)
        MRI_PUSH(&sets, extra[i]);
    for (size_t i = 0; i < args->sets.n; i++)
        MRI_PUSH(&sets, args->sets.v[i]);
    app_start start = { args->positional.n ? args->positional.v[0] : NULL, app_arg(args, "--hf"),
                        sets.v, sets.n, job, user };
    int code = mri_source_config(a->registry, start.profile, start.hf, sets.v, sets.n, &c, &err)
                   ? app_fail(a, &err)
                   : app_run_ranks(a, c, &start);
    mri_config_free(c);
    free(sets.v);
    return code;
}

mr_status app_model_weights(mri_session *s, mr_err *err)
{
    return mri_source_weights(s, err);
}
