/* SPDX-License-Identifier: Apache-2.0
 *
 * app.c - what the commands share: errors on stderr, exit codes, the command line's options.
 * Owns the mapping from an error to an exit code; nothing else chooses one.
 */
#include "app.h"
#include "core/base/json.h"
#include "core/ops/catalogue.h"
#include "core/run/submodel.h"
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* The first row that matches decides. */
static const struct {
    int from, to;
    uint32_t blame; /* MR_BLAME_UNKNOWN: whoever is to blame */
    int code;
} exit_table[] = {
    { 508, 508, MR_BLAME_UNKNOWN, EXIT_TRANSIENT },
    { 509, 509, MR_BLAME_UNKNOWN, EXIT_PERSISTENT },
    { 510, 510, MR_BLAME_UNKNOWN, EXIT_TRANSIENT },
    { 100, 199, MR_BLAME_UNKNOWN, EXIT_USAGE }, /* profile, command line          */
    { 200, 299, MR_BLAME_UNKNOWN, EXIT_ENV },   /* plugins                        */
    { 600, 699, MR_BLAME_ENV, EXIT_ENV },       /* files, when the system refuses */
    { 700, 799, MR_BLAME_UNKNOWN, EXIT_ENV },   /* devices                        */
    { 0, 9999, MR_BLAME_USER, EXIT_USAGE },
    { 0, 9999, MR_BLAME_ENV, EXIT_ENV },
};

static int exit_code(const mr_err *err)
{
    int number = -err->code;
    for (size_t i = 0; i < sizeof exit_table / sizeof *exit_table; i++)
        if (number >= exit_table[i].from && number <= exit_table[i].to &&
            (!exit_table[i].blame || exit_table[i].blame == err->blame))
            return exit_table[i].code;
    return EXIT_RUN;
}

static void print_json(const mr_err *err)
{
    mri_str b = { 0 };
    mri_str_fmt(&b, "{\"error\": \"E%04d\", \"what\": ", -err->code);
    mri_str_json(&b, err->what);
    mri_str_add(&b, ", \"detail\": ");
    mri_str_json(&b, err->detail);
    mri_str_add(&b, ", \"hint\": ");
    mri_str_json(&b, err->hint);
    mri_str_fmt(&b, ", \"native\": %d}\n", err->native);
    fputs(b.s, stderr);
    mri_str_free(&b);
}

static void print_indented(const char *text)
{
    while (*text) {
        size_t n = strcspn(text, "\n");
        fprintf(stderr, "        %.*s\n", (int)n, text);
        text += n + (text[n] == '\n');
    }
}

double app_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int app_fail(app *a, const mr_err *err)
{
    const char *red = a->color ? "\033[1;31m" : "", *off = a->color ? "\033[0m" : "";
    fflush(stdout);
    if (a->silent && !mri_world_orphan(a->world))
        return exit_code(err);
    if (a->json) {
        print_json(err);
        return exit_code(err);
    }
    fprintf(stderr, "%serror E%04d:%s %s\n", red, -err->code, off, err->what);
    print_indented(err->detail);
    if (*err->hint)
        print_indented(err->hint);
    if (!strstr(err->hint, "run: "))
        fprintf(stderr, "        run: mrun explain E%04d\n", -err->code);
    return exit_code(err);
}

int app_usage(app *a, const char *fmt, ...)
{
    mr_err err = MR_ERR_INIT;
    char text[sizeof err.what];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mr_fail(&err, MR_E_USAGE, MR_BLAME_USER, "%s", text);
    mr_hint(&err, "run: mrun --help");
    return app_fail(a, &err);
}

/* ---- plugins ------------------------------------------------------------------------------- */

/* Talk of plugins and core: warnings always, more with -v, nothing but errors with -q. */
static void print_log(void *user, uint32_t level, const char *unit, const char *msg)
{
    const app *a = user;
    static const char *const name[] = { "error", "warning", "info", "debug" };
    uint32_t shown = a->quiet ? MR_LOG_ERROR : MR_LOG_WARN + (uint32_t)a->verbose;
    if (level <= shown && !a->silent)
        fprintf(stderr, "%s: %s%s%s\n", name[level < 4 ? level : 3], unit ? unit : "",
                unit ? ": " : "", msg);
}

