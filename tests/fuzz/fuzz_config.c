/* SPDX-License-Identifier: Apache-2.0
 * A config.json of any text, to each family: it makes a model, whose blocks can be built, or says
 * what is wrong. */
#include "core/config/sections.h"
#include "core/ops/ref.h"
#include "core/plugin/registry.h"
#include "core/program/assembly.h"
#include "fuzz.h"

enum { LAYERS_MAX = 8 };

typedef struct family {
    const mr_model_ops *ops;
    const void *config; /* its options' defaults */
} family;

static mri_registry *reg;
static MRI_VEC(family) families;
static MRI_VEC(mri_config *) configs;

static void leave(void)
{
    for (size_t i = 0; i < configs.n; i++)
        mri_config_free(configs.v[i]);
    free(configs.v);
    free(families.v);
    mri_registry_free(reg);
}

static void find_families(void)
{
    size_t n;
    reg = mri_registry_create(NULL);
    mri_registry_offer(reg, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(reg, MR_EXT_JSON, &mri_json_service);
    const char **names = mri_registry_names(reg, "model", &n);
    for (size_t i = 0; i < n; i++) {
        char *set = mri_format("model.plugin=%s", names[i]);
        const char *sets[] = { set, "backend.plugin=ref", "data.plugin=text",
                               "data.text.path=unused", "train.steps=1" };
        mr_err err = MR_ERR_INIT;
        mri_config *c;
        bool other = mri_config_load(reg, NULL, sets, sizeof sets / sizeof *sets, &c, &err) != 0;
        free(set);
        if (other) /* needs more than these settings, or services that are not offered here */
            continue;
        const mri_choice *model = mri_config_choice(c, "model", 0);
        family x = { model->unit->table, model->config };
        MRI_PUSH(&families, x);
        MRI_PUSH(&configs, c);
    }
    free(names);
    MRI_ASSERT(families.n >= 3); /* llama4, kimi_k2, deepseek_v3 */
    atexit(leave);
}

static void try_family(const family *x, const mri_json *json)
{
    static const char *const modes[] = { "train", "decode" };
    mr_model_sizes sizes = { .size = sizeof sizes };
    mr_model_env env = { sizeof env, 0, &sizes, json };
    mr_model_info info = { .size = sizeof info };
    mr_err err = MR_ERR_INIT;
    void *model = NULL;
    mr_status st = x->ops->create(mri_registry_host(reg), &env, x->config, &model, &err);
    fuzz_told(st, &err);
    if (st)
        return;
    MRI_ASSERT(!x->ops->info(model, &info, &err));
    for (size_t i = 0; i < 2 && info.layers <= LAYERS_MAX; i++) {
        mr_block_env block = { sizeof block, 0, modes[i], 4, i ? 1 : 0, i ? 8 : 0, 0, 0, 0 };
        mri_assembly *a = NULL;
        st = mri_assemble(x->ops, model, &block, "bf16", &a, &err);
        fuzz_told(st, &err);
        mri_assembly_free(a);
    }
    x->ops->destroy(model);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
    mri_json *json = NULL;
    if (!reg)
        find_families();
    if (!mri_json_parse((const char *)data, n, "config.json", &json, NULL))
        for (size_t i = 0; i < families.n; i++)
            try_family(&families.v[i], json);
    mri_json_free(json);
    return 0;
}
