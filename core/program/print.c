/* SPDX-License-Identifier: Apache-2.0
 * print.c - a block as text, and the verifier that every pass must leave satisfied. */
#include "program.h"
#include <string.h>

void mri_type_print(const mr_type *t, mri_str *out)
{
    mri_str_fmt(out, "%s[", t->dtype);
    for (uint32_t i = 0; i < t->rank; i++)
        mri_str_fmt(out, "%s%lld", i ? "," : "", (long long)t->dim[i]);
    mri_str_add(out, "]");
}

static void value_name(const mr_prog *p, mr_val v, mri_str *out)
{
    if (!v) {
        mri_str_add(out, "-");
        return;
    }
    const mri_value *x = mri_val(p, v);
    static const char sigil[] = { '%', '@', '^', '$', '!', '#' };
    if (x->name)
        mri_str_fmt(out, "%c%s", sigil[x->kind], x->name);
    else
        mri_str_fmt(out, "%%%u", v);
}

static void print_attr(const mr_attr *a, mri_str *out)
{
    mri_str_fmt(out, " %s=", a->key);
    if (a->type == MR_A_I64)
        mri_str_fmt(out, "%lld", (long long)a->u.i);
    else if (a->type == MR_A_F64)
        mri_str_fmt(out, "%.17g", a->u.f);
    else if (a->type == MR_A_STR)
        mri_str_add(out, a->u.s);
    else
        for (uint32_t i = 0; i < a->n; i++)
            mri_str_fmt(out, "%s%.17g", i ? "," : "", a->u.fs[i]);
}

/* "part of [16,8] at [8,0], summed over tp" */
static void print_place(const mri_place *p, mri_str *out)
{
    for (int full = 1; full >= 0 && p->rank; full--) {
        mri_str_add(out, full ? " part of [" : " at [");
        for (uint32_t d = 0; d < p->rank; d++)
            mri_str_fmt(out, "%s%lld", d ? "," : "", (long long)(full ? p->full[d] : p->at[d]));
        mri_str_add(out, "]");
    }
    if (p->partial & MRI_AXIS_TP)
        mri_str_add(out, " summed over tp");
    if (p->expert)
        mri_str_add(out, " on the expert grid");
}

void mri_prog_print(const mr_prog *p, mri_str *out)
{
    mri_str_fmt(out, "block %s (model dtype %s)\n", p->name, p->model_dtype);
    for (size_t i = 0; i < p->values.n; i++) {
        const mri_value *v = &p->values.v[i];
        static const char *const kind[] = { "", "param", "grad", "input", "state", "scalar" };
        if (v->kind == MRI_TEMP)
            continue;
        mri_str_fmt(out, "  %-6s ", kind[v->kind]);
        value_name(p, (mr_val)(i + 1), out);
        mri_str_add(out, " ");
        mri_type_print(&v->type, out);
        if (v->kind == MRI_PARAM)
            mri_str_fmt(out, " %s init=%s,%g", v->param.placement, v->param.init, v->param.scale);
        print_place(&v->place, out);
        mri_str_add(out, "\n");
    }
    for (size_t i = 0; i < p->nodes.n; i++) {
        const mri_node *n = &p->nodes.v[i];
        mri_str_fmt(out, "  %s%c %3zu ", mri_phase_name[n->phase], n->recomputed ? 'r' : ' ', i);
        for (uint32_t j = 0; j < n->n_out; j++) {
            if (!n->out[j])
                continue;
            value_name(p, n->out[j], out);
            mri_str_add(out, ":");
            mri_type_print(&mri_val(p, n->out[j])->type, out);
            mri_str_add(out, " ");
        }
        mri_str_fmt(out, "= %s(", n->def->id);
        for (uint32_t j = 0; j < n->n_in; j++) {
            mri_str_add(out, j ? ", " : "");
            value_name(p, n->in[j], out);
        }
        mri_str_add(out, ")");
        for (uint32_t j = 0; j < n->n_attr; j++)
            print_attr(&n->attr[j], out);
        if (n->region)
            mri_str_fmt(out, "  [%s]", p->regions.v[n->region].path);
        mri_str_add(out, "\n");
    }
    for (size_t i = 0; i < p->outputs.n; i++) {
        mri_str_fmt(out, "  output %s = ", p->outputs.v[i].name);
        value_name(p, p->outputs.v[i].value, out);
        mri_str_add(out, "\n");
    }
}

mr_status mri_prog_verify(const mr_prog *p, const char *pass, mr_err *err)
{
    for (size_t i = 0; i < p->nodes.n; i++) {
        const mri_node *n = &p->nodes.v[i];
        for (uint32_t j = 0; j < n->n_in; j++) {
            if (!n->in[j])
                continue;
            const mri_value *v = n->in[j] <= p->values.n ? mri_val(p, n->in[j]) : NULL;
            if (!v || (v->kind == MRI_TEMP && v->node >= i)) {
                mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                        "after pass %s of block %s: node %zu (%s) uses operand %u before it is made",
                        pass, p->name, i, n->def->id, j);
                return MR_E_PLAN_VERIFY;
            }
            if (v->kind == MRI_TEMP && v->phase > n->phase)
                return mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                               "after pass %s of block %s: node %zu (%s, phase %s) reads a value of "
                               "the later phase %s", pass, p->name, i, n->def->id,
                               mri_phase_name[n->phase], mri_phase_name[v->phase]);
        }
        for (uint32_t j = 0; j < n->n_out; j++)
            if (n->out[j] && (mri_val(p, n->out[j])->node != i || mri_val(p, n->out[j])->slot != j))
                return mr_fail(err, MR_E_PLAN_VERIFY, MR_BLAME_HOST,
                               "after pass %s of block %s: output %u of node %zu (%s) has another "
                               "definition", pass, p->name, j, i, n->def->id);
    }
    if (p->open.n != 1)
        return mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "block %s: region '%s' is never closed",
                       p->name, p->regions.v[p->open.v[p->open.n - 1]].path);
    return 0;
}
