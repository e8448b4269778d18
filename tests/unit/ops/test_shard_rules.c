/* SPDX-License-Identifier: Apache-2.0
 * Every axis that a sharding rule declares can be split in two, evenly or not: the reference
 * loops, run on each part, give the parts of the whole (operands that have the axis) or its partial sums
 * (mode sum, operands that lack it), or the whole again (mode map). */
#include "core/ops/record.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

typedef struct use { /* a concrete call, its operands filled, its outputs not yet */
    const mr_op_def *def;
    const mr_call *call;
    const mr_buf *in;
} use;

typedef struct operand_data {
    mr_type type;
    mr_buf buf;
} operand_data;

enum { NOT_SPLIT = 0, SPLIT_OK = 1, SPLIT_WRONG = -1 };

static size_t elem(const mr_type *t)
{
    return mr_dtype_bytes(t->dtype);
}

static operand_data alloc_operand(const mr_type *t)
{
    operand_data o = { .type = *t };
    o.buf.data = calloc(1, mr_bytes(t) + 8);
    return o;
}

/* Elements of part `p` of a dim of n: halves, the second one larger if n is odd. */
static int64_t part_len(int64_t n, int p)
{
    return p ? n - n / 2 : n / 2;
}

/* Copies part `p` of `whole`, split along `dim` (-1: all of it), out of or into place. */
static void move_part(const mr_type *whole, void *w, int dim, int p, void *part, bool out_of)
{
    size_t outer = 1, inner = elem(whole), n = 1, len = 1;
    for (int d = 0; d < (int)whole->rank; d++) {
        if (d < dim)
            outer *= (size_t)whole->dim[d];
        if (d > dim)
            inner *= (size_t)whole->dim[d];
    }
    if (dim >= 0) {
        n = (size_t)whole->dim[dim];
        len = (size_t)part_len(whole->dim[dim], p);
    }
    for (size_t o = 0; o < outer; o++) {
        char *a = (char *)w + (o * n + (p > 0 ? n - len : 0)) * inner;
        char *b = (char *)part + o * len * inner;
        memcpy(out_of ? b : a, out_of ? a : b, len * inner);
    }
}

static int axis_dim(const mri_shard *rule, bool out, uint32_t i, const mr_type *t, int axis)
{
    for (uint32_t d = 0; d < t->rank; d++)
        if (mri_shard_at(rule, out, i, d, t->rank) == axis)
            return (int)d;
    return -1;
}

static double value(const operand_data *o, int64_t i)
{
    const void *p = o->buf.data;
    if (mr_is(&o->type, "f64"))
        return ((const double *)p)[i];
    if (mr_is(&o->type, "f32"))
        return (double)((const float *)p)[i];
    if (mr_is(&o->type, "i32"))
        return ((const int32_t *)p)[i];
    if (mr_is(&o->type, "i16"))
        return ((const int16_t *)p)[i];
    cr_assert(mr_is(&o->type, "bf16"), "%s", o->type.dtype);
    uint32_t u = (uint32_t)((const uint16_t *)p)[i] << 16;
    float f;
    memcpy(&f, &u, 4);
    return (double)f;
}

/* rounding of the operand's own dtype */
static double tolerance(const operand_data *o)
{
    return mr_is(&o->type, "f64") ? 1e-11 : mr_is(&o->type, "f32") ? 1e-5 : 1e-2;
}

