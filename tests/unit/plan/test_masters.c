/* SPDX-License-Identifier: Apache-2.0
 *
 * Masters of bf16 weights, whole or as the remainder that the weights leave: the same updates to
 * the bit, checkpoints that hold f32 and go from one kind to the other, parameters that blocks
 * read in f32 beside both, and what knows masters only: a backend, an optimizer's op.
 */
#include "core/ops/ref.h"
#include "tests/unit/store/scratch.h"
#include "wrapped.h"

enum { NEEDS = MRI_NEED_TRAIN | MRI_NEED_UPDATE };

/* ---- a model whose norms ask for f32 ------------------------------------------------------- */
static const mr_model_ops *inner_model;

static mr_val norms_in_f32(mr_prog *p, const char *name, const mr_param *desc)
{
    mr_param d = *desc;
    if (strstr(name, "norm"))
        d.flags |= MR_PARAM_F32;
    return mri_builder.param(p, name, &d);
}

static mr_status build_with_f32(void *model, const char *kind, const mr_block_env *env,
                                const mr_builder *b, mr_prog *p, mr_err *err)
{
    mr_builder mine = *b;
    mine.param = norms_in_f32;
    return inner_model->build(model, kind, env, &mine, p, err);
}

static void ask_for_f32(mri_config *c)
{
    static mr_model_ops ops;
    static mr_unit unit;
    mri_choice *choice = (mri_choice *)(uintptr_t)mri_config_choice(c, "model", 0);
    inner_model = choice->unit->table;
    ops = *inner_model;
    ops.build = build_with_f32;
    unit = *choice->unit;
    unit.table = &ops;
    choice->unit = &unit;
}

