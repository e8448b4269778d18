/* SPDX-License-Identifier: Apache-2.0
 * The parameters have exactly the names and shapes of transformers' tensors: the parity
 * fixtures' config.json gives the model, their safetensors header the truth. */
#include "fake.h"
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

static const char *const fixtures[] = { "llama4-base", "llama4-maverick", "llama4-scout",
                                        "llama4-top2", "llama4-tied" };

Test(llama4_names, are_transformers_names)
{
    for (size_t i = 0; i < sizeof fixtures / sizeof *fixtures; i++) {
        fk_model m;
        mr_err err = MR_ERR_INIT;
        char *config = fk_fixture(fixtures[i], "config.json", NULL);
        cr_assert_eq(fk_open(&m, fk_llama4(), "", config, &err), 0, "%s", err.what);
        char *ours = fk_parameters(&m), *theirs = fk_stored(fixtures[i]);
        cr_assert_gt(strlen(theirs), 100);
        cr_assert_str_eq(ours, theirs, "%s:\n%s", fixtures[i], ours);
        free(ours), free(theirs), free(config);
        fk_close(&m);
    }
}