/* Is `whole` what its two parts say? `before`: its content before the op (accumulators). */
static bool agree(const operand_data *whole, const operand_data part[2], int dim, char mode,
                  const operand_data *before)
{
    int64_t n = mr_numel(&whole->type);
    bool ok = true;
    if (dim >= 0) {
        operand_data joined = alloc_operand(&whole->type);
        for (int p = 0; p < 2; p++)
            if (part[p].type.dim[dim] != part_len(whole->type.dim[dim], p)) {
                free(joined.buf.data);
                return false;
            }
        for (int p = 0; p < 2; p++)
            move_part(&whole->type, joined.buf.data, dim, p, part[p].buf.data, false);
        for (int64_t i = 0; i < n; i++)
            ok &= fabs(value(whole, i) - value(&joined, i)) <=
                  tolerance(whole) * (1 + fabs(value(whole, i)));
        free(joined.buf.data);
        return ok;
    }
    for (int64_t i = 0; i < n; i++) {
        double w = value(whole, i), b = before ? value(before, i) : 0;
        double x = value(&part[0], i), y = value(&part[1], i);
        double tol = tolerance(whole) * (1 + fabs(w) + fabs(x) + fabs(y));
        if (mode == 's')
            ok &= fabs(x + y - b - w) <= tol;
        else
            ok &= fabs(x - w) <= tol && fabs(y - w) <= tol;
    }
    return ok;
}

/* The attributes of a half; false if one does not divide. */
static bool halve_attrs(const mri_shard_axis *a, const mr_call *c, mr_attr *attr)
{
    memcpy(attr, c->attr, c->n_attr * sizeof *attr);
    for (uint32_t k = 0; k < a->n_attrs; k++)
        for (uint32_t i = 0; i < c->n_attr; i++)
            if (!strcmp(attr[i].key, a->attrs[k])) {
                if (attr[i].u.i % 2)
                    return false;
                attr[i].u.i /= 2;
            }
    return true;
}

/* Operands of one half of `u` (p 0 or 1), or of the whole (p -1). false: does not divide. */
static bool take_inputs(const use *u, const mri_shard *rule, int axis, int p, operand_data *in)
{
    for (uint32_t i = 0; i < u->call->n_in; i++) {
        const mr_type *t = u->call->in[i];
        if (!t)
            continue;
        int dim = p < 0 ? -1 : axis_dim(rule, false, i, t, axis);
        mr_type half = *t;
        if (dim >= 0)
            half.dim[dim] = part_len(t->dim[dim], p);
        if (dim >= 0 && !half.dim[dim])
            return false;
        in[i] = alloc_operand(&half);
        move_part(t, u->in[i].data, dim, p, in[i].buf.data, true);
    }
    return true;
}

/* Runs one half, or the whole; false if the op refuses these shapes. */
static bool run_part(const use *u, const mri_shard *rule, int axis, int p, operand_data *in,
                     operand_data *out)
{
    mr_attr attr[MRI_MAX_ATTRS];
    const mr_type *in_type[MRI_MAX_OPERANDS] = { 0 }, *out_type[MRI_MAX_OPERANDS] = { 0 };
    mr_type made[MRI_MAX_OPERANDS], *made_ptr[MRI_MAX_OPERANDS];
    mr_buf in_buf[MRI_MAX_OPERANDS] = { 0 }, out_buf[MRI_MAX_OPERANDS] = { 0 };
    mr_call c = *u->call;
    mr_err err = MR_ERR_INIT;
    if (p < 0)
        memcpy(attr, c.attr, c.n_attr * sizeof *attr);
    else if (!halve_attrs(&rule->axis[axis], &c, attr))
        return false;
    if (!take_inputs(u, rule, axis, p, in))
        return false;
    for (uint32_t i = 0; i < c.n_in; i++)
        if (in[i].buf.data) {
            in_type[i] = &in[i].type;
            in_buf[i] = in[i].buf;
        }
    for (uint32_t i = 0; i < c.n_out; i++)
        made_ptr[i] = &made[i];
    c.in = in_type;
    c.out = out_type;
    c.attr = attr;
    if (mri_op_check_call(u->def, &c, made_ptr, &err))
        return false;
    for (uint32_t i = 0; i < c.n_out; i++) {
        out[i] = alloc_operand(&made[i]);
        out_type[i] = &out[i].type;
        out_buf[i] = out[i].buf;
    }
    cr_assert_eq(u->def->ref(&c, in_buf, out_buf, &err), 0, "%s half: %s", u->def->id, err.what);
    return true;
}

