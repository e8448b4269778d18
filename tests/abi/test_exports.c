/* SPDX-License-Identifier: Apache-2.0
 * Every plugin of the build exports one symbol, and its notes promise what it holds. */
#include "core/plugin/registry.h"
#include <criterion/criterion.h>
#include <ftw.h>
#include <stdlib.h>
#include <string.h>

static int seen, wrong;

static int look(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
    (void)st;
    (void)ftw;
    size_t len = strlen(path), n;
    char **names;
    mr_err err = MR_ERR_INIT;
    if (type != FTW_F || len < 3 || strcmp(path + len - 3, ".so"))
        return 0;
    seen++;
    if (mri_elf_exports(path, &names, &n, &err)) {
        fprintf(stderr, "%s: %s\n", path, err.what);
        wrong++;
        return 0;
    }
    if (n != 1 || strcmp(names[0], MR_PLUGIN_SYMBOL_NAME)) {
        fprintf(stderr, "%s exports %zu symbols:", path, n);
        for (size_t i = 0; i < n; i++)
            fprintf(stderr, " %s", names[i]);
        fprintf(stderr, "\n");
        wrong++;
    }
    for (size_t i = 0; i < n; i++)
        free(names[i]);
    free(names);
    return 0;
}

Test(exports, every_plugin_of_the_build_exports_one_symbol)
{
    char *path = mri_format("%s/plugins", getenv("MRUN_BUILD"));
    nftw(path, look, 16, FTW_PHYS);
    free(path);
    cr_assert_eq(wrong, 0, "%d of %d plugins export something else", wrong, seen);
}

Test(exports, the_check_sees_both_a_right_and_a_wrong_one)
{
    char *dir = mri_format("%s/tests/abi/zoo", getenv("MRUN_BUILD"));
    char *good = mri_format("%s/good.so", dir), *none = mri_format("%s/no-symbol.so", dir);
    look(good, NULL, FTW_F, NULL);
    cr_assert_eq(wrong, 0);
    look(none, NULL, FTW_F, NULL);
    cr_assert_eq(wrong, 1);
    cr_assert_eq(seen, 2);
    free(good);
    free(none);
    free(dir);
}
