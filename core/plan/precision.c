/* SPDX-License-Identifier: Apache-2.0
 *
 * precision.c - gives products the formats of the recipe. Runs behind the vjp, so that the three
 * uses of a layer's product - linear, linear.dgrad, linear.wgrad - are there to be rewritten one
 * by one, and an operand that two of them read is quantised once:
 *
 *     F:  q(x) with its transpose, q(w)         y  = linear.fp8(q(x), q(w))
 *     B:  q(w)'s transpose, q(dy) with its      dx = linear.fp8(q(dy), q(w)ᵀ)
 *                                               dw += linear.fp8.wgrad(q(dy)ᵀ, q(x)ᵀ)
 *
 * What backward keeps of x is then its transposed 8-bit copy, half of the bytes. Weights are
 * quantised again in B instead of being kept.
 *
 * Left as they are: blocks marked exact (first and last layers, mri_assembly_exact), the head
 * (what is fed targets or gives logits), the router, products whose dims are no multiples of what the formats
 * need, everything that is no product of a parameter.
 */
#include "plan.h"
#include <stdlib.h>
#include <string.h>

typedef struct quantised {
    mr_val q, scale, qt;
} quantised;

typedef struct pass {
    mr_prog *p;
    const mri_recipe *recipe;
    MRI_VEC(mri_node) out;
    quantised *of[MRI_PHASES]; /* by value id - 1: what was made of it, for readers in that phase */
    const mri_node *at;        /* the node being replaced */
    mr_err *err;
} pass;

/* ---- which products ---------------------------------------------------------------------------- */

static bool whole_block(const mr_prog *p)
{
    return p->exact || mri_value_find(p, MRI_INPUT, "targets") ||
           mri_port_find(&p->outputs, "logits");
}

static bool divides(const pass *s, int64_t n)
{
    return n > 0 && n % s->recipe->multiple == 0;
}

/* x [T, I] and w [O, I] of a product in any of its uses */
static bool fits(const pass *s, const mri_node *n, mr_val rows, mr_val w)
{
    if (!rows || !w || mri_region_within(s->p, n->region, "moe_router"))
        return false;
    const mr_type *x = &mri_val(s->p, rows)->type, *m = &mri_val(s->p, w)->type;
    const mri_value *v = mri_val(s->p, w);
    return v->kind == MRI_PARAM && m->rank == 2 && !(v->flags & MR_PARAM_F32) &&
           mr_is(m, s->recipe->dtype) && mr_is(x, s->recipe->dtype) && divides(s, mr_rows(x)) &&
           divides(s, m->dim[0]) && divides(s, m->dim[1]);
}

static bool is(const mri_node *n, const char *id)
{
    return !strcmp(n->def->id, id);
}

static mr_val weight_of(const mr_prog *p, const mri_node *n) /* 0: no product of a parameter */
{
    if (is(n, "linear") || is(n, "linear.dgrad"))
        return n->in[1];
    return is(n, "linear.wgrad") && mri_val(p, n->in[2])->kind == MRI_GRAD
               ? mri_val(p, n->in[2])->of : 0;
}

static bool chosen(const pass *s, const mri_node *n)
{
    return fits(s, n, n->n_in ? n->in[0] : 0, weight_of(s->p, n));
}

/* Does a later product read the transpose of what this value becomes? Of x a weight gradient does,
 * of dy its own, of w the data gradient. */
static bool transposed(const pass *s, mr_val v, uint8_t phase)
{
    for (size_t i = 0; i < s->p->nodes.n; i++) {
        const mri_node *n = &s->p->nodes.v[i];
        bool weight = is(n, "linear.dgrad") && n->in[1] == v && phase != MRI_F;
        bool rows = is(n, "linear.wgrad") && (n->in[0] == v || n->in[1] == v);
        if ((weight || rows) && chosen(s, n))
            return true;
    }
    return false;
}

/* ---- rewriting ----------------------------------------------------------------------------------- */

static uint32_t push(pass *s, mri_node n)
{
    uint32_t at = (uint32_t)s->out.n;
    MRI_PUSH(&s->out, n);
    for (uint32_t j = 0; j < n.n_out; j++)
        if (n.out[j]) {
            mri_val(s->p, n.out[j])->node = at;
            mri_val(s->p, n.out[j])->slot = j;
        }
    return at;
}

/* A node for the one that is replaced. `keep`: it makes that one's value. What only prepares
 * operands belongs to B, also for a weight gradient that is delayed: B reads the same copies. */
