/* SPDX-License-Identifier: Apache-2.0
 * assembly.c - see assembly.h. */
#include "assembly.h"
#include "border.h"
#include <stdlib.h>
#include <string.h>

static const char *own(mri_assembly *a, const char *s)
{
    char *copy = mri_strdup(s ? s : "");
    MRI_PUSH(&a->strings, copy);
    return copy;
}

bool mri_is_batch_input(const char *name)
{
    static const char *const fields[] = { "tokens",      "positions",  "seq_start", "targets",
                                          "loss_weight", "slot",       "pages",     "logit_rows",
                                          "image_rows",  "pixels",     "features" };
    for (size_t i = 0; i < sizeof fields / sizeof *fields; i++)
        if (!strcmp(name, fields[i]))
            return true;
    return false;
}

static mr_type batch_type(const mr_block_env *env, const char *name)
{
    if (!strcmp(name, "pages") && env->page > 0)
        return mr_type2("i32", env->slots, (env->max_seq + env->page - 1) / env->page);
    if (!strcmp(name, "logit_rows"))
        return mr_type1("i32", env->logit_rows);
    return mr_type1(!strcmp(name, "loss_weight") ? "f32" : "i32",
                    !strcmp(name, "pages") ? 0 : env->tokens);
}

/* ---- the table that assemble() gets ------------------------------------------------------ */

static int32_t a_instance(mr_asm *a, const char *kind, const char *prefix)
{
    if (a->failed)
        return -1;
    if (!kind || !*kind) {
        a->failed = mr_fail(&a->err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "assembly: an instance has no "
                                                                    "block kind");
        return -1;
    }
    uint32_t k = 0;
    while (k < a->kinds.n && strcmp(a->kinds.v[k].name, kind))
        k++;
    if (k == a->kinds.n) {
        mri_kind_prog kp = { own(a, kind), NULL };
        MRI_PUSH(&a->kinds, kp);
    }
    mri_instance inst = { k, own(a, prefix), { 0 }, { 0 } };
    MRI_PUSH(&a->instances, inst);
    return (int32_t)a->instances.n - 1;
}

static void a_edge(mr_asm *a, int32_t from, const char *out, int32_t to, const char *in)
{
    if (a->failed)
        return;
    if (from < 0 || to <= from || (size_t)to >= a->instances.n || !out || !in) {
        a->failed = mr_fail(&a->err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                            "assembly: edge %d -> %d of %zu instances must lead forwards", from, to,
                            a->instances.n);
        return;
    }
    mri_edge e = { own(a, in), own(a, out), from };
    MRI_PUSH(&a->instances.v[to].edges, e);
}

static void a_bind(mr_asm *a, int32_t i, const char *name, const char *full_name)
{
    if (a->failed)
        return;
    if (i < 0 || (size_t)i >= a->instances.n || !name || !full_name) {
        a->failed = mr_fail(&a->err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                            "assembly: bind() on instance %d of %zu", i, a->instances.n);
        return;
    }
    mri_binding b = { own(a, name), own(a, full_name) };
    MRI_PUSH(&a->instances.v[i].bindings, b);
}

/* ---- checks --------------------------------------------------------------------------- */

bool mri_assembly_source(const mri_assembly *a, uint32_t i, const char *in, mri_edge *out)
{
    const mri_instance *inst = &a->instances.v[i];
    for (size_t e = 0; e < inst->edges.n; e++)
        if (!strcmp(inst->edges.v[e].in, in)) {
            *out = inst->edges.v[e];
            return true;
        }
    if (!i || strcmp(in, "x"))
        return false;
    *out = (mri_edge){ "x", "y", (int32_t)i - 1 };
    return true;
}

char *mri_assembly_full_name(const mri_assembly *a, uint32_t i, const char *name)
{
    const mri_instance *inst = &a->instances.v[i];
    for (size_t b = 0; b < inst->bindings.n; b++)
        if (!strcmp(inst->bindings.v[b].name, name))
            return mri_strdup(inst->bindings.v[b].full_name);
    return mri_format("%s%s", inst->prefix, name);
}

/* Does some instance of kind `to` read output `out` (NULL: any) of one of kind `from`? */
static bool reads(const mri_assembly *a, uint32_t to, uint32_t from, const char *out)
{
    const mr_prog *q = a->kinds.v[to].prog;
    for (uint32_t i = 1; i < a->instances.n; i++)
        for (size_t v = 0; a->instances.v[i].kind == to && v < q->values.n; v++) {
            mri_edge e;
            const mri_value *x = &q->values.v[v];
            if (x->kind == MRI_INPUT && !mri_is_batch_input(x->name) &&
                mri_assembly_source(a, i, x->name, &e) && a->instances.v[e.from].kind == from &&
                (!out || !strcmp(e.out, out)))
                return true;
        }
    return false;
}

