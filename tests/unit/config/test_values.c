/* SPDX-License-Identifier: Apache-2.0
 * A value is read exactly, or refused with the place where it stopped making sense. */
#include "core/config/profile.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef union slot {
    int32_t b;
    int64_t i;
    double x;
    const char *s;
    mr_list list;
} slot;

static mr_opt row(uint32_t type, const char *choices, double lo, double hi)
{
    return (mr_opt){ sizeof(mr_opt), type, 0, 0, "key", NULL, "doc", choices, lo, hi, NULL };
}

static slot read_ok(uint32_t type, const char *choices, const char *text)
{
    mr_opt o = row(type, choices, 0, 0);
    mr_err err = MR_ERR_INIT;
    slot v = { .list = { NULL, 0 } };
    cr_assert_eq(mri_option_parse(&o, text, NULL, &v, &err), 0, "'%s': %s", text, err.what);
    return v;
}

static mr_err read_bad(mr_opt o, const char *text)
{
    mr_err err = MR_ERR_INIT;
    slot v = { .list = { NULL, 0 } };
    cr_assert_eq(mri_option_parse(&o, text, "/base", &v, &err), MR_E_PROFILE_VALUE, "'%s'", text);
    return err;
}

Test(values, integers_are_exact)
{
    static const struct {
        const char *text;
        int64_t want;
    } rows[] = {
        { "0", 0 }, { "42", 42 }, { "-7", -7 }, { "+7", 7 }, { "1_000_000", 1000000 },
        { "1e6", 1000000 }, { "1.5e6", 1500000 }, { "2.50e1", 25 }, { "100e-2", 1 },
        { "1E3", 1000 },
        { "9223372036854775807", INT64_MAX }, { " 8\t", 8 }, { "007", 7 }, { "0e99999999", 0 },
        { "-9223372036854775807", -INT64_MAX },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_assert_eq(read_ok(MR_T_INT, NULL, rows[i].text).i, rows[i].want, "%s", rows[i].text);
}

Test(values, floats_are_strtods)
{
    static const struct {
        const char *text;
        double want;
    } rows[] = {
        { "1e-3", 1e-3 }, { "0.1", 0.1 }, { ".5", .5 }, { "5.", 5 }, { "-2.5E+2", -250 },
        { "3", 3 }, { "1_000.5", 1000.5 }, { "0.30000000000000004", 0.30000000000000004 },
        { "123456789012345678901234567890", 123456789012345678901234567890.0 }, { "1e-400", 0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++)
        cr_assert_eq(read_ok(MR_T_FLOAT, NULL, rows[i].text).x, rows[i].want, "%s", rows[i].text);
}

Test(values, sizes_and_times_carry_units)
{
    static const struct {
        const char *text;
        int64_t want;
    } sizes[] = {
        { "4096", 4096 }, { "64MiB", 64 << 20 }, { "1.5GiB", 3ll << 29 }, { "1 KiB", 1024 },
        { "2kB", 2000 }, { "1GB", 1000000000 }, { "7B", 7 }, { "2TiB", 2ll << 40 }, { "0", 0 },
        { "1e3", 1000 },
    };
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++)
        cr_assert_eq(read_ok(MR_T_SIZE, NULL, sizes[i].text).i, sizes[i].want, "%s", sizes[i].text);
    static const struct {
        const char *text;
        double want;
    } times[] = {
        { "30s", 30 }, { "5min", 300 }, { "2h", 7200 }, { "250ms", 250 * 1e-3 }, { "1.5 h", 5400 },
        { "0", 0 }, { "1d", 86400 }, { "10us", 10 * 1e-6 },
    };
    for (size_t i = 0; i < sizeof times / sizeof *times; i++)
        cr_assert_eq(read_ok(MR_T_TIME, NULL, times[i].text).x, times[i].want, "%s", times[i].text);
}

Test(values, booleans_have_eight_spellings)
{
    static const char *const yes[] = { "true", "yes", "on", "1", "TRUE" };
    static const char *const no[] = { "false", "no", "off", "0", "Off" };
    for (size_t i = 0; i < 5; i++) {
        cr_assert_eq(read_ok(MR_T_BOOL, NULL, yes[i]).b, 1);
        cr_assert_eq(read_ok(MR_T_BOOL, NULL, no[i]).b, 0);
    }
}

Test(values, words_of_other_types_store_minus_their_place)
{
    cr_assert_eq(read_ok(MR_T_INT, "auto", "auto").i, 0);
    cr_assert_eq(read_ok(MR_T_INT, "auto|all", "all").i, -1);
    cr_assert_eq(read_ok(MR_T_SIZE, "auto|all", "all").i, -1);
    cr_assert_eq(read_ok(MR_T_FLOAT, "auto|max", "max").x, -1.0);
    cr_assert_eq(read_ok(MR_T_BOOL, "auto", "auto").b, -1);
    slot v = read_ok(MR_T_PATH, "none", "none");
    cr_assert_str_eq(v.s, "none");
    free((void *)v.s);
    cr_assert_eq(read_ok(MR_T_LIST, "none", "none").list.n, 0);
    mr_opt o = row(MR_T_INT, "auto", 1, 8); /* a word stands outside the range on purpose */
    mr_err err = MR_ERR_INIT;
    slot w;
    cr_assert_eq(mri_option_parse(&o, "auto", NULL, &w, &err), 0);
}

Test(values, lists_are_trimmed)
{
    mr_list l = read_ok(MR_T_LIST, NULL, " a , b c,d ").list;
    cr_assert_eq(l.n, 3);
    cr_assert_str_eq(l.v[0], "a");
    cr_assert_str_eq(l.v[1], "b c");
    cr_assert_str_eq(l.v[2], "d");
    free((void *)l.v);
    cr_assert_eq(read_ok(MR_T_LIST, NULL, "  ").list.n, 0);
}

Test(values, texts_keep_their_blanks_and_empty_is_unset)
{
    slot v = read_ok(MR_T_STR, NULL, " The ");
    cr_assert_str_eq(v.s, " The ");
    free((void *)v.s);
    cr_assert_null(read_ok(MR_T_STR, NULL, "").s);
    cr_assert_null(read_ok(MR_T_PATH, NULL, " ").s);
}

static void path_is(const char *text, const char *base, const char *want)
{
    mr_opt o = row(MR_T_PATH, NULL, 0, 0);
    mr_err err = MR_ERR_INIT;
    slot v = { .s = NULL };
    cr_assert_eq(mri_option_parse(&o, text, base, &v, &err), 0, "%s", err.what);
    cr_assert_str_eq(v.s, want);
    free((void *)v.s);
}

Test(values, paths_expand_and_become_absolute)
{
    setenv("HOME", "/home/jane", 1);
    setenv("MRUN_TEST_DIR", "/data/novels", 1);
    path_is("~/x", NULL, "/home/jane/x");
    path_is("${MRUN_TEST_DIR}/emma.txt", NULL, "/data/novels/emma.txt");
    path_is("/a/~/b", NULL, "/a/~/b");
    path_is("x/y", "/usr", "/usr/x/y");
    path_is("./x", "/usr/", "/usr/x");
    path_is("../../x", "/usr/share", "/x");
    path_is("../../../x", "/usr/share", "/x");
    path_is("..", "/usr/share", "/usr");
    path_is("..x", "/usr", "/usr/..x");
    path_is("x", "/not/there", "/not/there/x");
    cr_assert_eq(chdir("/usr"), 0);
    path_is("x", NULL, "/usr/x");
}

Test(values, each_refusal_says_what_and_where)
{
    setenv("HOME", "", 1);
    unsetenv("MRUN_NOT_SET");
    const struct {
        mr_opt o;
        const char *text, *what, *detail;
    } rows[] = {
        { row(MR_T_FLOAT, 0, 0, 0), "1e-3x", "key = 1e-3x : expected float, stopped at 'x'", "" },
        { row(MR_T_FLOAT, 0, 0, 0), "0x10", "key = 0x10 : expected float, stopped at 'x10'", "" },
        { row(MR_T_FLOAT, 0, 0, 0), "nan", "key = nan : expected float", "" },
        { row(MR_T_FLOAT, 0, 0, 0), "1,5", "key = 1,5 : expected float, stopped at ',5'", "" },
        { row(MR_T_FLOAT, 0, 0, 0), "1e999", "key = 1e999 : does not fit a double", "" },
        { row(MR_T_FLOAT, 0, 0, 0), "", "key =  : expected float, got nothing", "" },
        { row(MR_T_INT, 0, 0, 0), "12 # steps", "key = 12 # steps : expected int, stopped at "
          "'# steps'", "a comment after a value starts with ' ;'" },
        { row(MR_T_INT, 0, 0, 0), "1.5", "key = 1.5 : not a whole number", "" },
        { row(MR_T_INT, 0, 0, 0), "1e-1", "key = 1e-1 : not a whole number", "" },
        { row(MR_T_INT, 0, 0, 0), "1.00000000000000000000001",
          "key = 1.00000000000000000000001 : not a whole number", "" },
        { row(MR_T_INT, 0, 0, 0), "9223372036854775808",
          "key = 9223372036854775808 : does not fit 64 bits", "" },
        { row(MR_T_INT, 0, 0, 0), "1e19", "key = 1e19 : does not fit 64 bits", "" },
        { row(MR_T_INT, 0, 0, 0), "1__0", "key = 1__0 : expected int, stopped at '__0'", "" },
        { row(MR_T_INT, 0, 0, 0), "_1", "key = _1 : expected int", "" },
        { row(MR_T_INT, 0, 1, 8), "9", "key = 9 : out of range, allowed 1..8", "" },
        { row(MR_T_INT, 0, 1, INFINITY), "0", "key = 0 : out of range, allowed 1..", "" },
        { row(MR_T_SIZE, 0, 0, 4096 << 10), "1GiB",
          "key = 1GiB : out of range, allowed 0..4MiB", "" },
        { row(MR_T_TIME, 0, 1, 60), "2min", "key = 2min : out of range, allowed 1s..60s", "" },
        { row(MR_T_SIZE, 0, 0, 0), "90%", "key = 90% : expected size, stopped at '%'",
          "units are B KiB MiB GiB TiB, kB MB GB TB" },
        { row(MR_T_SIZE, 0, 0, 0), "1.5", "key = 1.5 : not a whole number of bytes", "" },
        { row(MR_T_SIZE, 0, 0, 0), "-1", "key = -1 : a size is not negative", "" },
        { row(MR_T_SIZE, 0, 0, 0), "9e9TiB", "key = 9e9TiB : does not fit 64 bits", "" },
        { row(MR_T_TIME, 0, 0, 0), "30", "key = 30 : expected time with its unit",
          "units are us ms s min h d" },
        { row(MR_T_TIME, 0, 0, 0), "30 sec", "key = 30 sec : expected time, stopped at 'sec'",
          "units are us ms s min h d" },
        { row(MR_T_BOOL, 0, 0, 0), "maybe", "key = maybe : expected true or false", "" },
        { row(MR_T_ENUM, "cosine|linear", 0, 0), "cosin",
          "key = cosin : expected one of cosine|linear", "did you mean 'cosine'?" },
        { row(MR_T_ENUM, "cosine|linear", 0, 0), "",
          "key =  : expected one of cosine|linear", "" },
        { row(MR_T_LIST, 0, 0, 0), "a,,b", "key = a,,b : item 2 of the list is empty", "" },
        { row(MR_T_LIST, 0, 0, 0), "a,", "key = a, : item 2 of the list is empty", "" },
        { row(MR_T_PATH, 0, 0, 0), "~/x",
          "key = ~/x : '~' needs the environment variable HOME, which is not set", "" },
        { row(MR_T_PATH, 0, 0, 0), "${MRUN_NOT_SET}/x",
          "key = ${MRUN_NOT_SET}/x : the environment variable MRUN_NOT_SET is not set", "" },
        { row(MR_T_PATH, 0, 0, 0), "${x", "key = ${x : '${' has no '}'", "" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = read_bad(rows[i].o, rows[i].text);
        cr_assert_str_eq(err.what, rows[i].what);
        cr_assert_str_eq(err.detail, rows[i].detail, "%s", rows[i].text);
    }
}

Test(values, a_wrong_value_leaves_no_block_behind)
{
    mr_opt o = row(MR_T_LIST, NULL, 0, 0);
    slot v = { .list = { (void *)&o, 7 } };
    mr_err err = MR_ERR_INIT;
    cr_assert_neq(mri_option_parse(&o, "a,,", NULL, &v, &err), 0);
    cr_assert_eq(v.list.n, 7); /* untouched */
}
