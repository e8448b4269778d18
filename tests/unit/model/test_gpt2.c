/* SPDX-License-Identifier: Apache-2.0
 * The outside family gpt2: what it describes is GPT-2. (Its installed form: tests/outside.) */
#include "fake.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static const char *gpt2(void)
{
    static char path[512];
    snprintf(path, sizeof path, "%s/tests/unit/model/gpt2.so", getenv("MRUN_BUILD"));
    return path;
}

Test(gpt2, layer_is_two_normed_residual_steps)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, gpt2(), "layers=2 hidden=24 heads=4 vocab=50", NULL, &err), 0);
    mr_prog *p = fk_build(&m, "layer", "train", 6);
    static const char *const want[] = { "layernorm:layernorm",
                                        "attn:linear",
                                        "attn:linear",
                                        "attn:linear",
                                        "attn/core_attn:attention",
                                        "attn:linear",
                                        ":add",
                                        "layernorm:layernorm",
                                        "mlp:linear",
                                        "mlp:gelu",
                                        "mlp:linear",
                                        ":add" };
    cr_assert_eq(p->ops.n, sizeof want / sizeof *want);
    for (size_t i = 0; i < p->ops.n; i++) {
        char *line = mri_format("%s:%s", p->ops.v[i].region, p->ops.v[i].id);
        cr_assert_str_eq(line, want[i]);
        free(line);
    }
    cr_assert_str_eq(fk_attr(fk_find(p, "gelu", 0), "approx")->u.s, "tanh");
    cr_assert_float_eq(fk_param_named(p, "attn.c_proj.weight")->scale, 0.02 / 2, 1e-15);
    cr_assert_float_eq(fk_param_named(p, "mlp.c_proj.weight")->scale, 0.02 / 2, 1e-15);
    cr_assert_float_eq(fk_param_named(p, "mlp.c_fc.weight")->scale, 0.02, 1e-15);
    fk_free(p);
    p = fk_build(&m, "layer", "decode", 2);
    cr_assert_not_null(fk_find(p, "attention", 0), "core knows what to make of it");
    fk_free(p);
    fk_close(&m);
}

Test(gpt2, without_sizes_it_has_124_million_parameters)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, gpt2(), "", NULL, &err), 0, "%s", err.what);
    char *all = fk_parameters(&m);
    cr_assert_eq(fk_elements(all), 124439808);
    cr_assert(strstr(all, "transformer.wte.weight [50257,768]\n"));
    cr_assert_null(strstr(all, "lm_head"), "the head is tied");
    free(all);
    fk_close(&m);
}

Test(gpt2, names_are_those_of_the_converted_checkpoint)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    char *config = fk_fixture("gpt2", "config.json", NULL);
    cr_assert_eq(fk_open(&m, gpt2(), "", config, &err), 0, "%s", err.what);
    char *ours = fk_parameters(&m), *theirs = fk_stored("gpt2");
    cr_assert_str_eq(ours, theirs);
    free(ours), free(theirs), free(config);
    fk_close(&m);
}

Test(gpt2, sizes_that_do_not_fit_are_refused)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(fk_open(&m, gpt2(), "hidden=30 heads=4", NULL, &err), MR_E_MODEL_CONFIG);
    cr_assert(strstr(err.what, "hidden = 30, heads = 4"));
    fk_close(&m);
    cr_assert_eq(fk_open(&m, gpt2(), "kv_heads=4", NULL, &err), MR_E_MODEL_CONFIG);
    fk_close(&m);
    cr_assert_eq(fk_open(&m, gpt2(), "", "{\"activation_function\": \"relu\"}", &err),
                 MR_E_MODEL_CONFIG);
    cr_assert(strstr(err.what, "relu"));
    fk_close(&m);
}
