/* SPDX-License-Identifier: Apache-2.0
 * Where the parts of a model lie: layout strings written out, and layers shared out by numbers. */
#include "core/program/stage.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const mri_cfg_mesh plain = { .pp = 1, .vpp = 1, .first_stage_layers = -1,
                                    .last_stage_layers = -1 };

Test(layout, written_out)
{
    static const char *const cases[][2] = {
        { "Et|tL", "Et|tL" },
        { "Et*3|(tt|)*2 L", "Ettt|tt|tt|L" },
        { "E, t | (t*2|)*2, t m L", "Et|tt|tt|tmL" },
        { "E|((t|)*2t|)*2L", "E|t|t|t|t|t|t|L" },
        { "Et|*3L", "Et|||L" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out = NULL;
        mr_err err = MR_ERR_INIT;
        cr_assert_eq(mri_layout_expand(cases[i][0], &out, &err), 0, "%s: %s", cases[i][0],
                     err.what);
        cr_expect_str_eq(out, cases[i][1]);
        free(out);
    }
}

Test(layout, wrong_texts_are_told)
{
    static const char *const cases[][2] = {
        { "Et|x", "an unknown letter at character 4" },
        { "Et*", "no number from 1 on" },
        { "Et*0", "no number from 1 on" },
        { "E(t|L", "not closed" },
        { "Et)L", "not opened" },
        { "((((((((((((((((((t))))))))))))))))))", "too many parentheses" },
        { "(t*99999)*99999", "more letters" },
        { "t*99999999999999999999", "more letters" },
    };
    for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
        char *out = NULL;
        mr_err err = MR_ERR_INIT;
        cr_expect_eq(mri_layout_expand(cases[i][0], &out, &err), MR_E_PROFILE_VALUE);
        cr_expect(strstr(err.what, cases[i][1]), "%s: %s", cases[i][0], err.what);
    }
}

/* The virtual stages as digits, or the error. */
static void assigned(const char *letters, mri_cfg_mesh c, const char *want)
{
    uint32_t *of = NULL, stages = 0;
    mr_err err = MR_ERR_INIT;
    char got[64] = "";
    mr_status st = mri_stage_assign(letters, &c, &of, &stages, &err);
    for (size_t i = 0; !st && letters[i]; i++)
        got[i] = (char)('0' + of[i]);
    if (st)
        cr_expect(strstr(err.what, want), "%s: %s", letters, err.what);
    else
        cr_expect_str_eq(got, want, "%s: %s, not %s", letters, got, want);
    free(of);
}

Test(layout, layers_shared_out)
{
    mri_cfg_mesh c = plain;
    assigned("EttttL", c, "000000");
    c.pp = 2;
    assigned("EttttL", c, "000111");
    assigned("EEttttmL", c, "00001111");
    assigned("EtttL", c, "3 layers do not lie evenly on 2 virtual stages");
    c.vpp = 2;
    assigned("EttttL", c, "001233");
    c.count_embedding = c.count_loss = 1;
    assigned("EttttttL", c, "00112233"); /* 8 of 4: one layer less at both ends */
    c.count_embedding = c.count_loss = 0;
    c.first_stage_layers = 1;
    assigned("EtttttttL", c, "001122333");
    c.last_stage_layers = 2;
    assigned("EtttttttL", c, "001122333");
    c.first_stage_layers = 0;
    c.last_stage_layers = 0;
    assigned("EttttL", c, "011223");
    c.last_stage_layers = 5;
    assigned("EttttL", c, "4 layers do not lie evenly");
}

Test(layout, layers_by_a_layout)
{
    mri_cfg_mesh c = plain;
    c.pp = 2;
    c.layout = "Et|ttt|L|";
    assigned("EttttL", c, "001112");
    assigned("EEttttL", c, "0001112");
    assigned("EtttL", c, "4 layers, the model has 3");
    c.layout = "Et|ttt|L";
    assigned("EttttL", c, "3 stages are no multiple of pp = 2");
    c.layout = "tE|tttL";
    assigned("EttttL", c, "t where the model goes on with E");
    c.layout = "Ett|tt";
    assigned("EttttL", c, "ends before the model's L");
    c.layout = "Ettt|tmL";
    assigned("EttttmL", c, "0000111");
    assigned("EttttL", c, "000011"); /* without its m */
}
