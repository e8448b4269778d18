/* SPDX-License-Identifier: Apache-2.0
 * fake.c - see fake.h. */
#include "fake.h"
#include "shapes.h"
#include <criterion/criterion.h>
#include <dlfcn.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>

/* ---- the builder ---------------------------------------------------------------------- */
MR_PRINTF(2, 3) static mr_val refuse(mr_prog *p, const char *fmt, ...)
{
    if (!p->error.n) {
        va_list ap;
        va_start(ap, fmt);
        mri_str_vfmt(&p->error, fmt, ap);
        va_end(ap);
    }
    return 0;
}

static mr_val add_value(mr_prog *p, const char *name, const mr_type *t, char role)
{
    fk_value v = { .type = *t, .role = role };
    snprintf(v.name, sizeof v.name, "%s", name);
    for (uint32_t d = 0; d < t->rank; d++)
        if (t->dim[d] < 1)
            return refuse(p, "%s: dim %u is %lld", name, d, (long long)t->dim[d]);
    MRI_PUSH(&p->values, v);
    return (mr_val)p->values.n;
}

static mr_val b_param(mr_prog *p, const char *name, const mr_param *q)
{
    fk_param r = { .type = q->type, .scale = q->scale, .flags = q->flags };
    if (q->size != sizeof *q || q->type.size != sizeof q->type)
        return refuse(p, "parameter %s: sizes are not set", name);
    if (fk_param_named(p, name))
        return refuse(p, "parameter %s is declared twice", name);
    snprintf(r.name, sizeof r.name, "%s", name);
    snprintf(r.placement, sizeof r.placement, "%s", q->placement);
    snprintf(r.init, sizeof r.init, "%s", q->init);
    snprintf(r.tensors, sizeof r.tensors, "%s", q->tensors ? q->tensors : "");
    MRI_PUSH(&p->params, r);
    return add_value(p, name, &q->type, 'p');
}

static mr_val b_input(mr_prog *p, const char *name, const mr_type *t)
{
    const fk_named *known = fk_named_in(p->inputs.v, p->inputs.n, name);
    if (known)
        return known->v;
    fk_named in = { .v = add_value(p, name, t, 'i') };
    snprintf(in.name, sizeof in.name, "%s", name);
    MRI_PUSH(&p->inputs, in);
    return in.v;
}

static mr_val b_state(mr_prog *p, const char *name, const mr_type *t, uint32_t flags)
{
    fk_named s = { .v = add_value(p, name, t, 's'), .flags = flags };
    snprintf(s.name, sizeof s.name, "%s", name);
    MRI_PUSH(&p->states, s);
    return s.v;
}

static mr_val b_scalar(mr_prog *p, const char *name)
{
    mr_type t = mr_type1("f32", 1);
    return add_value(p, name, &t, 's');
}

static void region_path(const mr_prog *p, char *out, size_t cap)
{
    size_t n = 0;
    out[0] = 0;
    for (uint32_t i = 0; i < p->depth && n < cap; i++)
        n += (size_t)snprintf(out + n, cap - n, "%s%s", i ? "/" : "", p->stack[i]);
}

static void attr_text(mri_str *s, const mr_attr *a)
{
    mri_str_fmt(s, " %s=", a->key);
    if (a->type == MR_A_I64)
        mri_str_fmt(s, "%lld", (long long)a->u.i);
    else if (a->type == MR_A_F64)
        mri_str_fmt(s, "%.9g", a->u.f);
    else if (a->type == MR_A_STR)
        mri_str_add(s, a->u.s);
    else
        for (uint32_t i = 0; i < a->n; i++)
            mri_str_fmt(s, "%s%.9g", i ? "," : "", a->u.fs[i]);
}

static void type_text(mri_str *s, const mr_type *t)
{
    mri_str_fmt(s, "%s[", t->dtype);
    for (uint32_t d = 0; d < t->rank; d++)
        mri_str_fmt(s, "%s%lld", d ? "," : "", (long long)t->dim[d]);
    mri_str_add(s, "]");
}

