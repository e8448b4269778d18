/* SPDX-License-Identifier: Apache-2.0
 * The optimizer plugins describe an update that the catalogue accepts. */
#include "core/ops/catalogue.h"
#include "mrun/optimizer.h"
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <stdlib.h>

/* a program that notes its values, and the one op that an update ends in */
struct mr_prog {
    mr_type type[16];
    char name[16][24];
    uint32_t n, states, ops;
    char op[24], operands[200]; /* "master momentum - grad" */
    double attr[4];
};

static mr_val value(mr_prog *p, const char *name, const mr_type *t)
{
    p->type[++p->n] = *t;
    snprintf(p->name[p->n], sizeof p->name[0], "%s", name);
    return p->n;
}

static mr_val state(mr_prog *p, const char *name, const mr_type *t, uint32_t flags)
{
    cr_assert_eq(flags, MR_STATE_CHECKPOINT, "a checkpoint without %s resumes elsewhere", name);
    p->states++;
    return value(p, name, t);
}

static mr_val scalar(mr_prog *p, const char *name)
{
    mr_type t = mr_type1("f32", 1);
    return value(p, name, &t);
}

static mr_val op(mr_prog *p, const char *id, const mr_val *in, uint32_t n_in, const mr_attr *attr,
                 uint32_t n_attr, mr_val *out, uint32_t n_out, const char *file, int32_t line)
{
    (void)out, (void)file, (void)line;
    const mr_type *types[16] = { NULL };
    mr_err err = MR_ERR_INIT;
    for (uint32_t i = 0; i < n_in; i++) {
        types[i] = in[i] ? &p->type[in[i]] : NULL;
        size_t at = strlen(p->operands);
        snprintf(p->operands + at, sizeof p->operands - at, "%s%s", i ? " " : "",
                 in[i] ? p->name[in[i]] : "-");
    }
    for (uint32_t i = 0; i < n_attr; i++)
        p->attr[i] = attr[i].type == MR_A_F64 ? attr[i].u.f : (double)attr[i].u.i;
    mr_call call = { sizeof call, n_in, n_out, n_attr, types, NULL, attr };
    cr_assert_not_null(mri_op_find(id), "no op %s", id);
    cr_assert_eq(mri_op_check_call(mri_op_find(id), &call, NULL, &err), 0, "%s", err.what);
    snprintf(p->op, sizeof p->op, "%s", id);
    p->ops++;
    return 0;
}

static const mr_builder builder = {
    .size = sizeof builder, .input = value, .state = state, .scalar = scalar, .op = op
};

static const mr_unit *load(const char *name)
{
    char path[512];
    const char *root = getenv("MRUN_BUILD");
    snprintf(path, sizeof path, "%s/plugins/optimizer/%s/optimizer-%s.so", root ? root : ".", name,
             name);
    void *so = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    cr_assert_not_null(so, "%s", dlerror());
    const mr_plugin *p = dlsym(so, MR_PLUGIN_SYMBOL_NAME);
    cr_assert_not_null(p);
    cr_assert_eq(p->n_units, 1);
    cr_assert_str_eq(p->units->kind, "optimizer");
    cr_assert_str_eq(p->units->name, name);
    return p->units;
}

/* build() over a flat vector of bf16 weights, with this config */
static mr_prog build(const mr_unit *u, const void *config)
{
    const mr_optimizer_ops *o = u->table;
    const mr_type weights = mr_type1("bf16", 1000);
    mr_err err = MR_ERR_INIT;
    mr_prog p = { 0 };
    void *self;
    cr_assert(o->flags & MR_OPTIM_FLAT);
    cr_assert_eq(o->create(NULL, config, &self, &err), 0, "%s", err.what);
    cr_assert_eq(o->build(self, &weights, &builder, &p, &err), 0, "%s", err.what);
    o->destroy(self);
    cr_assert_eq(p.ops, 1);
    return p;
}

Test(optimizer_plugins, adamw_ends_in_the_op_of_its_name)
{
    const mr_unit *u = load("adamw");
    const double config[3] = { 0.8, 0.9, 1e-6 };
    cr_assert_eq(u->config_size, sizeof config);
    mr_prog p = build(u, config);
    cr_assert_str_eq(p.op, "adamw");
    cr_assert_str_eq(p.operands, "master exp_avg exp_avg_sq grad lr weight_decay step grad_scale "
                                 "ok");
    cr_assert_eq(p.states, 3);
    cr_assert(p.attr[0] == 0.8 && p.attr[1] == 0.9 && p.attr[2] == 1e-6);
}

struct sgd {
    double momentum;
    int32_t nesterov, pad;
};

Test(optimizer_plugins, sgd_keeps_momentum_only_if_it_has_some)
{
    const mr_unit *u = load("sgd");
    cr_assert_eq(u->config_size, sizeof(struct sgd));
    mr_prog p = build(u, &(struct sgd){ 0, 0, 0 });
    cr_assert_str_eq(p.op, "sgd");
    cr_assert_str_eq(p.operands, "master - grad lr weight_decay grad_scale ok");
    cr_assert_eq(p.states, 1);
    p = build(u, &(struct sgd){ 0.9, 1, 0 });
    cr_assert_str_eq(p.operands, "master momentum grad lr weight_decay grad_scale ok");
    cr_assert_eq(p.states, 2);
    cr_assert(p.attr[0] == 0.9 && p.attr[1] == 1);
}

Test(optimizer_plugins, sgd_refuses_nesterov_without_momentum)
{
    const mr_optimizer_ops *o = load("sgd")->table;
    mr_err err = MR_ERR_INIT;
    void *self = NULL;
    cr_assert_eq(o->create(NULL, &(struct sgd){ 0, 1, 0 }, &self, &err), MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, "nesterov") && strstr(err.hint, "momentum"));
}

Test(optimizer_plugins, options_lie_in_the_config)
{
    static const char *const names[] = { "adamw", "sgd" };
    for (int k = 0; k < 2; k++) {
        const mr_unit *u = load(names[k]);
        for (uint32_t i = 0; i < u->n_opts; i++) {
            const mr_opt *o = &u->opts[i];
            size_t bytes = o->type == MR_T_BOOL ? 4 : 8;
            cr_assert(o->offset + bytes <= u->config_size, "%s", o->key);
            if (o->type == MR_T_FLOAT) {
                double def = strtod(o->def, NULL);
                cr_assert(o->lo < o->hi && def >= o->lo && def <= o->hi, "%s", o->key);
            }
        }
    }
}