/* Which kinds the loss of that name depends on, here or behind a border; all where it is NULL. */
static void which_lead(const mri_assembly *a, const char *loss, bool *leads)
{
    for (uint32_t k = 0; k < a->kinds.n; k++)
        leads[k] = !loss || a->kinds.v[k].prog->border == MRI_BORDER_OUT ||
                   mri_port_find(&a->kinds.v[k].prog->losses, loss);
    for (bool more = true; more;) {
        more = false;
        for (uint32_t k = 0; k < a->kinds.n; k++)
            for (uint32_t to = 0; to < a->kinds.n && !leads[k]; to++)
                more |= leads[k] = leads[to] && reads(a, to, k, NULL);
    }
}

mr_list mri_assembly_consumed(const mri_assembly *a, uint32_t kind, const char *loss)
{
    const mr_prog *p = a->kinds.v[kind].prog;
    const char **names = mri_alloc((p->outputs.n + 1) * sizeof *names);
    bool *leads = mri_alloc(a->kinds.n * sizeof *leads);
    uint64_t n = 0;
    which_lead(a, loss, leads);
    for (size_t o = 0; o < p->outputs.n; o++) {
        bool read = false;
        for (uint32_t to = 0; to < a->kinds.n && !read; to++)
            read = leads[to] && reads(a, to, kind, p->outputs.v[o].name);
        if (read)
            names[n++] = p->outputs.v[o].name;
    }
    free(leads);
    return (mr_list){ names, n };
}

/* Does a gradient go into input `in` of some instance of the kind? */
static bool needs_through(const mri_assembly *a, const bool *needs, uint32_t kind, const char *in)
{
    for (uint32_t i = 0; i < a->instances.n; i++) {
        mri_edge e;
        if (a->instances.v[i].kind == kind && mri_assembly_source(a, i, in, &e) &&
            needs[a->instances.v[e.from].kind])
            return true;
    }
    return false;
}

/* By kinds, not by instances: kinds have one program, so a gradient that one instance takes is
 * passed back by all. */
static void which_need(const mri_assembly *a, bool *needs)
{
    for (bool more = true; more;) {
        more = false;
        for (uint32_t k = 0; k < a->kinds.n; k++) {
            const mr_prog *p = a->kinds.v[k].prog;
            bool need = needs[k] || p->border; /* another stage may need it */
            for (size_t v = 0; v < p->values.n && !need; v++) {
                const mri_value *x = &p->values.v[v];
                need = (x->kind == MRI_PARAM && !(x->flags & MR_PARAM_FROZEN)) ||
                       (x->kind == MRI_INPUT && !mri_is_batch_input(x->name) &&
                        needs_through(a, needs, k, x->name));
            }
            more |= need != needs[k];
            needs[k] = need;
        }
    }
}

mr_list mri_assembly_constant(const mri_assembly *a, uint32_t kind)
{
    const mr_prog *p = a->kinds.v[kind].prog;
    const char **names = mri_alloc((p->values.n + 1) * sizeof *names);
    bool *needs = mri_alloc(a->kinds.n * sizeof *needs);
    uint64_t n = 0;
    which_need(a, needs);
    for (size_t v = 0; v < p->values.n; v++)
        if (p->values.v[v].kind == MRI_INPUT && !mri_is_batch_input(p->values.v[v].name) &&
            !needs_through(a, needs, kind, p->values.v[v].name))
            names[n++] = p->values.v[v].name;
    free(needs);
    return (mr_list){ names, n };
}

/* Pictures come in sizes that the family knows: N square tiles, and what they became. */
static bool fits_pictures(const mri_value *x, const mr_block_env *env)
{
    const mr_type *t = &x->type;
    if (!strcmp(x->name, "features"))
        return t->rank == 2;
    return !strcmp(x->name, "pixels") && mr_is(t, "f32") && t->rank == 4 &&
           t->dim[0] == env->images && t->dim[1] == 3 && t->dim[2] == t->dim[3];
}

static mr_status check_fed(const mr_prog *p, const mri_value *x, const mr_block_env *env,
                           mr_err *err)
{
    if (fits_pictures(x, env))
        return 0;
    mr_type fed = batch_type(env, x->name);
    if (mr_same_type(&fed, &x->type))
        return 0;
    mri_str s = { 0 };
    mri_type_print(&fed, &s);
    mri_str_add(&s, ", the block takes ");
    mri_type_print(&x->type, &s);
    mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "input %s of block %s is fed as %s", x->name,
            p->name, s.s);
    mr_hint(err, "mode %s has %lld tokens; see the head of model.h", env->mode,
            (long long)env->tokens);
    mri_str_free(&s);
    return MR_E_PROGRAM;
}