/* operands against "x w bias? -> y": what is wrong, or NULL */
static const char *check_operands(const fk_shape *shape, const mr_val *in, uint32_t n_in,
                                  uint32_t n_out)
{
    char sig[160], *save = NULL;
    uint32_t i = 0, outs = 0;
    bool after = false;
    snprintf(sig, sizeof sig, "%s", shape->sig);
    for (char *w = strtok_r(sig, " ", &save); w; w = strtok_r(NULL, " ", &save)) {
        if (!strcmp(w, "->")) {
            after = true;
        } else if (after) {
            outs++;
        } else {
            bool optional = w[strlen(w) - 1] == '?';
            if (i >= n_in && !optional)
                return "too few operands";
            if (i < n_in && !in[i] && !optional)
                return "an operand that is not optional is absent";
            i++;
        }
    }
    if (n_in > i)
        return "too many operands";
    return outs == n_out ? NULL : "wrong number of outputs";
}

static bool knows_attr(const fk_shape *shape, const char *key)
{
    const char *at = strstr(shape->attrs, key);
    size_t n = strlen(key);
    return at && (at == shape->attrs || at[-1] == ' ') && (!at[n] || at[n] == ' ');
}

static mr_val b_op(mr_prog *p, const char *id, const mr_val *in, uint32_t n_in, const mr_attr *attr,
                   uint32_t n_attr, mr_val *out, uint32_t n_out, const char *file, int32_t line)
{
    const fk_shape *shape = fk_shape_of(id);
    const mr_type *in_type[16] = { 0 };
    mr_type out_type[8];
    fk_op op = { .id = id, .n_in = n_in, .n_out = n_out, .n_attr = n_attr };
    mri_str text = { 0 };

    if (p->error.n)
        return 0;
    if (!shape || n_in > 16 || n_out > 8 || n_attr > 12 || !file || line < 1)
        return refuse(p, "%s at %s:%d: unknown op or malformed call", id, file, line);
    const char *wrong = check_operands(shape, in, n_in, n_out);
    for (uint32_t i = 0; i < n_attr && !wrong; i++)
        if (!knows_attr(shape, attr[i].key))
            wrong = attr[i].key;
    if (wrong)
        return refuse(p, "%s at %s:%d: %s", id, file, line, wrong);
    mri_str_fmt(&text, "%s(", id);
    for (uint32_t i = 0; i < n_in; i++) {
        op.in[i] = in[i];
        in_type[i] = in[i] ? &p->values.v[in[i] - 1].type : NULL;
        mri_str_fmt(&text, "%s%s", i ? ", " : "", in[i] ? p->values.v[in[i] - 1].name : "-");
    }
    mri_str_add(&text, ")");
    for (uint32_t i = 0; i < n_attr; i++) {
        op.attr[i] = attr[i];
        if (attr[i].type == MR_A_F64S) { /* the plugin's array need not outlive the call */
            double *copy = mri_alloc(attr[i].n * sizeof *copy);
            memcpy(copy, attr[i].u.fs, attr[i].n * sizeof *copy);
            op.attr[i].u.fs = copy;
            MRI_PUSH(&p->pool, (void *)copy);
        }
        attr_text(&text, &attr[i]);
    }
    mr_call call = { sizeof call, n_in, n_out, n_attr, in_type, NULL, attr };
    wrong = shape->infer(&call, out_type);
    if (wrong)
        refuse(p, "%s at %s:%d violates %s", text.s, file, line, wrong);
    mri_str_add(&text, " ->");
    for (uint32_t i = 0; i < n_out && !wrong; i++) {
        char name[80];
        snprintf(name, sizeof name, i ? "%%%zu.%u" : "%%%zu", p->ops.n, i);
        out[i] = op.out[i] = add_value(p, name, &out_type[i], 'o');
        mri_str_add(&text, " ");
        type_text(&text, &out_type[i]);
    }
    snprintf(op.text, sizeof op.text, "%s", text.s);
    mri_str_free(&text);
    region_path(p, op.region, sizeof op.region);
    MRI_PUSH(&p->ops, op);
    return n_out ? op.out[0] : 0;
}