static bool allowed(const mri_shard_axis *a, const mri_sig *sig, const mr_call *c)
{
    for (uint32_t i = 0; i < sig->n_in; i++) {
        bool here = i < c->n_in && c->in[i];
        if ((here && !strcmp(a->absent, sig->in[i].name)) ||
            (!here && !strcmp(a->present, sig->in[i].name)))
            return false;
    }
    return true;
}

static int split(const use *u, const mri_shard *rule, int axis)
{
    operand_data in[3][MRI_MAX_OPERANDS] = { 0 }, out[3][MRI_MAX_OPERANDS] = { 0 };
    mri_sig sig;
    mr_err err = MR_ERR_INIT;
    char mode = rule->axis[axis].mode;
    int verdict = NOT_SPLIT;
    cr_assert_eq(mri_sig_parse(u->def->sig, &sig, &err), 0);
    if (!allowed(&rule->axis[axis], &sig, u->call))
        return NOT_SPLIT;
    bool ran = true;
    for (int p = 0; p < 3 && ran; p++) /* halves 0 and 1, then the whole */
        ran = run_part(u, rule, axis, p < 2 ? p : -1, in[p], out[p]);
    if (!ran)
        goto out;
    verdict = SPLIT_OK;
    for (uint32_t i = 0; i < u->call->n_out; i++) {
        const operand_data part[2] = { out[0][i], out[1][i] };
        int dim = axis_dim(rule, true, i, &out[2][i].type, axis);
        if (dim >= 0 && out[0][i].type.dim[dim] + out[1][i].type.dim[dim] !=
                            out[2][i].type.dim[dim]) { /* a norm's one group, say */
            verdict = NOT_SPLIT;
            goto out;
        }
        if (!agree(&out[2][i], part, dim, mode, NULL))
            verdict = SPLIT_WRONG;
    }
    for (uint32_t i = 0; i < u->call->n_in; i++) {
        const operand_data part[2] = { in[0][i], in[1][i] };
        if (!sig.in[i].mutated || !u->call->in[i])
            continue;
        operand_data before = { *u->call->in[i], u->in[i] };
        int dim = axis_dim(rule, false, i, &in[2][i].type, axis);
        if (!agree(&in[2][i], part, dim, mode, &before))
            verdict = SPLIT_WRONG;
    }
out:
    for (int p = 0; p < 3; p++)
        for (int i = 0; i < MRI_MAX_OPERANDS; i++) {
            free(in[p][i].buf.data);
            free(out[p][i].buf.data);
        }
    return verdict;
}

/* how often each axis of each op was split by some case, by catalogue index */
typedef struct tally {
    int n[512][8];
} tally;

static uint32_t index_of(const mr_op_def *def)
{
    uint32_t i = 0;
    while (strcmp(mri_op_at(i)->id, def->id))
        i++;
    return i;
}

static void try_axes(const use *u, const char *text, tally *done)
{
    mri_shard rule;
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(mri_shard_of(u->def, u->call, &rule, &err), 0, "%s: %s", u->def->id, err.what);
    for (uint32_t a = 0; a < rule.n_axes; a++) {
        int verdict = split(u, &rule, (int)a);
        cr_assert_neq(verdict, SPLIT_WRONG, "%s (of \"%s\"): axis %s cannot be split by %s",
                      u->def->id, text, rule.axis[a].name,
                      rule.axis[a].mode == 's' ? "sum" : "map");
        done->n[index_of(u->def)][a] += verdict == SPLIT_OK;
    }
}

