/* SPDX-License-Identifier: Apache-2.0
 * The last writer wins in the order includes, file, --set; every value knows where it is from. */
#include "scratch.h"

TestSuite(profile, .init = scratch_open, .fini = scratch_close);

static mri_profile *load(const char *path, const char *const *sets, size_t n)
{
    mr_err err = MR_ERR_INIT;
    mri_profile *p;
    cr_assert_eq(mri_profile_load(path, sets, n, &p, &err), 0, "%s", err.what);
    return p;
}

static mr_err load_fails(const char *path, const char *set)
{
    mr_err err = MR_ERR_INIT;
    mri_profile *p;
    cr_assert_neq(mri_profile_load(path, &set, set ? 1 : 0, &p, &err), 0);
    return err;
}

static void from(const mri_profile *p, const char *key, const char *value, const char *file,
                 int line, const char *raw)
{
    const mri_entry *e = mri_profile_get(p, "s", key);
    cr_assert_not_null(e, "%s", key);
    cr_assert_str_eq(e->value, value);
    cr_assert_eq(e->origin.line, line, "%s: line %d", key, e->origin.line);
    cr_assert_str_eq(e->origin.raw, raw);
    if (file)
        cr_assert_str_eq(e->origin.file, file);
    else
        cr_assert_null(e->origin.file);
}

Test(profile, includes_come_first_then_the_file_then_set)
{
    mkdir("sub", 0755);
    write_text("p.ini", "include = sub/a.ini b.ini\n[s]\nw = file\n");
    write_text("sub/a.ini", "include = c.ini\n[s]\nx = a\ny = a\nw = a\n");
    write_text("sub/c.ini", "[s]\nx = c\nv = c\n");
    write_text("b.ini", "; b\n[s]\ny = b\nz = b\n");
    const char *sets[] = { "s.z=one", "s.z=two" };
    mri_profile *p = load("p.ini", sets, 2);
    from(p, "v", "c", "sub/c.ini", 3, "v = c");
    from(p, "x", "a", "sub/a.ini", 3, "x = a");
    from(p, "y", "b", "b.ini", 3, "y = b");
    from(p, "w", "file", "p.ini", 3, "w = file");
    from(p, "z", "two", NULL, 0, "s.z=two");
    cr_assert_str_eq(mri_profile_get(p, "s", "z")->origin.how, "--set");
    cr_assert_str_eq(mri_profile_get(p, "s", "v")->origin.how, "file");
    cr_assert_eq(mri_profile_count(p), 5);
    mri_profile_free(p);
}

Test(profile, one_file_may_be_included_on_two_ways)
{
    write_text("p.ini", "include = a.ini b.ini\n");
    write_text("a.ini", "include = common.ini\n[s]\nx = a\n");
    write_text("b.ini", "include = common.ini\n");
    write_text("common.ini", "[s]\nx = common\n");
    mri_profile *p = load("p.ini", NULL, 0);
    cr_assert_str_eq(value_of(p, "s", "x"), "common");
    mri_profile_free(p);
}

Test(profile, include_cycles_and_depth_are_errors)
{
    write_text("p.ini", "; x\ninclude = a.ini\n");
    write_text("a.ini", "include = p.ini\n");
    mr_err err = load_fails("p.ini", NULL);
    cr_assert_eq(err.code, MR_E_PROFILE_INCLUDE);
    cr_assert_str_eq(err.what, "a.ini:1: include cycle: p.ini <- a.ini <- p.ini");
    cr_assert_str_eq(err.detail, "include = p.ini\n          ^~~~~");

    for (int i = 0; i < 18; i++) {
        char *name = mri_format("d%d.ini", i), *text = mri_format("include = d%d.ini\n", i + 1);
        write_text(name, text);
        free(name);
        free(text);
    }
    write_text("d18.ini", "[s]\n");
    err = load_fails("d0.ini", NULL);
    cr_assert_str_eq(err.what, "d16.ini:1: includes are nested deeper than 16 files");
    mri_profile_free(load("d2.ini", NULL, 0)); /* 16 levels are fine */
}

Test(profile, missing_files_are_named_where_they_are_included)
{
    write_text("p.ini", "include = a.ini gone.ini\n");
    write_text("a.ini", "");
    mr_err err = load_fails("p.ini", NULL);
    cr_assert_str_eq(err.what, "p.ini:1: cannot read gone.ini: No such file or directory");
    cr_assert_str_eq(err.detail, "include = a.ini gone.ini\n                ^~~~~~~~");
    err = load_fails("nowhere.ini", NULL);
    cr_assert_eq(err.code, MR_E_PROFILE_INCLUDE);
    cr_assert_str_eq(err.what, "cannot read nowhere.ini: No such file or directory");
    cr_assert_not_null(strstr(load_fails(".", NULL).what, "cannot read .: "));
}

Test(profile, a_key_twice_in_a_file_names_both_lines)
{
    write_text("p.ini", "[train]\nsteps = 200\n[s]\nx = 1\n[train]\n  steps = 1000 ; more\n");
    mr_err err = load_fails("p.ini", NULL);
    cr_assert_eq(err.code, MR_E_PROFILE_DUPLICATE);
    cr_assert_str_eq(err.what, "p.ini:2 and :6: [train] key 'steps' given twice (200, 1000)");
    cr_assert_str_eq(err.detail, "steps = 200\n^~~~~ first given here");
    cr_assert_str_eq(err.hint, "delete one of the two lines (the second is p.ini:6)");
}

