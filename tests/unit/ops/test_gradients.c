/* SPDX-License-Identifier: Apache-2.0
 * Every op that has a vjp: the gradients of its emitted backward, run through the reference
 * loops in f64, equal central differences of <dout, out> for every float operand. */
#include "core/ops/record.h"
#include <criterion/criterion.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* Float operands that carry no gradient by definition. */
static const char *const constant[][2] = {
    { "cross_entropy", "weight" }, /* a mask */
    { "cross_entropy.merge", "weight" },
    { "route_topk", "bias" },      /* chooses, but is not in the value */
    { "moe_balance_loss", "counts" }, /* of how tokens chose */
};

enum { MAX_PROBES = 48 }; /* elements of an operand that are probed, spread evenly */

static bool is_constant(const char *op, const char *operand)
{
    for (size_t i = 0; i < sizeof constant / sizeof *constant; i++)
        if (!strcmp(constant[i][0], op) && !strcmp(constant[i][1], operand))
            return true;
    return false;
}

static double dot_out0(const mri_case *c, const double *dout)
{
    double sum = 0;
    for (int64_t i = 0; i < mr_numel(&c->out_type[0]); i++)
        sum += dout[i] * ((const double *)c->out[0].data)[i];
    return sum;
}

static double forward(const mr_op_def *def, mri_case *c, const double *dout)
{
    mr_err err = MR_ERR_INIT;
    cr_assert_eq(def->ref(&c->call, c->in, c->out, &err), 0, "%s: %s", def->id, err.what);
    return dot_out0(c, dout);
}

/* Largest difference between analytic and numeric, relative to the operand's largest slope. */
static double compare(const mr_op_def *def, mri_case *c, const double *dout, uint32_t operand,
                      const mri_record_value *din)
{
    double *x = c->in[operand].data, worst = 0, scale = 1e-3;
    const double *g = din->buf.data;
    int64_t n = mr_numel(&c->in_type[operand]), step = n > MAX_PROBES ? n / MAX_PROBES : 1;
    cr_assert(mr_is(&din->type, "f64"));
    for (int64_t i = 0; i < n; i++)
        scale = fmax(scale, fabs(g[i]));
    for (int64_t i = 0; i < n; i += step) {
        double keep = x[i], h = 1e-4 * fmax(1, fabs(keep));
        double f[4];
        for (int k = 0; k < 4; k++) { /* fourth order: the error is h⁴ f⁽⁵⁾ / 30 */
            x[i] = keep + (double[]){ -2, -1, 1, 2 }[k] * h;
            f[k] = forward(def, c, dout);
        }
        x[i] = keep;
        double slope = (f[0] - 8 * f[1] + 8 * f[2] - f[3]) / (12 * h);
        scale = fmax(scale, fabs(slope));
        worst = fmax(worst, fabs(slope - g[i]));
    }
    return worst / scale;
}

/* -> operands compared; 0 if the case rounds to less than f64 on the way */
static int check_case(const mr_op_def *def, const char *text)
{
    mr_err err = MR_ERR_INIT;
    mri_case c;
    mri_sig sig;
    mri_record *r = NULL;
    uint32_t needs = 0;
    int compared = 0;
    cr_assert_eq(mri_case_make(def, text, "f64", 7, &c, &err), 0, "%s: %s", err.what, err.detail);
    cr_assert_eq(mri_sig_parse(def->sig, &sig, &err), 0);
    if (!mr_is(&c.out_type[0], "f64")) {
        mri_case_free(&c);
        return 0;
    }
    for (uint32_t i = 0; i < c.call.n_in; i++)
        if (mr_is(c.in_ptr[i], "f64") && !is_constant(def->id, sig.in[i].name))
            needs |= 1u << i;

    forward(def, &c, c.out[0].data);
    cr_assert_eq(mri_record_vjp(def, &c, MRI_OUT0, needs, &r, &err), 0, "%s \"%s\": %s %s", def->id,
                 text, err.what, err.detail);
    double *dout = mri_record_dout(r, 0)->buf.data;
    for (int64_t i = 0; i < mr_numel(&c.out_type[0]); i++)
        dout[i] = sin(1 + 2.3 * (double)i) + 0.1;
    cr_assert_eq(mri_record_run(r, NULL, NULL, &err), 0, "%s: %s", def->id, err.what);

    for (uint32_t i = 0; i < c.call.n_in; i++) {
        if (!(needs >> i & 1))
            continue;
        const mri_record_value *din = mri_record_din(r, i);
        cr_assert(din, "%s \"%s\": no gradient of %s", def->id, text, sig.in[i].name);
        double worst = compare(def, &c, dout, i, din);
        cr_assert_lt(worst, 1e-6, "%s \"%s\": the gradient of %s is off by %.2e", def->id, text,
                     sig.in[i].name, worst);
        compared++;
    }
    mri_record_free(r);
    mri_case_free(&c);
    return compared;
}

