/* SPDX-License-Identifier: Apache-2.0
 *
 * builder.c - the table that plugins build blocks with. Every call checks its arguments,
 * keeps the first error in the program and is a no-op after it, so that model code needs
 * no error handling of its own.
 */
#include "program.h"
#include <string.h>

static mr_val refuse(mr_prog *p, mr_status code, const char *fmt, const char *a, const char *b)
{
    if (!p->failed) {
        char why[200];
        snprintf(why, sizeof why, fmt, a, b);
        p->failed = mr_fail(&p->err, code, MR_BLAME_PLUGIN, "block %s: %s", p->name, why);
    }
    return 0;
}

/* A type that a plugin hands over: its own size may be older; dims must be positive and
 * the element count must not overflow. */
static bool take_type(mr_prog *p, const char *name, const mr_type *in, mr_type *t)
{
    memset(t, 0, sizeof *t);
    if (!in || !MR_HAS(in, dim) || !in->dtype || in->rank > MR_MAX_RANK) {
        refuse(p, MR_E_PROGRAM, "%s has a malformed type%s", name, "");
        return false;
    }
    memcpy(t, in, in->size < sizeof *t ? in->size : sizeof *t);
    t->size = sizeof *t;
    int64_t n = 1;
    for (uint32_t i = 0; i < t->rank; i++)
        if (t->dim[i] <= 0 || __builtin_mul_overflow(n, t->dim[i], &n) || n > (int64_t)1 << 48) {
            refuse(p, MR_E_PROGRAM, "%s has a dimension that is not positive or is too large%s",
                   name, "");
            return false;
        }
    if (strcmp(t->dtype, "model") && !mr_dtype_bytes(t->dtype)) {
        refuse(p, MR_E_PROGRAM, "%s has the unknown dtype '%s'", name, t->dtype);
        return false;
    }
    return true;
}

static mr_val add_named(mr_prog *p, uint8_t kind, const char *name, const mr_type *type)
{
    mr_type t;
    if (p->failed)
        return 0;
    if (!name || !*name)
        return refuse(p, MR_E_PROGRAM, "a parameter, input, state or scalar has no name%s%s", "", "");
    if (!take_type(p, name, type, &t))
        return 0;
    mr_val old = mri_value_find(p, kind, name);
    if (!old)
        return mri_prog_value(p, kind, name, &t);
    if (kind == MRI_PARAM)
        return refuse(p, MR_E_PROGRAM, "parameter '%s' is declared twice%s", name, "");
    if (!strcmp(t.dtype, "model"))
        t.dtype = p->model_dtype;
    return mr_same_type(&t, &mri_val(p, old)->type)
               ? old /* asking again for an input or a state gives the same value */
               : refuse(p, MR_E_PROGRAM, "'%s' is declared twice, with two types%s", name, "");
}

/* stored dims are those of as many elements */
static bool stored_fits(const mr_param *d)
{
    int64_t n = 1;
    if (d->stored_rank > MR_MAX_RANK)
        return false;
    for (uint32_t i = 0; i < d->stored_rank; i++)
        if (d->stored[i] < 1 || __builtin_mul_overflow(n, d->stored[i], &n))
            return false;
    return !d->stored_rank || n == mr_numel(&d->type);
}

static mr_val b_param(mr_prog *p, const char *name, const mr_param *desc)
{
    if (p->failed)
        return 0;
    if (!desc || !MR_HAS(desc, scale))
        return refuse(p, MR_E_PROGRAM, "parameter %s has no description%s", name ? name : "?", "");
    mr_type t = desc->type;
    if (desc->flags & MR_PARAM_F32)
        t.dtype = strcmp(p->model_dtype, "f64") ? "f32" : "f64";
    mr_val v = add_named(p, MRI_PARAM, name, &t);
    if (!v)
        return 0;
    const char *init = desc->init ? desc->init : "normal";
    if (strcmp(init, "normal") && strcmp(init, "constant") && strcmp(init, "uniform"))
        return refuse(p, MR_E_PROGRAM, "parameter %s has the unknown initialiser '%s'", name, init);
    mri_value *val = mri_val(p, v);
    memcpy(&val->param, desc, desc->size < sizeof *desc ? desc->size : sizeof *desc);
    val->param.size = sizeof val->param;
    if (!stored_fits(&val->param))
        return refuse(p, MR_E_PROGRAM, "parameter %s: the dims that files give it have another "
                                       "number of elements%s", name, "");
    val->param.type = val->type;
    val->param.init = mri_prog_string(p, init);
    val->param.placement = mri_prog_string(p, desc->placement ? desc->placement : "");
    if (val->param.tensors)
        val->param.tensors = mri_prog_string(p, val->param.tensors);
    val->flags = desc->flags;
    return v;
}