Test(profile, set_splits_at_the_last_dot)
{
    const char *sets[] = { "backend.cuda.arena=80%", "a.b=x.y=z", " a.c = v" };
    mri_profile *p = load(NULL, sets, 3);
    cr_assert_str_eq(value_of(p, "backend.cuda", "arena"), "80%");
    cr_assert_str_eq(value_of(p, "a", "b"), "x.y=z");
    cr_assert_str_eq(value_of(p, "a", "c"), " v");
    mri_profile_free(p);

    static const struct {
        const char *set, *what;
    } bad[] = {
        { "steps=3", "--set steps=3: expected section.key=value" },
        { "train.steps", "--set train.steps: expected section.key=value" },
        { "=3", "--set =3: expected section.key=value" },
        { ".x=3", "--set .x=3: expected section.key=value" },
        { "s.=3", "--set s.=3: expected section.key=value" },
        { "", "--set : expected section.key=value" },
        { "a b.c=1", "--set a b.c=1: names have letters, digits, _ and -, at most 48" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        mr_err err = load_fails(NULL, bad[i].set);
        cr_assert_eq(err.code, MR_E_USAGE);
        cr_assert_str_eq(err.what, bad[i].what);
    }
}

Test(profile, entries_stay_where_they_are)
{
    mri_profile *p = load_text("[s]\na = 1\n");
    const mri_entry *e = mri_profile_at(p, 0);
    mr_err err = MR_ERR_INIT;
    for (int i = 0; i < 100; i++) {
        char *set = mri_format("s.k%d=%d", i, i);
        cr_assert_eq(mri_profile_set(p, set, &err), 0);
        free(set);
    }
    cr_assert_eq(e, mri_profile_get(p, "s", "a"));
    cr_assert_null(mri_profile_at(p, 101));
    mri_profile_free(p);
}

Test(profile, a_profile_has_at_most_ten_thousand_keys)
{
    mri_str b = { 0 };
    mri_str_add(&b, "[s]\n");
    for (int i = 0; i <= 10000; i++)
        mri_str_fmt(&b, "k%d =\n", i);
    mr_err err = fail_bytes(b.s, b.n);
    cr_assert_str_eq(err.what, "p.ini:10002: more than 10000 keys in one profile");
    mri_str_free(&b);
}

static void same(const mri_profile *a, const mri_profile *b)
{
    cr_assert_eq(mri_profile_count(a), mri_profile_count(b));
    for (size_t i = 0; i < mri_profile_count(a); i++) {
        const mri_entry *e = mri_profile_at(a, i);
        cr_assert_str_eq(value_of(b, e->section, e->key), e->value, "%s.%s", e->section, e->key);
    }
}

Test(profile, what_is_printed_loads_again)
{
    const char *sets[] = { "s.a= ; \"odd\" \\ ", "s.b=line\nbreak\ttab", "s.c=", "s.d=\"quoted\"",
                           "s.e=x;y", "t.f=\xc3\xa4", "s.g=\x01\x7f", "s.h=\\n" };
    mri_profile *p = load(NULL, sets, 8), *q;
    for (int origins = 0; origins < 2; origins++) {
        mri_str b = { 0 };
        mri_profile_print(p, origins, &b);
        q = load_text(b.s);
        same(p, q);
        mri_profile_free(q);
        mri_str_free(&b);
    }
    mri_profile_free(p);
}

Test(profile, print_shows_the_origin_of_every_value)
{
    write_text("p.ini", "[s]\nx = 1\n");
    const char *sets[] = { "s.y=2" };
    mri_profile *p = load("p.ini", sets, 1);
    mri_profile_default(p, "s", "z", "3");
    mri_profile_default(p, "s", "x", "9"); /* has a value already */
    mri_str b = { 0 };
    mri_profile_print(p, true, &b);
    cr_assert_str_eq(b.s, "[s]\n"
                          "x = 1                                        ; p.ini:2\n"
                          "y = 2                                        ; --set\n"
                          "z = 3                                        ; default\n");
    mri_str_free(&b);
    mri_profile_free(p);
}

Test(profile, diff_compares_meanings_and_skips_what_is_ignored)
{
    typedef struct config {
        int64_t n;
        double x;
        const char *word;
    } config;
    static const mr_opt opts[] = {
        MR_OPT(config, MR_T_INT, n, "n", NULL, "count"),
        MR_OPT(config, MR_T_FLOAT, x, "x", NULL, "value"),
        MR_OPT(config, MR_T_STR, word, "word", NULL, "word"),
    };
    config c;
    mr_err err = MR_ERR_INIT;
    mri_profile *a = load_text("[s]\nn = 1000\nx = 0.5\nword = yes\nskip = 1\n[t]\nk = 1\n");
    mri_profile *b = load_text("[s]\nn = 1e3\nx = 0.25\nword = true\n[t]\nk = 2\n[u]\nk = 3\n");
    cr_assert_eq(mri_profile_fill(a, "s", opts, 3, &c, sizeof c, &err), 0);
    const char *ignore[] = { "t", "s.skip", NULL };
    mri_str out = { 0 };
    cr_assert_eq(mri_profile_diff(a, b, ignore, &out), 3);
    cr_assert_str_eq(out.s, "s.x: 0.5 | 0.25\ns.word: yes | true\nu.k: (unset) | 3\n");
    mri_str_free(&out);
    cr_assert_eq(mri_profile_diff(a, a, NULL, &out), 0);
    mri_str_free(&out);
    mri_profile_free(a);
    mri_profile_free(b);
}
