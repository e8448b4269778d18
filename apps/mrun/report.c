/* SPDX-License-Identifier: Apache-2.0
 * report.c - `mrun report RUN_DIR [-o FILE]`: writes RUN_DIR/report.html. */
#include "report.h"
#include "app.h"
#include "core/store/store.h"
#include <stdlib.h>
#include <string.h>

int cmd_report(app *a, int argc, char **argv)
{
    static const char *const takes[] = { "-o", NULL };
    mr_err err = MR_ERR_INIT;
    mri_str html = { 0 };
    app_args args = { 0 };
    char *run_dir = NULL, *path = NULL;
    int rc = app_args_parse(a, argc, argv, takes, NULL, &args);
    if (rc)
        goto out;
    if (args.positional.n != 1) {
        rc = app_usage(a, "report takes one run folder: mrun report RUN_DIR [-o FILE]");
        goto out;
    }
    run_dir = mri_strdup(args.positional.v[0]);
    for (size_t n = strlen(run_dir); n > 1 && run_dir[n - 1] == '/';)
        run_dir[--n] = 0;
    const char *to = app_arg(&args, "-o");
    path = to ? mri_strdup(to) : mri_format("%s/report.html", run_dir);
    mr_status st = report_page(run_dir, &html, &err);
    if (!st && !strcmp(path, "-"))
        fwrite(html.s, 1, html.n, stdout);
    else if (!st)
        st = mri_write_file_atomic(path, html.s, html.n, &err);
    if (st)
        rc = app_fail(a, &err);
    else if (!a->quiet && strcmp(path, "-"))
        fprintf(stderr, "wrote %s\n", path);
out:
    mri_str_free(&html);
    app_args_free(&args);
    free(path);
    free(run_dir);
    return rc;
}
