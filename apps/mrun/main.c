/* SPDX-License-Identifier: Apache-2.0
 *
 * main.c - the command line: a table of commands, a table of jobs, and who gets the call.
 * A new command or job is one row here; help and suggestions print from the rows.
 */
#include "app.h"
#include "ranks.h"
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static const app_command commands[] = {
    { "bench", "op [OP...] | step PROFILE.ini | decode PROFILE.ini|--hf DIR",
      "kernels, training steps and decoding beside what the machine can do at most", cmd_bench },
    { "check", "PROFILE.ini|PLUGIN.so|KIND/NAME [--list] [--in-process] [--seed N] [-t TEST]",
      "a profile resolved, each value with its origin; or a plugin's conformance", cmd_check },
    { "convert", "RUN_DIR|STEP_DIR|PROFILE.ini|--hf DIR --to hf|mrun --out DIR "
                 "[--dtype fp32|bf16|fp16] [--max-shard-size 5GB] [--force]",
      "a model as a Hugging Face folder, or one of those as a run folder", cmd_convert },
    { "explain", "KIND/NAME|SECTION|SECTION.KEY|KEY|E0203|op NAME",
      "what a plugin, a section, a key, an error or an op means", cmd_explain },
    { "diff", "A.ini B.ini [--tolerance X] [--steps N]",
      "two profiles in lock step; the first op that differs", cmd_diff },
    { "grad-check", "PROFILE.ini [--samples N] [--tolerance X]",
      "a model's gradients against finite differences, in fp64", cmd_gradcheck },
    { "generate", "PROFILE.ini|RUN_DIR|--hf DIR --prompt TEXT|--ids \"1 2\"|--messages FILE|"
                  "--jsonl FILE|--interactive [--image FILE]... [--pixel-values FILE] [--chat] "
                  "[--system TEXT] [--tools FILE] "
                  "[--chat-template FILE] [--no-special] [--max-tokens N] [--min-tokens N] "
                  "[--temperature T] [--top-k K] [--top-p P] [--min-p P] [--repetition-penalty X] "
                  "[--presence-penalty X] [--frequency-penalty X] [--logit-bias ID:X,...] "
                  "[--stop TEXT]... [--stop-id ID]... [--ignore-eos] [--seed S] [--n N] "
                  "[--batch N] [--logprobs N]",
      "text on stdout, from a run's newest checkpoint or a Hugging Face folder, drawn as its "
      "generation_config.json says", cmd_generate },
    { "new", "KIND NAME [DIR]", "a plugin skeleton that builds and passes its check", cmd_new },
    { "plan", "PROFILE.ini [--print PASS] [--ranks N] [--rank R] [--machine M]",
      "memory, flops and schedule of a run, before it starts", cmd_plan },
    { "inspect", "DIR|FILE.safetensors [--all]",
      "what a checkpoint or a model folder holds, and what its family needs", cmd_inspect },
    { "fill-in", "FILE.in", "", cmd_fill_in }, /* no doc: not in the help */
    { "plugins", "[--scan]", "the plugins that are there, from their notes", cmd_plugins },
    { "report", "RUN_DIR [-o FILE]", "a run as one HTML page", cmd_report },
    { "answers", "RUN_DIR|PROFILE.ini [-o FILE.html] [--samples N]",
      "how many held-out pictures a run's model names rightly, and a page of them", cmd_answers },
    { "score", "PROFILE.ini|RUN_DIR|--hf DIR --ids \"1 2\"|--text TEXT|--jsonl FILE [--no-special] "
               "[--image FILE]... [--pixel-values FILE] [--logits OUT] [--grad OUT]",
      "log-probabilities, one JSON line a sequence; logits and gradients to files", cmd_score },
    { "supervise", "[--restarts N] [--wait SECONDS] [--ranks 8,4,2] -- COMMAND...",
      "a run started again when it ends by a fault, {ranks} in the command being how many",
      cmd_supervise },
    { "tokenize", "PROFILE.ini|RUN_DIR|--hf DIR [--decode] [--no-special] [--chat] "
                  "[--chat-template FILE]",
      "lines of text, or of chats in JSON, to lines of ids, or back; stdin to stdout",
      cmd_tokenize },
    { NULL, NULL, NULL, NULL },
};

