/* SPDX-License-Identifier: Apache-2.0
 * The search path: its order, how deep it looks, and what it leaves alone. */
#include "core/plugin/internal.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

static char root[] = "/tmp/mrun-search-XXXXXX";

static void file(const char *name)
{
    char *path = mri_format("%s/%s", root, name), *p = path + strlen(root) + 1;
    while ((p = strchr(p, '/'))) {
        *p = 0;
        mkdir(path, 0755);
        *p++ = '/';
    }
    FILE *f = fopen(path, "w");
    cr_assert_not_null(f);
    fclose(f);
    free(path);
}

static void setup(void)
{
    cr_assert_not_null(mkdtemp(root));
    unsetenv("MRUN_PLUGIN_PATH");
    setenv("XDG_DATA_HOME", "/nonexistent/data", 1);
}

static void teardown(void)
{
    char *command = mri_format("rm -r '%s'", root);
    cr_assert_eq(system(command), 0);
    free(command);
}

TestSuite(search, .init = setup, .fini = teardown);

static void expect(const mri_search *s, size_t i, const char *name)
{
    char *want = mri_format("%s/%s", root, name);
    cr_assert_lt(i, s->files.n, "%s was not found", name);
    cr_assert_str_eq(s->files.v[i], want);
    free(want);
}

Test(search, files_come_before_folders_and_in_the_order_of_names)
{
    file("b/z.so");
    file("b/kind/deep.so");
    file("b/kind/deeper/too-deep.so");
    file("b/a.so");
    file("b/.hidden.so");
    file("b/notes.txt");
    file("b/x.so.p/object.o");
    file("a/first.so");
    char *paths = mri_format("%s/b::%s/a:%s/b/", root, root, root);
    mri_search s = { 0 };
    mri_search_init(&s, paths);
    mri_search_walk(&s);
    expect(&s, 0, "b/a.so");
    expect(&s, 1, "b/z.so");
    expect(&s, 2, "b/kind/deep.so");
    expect(&s, 3, "b/kind/deeper/too-deep.so");
    expect(&s, 4, "a/first.so");
    cr_assert_eq(s.dirs.v[0].files, 4);
    cr_assert_eq(s.dirs.v[1].files, 1, "the same folder twice is one folder");
    mri_search_free(&s);
    free(paths);
}

Test(search, three_levels_down_is_out_of_reach)
{
    file("1/2/3/far.so");
    mri_search s = { 0 };
    mri_search_init(&s, root);
    mri_search_walk(&s);
    cr_assert_eq(s.dirs.v[0].files, 0);
    mri_search_free(&s);
}

Test(search, the_option_wins_over_the_environment_over_the_rest)
{
    char *env = mri_format("%s/env", root), *opt = mri_format("%s/opt", root);
    setenv("MRUN_PLUGIN_PATH", env, 1);
    setenv("XDG_DATA_HOME", root, 1);
    mri_search s = { 0 };
    mri_search_init(&s, opt);
    static const char *const from[] = { "--plugin-path", "MRUN_PLUGIN_PATH", "XDG_DATA_HOME",
                                        "beside mrun", "built in" };
    cr_assert_eq(s.dirs.n, 5);
    for (size_t i = 0; i < 5; i++) {
        cr_assert_str_eq(s.dirs.v[i].from, from[i]);
        cr_assert_eq(s.dirs.v[i].path[0], '/', "%s is relative", s.dirs.v[i].path);
    }
    mri_search_free(&s);
    free(env);
    free(opt);
}

Test(search, an_empty_element_or_a_relative_data_home_is_not_the_current_directory)
{
    setenv("MRUN_PLUGIN_PATH", "::", 1);
    setenv("XDG_DATA_HOME", "relative", 1);
    setenv("HOME", "/nonexistent/home", 1);
    mri_search s = { 0 };
    mri_search_init(&s, "");
    cr_assert_str_eq(s.dirs.v[0].path, "/nonexistent/home/.local/share/mrun/plugins-1");
    cr_assert_eq(s.dirs.n, 3);
    mri_search_free(&s);
}