Test(gradients, of_every_op_and_case_match_central_differences)
{
    const mr_op_def *def;
    int ops = 0;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++) {
        int compared = 0;
        if (!def->vjp)
            continue;
        for (const char *const *text = def->cases; text && *text; text++)
            compared += check_case(def, *text);
        cr_assert_gt(compared, 0, "%s: no case checks its gradient", def->id);
        ops++;
    }
    cr_assert_geq(ops, 11);
}

/* An op either trains or says that it does not. */
Test(gradients, are_given_or_declined_by_every_op)
{
    const mr_op_def *def;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        cr_assert_eq(!!def->vjp, !(def->flags & MR_OP_NO_VJP), "%s", def->id);
}

static mr_status wrong_ref(const mr_call *c, const mr_buf *in, const mr_buf *out, mr_err *err)
{
    (void)err;
    for (int64_t i = 0; i < mr_numel(c->in[0]); i++)
        ((double *)out[0].data)[i] = 1.0001 * ((double *)in[0].data)[i];
    return 0;
}

/* The comparison sees a slope that is wrong by one part in ten thousand. */
Test(gradients, a_wrong_slope_is_seen)
{
    mr_err err = MR_ERR_INIT;
    mr_op_def wrong = *mri_op_find("cast");
    mri_case c;
    mri_record *r;
    wrong.ref = wrong_ref;
    cr_assert_eq(mri_case_make(&wrong, "x=F[8] @dtype=f64", "f64", 1, &c, &err), 0);
    cr_assert_eq(mri_record_vjp(&wrong, &c, MRI_OUT0, MRI_ALL, &r, &err), 0);
    double *dout = mri_record_dout(r, 0)->buf.data;
    for (int i = 0; i < 8; i++)
        dout[i] = 1 + i;
    cr_assert_eq(mri_record_run(r, NULL, NULL, &err), 0);
    cr_assert_gt(compare(&wrong, &c, dout, 0, mri_record_din(r, 0)), 5e-5);
    mri_record_free(r);
    mri_case_free(&c);
}

/* What is not wanted is not emitted. */
Test(gradients, only_wanted_ones_are_emitted)
{
    static const struct {
        const char *op, *text;
        uint32_t needs;
        size_t steps;
    } rows[] = {
        { "linear", "x=F[4,3] w=F[5,3] bias=F[5]", 7, 3 },
        { "linear", "x=F[4,3] w=F[5,3] bias=F[5]", 1, 1 },
        { "linear", "x=F[4,3] w=F[5,3] bias=F[5]", 6, 2 },
        { "linear", "x=F[4,3] w=F[5,3] bias=F[5]", 0, 0 },
        { "rmsnorm", "x=F[4,3] w=F[3]", 1, 1 },
        { "embedding", "ids=i32[4]<3 table=F[3,2]", 0, 0 },
        { "swiglu", "gate=F[4,3] up=F[4,3]", 2, 1 },
        { "attention",
          "q=F[2,2] k=F[2,2] v=F[2,2] seq_start=i32[2]zero @heads=1 @kv_heads=1 @head_dim=2", 0,
          0 },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = MR_ERR_INIT;
        const mr_op_def *def = mri_op_find(rows[i].op);
        mri_case c;
        mri_record *r;
        cr_assert_eq(mri_case_make(def, rows[i].text, NULL, 1, &c, &err), 0, "%s", err.what);
        cr_assert_eq(mri_record_vjp(def, &c, MRI_OUT0, rows[i].needs, &r, &err), 0);
        cr_assert_eq(r->step.n, rows[i].steps, "%s needs %x: %zu steps", rows[i].op, rows[i].needs,
                     r->step.n);
        for (uint32_t k = 0; k < c.call.n_in; k++)
            cr_assert_eq(!!mri_record_din(r, k), rows[i].needs >> k & 1, "%s operand %u",
                         rows[i].op, k);
        mri_record_free(r);
        mri_case_free(&c);
    }
}