const app_command *app_commands(void)
{
    return commands;
}

/* `[job] run = NAME` */
static const struct job {
    const char *name;
    int (*run)(app *a, mri_config *c);
} jobs[] = {
    { "train", job_train },
    { "bench", job_bench },
    { "convert", job_convert },
    { "generate", job_generate },
    { "preprocess", job_preprocess },
    { "score", job_score },
    { "tokenize", job_tokenize },
    { NULL, NULL },
};

static const char synopsis[] = "usage: mrun PROFILE.ini [--set section.key=value]...\n"
                               "       mrun COMMAND ARGUMENTS\n";
static const char common_options[] =
    "  --set section.key=value   override a value of the profile (repeatable, the last one wins)\n"
    "  --plugin-path DIR[:DIR]   look for plugins here first\n"
    "  --json                    data and errors as JSON\n"
    "  -q, -v                    less talk, more talk\n"
    "  --help, --version\n";

#ifdef __clang__
#define COMPILER __VERSION__ /* names itself */
#else
#define COMPILER "gcc " __VERSION__
#endif

static void print_help(void)
{
    fputs(synopsis, stdout);
    puts("\ncommands:");
    for (const app_command *c = commands; c->name; c++)
        if (*c->doc)
            printf("  %-12s %s\n  %-12s   %s\n", c->name, c->doc, "", c->args);
    printf("\noptions:\n%s", common_options);
    puts("\nexit: 0 ok, 1 run failed, 2 usage or profile, 3 environment, 16/17 a fault of the "
         "machine\n      (E0508, E0509), 130/143 interrupted");
}

static void print_version(void)
{
    printf("mrun %s\nplugin ABI %d.%d\ncompiler %s\n", MRI_VERSION, MR_ABI_MAJOR, MR_ABI_MINOR,
           COMPILER);
}

static int run_job(app *a, mri_config *c, MR_UNUSED const void *user)
{
    for (const struct job *j = jobs; j->name; j++)
        if (!strcmp(j->name, c->job.run))
            return j->run(a, c);
    mr_err err = MR_ERR_INIT;
    mr_fail(&err, MR_E_UNSUPPORTED, MR_BLAME_ENV, "job '%s' is not part of this build", c->job.run);
    return app_fail(a, &err);
}

/* mrun PROFILE.ini: argv[0] is "mrun", the profile one of the rest */
static int run_profile(app *a, int argc, char **argv)
{
    app_args args;
    int rc = app_args_parse(a, argc, argv, NULL, NULL, &args);
    if (rc)
        return rc;
    mri_config *c;
    mr_err err = MR_ERR_INIT;
    if (args.positional.n != 1) {
        rc = app_usage(a, "mrun takes one profile, got %zu (the second is '%.60s')",
                       args.positional.n, args.positional.n > 1 ? args.positional.v[1] : "");
    } else if (mri_config_load(a->registry, args.positional.v[0], args.sets.v, args.sets.n, &c,
                               &err)) {
        rc = app_fail(a, &err);
    } else {
        app_start start = { .profile = args.positional.v[0], .sets = args.sets.v,
                            .n_sets = args.sets.n, .job = run_job };
        rc = app_run_ranks(a, c, &start);
        mri_config_free(c);
    }
    app_args_free(&args);
    return rc;
}

