/* SPDX-License-Identifier: Apache-2.0
 *
 * check_build.c - a builder that only notes what it was asked: which values, which ops, what
 * was read. It knows the catalogue's shape rules, so a program that could not be planned is
 * caught here, and needs nothing of the planner.
 */
#include "check.h"
#include "core/ops/catalogue.h"
#include <stdlib.h>
#include <string.h>

typedef struct value {
    char *name; /* NULL: an op's output */
    mr_type type;
    bool read;
} value;

struct check_program {
    MRI_VEC(value *) values; /* value v is values.v[v - 1]; pointers stay, type() hands them out */
    size_t ops, outputs;
    int depth;
    char *error;
};

check_program *check_program_new(void)
{
    return mri_alloc(sizeof(check_program));
}

void check_program_free(check_program *p)
{
    for (size_t i = 0; i < p->values.n; i++) {
        free(p->values.v[i]->name);
        free(p->values.v[i]);
    }
    free(p->values.v);
    free(p->error);
    free(p);
}

MR_PRINTF(2, 3) static mr_val wrong(check_program *p, const char *fmt, ...)
{
    mri_str b = { 0 };
    va_list ap;
    va_start(ap, fmt);
    mri_str_vfmt(&b, fmt, ap);
    va_end(ap);
    if (!p->error)
        p->error = mri_str_take(&b);
    mri_str_free(&b);
    return 0;
}

static mr_val add(check_program *p, const char *name, const mr_type *t)
{
    value *v = mri_alloc(sizeof *v);
    v->name = name ? mri_strdup(name) : NULL;
    v->type = *t;
    if (mr_is(t, "model"))
        v->type.dtype = "f32";
    MRI_PUSH(&p->values, v);
    return (mr_val)p->values.n;
}

static mr_val named(mr_prog *prog, const char *name, const mr_type *t)
{
    check_program *p = (check_program *)prog;
    if (p->error)
        return 0;
    if (!name || !*name)
        return wrong(p, "a value without a name");
    for (size_t i = 0; i < p->values.n; i++)
        if (p->values.v[i]->name && !strcmp(p->values.v[i]->name, name))
            return (mr_val)i + 1;
    if (!t || t->size < offsetof(mr_type, parts) || !t->dtype || t->rank > MR_MAX_RANK)
        return wrong(p, "'%s' has no sound type", name);
    if (!mr_is(t, "model") && !mr_dtype_bytes(t->dtype))
        return wrong(p, "'%s' has the unknown dtype '%.20s'", name, t->dtype);
    for (uint32_t i = 0; i < t->rank; i++)
        if (t->dim[i] < 1)
            return wrong(p, "'%s' has dim %u = %lld", name, i, (long long)t->dim[i]);
    return add(p, name, t);
}

static mr_val on_param(mr_prog *prog, const char *name, const mr_param *param)
{
    if (!param || param->size < offsetof(mr_param, scale) + sizeof param->scale)
        return wrong((check_program *)prog, "parameter '%.80s' is too short a struct", name);
    return named(prog, name, &param->type);
}

static mr_val on_input(mr_prog *prog, const char *name, const mr_type *t)
{
    return named(prog, name, t);
}

static mr_val on_state(mr_prog *prog, const char *name, const mr_type *t, uint32_t flags)
{
    (void)flags;
    return named(prog, name, t);
}

static mr_val on_scalar(mr_prog *prog, const char *name)
{
    mr_type t = mr_type1("f32", 1);
    return named(prog, name, &t);
}

/* An op may be asked for the dtype "model" too: a copy of the attributes that says f32. */
static mr_attr *resolved(const mr_attr *attr, uint32_t n)
{
    mr_attr *own = mri_alloc((n + 1) * sizeof *own);
    for (uint32_t i = 0; i < n; i++) {
        bool dtype = !strcmp(attr[i].key, "dtype") || !strcmp(attr[i].key, "out_dtype");
        own[i] = attr[i];
        if (dtype && attr[i].type == MR_A_STR && !strcmp(attr[i].u.s, "model"))
            own[i].u.s = "f32";
    }
    return own;
}

