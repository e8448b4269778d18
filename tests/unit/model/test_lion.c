/* SPDX-License-Identifier: Apache-2.0
 * The outside optimizer lion: its op's loops are the paper's update. */
#include "fake.h"
#include "mrun/op.h"
#include "mrun/optimizer.h"
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <math.h>
#include <stdlib.h>

static const mr_unit *lion_unit(const char *kind)
{
    char path[512];
    snprintf(path, sizeof path, "%s/tests/unit/model/lion.so", getenv("MRUN_BUILD"));
    void *lib = dlopen(path, RTLD_NOW);
    cr_assert(lib, "%s", dlerror());
    const mr_plugin *p = dlsym(lib, MR_PLUGIN_SYMBOL_NAME);
    for (uint32_t i = 0; i < p->n_units; i++)
        if (!strcmp(p->units[i].kind, kind))
            return &p->units[i];
    cr_assert_fail("no unit of kind %s", kind);
    return NULL;
}

enum { N = 3 };
typedef struct step { /* the operands of one use */
    float w[N], m[N], g[N], lr, decay, scale, ok;
} step;

static mr_status run(const mr_op_def *op, step *s, double beta1, double beta2, mr_err *err)
{
    mr_type v = mr_type1("f32", N), one = mr_type1("f32", 1);
    const mr_type *types[] = { &v, &v, &v, &one, &one, &one, &one };
    mr_attr at[] = { mr_af("beta1", beta1), mr_af("beta2", beta2) };
    mr_call call = { sizeof call, 7, 0, 2, types, NULL, at };
    mr_buf in[] = { { s->w, 0 },      { s->m, 0 },      { s->g, 0 },  { &s->lr, 0 },
                    { &s->decay, 0 }, { &s->scale, 0 }, { &s->ok, 0 } };
    mr_status st = op->shape(&call, NULL, err);
    return st ? st : op->ref(&call, in, NULL, err);
}

Test(lion, moves_each_weight_by_the_sign_of_its_momentum)
{
    const mr_op_def *op = lion_unit("op")->table;
    mr_err err = MR_ERR_INIT;
    /* beta1 m + (1 - beta1) g scale: 0.9 - 0.1 = 0.8; 0.9 - 1 = -0.1; 0 */
    step s = { { 1, 2, 3 }, { 1, 1, 0 }, { -2, -20, 0 }, 0.01f, 0.5f, 0.5f, 1 };
    cr_assert_eq(run(op, &s, 0.9, 0.99, &err), 0, "%s", err.what);
    const double w[] = { 1 - 0.01 * (1 + 0.5), 2 - 0.01 * (-1 + 1.0), 3 - 0.01 * 1.5 };
    const double m[] = { 0.99 - 0.01, 0.99 - 0.1, 0 };
    for (int i = 0; i < N; i++) {
        cr_assert_float_eq(s.w[i], w[i], 1e-6);
        cr_assert_float_eq(s.m[i], m[i], 1e-6);
    }
}

Test(lion, a_bad_step_changes_no_bit)
{
    const mr_op_def *op = lion_unit("op")->table;
    mr_err err = MR_ERR_INIT;
    step s = { { 1, 2, 3 }, { 1, 1, 0 }, { NAN, INFINITY, 1 }, 0.01f, 0.5f, 1, 0 }, before = s;
    cr_assert_eq(run(op, &s, 0.9, 0.99, &err), 0);
    cr_assert_arr_eq(&s, &before, sizeof s);
}

Test(lion, a_beta_of_one_is_refused)
{
    const mr_op_def *op = lion_unit("op")->table;
    mr_err err = MR_ERR_INIT;
    step s = { 0 };
    cr_assert_eq(run(op, &s, 1, 0.99, &err), MR_E_OP_SHAPE);
    cr_assert(strstr(err.what, "beta1 = 1"));
}
