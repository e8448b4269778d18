/* SPDX-License-Identifier: Apache-2.0
 * record.c - see record.h. Every value that a step reads is written by the case, by the caller
 * (dout) or by an earlier step. */
#include "core/ops/record.h"
#include "core/ops/common.h"
#include <string.h>

static mr_val add_value(mri_record *r, const mr_type *t, void *borrowed)
{
    mri_record_value *v = mri_alloc(sizeof *v);
    v->type = *t;
    v->buf.data = borrowed;
    v->borrowed = borrowed != NULL;
    if (!borrowed) {
        size_t n = (mr_bytes(t) + 63) / 64 * 64;
        v->buf.data = aligned_alloc(64, n);
        MRI_ASSERT(v->buf.data);
        memset(v->buf.data, 0, n);
    }
    MRI_PUSH(&r->value, v);
    return (mr_val)(r->value.n - 1);
}

static mr_status fail(mri_record *r, mr_status st) /* keeps the first error, in r->err */
{
    if (!r->err.code)
        r->err.code = st;
    return st;
}

static void copy_attr(mr_attr *to, const mr_attr *from)
{
    *to = *from;
    to->key = mri_strdup(from->key);
    if (from->type == MR_A_STR)
        to->u.s = mri_strdup(from->u.s);
    if (from->type == MR_A_F64S) {
        double *fs = mri_alloc(from->n * sizeof *fs);
        memcpy(fs, from->u.fs, from->n * sizeof *fs);
        to->u.fs = fs;
    }
}

static void free_step(mri_record_step *s)
{
    for (uint32_t i = 0; i < s->call.n_attr; i++) {
        free((void *)s->attr[i].key);
        if (s->attr[i].type == MR_A_STR)
            free((void *)s->attr[i].u.s);
        if (s->attr[i].type == MR_A_F64S)
            free((void *)s->attr[i].u.fs);
    }
    free(s);
}

static mr_val emit_op(const mr_vjp *v, const char *id, const mr_val *in, uint32_t n_in,
                      const mr_attr *attr, uint32_t n_attr, mr_val *out, uint32_t n_out)
{
    mri_record *r = v->self;
    const mr_op_def *def = mri_op_find(id);
    mr_type type[MRI_MAX_OPERANDS], *type_ptr[MRI_MAX_OPERANDS];
    for (uint32_t i = 0; i < n_out; i++)
        out[i] = 0;
    if (r->err.code)
        return 0;
    if (!def || n_in > MRI_MAX_OPERANDS || n_out > MRI_MAX_OPERANDS || n_attr > MRI_MAX_ATTRS) {
        mr_fail(&r->err, MR_E_OP_UNKNOWN, MR_BLAME_PLUGIN,
                "vjp of %s emits %s, which does not exist or has too many operands", r->def->id,
                id);
        return 0;
    }
    mri_record_step *s = mri_alloc(sizeof *s);
    MRI_PUSH(&r->step, s);
    s->def = def;
    s->call = (mr_call){ sizeof s->call, n_in, n_out, n_attr, s->in_type, s->out_type, s->attr };
    for (uint32_t i = 0; i < n_attr; i++)
        copy_attr(&s->attr[i], &attr[i]);
    for (uint32_t i = 0; i < n_in; i++) {
        MRI_ASSERT(in[i] < r->value.n);
        if (in[i]) {
            s->in_type[i] = &r->value.v[in[i]]->type;
            s->in[i] = r->value.v[in[i]]->buf;
        }
    }
    for (uint32_t i = 0; i < n_out; i++)
        type_ptr[i] = &type[i];
    if (fail(r, mri_op_check_call(def, &s->call, type_ptr, &r->err)))
        return 0;
    for (uint32_t i = 0; i < n_out; i++) {
        out[i] = add_value(r, &type[i], NULL);
        s->out_type[i] = &r->value.v[out[i]]->type;
        s->out[i] = r->value.v[out[i]]->buf;
    }
    return n_out ? out[0] : 0;
}

static mr_val emit_acc(const mr_vjp *v, uint32_t i)
{
    mri_record *r = v->self;
    MRI_ASSERT(i < r->c->call.n_in && r->c->in_ptr[i]);
    if (!r->acc[i]) {
        mr_type t = *r->c->in_ptr[i];
        t.dtype = mri_stat_dtype(&t);
        r->acc[i] = add_value(r, &t, NULL);
    }
    return r->acc[i];
}