/* A second backward adds to the accumulators; it does not start them anew. */
Test(gradients, accumulators_add_up)
{
    const mr_op_def *def;
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        for (const char *const *text = def->cases; def->vjp && text && *text; text++) {
            mr_err err = MR_ERR_INIT;
            mri_case c;
            mri_record *r;
            cr_assert_eq(mri_case_make(def, *text, "f64", 3, &c, &err), 0, "%s", err.what);
            cr_assert_eq(def->ref(&c.call, c.in, c.out, &err), 0);
            /* operands that have no gradient are refused, and not what this is about */
            uint32_t needs = strncmp(def->id, "cross_entropy", 13) ? MRI_ALL : 1;
            cr_assert_eq(mri_record_vjp(def, &c, MRI_OUT0, needs, &r, &err), 0, "%s", err.what);
            const mri_record_value *dout = mri_record_dout(r, 0);
            for (int64_t k = 0; dout && mr_is(&dout->type, "f64") && k < mr_numel(&dout->type); k++)
                ((double *)dout->buf.data)[k] = 1 + (double)(k % 3);
            cr_assert_eq(mri_record_run(r, NULL, NULL, &err), 0);
            for (uint32_t a = 0; a < c.call.n_in; a++) {
                if (!r->acc[a])
                    continue;
                const mri_record_value *acc = r->value.v[r->acc[a]];
                double *v = acc->buf.data;
                size_t bytes = mr_bytes(&acc->type);
                double *once = malloc(bytes);
                memcpy(once, v, bytes);
                for (size_t s = 0; s < r->step.n; s++)
                    r->step.v[s]->def->ref(&r->step.v[s]->call, r->step.v[s]->in,
                                           r->step.v[s]->out, &err);
                for (int64_t k = 0; k < mr_numel(&acc->type); k++)
                    cr_assert_float_eq(v[k], 2 * once[k], 1e-9, "%s operand %u", def->id, a);
                free(once);
                cr_assert_eq(mri_record_run(r, NULL, NULL, &err), 0);
            }
            mri_record_free(r);
            mri_case_free(&c);
        }
}

/* The same in bf16 and f32: types of gradients agree, accumulators are f32. */
Test(gradients, have_the_type_of_their_operand)
{
    const mr_op_def *def;
    static const char *const dtypes[] = { "f32", "bf16" };
    for (uint32_t i = 0; (def = mri_op_at(i)); i++)
        for (const char *const *text = def->cases; def->vjp && text && *text; text++)
            for (int d = 0; d < 2; d++) {
                mr_err err = MR_ERR_INIT;
                mri_case c;
                mri_record *r;
                mri_sig sig;
                uint32_t needs = 0;
                cr_assert_eq(mri_sig_parse(def->sig, &sig, &err), 0);
                cr_assert_eq(mri_case_make(def, *text, dtypes[d], 1, &c, &err), 0, "%s", err.what);
                for (uint32_t k = 0; k < c.call.n_in; k++)
                    needs |= (uint32_t)!is_constant(def->id, sig.in[k].name) << k;
                cr_assert_eq(mri_record_vjp(def, &c, MRI_OUT0, needs, &r, &err), 0, "%s %s: %s",
                             def->id, dtypes[d], err.what);
                for (uint32_t k = 0; k < c.call.n_in; k++)
                    cr_assert(!r->acc[k] || mr_is(&r->value.v[r->acc[k]]->type, "f32"));
                mri_record_free(r);
                mri_case_free(&c);
            }
}

Test(gradients, of_cross_entropy_flow_through_loss_only)
{
    mr_err err = MR_ERR_INIT;
    const mr_op_def *def = mri_op_find("cross_entropy");
    mri_case c;
    mri_record *r;
    cr_assert_eq(mri_case_make(def, def->cases[0], NULL, 1, &c, &err), 0);
    cr_assert_eq(mri_record_vjp(def, &c, 2, 1, &r, &err), MR_E_NO_GRADIENT);
    cr_assert(strstr(err.what, "nll"));
    mri_case_free(&c);
}