/* the case itself, then each op of its backward */
static void try_case(const mr_op_def *def, const char *text, tally *done)
{
    mr_err err = MR_ERR_INIT;
    mri_case c;
    mri_record *r;
    cr_assert_eq(mri_case_make(def, text, "f64", 11, &c, &err), 0, "%s: %s", err.what, err.detail);
    try_axes(&(use){ def, &c.call, c.in }, text, done);
    if (def->vjp) {
        uint32_t needs = strncmp(def->id, "cross_entropy", 13) ? MRI_ALL : 1; /* weights: none */
        cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), 0);
        cr_assert_eq(mri_record_vjp(def, &c, MRI_OUT0, needs, &r, &err), 0, "%s", err.what);
        const mri_record_value *dout = mri_record_dout(r, 0);
        for (int64_t i = 0; dout && mr_is(&dout->type, "f64") && i < mr_numel(&dout->type); i++)
            ((double *)dout->buf.data)[i] = cos(1 + 3.1 * (double)i);
        cr_assert_eq(mri_record_run(r, NULL, NULL, &err), 0);
        for (size_t i = 0; i < r->step.n; i++)
            try_axes(&(use){ r->step.v[i]->def, &r->step.v[i]->call, r->step.v[i]->in }, text,
                     done);
        mri_record_free(r);
    }
    mri_case_free(&c);
}

Test(shard_rules, every_axis_of_every_op_splits_in_two)
{
    static tally done;
    const mr_op_def *def;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        for (const char *const *text = def->cases; text && *text; text++)
            try_case(def, *text, &done);
    for (uint32_t i = 0; (def = mri_op_at(i)); i++) {
        mri_shard rule;
        mr_err err = MR_ERR_INIT;
        char text[256], key[24], word[24]; /* alternatives declare the same axes, in one order */
        for (uint32_t k = 0; def->shard && mri_shard_alternative(def->shard, k, text, key, word);
             k++) {
            cr_assert_eq(mri_shard_parse(text, &rule, &err), 0);
            for (uint32_t a = 0; a < rule.n_axes; a++)
                cr_assert_gt(done.n[i][a], 0, "%s: no case splits axis %s", def->id,
                             rule.axis[a].name);
        }
    }
}

/* Rules that are wrong on purpose are found out. */
Test(shard_rules, a_wrong_rule_is_seen)
{
    static const struct {
        const char *op, *shard, *text;
    } rows[] = {
        { "linear", "T I, O I, O -> T O | I:map", "x=F[4,6] w=F[8,6]" },
        { "linear", "T I, O I, O -> T O | I:sum", "x=F[4,6] w=F[8,6] bias=F[8]" },
        { "swiglu", "T F, T F -> T F | F:map", "gate=F[4,16]" },
        { "cross_entropy", "T V, T, T -> ., T, T | T:map",
          "logits=F[4,6] targets=i32[4]<6 weight=S[4]pos" },
        { "cross_entropy", "T V, T, T -> ., T, T | V:sum",
          "logits=F[4,6] targets=i32[4]<6 weight=S[4]pos" },
        { "layernorm", "T D, D, D -> T D, T, T | D:map", "x=F[4,6] w=F[6]" },
        { "grouped_linear", "layout=io ? R I, E I O, E1 -> R O | I:map",
          "x=F[8,4] w=F[3,4,6] offsets=i32[4]part:8" },
        { "sum_rows", "T D, D -> | T:map", "x=F[4,6] acc=S[6]" },
        { "attention", "T H, T H, T H, T -> T H, T H | T:map",
          "q=F[4,4] k=F[4,4] v=F[4,4] seq_start=i32[4]zero @heads=1 @kv_heads=1 @head_dim=4" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        mr_op_def wrong = *mri_op_find(rows[i].op);
        mri_shard rule;
        mri_case c;
        wrong.shard = rows[i].shard;
        cr_assert_eq(mri_case_make(&wrong, rows[i].text, "f64", 5, &c, &err), 0, "%s", err.what);
        cr_assert_eq(mri_shard_of(&wrong, &c.call, &rule, &err), 0, "%s", err.what);
        cr_assert_eq(split(&(use){ &wrong, &c.call, c.in }, &rule, 0), SPLIT_WRONG,
                     "%s by \"%s\" passes", rows[i].op, rows[i].shard);
        mri_case_free(&c);
    }
}