static mr_status emit(pass *s, const char *id, const mr_val *in, uint32_t n_in, const mr_attr *attr,
                      uint32_t n_attr, mr_val *out, uint32_t n_out, mr_val keep)
{
    mr_prog *p = s->p;
    size_t values = p->values.n;
    p->phase = keep || !n_out ? s->at->phase : s->at->phase == MRI_F ? MRI_F : MRI_B;
    mr_status st = mri_prog_node(p, id, in, n_in, attr, n_attr, out, n_out, s->at->file,
                                 s->at->line);
    p->phase = MRI_F;
    if (st) {
        *s->err = p->err;
        return st;
    }
    mri_node n = p->nodes.v[--p->nodes.n];
    n.region = s->at->region;
    if (keep) {
        p->values.n = values;
        n.out[0] = keep;
    }
    push(s, n);
    return 0;
}

/* What a value is in `dtype`, made before the node that is replaced unless it is there. */
static mr_status quantise(pass *s, mr_val v, const char *dtype, quantised *out)
{
    bool weight = mri_val(s->p, v)->kind == MRI_PARAM;
    uint8_t phase = weight && s->at->phase != MRI_F ? MRI_B : MRI_F; /* B and W share weights */
    quantised *have = &s->of[phase][v - 1];
    mr_status st = 0;
    if (!have->q) {
        mr_val amax = 0, made[3] = { 0 };
        mr_attr a = mr_as("dtype", dtype);
        uint32_t n = transposed(s, v, weight ? phase : MRI_B) ? 3 : 2;
        MR_TRY(emit(s, "amax", &v, 1, NULL, 0, &amax, 1, 0));
        MR_TRY(emit(s, "quantize", (mr_val[]){ v, amax }, 2, &a, 1, made, n, 0));
        *have = (quantised){ made[0], made[1], made[2] };
    }
    *out = *have;
out:
    return st;
}

static mr_status rewrite(pass *s, const mri_node *n)
{
    const char *operand = s->recipe->operand, *gradient = s->recipe->gradient;
    quantised a, b;
    mr_status st = 0;
    if (is(n, "linear")) {
        mr_attr y = mr_as("out_dtype", mri_val(s->p, n->out[0])->type.dtype);
        MR_TRY(quantise(s, n->in[0], operand, &a));
        MR_TRY(quantise(s, n->in[1], operand, &b));
        mr_val in[5] = { a.q, a.scale, b.q, b.scale, n->n_in > 2 ? n->in[2] : 0 }, y_ = 0;
        MR_TRY(emit(s, "linear.fp8", in, in[4] ? 5 : 4, &y, 1, &y_, 1, n->out[0]));
    } else if (is(n, "linear.dgrad")) {
        mr_attr dx = mr_as("out_dtype", mri_val(s->p, n->out[0])->type.dtype);
        MR_TRY(quantise(s, n->in[0], gradient, &a));
        MR_TRY(quantise(s, n->in[1], operand, &b));
        mr_val in[4] = { a.q, a.scale, b.qt, b.scale }, dx_ = 0;
        MR_TRY(emit(s, "linear.fp8", in, 4, &dx, 1, &dx_, 1, n->out[0]));
    } else {
        MR_TRY(quantise(s, n->in[0], gradient, &a));
        MR_TRY(quantise(s, n->in[1], operand, &b));
        mr_val in[5] = { a.qt, a.scale, b.qt, b.scale, n->in[2] };
        MR_TRY(emit(s, "linear.fp8.wgrad", in, 5, NULL, 0, NULL, 0, 0));
    }
out:
    return st;
}

mr_status mri_pass_precision(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    mr_prog *p = plan->prog;
    pass s = { .p = p, .recipe = opt->recipe, .err = err };
    mr_status st = 0;
    if (!opt->recipe || opt->recipe->scaling == MRI_SCALE_NONE || whole_block(p))
        return 0;
    size_t n = p->nodes.n;
    for (int ph = 0; ph < MRI_PHASES; ph++)
        s.of[ph] = mri_alloc(p->values.n * sizeof *s.of[ph]);
    for (size_t i = 0; i < n; i++) {
        mri_node at = p->nodes.v[i]; /* by value: the array grows and shrinks behind it */
        s.at = &at;
        if (!st && chosen(&s, &at)) {
            char *attr = (char *)at.attr; /* owned by the program from now on */
            st = rewrite(&s, &at);
            MRI_PUSH(&p->strings, attr);
        } else {
            push(&s, at);
        }
    }
    for (int ph = 0; ph < MRI_PHASES; ph++)
        free(s.of[ph]);
    free(p->nodes.v);
    p->nodes.v = s.out.v;
    p->nodes.n = s.out.n;
    p->nodes.cap = s.out.cap;
    return st;
}
