/* SPDX-License-Identifier: Apache-2.0
 * A whole profile resolves to core's structs and the chosen plugins' structs, or to one error. */
#include "core/config/sections.h"
#include "core/plugin/registry.h"
#include "scratch.h"

static mri_registry *reg;

static void begin(void)
{
    scratch_open();
    reg = mri_registry_create(NULL);
}

static void end(void)
{
    mri_registry_free(reg);
    scratch_close();
}

TestSuite(config, .init = begin, .fini = end);

static const char quick[] = "[train]\nsteps = 10\n[model]\nplugin = llama4\n"
                            "[data.text]\npath = t.txt\n";

static mri_config *load_ok(const char *text, const char *const *sets, size_t n)
{
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    write_text("p.ini", text);
    cr_assert_eq(mri_config_load(reg, "p.ini", sets, n, &c, &err), 0, "%s | %s", err.what,
                 err.detail);
    return c;
}

static mr_err load_fails(const char *set)
{
    mr_err err = MR_ERR_INIT;
    mri_config *c = NULL;
    write_text("p.ini", quick);
    cr_assert_neq(mri_config_load(reg, "p.ini", &set, 1, &c, &err), 0, "%s", set);
    cr_assert_null(c);
    return err;
}

Test(config, defaults_resolve_and_every_kind_is_chosen)
{
    mri_config *c = load_ok(quick, NULL, 0);
    cr_assert_eq(c->train.steps, 10);
    cr_assert_eq(c->train.seq, 128);
    cr_assert_eq(c->train.global_batch, 1);
    cr_assert_eq(c->mesh.dp, 1);
    cr_assert_eq(c->run.threads, 0);
    cr_assert_eq(c->run.deterministic, 1);
    cr_assert_eq(c->train.recompute.n, 0);
    cr_assert_eq(c->model.sizes.size, sizeof(mr_model_sizes));
    cr_assert_eq(c->model.sizes.seed, 1);
    cr_assert_eq(c->model.sizes.layers, 0);
    cr_assert_str_eq(c->optimizer.schedule, "cosine");
    char *cwd = realpath(".", NULL), *dir = mri_format("%s/runs/p", cwd);
    char *checkpoints = mri_format("%s/checkpoints", dir);
    cr_assert_str_eq(c->run.dir, dir);
    cr_assert_str_eq(c->checkpoint.dir, checkpoints);
    cr_assert_str_eq(mri_config_choice(c, "backend", 0)->unit->name, "cpu");
    cr_assert_str_eq(mri_config_choice(c, "model", 0)->unit->name, "llama4");
    cr_assert_str_eq(mri_config_choice(c, "optimizer", 0)->unit->name, "adamw");
    cr_assert_str_eq(mri_config_choice(c, "tokenizer", 0)->unit->name, "bytes");
    cr_assert_str_eq(mri_config_choice(c, "sink", 0)->unit->name, "console");
    cr_assert_str_eq(mri_config_choice(c, "sink", 1)->unit->name, "jsonl");
    cr_assert_null(mri_config_choice(c, "sink", 2));
    cr_assert_null(mri_config_choice(c, "comm", 0));
    cr_assert_eq(*(double *)mri_config_choice(c, "optimizer", 0)->config, 0.9); /* beta1 */
    mri_config_free(c);
    free(cwd);
    free(dir);
    free(checkpoints);
}

Test(config, one_word_swaps_a_backend_and_keeps_the_others_settings)
{
    char *text = mri_format("%s[backend.cuda]\narena = 2GiB\n[backend.cpu]\narena = 1GiB\n", quick);
    mri_config *c = load_ok(text, NULL, 0);
    cr_assert_eq(*(int64_t *)mri_config_choice(c, "backend", 0)->config, 1ll << 30);
    mri_config_free(c);
    const char *sets[] = { "backend.plugin=cuda" };
    c = load_ok(text, sets, 1);
    cr_assert_eq(*(int64_t *)mri_config_choice(c, "backend", 0)->config, 2ll << 30);
    mri_config_free(c);
    free(text);
}

