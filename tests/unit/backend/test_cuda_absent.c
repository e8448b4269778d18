/* SPDX-License-Identifier: Apache-2.0
 *
 * backend/cuda where there is no GPU: the plugin loads, says what it is and what it takes, exports
 * one symbol, and opening a device fails with an error that names the lack and the next step.
 */
#include "backend_rig.h"

Test(cuda_absent, loads_and_describes_itself)
{
    char *path = mri_format("%s/plugins/backend/cuda/cuda.so", getenv("MRUN_BUILD"));
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert(so, "%s", dlerror());
    const mr_plugin *p = dlsym(so, MR_PLUGIN_SYMBOL_NAME);
    cr_assert(p && p->n_units == 1);
    cr_assert_str_eq(p->units[0].name, "cuda");
    cr_assert_eq(p->units[0].config_size, sizeof(rig_cuda));
    cr_assert(!dlsym(so, "cuda_backend") && !dlsym(so, "cudaMalloc"), "it exports more than one");
    dlclose(so);
    free(path);
}

Test(cuda_absent, is_listed)
{
    char line[512], *command = mri_format("'%s' plugins 2>&1", getenv("MRUN_EXE"));
    bool listed = false;
    FILE *f = popen(command, "r");
    cr_assert(f);
    while (fgets(line, sizeof line, f))
        listed |= !strncmp(line, "backend ", 8) && strstr(line, " cuda ") && strstr(line, "ok");
    cr_assert_eq(pclose(f), 0);
    cr_expect(listed);
    free(command);
}

Test(cuda_absent, open_says_what_is_missing)
{
    rig r;
    rig_cuda config = { 0 };
    mr_err err = MR_ERR_INIT;
    mr_status st = rig_try_open(&r, "cuda", &config, &err);
    if (!st) {
        r.ops->close(r.dev);
        cr_skip_test("there is a GPU");
    }
    cr_expect_eq(st, MR_E_DEVICE);
    cr_expect(strstr(err.what, "NVIDIA"), "%s", err.what);
    cr_expect(strstr(err.detail, "built with CUDA"), "%s", err.detail);
    cr_expect(strstr(err.hint, "nvidia-smi"), "%s", err.hint);
    cr_expect(!r.dev);
}