/* ---- sessions ------------------------------------------------------------------------------ */
static kit open_as(const char *masters, const char *optimizer, bool f32_norms, const char *frozen)
{
    char *m = mri_format("precision.masters=%s", masters);
    char *o = mri_format("optimizer.plugin=%s", optimizer);
    char *g = mri_format("optimizer.groups=%s", frozen ? frozen : "*.o_proj.weight:lr_mult=0.5");
    const char *sets[64] = { "backend.plugin=cpu", "precision.recipe=bf16",
                             "train.micro_batch=2", m, o, g, TINY_MODEL };
    mr_err err = MR_ERR_INIT;
    size_t n = 0;
    kit k = { 0 };
    while (sets[n])
        n++;
    k.registry = mri_registry_create(NULL);
    mri_registry_offer(k.registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(k.registry, MR_EXT_JSON, &mri_json_service);
    kit_ok(mri_config_load(k.registry, NULL, sets, n, &k.config, &err), &err, "config");
    if (f32_norms)
        ask_for_f32(k.config);
    mri_session_options so = { .needs = NEEDS };
    kit_ok(mri_session_open(k.registry, k.config, &so, &k.session, &err), &err, "session");
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    free(m);
    free(o);
    free(g);
    return k;
}

/* An update on made-up gradients: equal for equal steps. */
static void take_step(mri_session *s, int step)
{
    mr_err err = MR_ERR_INIT;
    mri_update_result u;
    for (size_t i = 0; i < s->params.slots.n; i++) {
        float *g = mri_params_grad(&s->params, &s->params.slots.v[i]); /* cpu: host memory */
        for (uint64_t k = 0; g && k < s->params.slots.v[i].n; k++)
            g[k] = 0.01f * sinf((float)(k * 7 + i * 13 + (uint64_t)step * 31));
    }
    kit_ok(mri_update_run(s->update, 3e-3, 0.1, step, &u, &err), &err, "step");
    cr_assert(u.ok);
    s->done.step = step;
}

static void take_steps(mri_session *s, int first, int last)
{
    for (int step = first; step <= last; step++)
        take_step(s, step);
}

static float *masters_of(mri_session *s, const mri_tensor_slot *slot)
{
    mr_err err = MR_ERR_INIT;
    const char *dtype;
    float *x = mri_alloc(slot->n * sizeof *x);
    mri_params_exact(&s->params, slot, &dtype);
    cr_assert_str_eq(dtype, "f32");
    kit_ok(mri_params_get(&s->params, &s->device, slot, x, &err), &err, slot->name);
    return x;
}

/* Masters and states agree to the bit. Weights are the masters in bf16, where only ties may be
 * rounded otherwise by `b`; parameters that are read in f32 are the masters themselves. */
static void same_state(mri_session *a, mri_session *b)
{
    size_t compared = 0, f32 = 0;
    for (size_t i = 0; i < a->params.slots.n; i++) {
        const mri_tensor_slot *x = &a->params.slots.v[i], *y = &b->params.slots.v[i];
        float *p = masters_of(a, x), *q = masters_of(b, y);
        const uint16_t *v = mri_params_weight(&a->params, x), *w = mri_params_weight(&b->params, y);
        cr_assert(!memcmp(p, q, x->n * sizeof *p), "masters of %s differ", x->name);
        for (uint64_t k = 0; k < x->n && !x->f32; k++) {
            uint32_t u;
            memcpy(&u, &p[k], 4);
            cr_assert_eq(v[k], mri_f32_to_bf16(p[k]), "%s[%llu]", x->name, (unsigned long long)k);
            cr_assert(w[k] == v[k] || (u & 0xffff) == 0x8000, "%s[%llu]: %04x and %04x of %08x",
                      x->name, (unsigned long long)k, v[k], w[k], u);
        }
        cr_assert(!x->f32 || (!memcmp(v, p, x->n * 4) && !memcmp(w, p, x->n * 4)), "%s", x->name);
        compared += x->n;
        f32 += x->f32;
        free(p);
        free(q);
    }
    cr_assert_eq(compared, a->params.count);
    cr_assert_eq(a->update->states.n, b->update->states.n);
    for (size_t i = 0; i < a->update->states.n; i++) {
        const mri_opt_state *x = &a->update->states.v[i], *y = &b->update->states.v[i];
        cr_assert_str_eq(x->name, y->name);
        cr_assert(!memcmp(x->data, y->data, a->params.groups.v[x->group].n * 4), "%s", x->name);
    }
}

/* ---- claims -------------------------------------------------------------------------------- */
Test(masters, a_remainder_is_f32_to_the_bit)
{
    static const char *const optimizers[] = { "adamw", "sgd" };
    for (int k = 0; k < 4; k++) {
        kit a = open_as("f32", optimizers[k % 2], k / 2, NULL);
        kit b = open_as("remainder", optimizers[k % 2], k / 2, NULL);
        cr_assert(!a.session->params.rest && b.session->params.rest);
        same_state(a.session, b.session);
        for (int step = 1; step <= 6; step++) {
            take_step(a.session, step);
            take_step(b.session, step);
            same_state(a.session, b.session);
        }
        kit_close(&a);
        kit_close(&b);
    }
}

Test(masters, a_remainder_takes_two_bytes_less)
{
    kit a = open_as("f32", "adamw", false, NULL), b = open_as("remainder", "adamw", false, NULL);
    mri_memory m, n;
    mri_session_memory(a.session, &m);
    mri_session_memory(b.session, &n);
    cr_assert_eq(m.parameters, n.parameters + 2 * a.session->params.total);
    cr_assert_eq(m.optimizer, n.optimizer);
    kit_close(&a);
    kit_close(&b);
}

/* What blocks read in f32 has a group, masters and no weights of its own; the rest of the layout
 * holds as it is, frozen or not. */
Test(masters, parameters_in_f32_keep_whole_masters)
{
    static const char frozen[] = "model.layers.1.*:frozen";
    kit k = open_as("remainder", "adamw", true, frozen);
    const mri_params *p = &k.session->params;
    size_t f32 = 0, still = 0;
    uint64_t at = 0;
    for (size_t g = 0; g < p->groups.n; g++) {
        cr_assert_eq(p->groups.v[g].at, at);
        at += p->groups.v[g].n;
        cr_assert(p->groups.v[g].frozen == (p->groups.v[g].at >= p->trainable));
        if (p->groups.v[g].f32)
            cr_assert(p->groups.v[g].at >= p->f32_at &&
                      p->groups.v[g].at + p->groups.v[g].n <= p->f32_at + p->f32_n);
    }
    cr_assert_eq(at, p->total);
    cr_assert_eq(p->master_n, p->f32_n);
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_tensor_slot *s = &p->slots.v[i];
        const char *dtype;
        cr_assert_eq(s->f32, strstr(s->name, "norm") != NULL, "%s", s->name);
        cr_assert_eq(mri_params_exact(p, s, &dtype) != NULL, s->f32, "%s", s->name);
        f32 += s->f32;
        still += s->f32 && p->groups.v[s->group].frozen;
    }
    cr_assert(f32 > still && still > 0, "%zu in f32, %zu of them frozen", f32, still);
    kit whole = open_as("f32", "adamw", true, frozen);
    take_steps(k.session, 1, 3);
    take_steps(whole.session, 1, 3);
    same_state(whole.session, k.session);
    kit_close(&whole);
    kit_close(&k);
}

