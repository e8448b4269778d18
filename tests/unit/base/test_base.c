/* SPDX-License-Identifier: Apache-2.0
 * The small tools do what base.h says. */
#include "core/base/base.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

Test(base, distance_counts_edits_and_swaps)
{
    cr_assert_eq(mri_distance("arena", "arean"), 1);
    cr_assert_eq(mri_distance("steps", "step"), 1);
    cr_assert_eq(mri_distance("abc", "xyz"), 3);
    cr_assert_eq(mri_distance("", "ab"), 2);
}

Test(base, nearest_refuses_far_words)
{
    const char *const words[] = { "micro_batch", "global_batch", "seq" };
    cr_assert_str_eq(mri_nearest("mirco_batch", words, 3), "micro_batch");
    cr_assert_null(mri_nearest("learning_rate", words, 3));
    cr_assert_null(mri_nearest("abc", words, 3));
}

Test(base, strings_grow_and_escape)
{
    mri_str b = { 0 };
    for (int i = 0; i < 1000; i++)
        mri_str_fmt(&b, "%d,", i);
    cr_assert_eq(b.n, 10 * 2 + 90 * 3 + 900 * 4);
    mri_str_free(&b);
    mri_str_json(&b, "a\"\\\n\x01");
    cr_assert_str_eq(b.s, "\"a\\\"\\\\\\n\\u0001\"");
    mri_str_free(&b);
}

Test(base, read_file_stops_at_its_limit)
{
    char path[] = "/tmp/mrun-base-XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    for (int i = 0; i < 5000; i++)
        fputs("line\n", f);
    fclose(f);
    mr_err err = MR_ERR_INIT;
    char *text;
    size_t n;
    cr_assert_eq(mri_read_file(path, 1 << 20, &text, &n, &err), 0);
    cr_assert_eq(n, 25000);
    free(text);
    cr_assert_eq(mri_read_file(path, 100, &text, &n, &err), MR_E_STORE_FORMAT);
    remove(path);
    cr_assert_eq(mri_read_file(path, 100, &text, &n, &err), MR_E_STORE_IO);
}
