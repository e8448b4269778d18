/* SPDX-License-Identifier: Apache-2.0
 *
 * call.c - checks one use of an op against its definition: operands, attributes, shapes.
 * What passes here keeps every promise that reference loops and kernels rely on, except those
 * about values (an index within its range), which only the data can break.
 */
#include "core/ops/catalogue.h"
#include "core/ops/common.h"
#include <string.h>

static mr_status refuse(mr_err *err, const mr_op_def *def, const char *fmt, ...) MR_PRINTF(3, 4);

static mr_status refuse(mr_err *err, const mr_op_def *def, const char *fmt, ...)
{
    char text[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_PROGRAM, MR_BLAME_PLUGIN, "%s: %s", def->id, text);
    mr_detail(err, "%s takes (%s), attributes (%s)", def->id, def->sig,
              def->attrs && *def->attrs ? def->attrs : "none");
    return MR_E_PROGRAM;
}

static mr_status check_operands(const mr_op_def *def, const mri_sig *sig, const mr_call *c,
                                mr_err *err)
{
    if (c->n_in > sig->n_in)
        return refuse(err, def, "%u operands given, at most %u taken", c->n_in, sig->n_in);
    if (c->n_out > sig->n_out)
        return refuse(err, def, "%u outputs asked for, it has %u", c->n_out, sig->n_out);
    for (uint32_t i = 0; i < sig->n_in; i++)
        if (!sig->in[i].optional && !mri_in(c, i))
            return refuse(err, def, "operand %s is missing (number %u)", sig->in[i].name, i);
    for (uint32_t i = c->n_out; i < sig->n_out; i++)
        if (!sig->out[i].optional)
            return refuse(err, def, "output %s is not asked for (%u of %u are)", sig->out[i].name,
                          c->n_out, sig->n_out);
    return 0;
}

static const char *type_word(uint32_t type)
{
    static const char *const word[] = { "?", "an integer", "a number", "a string",
                                        "a list of numbers" };
    return word[type <= MR_A_F64S ? type : 0];
}

static bool is_choice(const char *choices, const char *s)
{
    size_t n = strlen(s);
    for (const char *p = choices; n && (p = strstr(p, s)); p++)
        if ((p == choices || p[-1] == '|') && (!p[n] || p[n] == '|'))
            return true;
    return false;
}

static mr_status check_attr(const mr_op_def *def, const mri_attr_list *l, const mr_attr *a,
                            mr_err *err)
{
    const mri_attr_decl *d = mri_attrs_find(l, a->key);
    if (!d) {
        const char *keys[MRI_MAX_ATTRS];
        for (uint32_t i = 0; i < l->n; i++)
            keys[i] = l->at[i].key;
        const char *near = mri_nearest(a->key, keys, l->n);
        mr_status st = refuse(err, def, "no attribute \"%s\"", a->key);
        if (near)
            mr_hint(err, "did you mean \"%s\"?", near);
        return st;
    }
    bool number = d->type == MR_A_F64 && a->type == MR_A_I64; /* 1 is a number, too */
    if (a->type != d->type && !number)
        return refuse(err, def, "attribute %s is %s, must be %s", d->key, type_word(a->type),
                      type_word(d->type));
    if (a->type == MR_A_F64 && !isfinite(a->u.f))
        return refuse(err, def, "attribute %s is %g, must be finite", d->key, a->u.f);
    if (a->type == MR_A_STR && (!a->u.s || (*d->def && !is_choice(d->def, a->u.s))))
        return refuse(err, def, "attribute %s is \"%s\", must be one of %s", d->key,
                      a->u.s ? a->u.s : "(null)", *d->def ? d->def : "its words");
    if (a->type == MR_A_F64S && (!a->n || !a->u.fs))
        return refuse(err, def, "attribute %s is an empty list", d->key);
    return 0;
}

static mr_status check_attrs(const mr_op_def *def, const mr_call *c, mr_err *err)
{
    mri_attr_list l;
    mr_status st;
    MR_TRY(mri_attrs_parse(def->attrs, &l, err));
    for (uint32_t i = 0; i < c->n_attr; i++) {
        MR_TRY(check_attr(def, &l, &c->attr[i], err));
        for (uint32_t j = 0; j < i; j++)
            if (!strcmp(c->attr[i].key, c->attr[j].key))
                return refuse(err, def, "attribute %s is given twice", c->attr[i].key);
    }
    for (uint32_t i = 0; i < l.n; i++)
        if (l.at[i].required && !mr_attr_find(c, l.at[i].key))
            return refuse(err, def, "attribute %s must be given (%s)", l.at[i].key,
                          type_word(l.at[i].type));
out:
    return st;
}

mr_status mri_op_check_call(const mr_op_def *def, const mr_call *call, mr_type *const *out,
                            mr_err *err)
{
    mri_sig sig;
    mr_status st;
    MR_TRY(mri_sig_parse(def->sig, &sig, err));
    MR_TRY(check_operands(def, &sig, call, err));
    MR_TRY(check_attrs(def, call, err));
    MR_TRY(def->shape(call, out, err));
out:
    return st;
}