static bool is_float(const mr_type *t)
{
    return mr_is(t, "f32") || mr_is(t, "bf16") || mr_is(t, "f64");
}

/* a gradient has exactly the type of what it is the gradient of */
static mr_status check_din(mri_record *r, mr_err *err)
{
    for (uint32_t i = 0; i < r->c->call.n_in; i++) {
        char have[MRI_TYPE_TEXT], want[MRI_TYPE_TEXT];
        if (!r->din[i])
            continue;
        if (r->acc[i])
            return mr_fail(err, MR_E_INTERNAL, MR_BLAME_PLUGIN,
                           "vjp of %s gives operand %u both a gradient and an accumulator",
                           r->def->id, i);
        if (mr_same_type(&r->value.v[r->din[i]]->type, r->c->in_ptr[i]))
            continue;
        return mr_fail(err, MR_E_INTERNAL, MR_BLAME_PLUGIN,
                       "vjp of %s: the gradient of operand %u is %s, the operand is %s",
                       r->def->id, i, mri_type_text(&r->value.v[r->din[i]]->type, have),
                       mri_type_text(r->c->in_ptr[i], want));
    }
    return 0;
}

mr_status mri_record_vjp(const mr_op_def *def, const mri_case *c, uint32_t douts, uint32_t needs,
                         mri_record **out, mr_err *err)
{
    mri_record *r = mri_alloc(sizeof *r);
    uint8_t need[MRI_MAX_OPERANDS] = { 0 };
    mr_status st;
    *out = NULL;
    r->def = def;
    r->c = c;
    r->err.size = sizeof r->err;
    MRI_PUSH(&r->value, NULL);
    if (!def->vjp) {
        st = mr_fail(err, MR_E_NO_GRADIENT, MR_BLAME_PLUGIN, "op %s has no vjp", def->id);
        goto out;
    }
    for (uint32_t i = 0; i < c->call.n_in; i++)
        if (c->in_ptr[i]) {
            r->in[i] = add_value(r, c->in_ptr[i], c->in[i].data);
            need[i] = (needs >> i & 1) && is_float(c->in_ptr[i]);
        }
    for (uint32_t i = 0; i < c->call.n_out; i++)
        if (c->out_ptr[i]) {
            r->out[i] = add_value(r, c->out_ptr[i], c->out[i].data);
            if ((douts >> i & 1) && is_float(c->out_ptr[i]))
                r->dout[i] = add_value(r, c->out_ptr[i], NULL);
        }
    mr_vjp v = { sizeof v, 0, &c->call, r->in, r->out, r->dout, need, r->din, r,
                 emit_op, emit_acc };
    MR_TRY(def->vjp(&v, err));
    if (r->err.code) {
        if (err)
            *err = r->err;
        st = r->err.code;
        goto out;
    }
    MR_TRY(check_din(r, err));
    *out = r;
out:
    if (st)
        mri_record_free(r);
    return st;
}

void mri_record_free(mri_record *r)
{
    if (!r)
        return;
    for (size_t i = 1; i < r->value.n; i++) {
        if (!r->value.v[i]->borrowed)
            free(r->value.v[i]->buf.data);
        free(r->value.v[i]);
    }
    for (size_t i = 0; i < r->step.n; i++)
        free_step(r->step.v[i]);
    free(r->value.v);
    free(r->step.v);
    free(r);
}

const mri_record_value *mri_record_dout(const mri_record *r, uint32_t i)
{
    return i < MRI_MAX_OPERANDS && r->dout[i] ? r->value.v[r->dout[i]] : NULL;
}

const mri_record_value *mri_record_din(const mri_record *r, uint32_t i)
{
    mr_val v = i < MRI_MAX_OPERANDS ? r->din[i] ? r->din[i] : r->acc[i] : 0;
    return v ? r->value.v[v] : NULL;
}

mr_status mri_record_run(mri_record *r, mri_record_fn run, void *self, mr_err *err)
{
    mr_status st = 0;
    for (uint32_t i = 0; i < MRI_MAX_OPERANDS; i++)
        if (r->acc[i]) {
            const mri_record_value *v = r->value.v[r->acc[i]];
            memset(v->buf.data, 0, mr_bytes(&v->type));
        }
    for (size_t i = 0; i < r->step.n; i++) {
        const mri_record_step *s = r->step.v[i];
        MR_TRY(run ? run(self, s->def, &s->call, s->in, s->out, err)
                   : s->def->ref(&s->call, s->in, s->out, err));
    }
out:
    return st;
}
