/* SPDX-License-Identifier: Apache-2.0
 * Rows and profile meet: typed values out, unknown words found, each with a useful message. */
#include "scratch.h"

TestSuite(fill, .init = scratch_open, .fini = scratch_close);

typedef struct config {
    int64_t steps, arena;
    double lr;
    const char *path, *name;
    mr_list list;
} config;

static const mr_opt opts[] = {
    { sizeof(mr_opt), MR_T_INT, MR_OPT_REQUIRED, offsetof(config, steps), "steps", NULL, "how many",
      NULL, 1, 1000, NULL },
    { sizeof(mr_opt), MR_T_SIZE, 0, offsetof(config, arena), "arena", "1KiB", "memory", NULL, 0, 0,
      "space" },
    MR_OPT(config, MR_T_FLOAT, lr, "lr", "1e-3", "rate"),
    MR_OPT(config, MR_T_PATH, path, "path", NULL, "a file"),
    MR_OPT(config, MR_T_STR, name, "name", NULL, "a name"),
    MR_OPT(config, MR_T_LIST, list, "list", "a, b", "words"),
};
static const mr_opt other_opts[] = { MR_OPT(config, MR_T_FLOAT, lr, "momentum", "0", "inertia") };

static mr_status fill(mri_profile *p, config *c, mr_err *err)
{
    *err = (mr_err)MR_ERR_INIT;
    mr_status st = mri_profile_fill(p, "train", opts, 6, c, sizeof *c, err);
    config other;
    if (!st)
        st = mri_profile_fill(p, "optimizer.sgd", other_opts, 1, &other, sizeof other, err);
    static const char *const known[] = { "backend.cuda" };
    return st ? st : mri_profile_finish(p, known, 1, err);
}

Test(fill, values_and_defaults_arrive_typed)
{
    mkdir("sub", 0755);
    write_text("sub/p.ini", "[train]\nsteps = 1_0\npath = ../x.txt\n");
    mr_err err = MR_ERR_INIT;
    mri_profile *p;
    config c;
    cr_assert_eq(mri_profile_load("sub/p.ini", NULL, 0, &p, &err), 0);
    cr_assert_eq(fill(p, &c, &err), 0, "%s", err.what);
    cr_assert_eq(c.steps, 10);
    cr_assert_eq(c.arena, 1024);
    cr_assert_eq(c.lr, 1e-3);
    cr_assert_null(c.name);
    cr_assert_eq(c.list.n, 2);
    cr_assert_str_eq(c.list.v[1], "b");
    char *cwd = realpath(".", NULL), *want = mri_format("%s/x.txt", cwd);
    cr_assert_str_eq(c.path, want);
    cr_assert_str_eq(value_of(p, "train", "path"), want); /* printed, it means the same anywhere */
    cr_assert_str_eq(mri_profile_get(p, "train", "path")->origin.raw, "path = ../x.txt");
    cr_assert_str_eq(mri_profile_get(p, "train", "lr")->origin.how, "default");
    cr_assert(mri_profile_get(p, "train", "lr")->used);
    cr_assert_null(mri_profile_get(p, "train", "name"));
    free(cwd);
    free(want);
    mri_profile_free(p);
}

static void message(const char *text, mr_status code, const char *what, const char *detail,
                    const char *hint)
{
    mri_profile *p = load_text(text);
    mr_err err;
    config c;
    cr_assert_eq(fill(p, &c, &err), code, "%s: %d %s", text, err.code, err.what);
    cr_assert_str_eq(err.what, what);
    cr_assert_str_eq(err.detail, detail);
    cr_assert_str_eq(err.hint, hint);
    mri_profile_free(p);
}

