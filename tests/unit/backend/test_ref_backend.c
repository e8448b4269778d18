/* SPDX-License-Identifier: Apache-2.0
 *
 * backend/ref gives exactly what the host's reference loops give, in every dtype, and says so
 * when the host does not lend them.
 */
#include "backend_rig.h"

Test(ref, is_the_reference)
{
    rig r;
    rig_open(&r, "ref", NULL);
    r.tol_f32 = r.tol_bf16 = 0;
    r.has_f64 = true;
    rig_catalogue(&r, "f32");
    rig_catalogue(&r, "bf16");
    rig_catalogue(&r, "f64");
    cr_expect_gt(r.compared, 10000);
    rig_close(&r);
}

static const void *no_ext(void *self, const char *id)
{
    (void)self, (void)id;
    return NULL;
}

Test(ref, needs_the_hosts_loops)
{
    rig r;
    mr_err err = MR_ERR_INIT;
    void *dev = NULL;
    rig_open(&r, "ref", NULL);
    mr_host poor = r.host;
    poor.ext = no_ext;
    cr_assert_eq(r.ops->open(&poor, NULL, 0, &dev, &err), MR_E_UNSUPPORTED);
    cr_assert(strstr(err.what, MR_EXT_REF), "%s", err.what);
    cr_assert_eq(r.ops->open(&r.host, NULL, 1, &dev, &err), MR_E_DEVICE);
    rig_close(&r);
}

Test(ref, refuses_an_unknown_op)
{
    rig r;
    mr_err err = MR_ERR_INIT;
    mr_call call = { .size = sizeof call };
    mr_kernel_info info = { .size = sizeof info };
    void *kernel = NULL;
    rig_open(&r, "ref", NULL);
    cr_assert_eq(r.ops->query(r.dev, "no.such.op", &call, 0, &kernel, &info, &err),
                 MR_E_UNSUPPORTED);
    cr_assert(strstr(err.what, "no.such.op"), "%s", err.what);
    rig_close(&r);
}