Test(config, a_job_loads_only_the_kinds_that_it_uses)
{
    const char *sets[] = { "job.run=generate", "model.plugin=llama4" };
    mr_err err = MR_ERR_INIT;
    mri_config *c;
    cr_assert_eq(mri_config_load(reg, NULL, sets, 2, &c, &err), 0, "%s", err.what);
    cr_assert_null(mri_config_choice(c, "data", 0)); /* its path is required, and not given */
    cr_assert_null(mri_config_choice(c, "optimizer", 0));
    cr_assert_not_null(mri_config_choice(c, "tokenizer", 0));
    cr_assert_null(c->run.dir);
    mri_config_free(c);
    sets[0] = "job.run=score";
    cr_assert_eq(mri_config_load(reg, NULL, sets, 2, &c, &err), 0, "%s", err.what);
    mri_config_free(c);
    const char *prep[] = { "job.run=preprocess", "preprocess.input=x.jsonl" };
    cr_assert_eq(mri_config_load(reg, NULL, prep, 2, &c, &err), 0, "%s", err.what);
    cr_assert_null(mri_config_choice(c, "backend", 0));
    mri_config_free(c);
}

Test(config, what_is_printed_loads_to_the_same_config)
{
    char *text = mri_format("%s[backend.cuda]\narena = 2GiB\n", quick);
    const char *sets[] = { "train.sample_prompt= It is; \"a truth\" ", "sink.plugin=jsonl",
                           "train.recompute=core_attn, mlp" };
    mri_config *a = load_ok(text, sets, 3);
    for (int origins = 0; origins < 2; origins++) {
        mri_str b = { 0 }, d = { 0 };
        mri_profile_print(a->profile, origins, &b);
        mkdir("elsewhere", 0755);
        cr_assert_eq(chdir("elsewhere"), 0);
        mri_config *again = load_ok(b.s, NULL, 0); /* another folder and another name */
        cr_assert_eq(chdir(".."), 0);
        cr_assert_eq(mri_profile_diff(a->profile, again->profile, NULL, &d), 0, "%s", d.s);
        cr_assert_str_eq(again->train.sample_prompt, " It is; \"a truth\" ");
        cr_assert_eq(again->train.recompute.n, 2);
        cr_assert_null(mri_config_choice(again, "sink", 1));
        mri_config_free(again);
        mri_str_free(&b);
    }
    mri_config_free(a);
    free(text);
}