Test(fill, every_message_has_its_place_and_a_next_step)
{
    message("[train]\nsteps = 5\n  lr = 1e-3x ; rate\n", MR_E_PROFILE_VALUE,
            "p.ini:3: [train] lr = 1e-3x : expected float, stopped at 'x'",
            "lr = 1e-3x ; rate\n     ^~~~~", "run: mrun explain train.lr");
    message("[train]\nsteps = 0\n", MR_E_PROFILE_VALUE,
            "p.ini:2: [train] steps = 0 : out of range, allowed 1..1000", "steps = 0\n        ^",
            "run: mrun explain train.steps");
    message("[train]\nsteps = 5\narean = 80%\n", MR_E_PROFILE_KEY,
            "p.ini:3: [train] unknown key 'arean'", "arean = 80%\n^~~~~ did you mean 'arena'?",
            "run: mrun explain train");
    message("[train]\nsteps = 5\nmomentum = 1\n", MR_E_PROFILE_KEY,
            "p.ini:3: [train] unknown key 'momentum'",
            "momentum = 1\n^~~~~~~~ that key belongs to [optimizer.sgd]",
            "run: mrun explain train");
    message("[train]\nsteps = 5\nmomentun = 1\n", MR_E_PROFILE_KEY,
            "p.ini:3: [train] unknown key 'momentun'",
            "momentun = 1\n^~~~~~~~ did you mean [optimizer.sgd] momentum?",
            "run: mrun explain train");
    message("[train]\nsteps = 5\n[optimizer.sgd]\nqqqqqq = 1\n", MR_E_PROFILE_KEY,
            "p.ini:4: [optimizer.sgd] unknown key 'qqqqqq'",
            "qqqqqq = 1\n^~~~~~ its keys: momentum", "run: mrun explain optimizer/sgd");
    message("[train]\nsteps = 5\n[trian]\nlr = 1\n", MR_E_PROFILE_KEY,
            "p.ini:3: unknown section [trian]", "[trian]\n ^~~~~ did you mean [train]?",
            "run: mrun explain (lists the sections)");
    message("[train]\nsteps = 5\n[empty]\n", MR_E_PROFILE_KEY, "p.ini:3: unknown section [empty]",
            "[empty]\n ^~~~~", "run: mrun explain (lists the sections)");
    message("[train]\nsteps = 5\n[model@draft]\nlr = 1\n", MR_E_PROFILE_KEY,
            "p.ini:3: nothing in this profile uses the instance [model@draft]",
            "[model@draft]\n ^~~~~~~~~~~", "delete it, or choose a job that takes a second model");
    message("[train]\nlr = 1\n", MR_E_PROFILE_MISSING,
            "[train] steps is not set, and it has no default", "steps: how many",
            "run: mrun explain train.steps");
    message("[train]\nstesp = 1\n", MR_E_PROFILE_KEY, "p.ini:2: [train] unknown key 'stesp'",
            "stesp = 1\n^~~~~ did you mean 'steps'?", "run: mrun explain train");
    message("[trian]\nsteps = 1\n", MR_E_PROFILE_KEY, "p.ini:1: unknown section [trian]",
            "[trian]\n ^~~~~ did you mean [train]?", "run: mrun explain (lists the sections)");
    message("[train]\nsteps = 1\narena = 1\nspace = 2\n", MR_E_PROFILE_DUPLICATE,
            "p.ini:4: [train] 'space' is the old spelling of 'arena', and both are given",
            "space = 2\n^~~~~ delete this line", "run: mrun explain train.arena");
}

Test(fill, errors_of_set_show_the_argument)
{
    const char *sets[] = { "train.steps=1", "train.lr=fast" };
    mr_err err = MR_ERR_INIT;
    mri_profile *p;
    config c;
    cr_assert_eq(mri_profile_load(NULL, sets, 2, &p, &err), 0);
    cr_assert_eq(fill(p, &c, &err), MR_E_PROFILE_VALUE);
    cr_assert_str_eq(err.what, "--set train.lr=fast: [train] lr = fast : expected float");
    cr_assert_str_eq(err.detail, "train.lr=fast\n         ^~~~");
    mri_profile_free(p);
}

Test(fill, sections_of_plugins_that_are_not_chosen_stay_unread)
{
    mri_profile *p = load_text("[train]\nsteps = 1\n[backend.cuda]\nwhatever = 1\n");
    mr_err err;
    config c;
    cr_assert_eq(fill(p, &c, &err), 0, "%s", err.what);
    cr_assert_not(mri_profile_get(p, "backend.cuda", "whatever")->used);
    cr_assert_not(mri_profile_was_filled(p, "backend.cuda"));
    mri_profile_free(p);
}

Test(fill, an_old_spelling_works_and_is_a_doubt)
{
    mri_profile *p = load_text("[train]\nsteps = 1\nspace = 2KiB\n");
    mr_err err;
    config c;
    mri_str doubts = { 0 };
    cr_assert_eq(fill(p, &c, &err), 0, "%s", err.what);
    cr_assert_eq(c.arena, 2048);
    cr_assert_str_eq(value_of(p, "train", "arena"), "2KiB");
    cr_assert_null(mri_profile_get(p, "train", "space"));
    cr_assert_eq(mri_profile_doubts(p, &doubts), 1);
    cr_assert_str_eq(doubts.s, "p.ini:3: [train] 'space' is the old spelling of 'arena'\n");
    mri_str_free(&doubts);
    mri_profile_free(p);
}

Test(fill, an_empty_value_unsets_what_an_include_set)
{
    write_text("base.ini", "[train]\nsteps = 1\nname = x\nlist = c\n");
    mri_profile *p = load_text("include = base.ini\n[train]\nname =\nlist =\n");
    mr_err err;
    config c;
    cr_assert_eq(fill(p, &c, &err), 0, "%s", err.what);
    cr_assert_null(c.name);
    cr_assert_eq(c.list.n, 0);
    mri_profile_free(p);
}