static void b_region(mr_prog *p, const char *name)
{
    if (p->depth == 8)
        refuse(p, "region %s is nested too deep", name);
    else
        snprintf(p->stack[p->depth++], sizeof p->stack[0], "%s", name);
}

static void b_end(mr_prog *p)
{
    if (p->depth)
        p->depth--;
    else
        refuse(p, "a region is closed that is not open");
}

static void b_output(mr_prog *p, const char *name, mr_val v)
{
    fk_named o = { .v = v };
    if (!v)
        refuse(p, "output %s is no value", name);
    snprintf(o.name, sizeof o.name, "%s", name);
    MRI_PUSH(&p->outputs, o);
}

static void b_loss(mr_prog *p, const char *name, mr_val v)
{
    fk_named l = { .v = v };
    if (!v || mr_numel(fk_type(p, v)) != 1 || !mr_is(fk_type(p, v), "f32"))
        refuse(p, "loss %s is not f32 [1]", name);
    snprintf(l.name, sizeof l.name, "%s", name);
    MRI_PUSH(&p->losses, l);
}

static const mr_type *b_type(mr_prog *p, mr_val v)
{
    return fk_type(p, v);
}

static const mr_builder builder = { sizeof builder, 0,        b_param, b_input,  b_state, b_scalar,
                                    b_op,           b_region, b_end,   b_output, b_loss,  b_type };

/* ---- reading a recorded block --------------------------------------------------------- */
const mr_type *fk_type(const mr_prog *p, mr_val v)
{
    cr_assert(v && v <= p->values.n);
    return &p->values.v[v - 1].type;
}

const fk_op *fk_find(const mr_prog *p, const char *id, size_t nth)
{
    for (size_t i = 0; i < p->ops.n; i++)
        if (!strcmp(p->ops.v[i].id, id) && !nth--)
            return &p->ops.v[i];
    return NULL;
}

const fk_param *fk_param_named(const mr_prog *p, const char *name)
{
    for (size_t i = 0; i < p->params.n; i++)
        if (!strcmp(p->params.v[i].name, name))
            return &p->params.v[i];
    return NULL;
}

const fk_named *fk_named_in(const fk_named *v, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(v[i].name, name))
            return &v[i];
    return NULL;
}

const mr_attr *fk_attr(const fk_op *op, const char *key)
{
    for (uint32_t i = 0; i < op->n_attr; i++)
        if (!strcmp(op->attr[i].key, key))
            return &op->attr[i];
    return NULL;
}

char *fk_text(const mr_prog *p)
{
    mri_str s = { 0 };
    for (size_t i = 0; i < p->ops.n; i++)
        mri_str_fmt(&s, "%s: %s\n", p->ops.v[i].region, p->ops.v[i].text);
    return mri_str_take(&s);
}

void fk_free(mr_prog *p)
{
    for (size_t i = 0; i < p->pool.n; i++)
        free(p->pool.v[i]);
    free(p->pool.v);
    free(p->values.v);
    free(p->ops.v);
    free(p->params.v);
    free(p->inputs.v);
    free(p->outputs.v);
    free(p->losses.v);
    free(p->states.v);
    mri_str_free(&p->error);
    free(p);
}

mr_prog *fk_build(fk_model *m, const char *kind, const char *mode, int64_t tokens)
{
    mr_err err = MR_ERR_INIT;
    mr_block_env env = { .size = sizeof env, .mode = mode, .tokens = tokens, .slots = 3,
                         .max_seq = 64, .pages = 5, .page = 16, .logit_rows = 2 };
    mr_prog *p = mri_alloc(sizeof *p);
    mr_status st = m->ops->build(m->model, kind, &env, &builder, p, &err);
    cr_assert_eq(st, 0, "%s", err.what);
    cr_assert_eq(p->error.n, 0, "%s in %s: %s", kind, mode, p->error.s);
    cr_assert_eq(p->depth, 0, "%s in %s leaves region %s open", kind, mode, p->stack[0]);
    return p;
}
