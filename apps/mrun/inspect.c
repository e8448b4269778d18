/* SPDX-License-Identifier: Apache-2.0
 * inspect.c - `mrun inspect PATH [--all] [--json]`: tensors, totals, step, the profile's
 * differences; of a Hugging Face folder also what its family makes of it. */
#include "inspect.h"
#include "app.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* The run's resolved profile, one or two folders above the step's. */
static char *run_profile(const char *step_dir)
{
    static const char *const above[] = { "..", "../.." };
    for (size_t i = 0; i < 2; i++) {
        char *path = mri_format("%s/%s/profile.resolved.ini", step_dir, above[i]);
        if (!access(path, R_OK))
            return path;
        free(path);
    }
    return NULL;
}

/* Lines "section.key: checkpoint | run"; NULL when there is nothing to compare with. */
static char *differences(const inspect_view *v)
{
    mri_profile *a = NULL, *b = NULL;
    mri_str lines = { 0 };
    char *mine = mri_format("%s/profile.resolved.ini", v->path), *theirs = run_profile(v->path);
    char *text = NULL;
    /* for people only: a profile of another version that no longer reads is not this
     * command's failure */
    if (v->checkpoint && theirs && !mri_profile_load(mine, NULL, 0, &a, NULL) &&
        !mri_profile_load(theirs, NULL, 0, &b, NULL)) {
        mri_profile_diff(a, b, NULL, &lines);
        text = mri_str_take(&lines);
    }
    if (a)
        mri_profile_free(a);
    if (b)
        mri_profile_free(b);
    free(theirs);
    free(mine);
    return text;
}

int cmd_inspect(app *a, int argc, char **argv)
{
    static const char *const flags[] = { "--all", NULL };
    mr_err err = MR_ERR_INIT;
    mri_str out = { 0 };
    app_args args = { 0 };
    inspect_view view;
    int rc = app_args_parse(a, argc, argv, NULL, flags, &args);
    if (rc)
        goto out;
    if (args.positional.n != 1) {
        rc = app_usage(a, "inspect takes one folder or file: mrun inspect PATH [--all] [--json]");
        goto out;
    }
    if (inspect_open(args.positional.v[0], &view, &err)) {
        rc = app_fail(a, &err);
        goto out;
    }
    char *diff = differences(&view);
    if (view.has_config)
        inspect_plan(&view, a->registry);
    inspect_how how = { diff, a->json, app_arg(&args, "--all") != NULL };
    inspect_print(&view, &how, &out);
    fwrite(out.s, 1, out.n, stdout);
    free(diff);
    inspect_close(&view);
out:
    mri_str_free(&out);
    app_args_free(&args);
    return rc;
}