static mr_val on_op(mr_prog *prog, const char *id, const mr_val *in, uint32_t n_in,
                    const mr_attr *attr, uint32_t n_attr, mr_val *out, uint32_t n_out,
                    const char *file, int32_t line)
{
    check_program *p = (check_program *)prog;
    const mr_type *in_type[MRI_MAX_OPERANDS];
    mr_type out_type[MRI_MAX_OPERANDS], *out_ptr[MRI_MAX_OPERANDS];
    mr_err err = MR_ERR_INIT;
    for (uint32_t i = 0; out && i < n_out; i++)
        out[i] = 0;
    if (p->error)
        return 0;
    const mr_op_def *def = id ? mri_op_find(id) : NULL;
    if (!def)
        return wrong(p, "%s:%d: there is no op '%.60s'", file ? file : "?", line,
                     id ? id : "(null)");
    if (n_in > MRI_MAX_OPERANDS || n_out > MRI_MAX_OPERANDS)
        return wrong(p, "%s:%d: %s has too many operands", file ? file : "?", line, id);
    for (uint32_t i = 0; i < n_in; i++) {
        if (in[i] > p->values.n)
            return wrong(p, "%s:%d: operand %u of %s is no value", file ? file : "?", line, i, id);
        in_type[i] = in[i] ? &p->values.v[in[i] - 1]->type : NULL;
        if (in[i])
            p->values.v[in[i] - 1]->read = true;
    }
    memset(out_type, 0, sizeof out_type);
    for (uint32_t i = 0; i < n_out; i++) {
        out_type[i].size = sizeof *out_type;
        out_ptr[i] = &out_type[i];
    }
    mr_attr *own = resolved(attr, n_attr);
    mr_call call = { sizeof call, n_in, n_out, n_attr, in_type, (const mr_type *const *)out_ptr,
                     own };
    mr_status bad = mri_op_check_call(def, &call, out_ptr, &err);
    free(own);
    if (bad)
        return wrong(p, "%s:%d: %s", file ? file : "?", line, err.what);
    for (uint32_t i = 0; i < n_out; i++)
        if (out)
            out[i] = add(p, NULL, &out_type[i]);
    p->ops++;
    return n_out && out ? out[0] : 0;
}

static void on_region(mr_prog *prog, const char *name)
{
    check_program *p = (check_program *)prog;
    if (!name || !*name)
        wrong(p, "a region without a name");
    p->depth++;
}

static void on_end(mr_prog *prog)
{
    check_program *p = (check_program *)prog;
    if (--p->depth < 0)
        wrong(p, "a region is closed that was not opened");
}

static void on_output(mr_prog *prog, const char *name, mr_val v)
{
    check_program *p = (check_program *)prog;
    if (!p->error && (!v || v > p->values.n))
        wrong(p, "output '%.60s' is no value", name ? name : "(null)");
    p->outputs++;
}

static const mr_type *on_type(mr_prog *prog, mr_val v)
{
    check_program *p = (check_program *)prog;
    return v && v <= p->values.n ? &p->values.v[v - 1]->type : NULL;
}

const mr_builder check_builder = {
    sizeof check_builder, 0,      on_param, on_input,  on_state,  on_scalar, on_op,
    on_region,            on_end, on_output, on_output, on_type,
};

const char *check_program_error(const check_program *p)
{
    return p->error;
}

size_t check_program_ops(const check_program *p)
{
    return p->ops;
}

bool check_program_reads(const check_program *p, const char *name)
{
    for (size_t i = 0; i < p->values.n; i++)
        if (p->values.v[i]->name && !strcmp(p->values.v[i]->name, name))
            return p->values.v[i]->read;
    return false;
}

size_t check_program_outputs(const check_program *p)
{
    return p->outputs;
}

bool check_program_balanced(const check_program *p)
{
    return p->depth == 0;
}