static mr_status check_edges(const mri_assembly *a, const mr_block_env *env, mr_err *err)
{
    mr_status st;
    for (uint32_t i = 0; i < a->instances.n; i++) {
        const mr_prog *p = a->kinds.v[a->instances.v[i].kind].prog;
        for (size_t v = 0; v < p->values.n; v++) {
            const mri_value *x = &p->values.v[v];
            if (x->kind != MRI_INPUT)
                continue;
            if (mri_is_batch_input(x->name)) {
                if ((st = check_fed(p, x, env, err)))
                    return st;
                continue;
            }
            mri_edge e;
            mr_val src = 0;
            if (mri_assembly_source(a, i, x->name, &e)) {
                const mr_prog *q = a->kinds.v[a->instances.v[e.from].kind].prog;
                src = mri_port_find(&q->outputs, e.out);
                if (src && !mr_same_type(&mri_val(q, src)->type, &x->type)) {
                    mri_str s = { 0 };
                    mri_type_print(&mri_val(q, src)->type, &s);
                    mri_str_add(&s, " and not ");
                    mri_type_print(&x->type, &s);
                    mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                            "input %s of block %s: output %s of block %s is %s", x->name, p->name,
                            e.out, q->name, s.s);
                    mri_str_free(&s);
                    return MR_E_PROGRAM;
                }
            }
            if (!src)
                return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                               "input %s of block %s (instance %u, '%s') has no source: it is no "
                               "batch input and no edge leads to it", x->name, p->name, i,
                               a->instances.v[i].prefix);
        }
    }
    return 0;
}

mr_status mri_assembly_build_kind(const mr_model_ops *ops, void *model, const char *kind,
                                  const mr_block_env *env, const char *model_dtype, mr_prog **out,
                                  mr_err *err)
{
    mr_prog *p = *out = mri_prog_new(kind, model_dtype);
    p->decode = !strcmp(env->mode, "decode") && env->page > 0 ? env : NULL;
    mr_status st = ops->build(model, kind, env, &mri_builder, p, err);
    if (!st && p->decode)
        mri_prog_greedy(p);
    p->decode = NULL;
    if (p->failed) { /* the builder's first error explains more than what followed it */
        *err = p->err;
        st = p->failed;
    }
    return st ? st : mri_prog_verify(p, "build", err);
}

mr_status mri_assemble(const mr_model_ops *ops, void *model, const mr_block_env *env,
                       const char *model_dtype, mri_assembly **out, mr_err *err)
{
    mr_status st = 0;
    mri_assembly *a = mri_alloc(sizeof *a);
    mr_assembler assembler = { sizeof assembler, 0, a_instance, a_edge, a_bind, env };
    a->err.size = sizeof a->err;
    MR_TRY(ops->assemble(model, &assembler, a, err));
    if (a->failed) {
        *err = a->err;
        st = a->failed;
        goto out;
    }
    if (!a->instances.n) {
        st = mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "the model assembles no blocks");
        goto out;
    }
    for (size_t k = 0; k < a->kinds.n; k++)
        MR_TRY(mri_assembly_build_kind(ops, model, a->kinds.v[k].name, env, model_dtype,
                                       &a->kinds.v[k].prog, err));
    MR_TRY(check_edges(a, env, err));
out:
    if (st) {
        mri_assembly_free(a);
        a = NULL;
    }
    *out = a;
    return st;
}

/* ---- region names --------------------------------------------------------------------------- */

static bool listed(const char *const *words, size_t n, const char *word)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(words[i], word))
            return true;
    return false;
}

mr_status mri_assembly_check_regions(const mri_assembly *a, const mr_list *names, mr_err *err)
{
    MRI_VEC(const char *) all = { 0 };
    mr_status st = 0;
    MRI_PUSH(&all, "full");
    for (size_t k = 0; k < a->kinds.n; k++)
        for (size_t r = 1; r < a->kinds.v[k].prog->regions.n; r++)
            if (!listed(all.v, all.n, a->kinds.v[k].prog->regions.v[r].name))
                MRI_PUSH(&all, a->kinds.v[k].prog->regions.v[r].name);
    for (uint64_t i = 0; i < names->n && !st; i++) {
        if (listed(all.v, all.n, names->v[i]))
            continue;
        const char *near = mri_nearest(names->v[i], all.v, all.n);
        mri_str s = { 0 };
        for (size_t w = 0; w < all.n; w++)
            mri_str_fmt(&s, "%s%s", w ? ", " : "", all.v[w]);
        st = mr_fail(err, MR_E_PROFILE_VALUE, MR_BLAME_USER,
                     "[train] recompute: the model has no region '%s'%s%s%s", names->v[i],
                     near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
        mr_detail(err, "its regions: %s", s.s);
        mri_str_free(&s);
    }
    free(all.v);
    return st;
}

void mri_assembly_free(mri_assembly *a)
{
    if (!a)
        return;
    for (size_t k = 0; k < a->kinds.n; k++)
        mri_prog_free(a->kinds.v[k].prog);
    for (size_t i = 0; i < a->instances.n; i++) {
        free(a->instances.v[i].edges.v);
        free(a->instances.v[i].bindings.v);
    }
    for (size_t i = 0; i < a->strings.n; i++)
        free(a->strings.v[i]);
    free(a->strings.v);
    free(a->kinds.v);
    free(a->instances.v);
    free(a);
}
