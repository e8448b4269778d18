/* SPDX-License-Identifier: Apache-2.0
 * A table of option rows that breaks a rule is named with the row and the rule. */
#include "core/config/option.h"
#include "core/config/sections.h"
#include <criterion/criterion.h>
#include <math.h>
#include <string.h>

static mr_opt sound(void)
{
    return (mr_opt){ sizeof(mr_opt), MR_T_INT, 0, 0, "key", "1", "doc", NULL, 0, 8, NULL };
}

static void refused(const mr_opt *o, uint32_t n, const char *why)
{
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_options_check(o, n, 16, &err), MR_E_PLUGIN_MALFORMED, "%s", why);
    cr_assert_eq(err.blame, MR_BLAME_PLUGIN);
    cr_assert_not_null(strstr(err.what, why), "'%s' does not hold '%s'", err.what, why);
}

#define REFUSED(field, value, why) \
    do { \
        mr_opt o_ = sound(); \
        o_.field = value; \
        refused(&o_, 1, why); \
    } while (0)

Test(options, a_sound_table_passes)
{
    mr_opt o = sound();
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_options_check(&o, 1, 16, &err), 0, "%s", err.what);
    cr_assert_eq(mri_options_check(NULL, 0, 0, &err), 0);
}

Test(options, each_broken_rule_is_named)
{
    REFUSED(size, 8, "option row 0 has size 8");
    REFUSED(size, sizeof(mr_opt) + 4, "has size");
    REFUSED(size, 1u << 20, "has size");
    REFUSED(type, 0, "option 'key': its type is none of MR_T_*");
    REFUSED(type, 99, "its type is none of MR_T_*");
    REFUSED(key, NULL, "cannot be a key");
    REFUSED(key, "two words", "'two words' cannot be a key");
    REFUSED(doc, NULL, "it has no doc");
    REFUSED(doc, "", "it has no doc");
    REFUSED(doc, "a\nb", "more than one line");
    REFUSED(offset, 12, "its storage ends past config_size");
    REFUSED(offset, 16, "its storage ends past config_size");
    REFUSED(offset, 0xffffffff, "its storage ends past config_size");
    REFUSED(offset, 4, "not aligned");
    REFUSED(type, MR_T_ENUM, "an ENUM without choices");
    REFUSED(lo, 9, "its range is empty");
    REFUSED(hi, NAN, "its range is empty");
    REFUSED(flags, MR_OPT_REQUIRED, "its default can never be used");
    REFUSED(def, "9", "its default does not pass: key = 9 : out of range, allowed 0..8");
    REFUSED(def, "x", "its default does not pass: key = x : expected int");
    mr_opt two[2] = { sound(), sound() };
    refused(two, 2, "it shares its storage with key");
    two[1].offset = 8;
    refused(two, 2, "its key is given twice");
    two[1].key = "other";
    two[1].was = "key";
    refused(two, 2, "its key is given twice");
    refused(NULL, 2, "2 option rows at NULL");
}

Test(options, rows_are_walked_by_their_own_size)
{
    struct bigger {
        mr_opt o;
        double appended;
    } rows[2] = { { sound(), 0 }, { sound(), 0 } };
    rows[0].o.size = rows[1].o.size = sizeof(struct bigger);
    rows[1].o.key = "second";
    rows[1].o.offset = 8;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_options_check(&rows[0].o, 2, 16, &err), 0, "%s", err.what);
    cr_assert_str_eq(mri_opt_row(&rows[0].o, 2, 1)->key, "second");
    mri_profile *p;
    int64_t config[2];
    const char *sets[] = { "s.second=5" };
    cr_assert_eq(mri_profile_load(NULL, sets, 1, &p, &err), 0);
    cr_assert_eq(mri_profile_fill(p, "s", &rows[0].o, 2, config, sizeof config, &err), 0);
    cr_assert_eq(config[0], 1);
    cr_assert_eq(config[1], 5);
    mri_profile_free(p);
}

Test(options, cores_own_sections_are_sound)
{
    size_t n;
    const mri_section *s = mri_sections(&n);
    cr_assert_gt(n, 0);
    for (size_t i = 0; i < n; i++) {
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_options_check(s[i].opts, s[i].n_opts, s[i].size, &err), 0, "[%s] %s",
                     s[i].name, err.what);
        cr_assert(s[i].doc && *s[i].doc);
    }
}

Test(options, a_page_line_shows_type_range_default_and_old_spelling)
{
    mr_opt o = { sizeof o, MR_T_SIZE, 0, 0, "workspace", "64MiB", "scratch per stream", NULL, 0,
                 4294967296.0, "ws" };
    mri_str b = { 0 };
    mri_option_print(&o, &b);
    cr_assert_str_eq(b.s, "workspace             = 64MiB      ; size 0..4GiB          scratch per "
                          "stream (was: ws)\n");
    mri_str_free(&b);
}
