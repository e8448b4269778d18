/* SPDX-License-Identifier: Apache-2.0
 * `mrun plugins`, `mrun check` and `mrun new` as a user meets them: what they print, what they
 * return, and that the conformance suite finds each kind of sinner. */
#include "core/plugin/registry.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* stdout of `mrun ARGS`; *status is its exit code */
MR_PRINTF(2, 3) static char *mrun(int *status, const char *fmt, ...)
{
    mri_str command = { 0 }, out = { 0 };
    char buf[4096];
    size_t n;
    va_list ap;
    mri_str_fmt(&command, "'%s' ", getenv("MRUN_EXE"));
    va_start(ap, fmt);
    mri_str_vfmt(&command, fmt, ap);
    va_end(ap);
    FILE *f = popen(command.s, "r");
    cr_assert_not_null(f);
    while ((n = fread(buf, 1, sizeof buf, f)))
        mri_str_addn(&out, buf, n);
    int st = pclose(f);
    *status = WIFEXITED(st) ? WEXITSTATUS(st) : -1;
    mri_str_free(&command);
    return mri_str_take(&out);
}

static const char *built(const char *folder)
{
    static char dir[4096];
    snprintf(dir, sizeof dir, "%s/tests/unit/plugin/%s", getenv("MRUN_BUILD"), folder);
    return dir;
}

static void need(const char *command)
{
    int st;
    char *help = mrun(&st, "--help"), *line = mri_format("\n  %s ", command);
    bool has = strstr(help, line) != NULL;
    free(line);
    free(help);
    if (!has)
        cr_skip_test("this mrun has no such command");
}

/* ---- plugins ------------------------------------------------------------------------------- */

Test(commands, plugins_prints_a_table_and_json)
{
    int st;
    need("plugins");
    char *table = mrun(&st, "plugins --plugin-path '%s'", built("trio"));
    cr_assert_eq(st, 0);
    cr_assert_eq(strncmp(table, "kind ", 5), 0);
    cr_assert_not_null(strstr(table, "\nsink "));
    char *json = mrun(&st, "plugins --json --scan --plugin-path '%s'", built("trio"));
    cr_assert_eq(st, 0);
    cr_assert_eq(json[0], '[');
    cr_assert_not_null(strstr(json, "{\"kind\": \"sink\", \"name\": \"one\", \"version\": \"3.0\", "
                                    "\"abi\": \"0.1\", \"id\": \"org.example.trio\", "
                                    "\"status\": \"ok\""), "%s", json);
    cr_assert_not_null(strstr(json, "needs the host service org.example.answer/1"));
    free(table);
    free(json);
}

Test(commands, plugins_finds_nothing_and_says_where_it_looked)
{
    int st;
    need("plugins");
    unsetenv("MRUN_PLUGIN_PATH");
    char *out = mrun(&st, "plugins --plugin-path /nonexistent/x 2>&1");
    cr_assert_eq(st, 0);
    /* an installed mrun may add rows; the folder is named when there are none */
    if (!strstr(out, " ok"))
        cr_assert_not_null(strstr(out, "/nonexistent/x (--plugin-path): no such folder"), "%s",
                           out);
    free(out);
}

/* ---- check --------------------------------------------------------------------------------- */

static const struct {
    const char *file, *test; /* test NULL: all pass */
} judged[] = {
    { "sinner-none", NULL },
    { "sinner-export", "one-symbol" },
    { "sinner-note", "note-matches-descriptor" },
    { "sinner-undocumented", "docs-present" },
    { "sinner-name", "no-reserved-prefix" },
    { "sinner-id", "no-reserved-prefix" },
    { "sinner-fd", "no-leaked-fds" },
    { "sinner-thread", "no-leaked-threads" },
    { "sinner-print", "no-stdout-writes" },
    { "sinner-silent", "create-and-destroy" },
    { "sinner-destroy", "create-and-destroy" },
    { "sinner-overrun", "decode-of-encode-is-the-text" },
    { "sinner-size", "decode-of-encode-is-the-text" },
    { "sinner-lossy", "decode-of-encode-is-the-text" },
    { "bad-backend-1", "cross-backend-table" },
    { "bad-backend-2", "cross-backend-table" },
    { "bad-backend-3", "cross-backend-table" },
    { "bad-backend-4", "cross-backend-table" },
    { "bad-backend-5", "cross-backend-table" },
    { "bad-backend-6", "cross-backend-table" },
    { "skeleton-backend", NULL },
    { "skeleton-data", NULL },
    { "skeleton-model", NULL },
    { "skeleton-op", NULL },
    { "skeleton-optimizer", NULL },
    { "skeleton-sink", NULL },
    { "skeleton-tokenizer", NULL },
};