/* Saved by one kind, loaded by either: it goes on as the one that was never stopped. */
Test(masters, checkpoints_go_from_kind_to_kind)
{
    static const char *const kinds[] = { "f32", "remainder" };
    for (int k = 0; k < 4; k++) {
        char *dir = scratch_make();
        mr_err err = MR_ERR_INIT;
        mri_checkpoint *ck = NULL;
        kit a = open_as("f32", "adamw", true, NULL);
        kit from = open_as(kinds[k / 2], "adamw", true, NULL);
        kit to = open_as(kinds[k % 2], "adamw", true, NULL);
        take_steps(a.session, 1, 5);
        take_steps(from.session, 1, 3);
        kit_ok(mri_session_save(from.session, dir, 0, &err), &err, "save");
        kit_ok(mri_checkpoint_open_newest(dir, &ck, &err), &err, "open");
        for (size_t i = 0; i < to.session->params.slots.n; i++) {
            const mri_tensor *t = mri_safetensors_find(mri_checkpoint_group(ck, "model"),
                                                       to.session->params.slots.v[i].name);
            cr_assert(t && mr_is(&t->type, "f32"));
        }
        kit_ok(mri_session_load(to.session, ck, false, &err), &err, "load");
        take_steps(to.session, 4, 5);
        same_state(a.session, to.session);
        mri_checkpoint_close(ck);
        kit_close(&a);
        kit_close(&from);
        kit_close(&to);
        scratch_drop(dir);
    }
}

/* ---- a backend of before the operand -------------------------------------------------------- */
static bool stored;

static mr_status old_query(void *dev, const char *op, const mr_call *c, uint32_t flags,
                           void **kernel, mr_kernel_info *info, mr_err *err)
{
    if (!strcmp(op, "adamw") && c->n_in > 9 && c->in[9])
        return mr_fail(err, MR_E_UNSUPPORTED, MR_BLAME_USER, "adamw has no operand weights here");
    stored |= !strcmp(op, "store");
    return w_query(dev, op, c, flags, kernel, info, err);
}

/* its memory is not the host's: no reference loops take over what it lacks */
static const void *no_ext(void *dev, const char *id)
{
    (void)dev;
    (void)id;
    return NULL;
}

static void old_backend(mri_config *c)
{
    wrap(c);
    wrapped.ops.query = old_query;
    wrapped.ops.ext = no_ext;
}