static int unknown_command(app *a, const char *word)
{
    MRI_VEC(const char *) words = { 0 };
    for (const app_command *c = commands; c->name; c++)
        if (*c->doc)
            MRI_PUSH(&words, c->name);
    const char *near = mri_nearest(word, words.v, words.n);
    int rc = near ? app_usage(a, "'%.60s' is no command and no file, did you mean '%s'?", word,
                              near)
                  : app_usage(a, "'%.60s' is no command and no file", word);
    free(words.v);
    return rc;
}

static bool names_profile(const char *word)
{
    size_t n = strlen(word);
    return strchr(word, '/') || (n > 4 && !strcmp(word + n - 4, ".ini")) || !access(word, F_OK);
}

/* Options of `app` may stand anywhere; they are needed before the registry is made. */
static const char *read_globals(app *a, int argc, char **argv, bool *help, bool *version)
{
    const char *paths = NULL;
    for (int i = 1; i < argc && strcmp(argv[i], "--"); i++) {
        if (!strcmp(argv[i], "--json"))
            a->json = true;
        else if (!strcmp(argv[i], "-q"))
            a->quiet = true;
        else if (!strcmp(argv[i], "-v"))
            a->verbose++;
        else if (!strcmp(argv[i], "--help") || !strcmp(argv[i], "-h"))
            *help = true;
        else if (!strcmp(argv[i], "--version"))
            *version = true;
        else if (!strncmp(argv[i], "--plugin-path=", 14))
            paths = argv[i] + 14;
        else if (!strcmp(argv[i], "--plugin-path") && i + 1 < argc)
            paths = argv[++i];
        else if (!strcmp(argv[i], "--set"))
            i++;
    }
    return paths;
}

/* The first word that is no option and no option's value: a command or a profile. */
static int first_word(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--set") || !strcmp(argv[i], "--plugin-path"))
            i++;
        else if (argv[i][0] != '-')
            return i;
    }
    return 0;
}

/* Moves the command's name to the front: `mrun -v check x` runs `check -v x`. */
static int run_command(app *a, const app_command *c, int at, int argc, char **argv)
{
    char *name = argv[at];
    memmove(argv + 2, argv + 1, (size_t)(at - 1) * sizeof *argv);
    argv[1] = name;
    return c->run(a, argc - 1, argv + 1);
}

int main(int argc, char **argv)
{
    /* OpenMP threads (of any plugin) that wait should sleep: where others use the cores too,
     * spinning makes a small step ten times as long. Read when the first such plugin loads. */
    setenv("OMP_WAIT_POLICY", "passive", 0);
    const char *no_color = getenv("NO_COLOR");
    bool help = false, version = false;
    app a = { .color = isatty(STDERR_FILENO) && !(no_color && *no_color) };
    const char *paths = read_globals(&a, argc, argv, &help, &version);
    int at = first_word(argc, argv), rc;
    const app_command *c = commands;
    while (at && c->name && strcmp(c->name, argv[at]))
        c++;
    if (version) {
        print_version();
        return EXIT_OK;
    }
    if (help && at && c->name) {
        printf("usage: mrun %s %s\n  %s\n\noptions:\n%s", c->name, c->args, c->doc, common_options);
        return EXIT_OK;
    }
    if (help) {
        print_help();
        return EXIT_OK;
    }
    if (!at) {
        fputs(synopsis, stderr);
        return app_usage(&a, argc > 1 ? "no command and no profile among the arguments"
                                      : "no command and no profile given");
    }
    mr_err err = MR_ERR_INIT;
    a.plugin_paths = paths;
    a.registry = app_registry(&a, &err);
    if (!a.registry)
        return app_fail(&a, &err);
    if (c->name)
        rc = run_command(&a, c, at, argc, argv);
    else if (names_profile(argv[at]))
        rc = run_profile(&a, argc, argv);
    else
        rc = unknown_command(&a, argv[at]);
    mri_registry_free(a.registry);
    if (fflush(stdout) || ferror(stdout)) /* a full disk behind `mrun ... > file` */
        return rc ? rc : EXIT_ENV;
    return rc;
}