Test(commands, check_finds_each_sinner_and_passes_the_skeletons, .timeout = 100)
{
    need("plugins");
    for (size_t i = 0; i < sizeof judged / sizeof *judged; i++) {
        int st;
        char *out =
            mrun(&st, "check '%s/%s.so' --json %s%s 2>/dev/null", built("sinners"), judged[i].file,
                 judged[i].test ? "-t " : "", judged[i].test ? judged[i].test : "");
        cr_assert_eq(st, judged[i].test ? 1 : 0, "%s: %d %s", judged[i].file, st, out);
        cr_assert_eq(strstr(out, "\"result\": \"fail\"") != NULL, judged[i].test != NULL, "%s: %s",
                     judged[i].file, out);
        if (!judged[i].test)
            cr_assert_not_null(strstr(out, "\"result\": \"pass\""), "%s: %s", judged[i].file, out);
        free(out);
    }
}

Test(commands, every_plugin_of_the_build_passes_its_check, .timeout = 100)
{
    mri_listing *list;
    size_t n;
    mr_err err = MR_ERR_INIT;
    need("plugins");
    char *plugins = mri_format("%s/plugins", getenv("MRUN_BUILD"));
    mri_registry *r = mri_registry_create(plugins);
    cr_assert_eq(mri_registry_list(r, false, &list, &n, &err), 0);
    for (size_t i = 0; i < n; i++) {
        int st;
        if (strncmp(list[i].path, plugins, strlen(plugins)))
            continue; /* installed on this machine, not ours */
        /* data/text wants a text, and any file of this size is one */
        char *out = mrun(&st, "check '%s' --set data.text.path='%s/tests/abi/abi-0.1.txt' "
                              "2>/dev/null", list[i].path, getenv("MRUN_SOURCE"));
        cr_expect_eq(st, 0, "%s:\n%s", list[i].path, out);
        free(out);
    }
    mri_listing_free(list, n);
    mri_registry_free(r);
    free(plugins);
}

Test(commands, check_stops_at_a_plugin_that_does_not_load)
{
    int st;
    need("plugins");
    char *out = mrun(&st, "check '%s/tests/abi/zoo/crashing-constructor.so' 2>/dev/null",
                     getenv("MRUN_BUILD"));
    cr_assert_eq(st, 1);
    cr_assert_not_null(strstr(out, "FAIL  loads"), "%s", out);
    cr_assert_not_null(strstr(out, "crashed: SIGSEGV"), "%s", out);
    cr_assert_null(strstr(out, "docs-present"));
    free(out);
}

Test(commands, check_knows_its_arguments)
{
    int st;
    need("plugins");
    char *out = mrun(&st, "check '%s/trio.so' --list", built("trio"));
    cr_assert_eq(st, 0);
    cr_assert_not_null(strstr(out, "cross-backend-table "));
    free(out);
    free(mrun(&st, "check '%s/trio.so' -t no-such-test 2>/dev/null", built("trio")));
    cr_assert_eq(st, 2);
    free(mrun(&st, "check '%s/trio.so' --seed many 2>/dev/null", built("trio")));
    cr_assert_eq(st, 2);
    out = mrun(&st, "check sink/nowhere 2>&1");
    cr_assert_eq(st, 3);
    cr_assert_not_null(strstr(out, "no plugin offers sink/nowhere"), "%s", out);
    free(out);
    out = mrun(&st, "check sink/one --plugin-path '%s' -t one-symbol", built("trio"));
    cr_assert_eq(st, 0);
    cr_assert_not_null(strstr(out, "pass  one-symbol"));
    free(out);
}