mri_registry *app_registry(app *a, mr_err *err)
{
    mri_registry *r = mri_registry_create(a->plugin_paths);
    mri_registry_set_log(r, print_log, a);
    mri_registry_offer(r, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(r, MR_EXT_JSON, &mri_json_service);
    mri_registry_offer(r, MR_EXT_MODEL, &mri_model_service);
    if (!mri_registry_set_op_hook(r, mri_op_register, err))
        return r;
    mri_registry_free(r);
    return NULL;
}

/* ---- options ------------------------------------------------------------------------------ */

enum { OPT_NONE, OPT_FLAG, OPT_VALUE };

/* Options of every command; those of `app` were read by main before the command ran. */
static const struct {
    const char *name;
    int kind;
} common[] = {
    { "--set", OPT_VALUE }, { "--plugin-path", OPT_VALUE }, { "--json", OPT_FLAG },
    { "-q", OPT_FLAG },     { "-v", OPT_FLAG },
};
enum { N_COMMON = sizeof common / sizeof *common };

static bool in_list(const char *const *list, const char *name)
{
    for (; list && *list; list++)
        if (!strcmp(*list, name))
            return true;
    return false;
}

static int option_kind(const char *name, const char *const *takes, const char *const *flags,
                       bool *is_common)
{
    *is_common = true;
    for (size_t i = 0; i < N_COMMON; i++)
        if (!strcmp(common[i].name, name))
            return common[i].kind;
    *is_common = false;
    return in_list(takes, name) ? OPT_VALUE : in_list(flags, name) ? OPT_FLAG : OPT_NONE;
}

static int unknown_option(app *a, const char *command, const char *name, const char *const *takes,
                          const char *const *flags)
{
    MRI_VEC(const char *) words = { 0 };
    for (size_t i = 0; i < N_COMMON; i++)
        MRI_PUSH(&words, common[i].name);
    for (; takes && *takes; takes++)
        MRI_PUSH(&words, *takes);
    for (; flags && *flags; flags++)
        MRI_PUSH(&words, *flags);
    const char *near = mri_nearest(name, words.v, words.n);
    int rc = near ? app_usage(a, "%s: unknown option '%.60s', did you mean '%s'?", command, name,
                              near)
                  : app_usage(a, "%s: unknown option '%.60s'", command, name);
    free(words.v);
    return rc;
}

int app_args_parse(app *a, int argc, char **argv, const char *const *takes,
                   const char *const *flags, app_args *out)
{
    bool options = true, is_common;
    memset(out, 0, sizeof *out);
    for (int i = 1; i < argc; i++) {
        char *arg = argv[i];
        if (!options || arg[0] != '-' || !arg[1]) {
            MRI_PUSH(&out->positional, arg);
            continue;
        }
        if (!strcmp(arg, "--")) {
            options = false;
            continue;
        }
        size_t n = strcspn(arg, "=");
        char *name = mri_strndup(arg, n);
        int kind = option_kind(name, takes, flags, &is_common);
        const char *value = arg[n] ? arg + n + 1 : NULL, *fault = NULL;
        if (kind == OPT_VALUE && !value && ++i < argc)
            value = argv[i];
        if (kind == OPT_VALUE && !value)
            fault = "needs a value";
        if (kind == OPT_FLAG && value)
            fault = "takes no value";
        int rc = fault ? app_usage(a, "%s: option %s %s", argv[0], name, fault)
                 : kind == OPT_NONE ? unknown_option(a, argv[0], name, takes, flags) : 0;
        if (!rc && !is_common) {
            for (const char *const *t = kind == OPT_VALUE ? takes : flags; *t; t++)
                if (!strcmp(*t, name))
                    MRI_PUSH(&out->names, *t);
            MRI_PUSH(&out->values, value ? value : "");
        } else if (!rc && !strcmp(name, "--set")) {
            MRI_PUSH(&out->sets, value);
        }
        free(name);
        if (rc) {
            app_args_free(out);
            return rc;
        }
    }
    return 0;
}

const char *app_arg(const app_args *args, const char *name)
{
    for (size_t i = args->names.n; i-- > 0;) /* the last one wins, as for --set */
        if (!strcmp(args->names.v[i], name))
            return args->values.v[i];
    return NULL;
}

void app_args_free(app_args *args)
{
    free(args->positional.v);
    free(args->sets.v);
    free(args->names.v);
    free(args->values.v);
    memset(args, 0, sizeof *args);
}
