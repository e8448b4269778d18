/* SPDX-License-Identifier: Apache-2.0
 * program.c - storage of blocks; see program.h. */
#include "program.h"
#include <stdlib.h>
#include <string.h>

const char *const mri_phase_name[MRI_PHASES] = { "F", "B", "W" };

mr_prog *mri_prog_new(const char *name, const char *model_dtype)
{
    mr_prog *p = mri_alloc(sizeof *p);
    p->name = mri_strdup(name);
    p->model_dtype = mri_prog_string(p, model_dtype);
    p->acc_dtype = strcmp(model_dtype, "f64") ? "f32" : "f64";
    p->err.size = sizeof p->err;
    mri_region top = { "", "", 0 };
    MRI_PUSH(&p->regions, top);
    MRI_PUSH(&p->open, 0);
    return p;
}

void mri_prog_free(mr_prog *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->nodes.n; i++)
        free(p->nodes.v[i].attr);
    for (size_t i = 0; i < p->strings.n; i++)
        free(p->strings.v[i]);
    free(p->strings.v);
    free(p->values.v);
    free(p->nodes.v);
    free(p->regions.v);
    free(p->open.v);
    free(p->outputs.v);
    free(p->losses.v);
    free(p->name);
    free(p);
}

void mri_prog_remove(mr_prog *p, size_t at)
{
    char *attr = (char *)p->nodes.v[at].attr;
    MRI_PUSH(&p->strings, attr);
    memmove(p->nodes.v + at, p->nodes.v + at + 1, (p->nodes.n - at - 1) * sizeof *p->nodes.v);
    p->nodes.n--;
    for (size_t i = at; i < p->nodes.n; i++)
        for (uint32_t j = 0; j < p->nodes.v[i].n_out; j++)
            if (p->nodes.v[i].out[j])
                mri_val(p, p->nodes.v[i].out[j])->node = (uint32_t)i;
}

const char *mri_prog_string(mr_prog *p, const char *s)
{
    if (!s)
        return NULL;
    char *copy = mri_strdup(s);
    MRI_PUSH(&p->strings, copy);
    return copy;
}

mr_val mri_prog_value(mr_prog *p, uint8_t kind, const char *name, const mr_type *type)
{
    mri_value v = { 0 };
    v.kind = kind;
    v.name = mri_prog_string(p, name);
    v.type = *type;
    v.type.size = sizeof v.type;
    v.phase = p->phase;
    if (!strcmp(type->dtype, "model"))
        v.type.dtype = p->model_dtype;
    else
        v.type.dtype = mri_prog_string(p, type->dtype);
    MRI_PUSH(&p->values, v);
    return (mr_val)p->values.n;
}

mr_call mri_node_call(const mr_prog *p, const mri_node *n, const mr_type **types)
{
    for (uint32_t i = 0; i < n->n_in; i++)
        types[i] = n->in[i] ? &mri_val(p, n->in[i])->type : NULL;
    for (uint32_t i = 0; i < n->n_out; i++)
        types[MRI_MAX_OPERANDS + i] = n->out[i] ? &mri_val(p, n->out[i])->type : NULL;
    mr_call c = { sizeof c, n->n_in,  n->n_out, n->n_attr, types, types + MRI_MAX_OPERANDS,
                  n->attr };
    return c;
}

mr_val mri_port_find(const mri_ports *ports, const char *name)
{
    for (size_t i = 0; i < ports->n; i++)
        if (!strcmp(ports->v[i].name, name))
            return ports->v[i].value;
    return 0;
}

mr_val mri_value_find(const mr_prog *p, uint8_t kind, const char *name)
{
    for (size_t i = 0; i < p->values.n; i++)
        if (p->values.v[i].kind == kind && p->values.v[i].name &&
            !strcmp(p->values.v[i].name, name))
            return (mr_val)(i + 1);
    return 0;
}

bool mri_region_within(const mr_prog *p, uint32_t region, const char *name)
{
    for (; region; region = p->regions.v[region].parent)
        if (!strcmp(p->regions.v[region].name, name))
            return true;
    return false;
}

/* ---- adding nodes ---------------------------------------------------------------------- */

/* The dtype that an op is asked for: "model" is the recipe's, and an fp64 program (gradient
 * checking) has no f32 in it. */
static const char *resolve_dtype(const mr_prog *p, const char *key, const char *value)
{
    if (strcmp(key, "dtype") && strcmp(key, "out_dtype"))
        return value;
    return !strcmp(value, "model") ? p->model_dtype : !strcmp(value, "f32") ? p->acc_dtype : value;
}

/* Copies attributes so that the node owns them: strings and arrays behind the row array. */
static mr_attr *copy_attrs(mr_prog *p, const mr_attr *attr, uint32_t n)
{
    size_t doubles = 0;
    for (uint32_t i = 0; i < n; i++)
        if (attr[i].type == MR_A_F64S)
            doubles += attr[i].n;
    mr_attr *a = mri_alloc(n * sizeof *a + doubles * sizeof(double));
    double *d = (double *)(a + n);
    for (uint32_t i = 0; i < n; i++) {
        a[i] = attr[i];
        a[i].key = mri_prog_string(p, attr[i].key);
        if (attr[i].type == MR_A_STR)
            a[i].u.s = mri_prog_string(p, resolve_dtype(p, attr[i].key, attr[i].u.s));
        if (attr[i].type == MR_A_F64S) {
            memcpy(d, attr[i].u.fs, attr[i].n * sizeof *d);
            a[i].u.fs = d;
            d += attr[i].n;
        }
    }
    return a;
}

