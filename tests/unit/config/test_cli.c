/* SPDX-License-Identifier: Apache-2.0
 * The program's frame: what goes to stdout and to stderr, and which exit code. Nothing here
 * needs a plugin. */
#include "scratch.h"
#include <fcntl.h>
#include <sys/wait.h>

TestSuite(cli, .init = scratch_open, .fini = scratch_close);

typedef struct result {
    int code;
    char out[16384], err[16384];
} result;

static void slurp(const char *path, char *to, size_t cap)
{
    FILE *f = fopen(path, "rb");
    cr_assert_not_null(f);
    to[fread(to, 1, cap - 1, f)] = 0;
    fclose(f);
}

static result run(const char *arguments)
{
    static result r;
    const char *exe = getenv("MRUN_EXE");
    cr_assert_not_null(exe, "MRUN_EXE names the program");
    char *command = mri_format("'%s' %s >out 2>err </dev/null", exe, arguments);
    int status = system(command);
    free(command);
    cr_assert(WIFEXITED(status), "%s: crashed", arguments);
    r.code = WEXITSTATUS(status);
    slurp("out", r.out, sizeof r.out);
    slurp("err", r.err, sizeof r.err);
    return r;
}

#define HOLDS(text, part) cr_assert_not_null(strstr(text, part), "no '%s' in: %s", part, text)

Test(cli, help_and_version_go_to_stdout)
{
    result r = run("--help");
    cr_assert_eq(r.code, 0);
    HOLDS(r.out, "usage: mrun PROFILE.ini");
    HOLDS(r.out, "\n  check ");
    HOLDS(r.out, "\n  explain ");
    cr_assert_str_eq(r.err, "");
    r = run("--version");
    cr_assert_eq(r.code, 0);
    cr_assert_eq(strncmp(r.out, "mrun ", 5), 0);
    HOLDS(r.out, "\nplugin ABI 0.");
    HOLDS(r.out, "\ncompiler ");
    r = run("check --help");
    cr_assert_eq(r.code, 0);
    HOLDS(r.out, "usage: mrun check PROFILE.ini");
}

Test(cli, a_wrong_command_line_exits_2_and_names_the_nearest)
{
    result r = run("");
    cr_assert_eq(r.code, 2);
    cr_assert_str_eq(r.out, "");
    HOLDS(r.err, "error E0108: no command and no profile given");
    r = run("explian lr");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "'explian' is no command and no file, did you mean 'explain'?");
    HOLDS(r.err, "run: mrun --help");
    r = run("check --jsno x.ini");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "check: unknown option '--jsno', did you mean '--json'?");
    r = run("check x.ini --set");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "check: option --set needs a value");
    r = run("a.ini b.ini");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "mrun takes one profile, got 2 (the second is 'b.ini')");
    r = run("check gone.ini");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "error E0105: cannot read gone.ini: No such file or directory");
}

Test(cli, a_wrong_profile_exits_2_with_line_and_caret)
{
    write_text("p.ini", "[train]\nstesp = 3\n");
    result r = run("check p.ini --set job.run=preprocess --set tokenizer.plugin=none");
    cr_assert_eq(r.code, 2);
    write_text("p.ini", "[train]\nsteps = 3x\n");
    r = run("p.ini");
    cr_assert_eq(r.code, 2);
    cr_assert_str_eq(r.out, "");
    cr_assert_str_eq(r.err, "error E0103: p.ini:2: [train] steps = 3x : expected int, "
                            "stopped at 'x'\n"
                            "        steps = 3x\n"
                            "                ^~\n"
                            "        run: mrun explain train.steps\n");
    r = run("--json p.ini");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "{\"error\": \"E0103\", \"what\": \"p.ini:2: [train] steps = 3x");
    cr_assert_null(strchr(r.err, 27), "an escape code without a terminal");
}

Test(cli, an_unknown_plugin_exits_3)
{
    write_text("p.ini", "[train]\nsteps = 3\n[backend]\nplugin = no-such-thing\n");
    result r = run("check p.ini");
    cr_assert_eq(r.code, 3);
    HOLDS(r.err, "error E0201: p.ini:4: [backend] plugin = no-such-thing : ");
}

Test(cli, explain_prints_from_the_tables)
{
    result r = run("explain E0203");
    cr_assert_eq(r.code, 0);
    HOLDS(r.out, "E0203 PLUGIN_VERSION\n");
    cr_assert_str_eq(run("explain 203").out, r.out);
    r = run("explain train");
    HOLDS(r.out, "  [train]\n  steps ");
    r = run("explain train.steps");
    HOLDS(r.out, "[train]\n  steps ");
    r = run("explain clip_grad");
    HOLDS(r.out, "[optimizer]\n  clip_grad ");
    r = run("explain backend");
    HOLDS(r.out, "  plugin                = cpu ");
    r = run("explain");
    HOLDS(r.out, "\n  optimizer ");
    HOLDS(r.out, "\n  E0902 ");
    r = run("explain clip_gard");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "nothing is called 'clip_gard'; close: clip_grad");
    r = run("explain E0299");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "close: E0201");
    r = run("explain op no.such.op");
    cr_assert_eq(r.code, 2);
    HOLDS(r.err, "no op 'no.such.op'");
}