static mr_val b_input(mr_prog *p, const char *name, const mr_type *type)
{
    return add_named(p, MRI_INPUT, name, type);
}

static mr_val b_state(mr_prog *p, const char *name, const mr_type *type, uint32_t flags)
{
    mr_val v = add_named(p, MRI_STATE, name, type);
    if (v)
        mri_val(p, v)->flags = flags;
    return v;
}

static mr_val b_scalar(mr_prog *p, const char *name)
{
    mr_type t = mr_type1("f32", 1);
    return add_named(p, MRI_SCALAR, name, &t);
}

static mr_val b_op(mr_prog *p, const char *id, const mr_val *in, uint32_t n_in, const mr_attr *attr,
                   uint32_t n_attr, mr_val *out, uint32_t n_out, const char *file, int32_t line)
{
    if (!p->failed && p->decode && id && !strcmp(id, "attention") && n_in == 4)
        return mri_prog_paged(p, in, attr, n_attr, out, n_out, file, line);
    /* outputs are zeroed afterwards only: a caller may name one variable as operand and output */
    if (p->failed || mri_prog_node(p, id ? id : "(null)", in, n_in, attr, n_attr, out, n_out, file,
                                   line)) {
        if (n_out && out)
            memset(out, 0, n_out * sizeof *out);
        return 0;
    }
    return n_out && out ? out[0] : 0;
}

static void b_region(mr_prog *p, const char *name)
{
    if (p->failed)
        return;
    if (!name || !*name || strchr(name, '/') || strchr(name, ',')) {
        refuse(p, MR_E_PROGRAM, "a region needs a name without '/' and ',' (got '%s')%s",
               name ? name : "", "");
        return;
    }
    uint32_t parent = p->open.v[p->open.n - 1];
    const char *up = p->regions.v[parent].path;
    char path[256];
    snprintf(path, sizeof path, "%s%s%s", up, *up ? "/" : "", name);
    uint32_t found = 0;
    for (uint32_t i = 1; i < p->regions.n; i++) /* the same region opened again goes on */
        if (!strcmp(p->regions.v[i].path, path))
            found = i;
    if (!found) {
        mri_region r = { mri_prog_string(p, name), mri_prog_string(p, path), parent };
        found = (uint32_t)p->regions.n;
        MRI_PUSH(&p->regions, r);
    }
    MRI_PUSH(&p->open, found);
}

static void b_end(mr_prog *p)
{
    if (p->failed)
        return;
    if (p->open.n == 1) {
        refuse(p, MR_E_PROGRAM, "end() without an open region%s%s", "", "");
        return;
    }
    p->open.n--;
}

static void add_port(mr_prog *p, mri_ports *ports, const char *what, const char *name, mr_val v)
{
    if (p->failed)
        return;
    if (!name || !v || v > p->values.n) {
        refuse(p, MR_E_PROGRAM, "%s '%s' has no value", what, name ? name : "");
        return;
    }
    if (mri_port_find(ports, name)) {
        refuse(p, MR_E_PROGRAM, "%s '%s' is declared twice", what, name);
        return;
    }
    mri_port port = { mri_prog_string(p, name), v };
    MRI_PUSH(ports, port);
}

static void b_output(mr_prog *p, const char *name, mr_val v)
{
    add_port(p, &p->outputs, "output", name, v);
}

static void b_loss(mr_prog *p, const char *name, mr_val v)
{
    if (!p->failed && v && v <= p->values.n && mr_numel(&mri_val(p, v)->type) != 1) {
        refuse(p, MR_E_PROGRAM, "loss '%s' must have one element%s", name ? name : "", "");
        return;
    }
    add_port(p, &p->losses, "loss", name, v);
    add_port(p, &p->outputs, "output", name, v);
}

static const mr_type *b_type(mr_prog *p, mr_val v)
{
    static const mr_type none = { sizeof(mr_type), 0, "f32", NULL, { 0 }, NULL, 0, 0 };
    return v && v <= p->values.n ? &mri_val(p, v)->type : &none;
}

const mr_builder mri_builder = { sizeof(mr_builder), 0,     b_param,  b_input,  b_state, b_scalar,
                                 b_op,               b_region, b_end, b_output, b_loss,  b_type };