static mr_status at_line(mr_prog *p, mr_status st, const char *id, const char *file, int32_t line)
{
    if (st && file) {
        char *old = mri_strdup(p->err.what);
        const char *base = strrchr(file, '/');
        snprintf(p->err.what, sizeof p->err.what, "block %s, op %s at %s:%d: %s", p->name, id,
                 base ? base + 1 : file, line, old);
        free(old);
    }
    p->failed = st;
    return st;
}

mr_status mri_prog_node(mr_prog *p, const char *id, const mr_val *in, uint32_t n_in,
                        const mr_attr *attr, uint32_t n_attr, mr_val *out, uint32_t n_out,
                        const char *file, int32_t line)
{
    if (p->failed)
        return p->failed;
    const mr_op_def *def = mri_op_find(id);
    if (!def) {
        const char *near = mri_op_nearest(id);
        mr_fail(&p->err, MR_E_OP_UNKNOWN, MR_BLAME_PLUGIN, "no such op%s%s%s",
                near ? ", did you mean '" : "", near ? near : "", near ? "'?" : "");
        mr_hint(&p->err, "mrun explain op lists the catalogue; a plugin may bring ops of its own");
        return at_line(p, MR_E_OP_UNKNOWN, id, file, line);
    }
    mri_sig sig;
    mr_status st = mri_sig_parse(def->sig, &sig, &p->err);
    if (st)
        return at_line(p, st, id, file, line);
    if (n_in > sig.n_in || n_out > sig.n_out)
        return at_line(p, mr_fail(&p->err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                                  "%u operands and %u outputs, the signature is \"%s\"", n_in,
                                  n_out, def->sig), id, file, line);
    mri_node n = { 0 };
    n.def = def;
    n.n_in = sig.n_in;
    while (n.n_out < sig.n_out && (n.n_out < n_out || !sig.out[n.n_out].optional))
        n.n_out++; /* an optional output exists only where it is asked for */
    n.n_attr = n_attr;
    n.region = p->open.v[p->open.n - 1];
    n.file = mri_prog_string(p, file);
    n.line = line;
    n.phase = p->phase;
    const mr_type *types[2 * MRI_MAX_OPERANDS] = { 0 };
    mr_type out_type[MRI_MAX_OPERANDS], *out_ptr[MRI_MAX_OPERANDS];
    for (uint32_t i = 0; i < sig.n_in; i++) {
        mr_val v = i < n_in ? in[i] : 0;
        if (v > p->values.n || (!v && !sig.in[i].optional))
            return at_line(p, mr_fail(&p->err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                                      "operand %s is %s; the signature is \"%s\"", sig.in[i].name,
                                      v ? "not a value of this program" : "missing", def->sig),
                           id, file, line);
        n.in[i] = v;
        types[i] = v ? &mri_val(p, v)->type : NULL;
        if (sig.in[i].mutated && v) {
            uint8_t kind = mri_val(p, v)->kind;
            if (kind != MRI_STATE && kind != MRI_GRAD && kind != MRI_SCALAR)
                return at_line(p, mr_fail(&p->err, MR_E_PROGRAM, MR_BLAME_PLUGIN,
                                          "operand %s is written in place, so it must be a state, "
                                          "a gradient or a scalar", sig.in[i].name),
                               id, file, line);
            n.written |= 1u << i;
        }
    }
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++) {
        memset(&out_type[i], 0, sizeof out_type[i]);
        out_type[i].size = sizeof out_type[i];
        out_ptr[i] = &out_type[i];
        types[MRI_MAX_OPERANDS + i] = &out_type[i];
    }
    n.attr = copy_attrs(p, attr, n_attr);
    mr_call call = { sizeof call, n.n_in, n.n_out, n_attr, types, types + MRI_MAX_OPERANDS,
                     n.attr };
    st = mri_op_check_call(def, &call, out_ptr, &p->err);
    if (st) {
        free(n.attr);
        return at_line(p, st, id, file, line);
    }
    uint32_t index = (uint32_t)p->nodes.n;
    for (uint32_t i = 0; i < n.n_out; i++) {
        if (!out_type[i].dtype) {
            free(n.attr);
            return at_line(p, mr_fail(&p->err, MR_E_OP_SHAPE, MR_BLAME_PLUGIN,
                                      "its shape function left output %s without a type",
                                      sig.out[i].name), id, file, line);
        }
        mr_val v = mri_prog_value(p, MRI_TEMP, NULL, &out_type[i]);
        mri_val(p, v)->node = index;
        mri_val(p, v)->slot = i;
        n.out[i] = v;
        if (i < n_out && out)
            out[i] = v;
    }
    MRI_PUSH(&p->nodes, n);
    return 0;
}

uint64_t mri_prog_hash(const mr_prog *p)
{
    mri_str s = { 0 };
    mri_prog_print(p, &s);
    uint64_t h = mri_hash(0, s.s, s.n);
    mri_str_free(&s);
    return h;
}