/* ---- new ----------------------------------------------------------------------------------- */

static const char *const kinds[] = { "backend", "data", "model", "op", "optimizer", "sink",
                                     "tokenizer" };

static int shell(const char *fmt, ...) MR_PRINTF(1, 2);
static int shell(const char *fmt, ...)
{
    mri_str b = { 0 };
    va_list ap;
    va_start(ap, fmt);
    mri_str_vfmt(&b, fmt, ap);
    va_end(ap);
    int rc = system(b.s);
    mri_str_free(&b);
    return rc;
}

/* each kind is compiled as its meson.build does; one is built by Meson itself */
Test(commands, new_writes_plugins_that_build_and_pass, .timeout = 100)
{
    int st;
    char dir[] = "/tmp/mrun-new-XXXXXX";
    const char *source = getenv("MRUN_SOURCE");
    need("new");
    cr_assert_not_null(mkdtemp(dir));
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        char *out =
            mrun(&st, "new %s my_%s '%s/%s' 2>/dev/null", kinds[i], kinds[i], dir, kinds[i]);
        cr_assert_eq(st, 0);
        cr_assert_not_null(strstr(out, ".c\n"));
        free(out);
        cr_assert_eq(shell("cd '%s/%s' && ! grep -ri skeleton .", dir, kinds[i]), 0);
        cr_assert_eq(shell("cd '%s/%s' && cc -std=gnu17 -O1 -Wall -Wextra -Werror -fPIC -shared "
                           "-fvisibility=hidden -I'%s/include' my_%s.c -o my_%s.so -Wl,-z,defs "
                           "-Wl,--version-script=my_%s.map", dir, kinds[i], source, kinds[i],
                           kinds[i], kinds[i]), 0, "%s", kinds[i]);
        out = mrun(&st, "check '%s/%s/my_%s.so' 2>/dev/null", dir, kinds[i], kinds[i]);
        cr_assert_eq(st, 0, "%s: %s", kinds[i], out);
        free(out);
    }
    cr_assert_eq(
        shell("cd '%s' && printf 'plugindir=/nonexistent\\nName: mrun\\nDescription: sdk\\n"
              "Version: 0\\nCflags: -I%%s/include\\n' '%s' >mrun-1.pc",
              dir, source),
        0);
    cr_assert_eq(
        shell("cd '%s/sink' && export PKG_CONFIG_PATH='%s' && { meson setup build && ninja "
              "-C build; } >log 2>&1 || { cat log >&2; exit 1; }",
              dir, dir),
        0);
    free(mrun(&st, "check '%s/sink/build/my_sink.so' 2>/dev/null", dir));
    cr_assert_eq(st, 0);
    cr_assert_eq(shell("rm -r '%s'", dir), 0);
}

Test(commands, new_writes_over_nothing_and_minds_names)
{
    int st;
    char dir[] = "/tmp/mrun-new-XXXXXX";
    need("new");
    cr_assert_not_null(mkdtemp(dir));
    free(mrun(&st, "new sink a_b2 '%s'", dir));
    cr_assert_eq(st, 0);
    char *out = mrun(&st, "new sink a_b2 '%s' 2>&1", dir);
    cr_assert_neq(st, 0);
    cr_assert_not_null(strstr(out, "File exists"), "%s", out);
    free(out);
    static const char *const bad[] = { "A", "9a", "a-b", "mrun_x", "none", "''",
                                       "abcdefghijklmnopqrstuvwxyz0123456" };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        free(mrun(&st, "new sink %s '%s/sub' 2>/dev/null", bad[i], dir));
        cr_assert_eq(st, 2, "%s", bad[i]);
    }
    out = mrun(&st, "new sinc x '%s/sub' 2>&1", dir);
    cr_assert_eq(st, 2);
    cr_assert_not_null(strstr(out, "did you mean 'sink'?"), "%s", out);
    free(out);
    cr_assert_eq(shell("rm -r '%s'", dir), 0);
}