static mr_status open_odd(kit *k, const char *masters, void (*change)(mri_config *), mr_err *err)
{
    const char *sets[64] = { "backend.plugin=cpu", "precision.recipe=bf16", masters, TINY_MODEL };
    mri_session_options so = { .needs = NEEDS };
    size_t n = 0;
    while (sets[n])
        n++;
    k->registry = mri_registry_create(NULL);
    mri_registry_offer(k->registry, MR_EXT_REF, &mri_ref_service);
    mri_registry_offer(k->registry, MR_EXT_JSON, &mri_json_service);
    kit_ok(mri_config_load(k->registry, NULL, sets, n, &k->config, err), err, "config");
    change(k->config);
    return mri_session_open(k->registry, k->config, &so, &k->session, err);
}

Test(masters, an_older_backend_stores_weights_in_a_pass_of_its_own)
{
    mr_err err = MR_ERR_INIT;
    kit k = { 0 }, a;
    kit_ok(open_odd(&k, "precision.masters=f32", old_backend, &err), &err, "session");
    cr_assert(stored);
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    a = open_as("f32", "adamw", false, "*.o_proj.weight:lr_mult=1");
    take_steps(a.session, 1, 2);
    take_steps(k.session, 1, 2);
    same_state(a.session, k.session);
    kit_close(&a);
    kit_close(&k);
}

Test(masters, a_remainder_needs_the_update_that_knows_it)
{
    mr_err err = MR_ERR_INIT;
    kit k = { 0 };
    cr_assert_neq(open_odd(&k, "precision.masters=remainder", old_backend, &err), MR_OK);
    cr_assert(strstr(err.what, "adamw"), "%s", err.what);
    mri_config_free(k.config);
    mri_registry_free(k.registry);
}

/* ---- an optimizer with an op that knows masters only ----------------------------------------- */
static const mr_optimizer_ops *inner_optimizer;

static mr_status build_with_more(void *optimizer, const mr_type *param, const mr_builder *b,
                                 mr_prog *p, mr_err *err)
{
    mr_status st = inner_optimizer->build(optimizer, param, b, p, err);
    mr_net net = { b, p };
    MR_OPN(net, "accumulate", NULL, 0,
           MR_IN(b->input(p, "grad", param), b->state(p, "master", param, 0)), MR_NOAT);
    return st;
}

static void odd_optimizer(mri_config *c)
{
    static mr_optimizer_ops ops;
    static mr_unit unit;
    mri_choice *choice = (mri_choice *)(uintptr_t)mri_config_choice(c, "optimizer", 0);
    inner_optimizer = choice->unit->table;
    ops = *inner_optimizer;
    ops.build = build_with_more;
    unit = *choice->unit;
    unit.table = &ops;
    choice->unit = &unit;
}

Test(masters, an_op_that_knows_masters_only_gets_whole_ones)
{
    mr_err err = MR_ERR_INIT;
    kit k = { 0 };
    kit_ok(open_odd(&k, "precision.masters=f32", odd_optimizer, &err), &err, "session");
    const mri_params *p = &k.session->params;
    kit_ok(mri_session_init_weights(k.session, &err), &err, "weights");
    take_steps(k.session, 1, 2);
    cr_assert_not_null(k.session->update->parts.v[0].store);
    for (size_t i = 0; i < p->slots.n; i++) {
        const uint16_t *w = mri_params_weight(p, &p->slots.v[i]);
        float *m = masters_of(k.session, &p->slots.v[i]);
        for (uint64_t j = 0; j < p->slots.v[i].n; j++)
            cr_assert_eq(w[j], mri_f32_to_bf16(m[j]), "%s", p->slots.v[i].name);
        free(m);
    }
    kit_close(&k);
    cr_assert_eq(open_odd(&k, "precision.masters=remainder", odd_optimizer, &err),
                 MR_E_PROFILE_CONFLICT);
    cr_assert(strstr(err.what, "accumulate") && strstr(err.hint, "masters = f32"), "%s | %s",
              err.what, err.hint);
    mri_config_free(k.config);
    mri_registry_free(k.registry);
}
