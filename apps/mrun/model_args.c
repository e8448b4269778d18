/* SPDX-License-Identifier: Apache-2.0
 * model_args.c - see model_args.h. */
#include "model_args.h"
#include "core/run/source.h"
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

mr_status app_model_weights(mri_session *s, mr_err *err)
{
    return mri_source_weights(s, err);
}