Test(config, contradictions_and_slips_are_named)
{
    static const struct {
        const char *set;
        mr_status code;
        const char *what, *note; /* note: in the detail or the hint */
    } rows[] = {
        { "job.run=tarin", MR_E_PROFILE_VALUE, "[job] run = tarin : expected one of "
          "train|preprocess|generate|score|bench|tokenize", "did you mean 'train'?" },
        { "backend.plugin=cup", MR_E_PLUGIN_NOT_FOUND,
          "[backend] plugin = cup : no plugin backend/cup on the search path",
          "did you mean 'cpu'?" },
        { "comm.plugin=nccl", MR_E_PLUGIN_NOT_FOUND, "[comm] plugin = nccl : no plugin comm/nccl",
          "tried nowhere" },
        { "model.plugin=none", MR_E_PROFILE_MISSING,
          "[model] plugin is not set, and job 'train' needs a model", "mrun explain model" },
        { "sink.plugin=console, console", MR_E_PROFILE_CONFLICT,
          "[sink] plugin 'console' is listed twice", "explain sink.plugin" },
        { "mesh.tp=2", MR_E_PROFILE_CONFLICT,
          "[mesh] tp = 2 needs more than one process, and [comm] plugin = none", "mesh.tp=2\n" },
        { "mesh.dp=2", MR_E_PROFILE_CONFLICT, "[mesh] dp = 2 needs more than one process", "" },
        { "mesh.vpp=2", MR_E_PROFILE_CONFLICT,
          "[mesh] vpp = 2 divides pipeline stages, and pp = 1", "" },
        { "optimizer.min_lr=1", MR_E_PROFILE_CONFLICT,
          "[optimizer] min_lr = 1 is above lr = 0.0003", "" },
        { "optimizer.warmup=11", MR_E_PROFILE_CONFLICT,
          "[optimizer] warmup = 11 is longer than the 10 steps", "" },
        { "optimizer.schedule=wsd", MR_E_PROFILE_CONFLICT,
          "[optimizer] wsd_steps = 0 and warmup", "" },
        { "train.rampup_start=1", MR_E_PROFILE_CONFLICT,
          "[train] ramp-up from 1 by 0 does not meet", "" },
        { "backend.cpuu.arena=1", MR_E_PROFILE_KEY,
          "[backend.cpuu]: there is no backend 'cpuu', did you mean [backend.cpu]?", "" },
        { "optimizer.adamw.lr=1", MR_E_PROFILE_KEY, "[optimizer.adamw] unknown key 'lr'",
          "that key belongs to [optimizer]" },
        { "optimizer.beta1=1", MR_E_PROFILE_KEY, "[optimizer] unknown key 'beta1'",
          "that key belongs to [optimizer.adamw]" },
        { "backend.plguin=cuda", MR_E_PROFILE_KEY, "[backend] unknown key 'plguin'",
          "did you mean 'plugin'?" },
        { "model@draft.plugin=llama4", MR_E_PROFILE_KEY,
          "nothing in this profile uses the instance [model@draft]", "second model" },
        { "backends.plugin=cpu", MR_E_PROFILE_KEY, "unknown section [backends]",
          "did you mean [backend]?" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = load_fails(rows[i].set);
        cr_assert_eq(err.code, rows[i].code, "%s: %s", rows[i].set, err.what);
        cr_assert_not_null(strstr(err.what, rows[i].what), "'%s' lacks '%s'", err.what,
                           rows[i].what);
        cr_assert(strstr(err.detail, rows[i].note) || strstr(err.hint, rows[i].note), "'%s' '%s'",
                  err.detail, err.hint);
    }
}

Test(config, batches_must_divide)
{
    const char *sets[] = { "train.micro_batch=4", "train.global_batch=10" };
    mr_err err = MR_ERR_INIT;
    mri_config *c;
    write_text("p.ini", quick);
    cr_assert_eq(mri_config_load(reg, "p.ini", sets, 2, &c, &err), MR_E_PROFILE_CONFLICT);
    cr_assert_str_eq(err.what, "--set train.global_batch=10: [train] global_batch = 10 is not a "
                               "multiple of micro_batch x dp = 4 x 1");
    const char *ranks[] = { "comm.plugin=sim", "mesh.dp=3", "train.micro_batch=4" };
    c = load_ok(quick, ranks, 3);
    cr_assert_eq(c->train.global_batch, 12);
    mri_config_free(c);
    c = load_ok(quick, ranks, 1); /* dp stays auto until the ranks are known */
    cr_assert_eq(c->mesh.dp, 0);
    cr_assert_eq(c->train.global_batch, 0);
    mri_config_free(c);
    const char *ramp[] = { "train.rampup_start=2", "train.rampup_increment=2",
                           "train.rampup_samples=100", "train.global_batch=8" };
    mri_config_free(load_ok(quick, ramp, 4));
}

Test(config, a_profile_may_keep_settings_of_a_plugin_that_is_not_built)
{
    char *text = mri_format("%s[backend.rocm]\nx = 1\n[model.llama3]\nx = 1\n", quick);
    mri_config_free(load_ok(text, NULL, 0)); /* llama3 is no misspelt llama4 */
    free(text);
}

Test(config, steps_are_missed_by_training_only)
{
    mr_err err = MR_ERR_INIT;
    mri_config *c;
    write_text("p.ini", quick + strlen("[train]\nsteps = 10\n"));
    cr_assert_eq(mri_config_load(reg, "p.ini", NULL, 0, &c, &err), MR_E_PROFILE_MISSING);
    cr_assert_str_eq(err.what, "[train] steps is not set, and job 'train' needs it");
    cr_assert_str_eq(err.hint, "run: mrun explain train.steps");
}
