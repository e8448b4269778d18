/* SPDX-License-Identifier: Apache-2.0
 * The parameters are held by exactly the tensors that transformers saves, by name and shape: the
 * parity fixtures' config.json gives the model, their safetensors header the truth. */
#include "fake.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const char *const fixtures[] = { "deepseek-base",   "kimi",         "deepseek-direct",
                                        "deepseek-shared", "deepseek-eps", "deepseek-mscale",
                                        "deepseek-groups" };

Test(kimi_k2_names, tensors_are_those_that_transformers_saves)
{
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        char *config = fk_fixture(fixtures[i], "config.json", NULL);
        cr_assert_eq(fk_open(&m, fk_kimi_k2(), "", config, &err), 0, "%s", err.what);
        char *ours = fk_tensors(&m), *theirs = fk_stored(fixtures[i]);
        cr_assert_gt(strlen(theirs), 100);
        cr_assert_str_eq(ours, theirs, "%s:\n%s", fixtures[i], ours);
        free(ours), free(theirs), free(config);
        fk_close(&m);
    }
}

Test(kimi_k2_names, experts_are_one_parameter_each_way)
{
    fk_model m;
    mr_err err = MR_ERR_INIT;
    char *config = fk_fixture("deepseek-base", "config.json", NULL);
    cr_assert_eq(fk_open(&m, fk_kimi_k2(), "", config, &err), 0, "%s", err.what);
    char *all = fk_parameters(&m);
    cr_assert(strstr(all, "model.layers.1.mlp.experts.gate_up_proj [8,20,24]\n"), "%s", all);
    cr_assert(strstr(all, "model.layers.1.mlp.experts.down_proj [8,24,10]\n"));
    free(all), free(config);
    fk_close(&m);
}
