/* SPDX-License-Identifier: Apache-2.0
 *
 * app.h - what the commands share. Only files under apps/ print or choose exit codes:
 * stdout is data, stderr is talk.
 */
#ifndef MRUN_APP_H
#define MRUN_APP_H
#include "core/config/sections.h"
#include "core/mesh/world.h"

enum { EXIT_OK = 0, EXIT_RUN = 1, EXIT_USAGE = 2, EXIT_ENV = 3, EXIT_TRANSIENT = 16,
       EXIT_PERSISTENT = 17, EXIT_INT = 130, EXIT_TERM = 143 };

typedef struct app {
    mri_registry *registry;
    const char *plugin_paths; /* --plugin-path, or NULL */
    mri_world *world; /* of many ranks; NULL: this process alone */
    bool silent;      /* a rank other than the first: its errors are printed by that */
    bool json, quiet, color; /* color: stderr is a terminal and NO_COLOR is unset */
    int verbose;
} app;

/* One row of the command table (main.c); help, completion and man pages print from it, where it
 * has a doc. */
typedef struct app_command {
    const char *name, *args, *doc;
    int (*run)(app *a, int argc, char **argv); /* argv[0] is the command's name */
} app_command;
const app_command *app_commands(void); /* ends with a row without a name */

double app_now(void); /* seconds of a clock that never jumps, for durations */

/* A registry with core's services and ops, and where its talk goes. */
mri_registry *app_registry(app *a, mr_err *err);

/* Prints the error (what, detail, hint, its number) on stderr; returns the exit code. */
int app_fail(app *a, const mr_err *err);
/* prints, returns EXIT_USAGE */
MR_PRINTF(2, 3) int app_usage(app *a, const char *fmt, ...);

/* Splits argv into a positional list and repeated --set values (--plugin-path, --json, -q and
 * -v were read by main before). */
typedef struct app_args {
    MRI_VEC(const char *) positional, sets;
    MRI_VEC(const char *) names, values; /* other --name value pairs, as given in `takes` */
} app_args;
/* takes: NULL-ended names of options with a value ("--prompt"); flags: without ("--long"). */
int app_args_parse(app *a, int argc, char **argv, const char *const *takes,
                   const char *const *flags, app_args *out);
const char *app_arg(const app_args *args, const char *name); /* NULL: not given; "" for a flag */
void app_args_free(app_args *args);

int cmd_answers(app *a, int argc, char **argv);  /* answers.c */
int cmd_check(app *a, int argc, char **argv);    /* check.c: a profile, a plugin, KIND/NAME */
int cmd_explain(app *a, int argc, char **argv);  /* explain.c */
int cmd_supervise(app *a, int argc, char **argv); /* supervise.c */
int cmd_plugins(app *a, int argc, char **argv);  /* plugins.c */
int cmd_new(app *a, int argc, char **argv);      /* new.c */
int cmd_plan(app *a, int argc, char **argv);     /* plan.c */
int cmd_diff(app *a, int argc, char **argv);     /* diff.c */
int cmd_gradcheck(app *a, int argc, char **argv); /* gradcheck.c */
int cmd_bench(app *a, int argc, char **argv);    /* bench.c */
int cmd_report(app *a, int argc, char **argv);   /* report.c */
int cmd_inspect(app *a, int argc, char **argv);  /* inspect.c */
int cmd_generate(app *a, int argc, char **argv); /* generate.c */
int cmd_score(app *a, int argc, char **argv);    /* score.c */
int cmd_convert(app *a, int argc, char **argv);  /* convert.c */
int cmd_tokenize(app *a, int argc, char **argv); /* tokenize.c */
int cmd_fill_in(app *a, int argc, char **argv);  /* fill_in.c: docs/man/, completion/ */

/* check_plugin.c: the conformance suite of one plugin file or KIND/NAME; returns an exit code */
int app_check_plugin(app *a, const char *what, int argc, char **argv);

/* The jobs that a profile may run ([job] run = NAME). */
int job_train(app *a, mri_config *c);      /* train.c */
int job_generate(app *a, mri_config *c);   /* generate.c */
int job_score(app *a, mri_config *c);      /* score.c */
int job_preprocess(app *a, mri_config *c); /* preprocess.c */
int job_convert(app *a, mri_config *c);    /* convert.c */
int job_tokenize(app *a, mri_config *c);   /* tokenize.c */
int job_bench(app *a, mri_config *c);      /* bench_step.c */

#endif
