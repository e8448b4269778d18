/* SPDX-License-Identifier: Apache-2.0
 *
 * join.c - products of one x become one product where what reads them takes them side by side:
 *   swiglu(x w1^T, x w2^T)                   ->  swiglu(x [w1; w2]^T)
 *   attention(x q^T + a, x k^T + b, x v^T + c)  ->  qkv_attention(x [q; k; v]^T + [a; b; c])
 * and the matrices (and biases) lie side by side in memory, so that [w1; w2] is there already, as
 * are its gradient and its optimizer states: no parameter changes its name or its place. It happens
 * before vjp, so the gradients come joined too: one product for dx, where there were two and a sum,
 * one for dw, and one bias's gradient. For training alone: where there are few rows
 * fuse_few_rows.c has more to join. qkv_attention only where the backend answers for it and for
 * its gradient.
 *
 * The joined parameter takes the place of the first in the program and is called "first|second";
 * the others are no longer ports of the plan.
 */
#include "fuse.h"
#include <string.h>

enum { MOST = 3 };

/* The only use of v, by node `by`? */
static bool only_read_by(const mr_prog *p, mr_val v, uint32_t by)
{
    uint32_t reader = 0;
    return mri_fuse_readers(p, v, &reader, 1) == 1 && reader == by && !mri_fuse_is_output(p, v);
}

static mr_val bias_of(const mri_node *n)
{
    return n->n_in > 2 ? n->in[2] : 0;
}

static bool own_param(const mr_prog *p, mr_val v, uint32_t rank, const mri_node *reader)
{
    const mri_value *x = mri_val(p, v);
    return x->kind == MRI_PARAM && x->type.rank == rank &&
           only_read_by(p, v, mri_fuse_index(p, reader));
}

/* A product that only `by` reads, by a matrix (and bias) that only it reads. */
static bool product_for(const mr_prog *p, const mri_node *n, uint32_t by)
{
    return n && mri_fuse_is(n, "linear") && n->phase == MRI_F && only_read_by(p, n->out[0], by) &&
           own_param(p, n->in[1], 2, n) && (!bias_of(n) || own_param(p, bias_of(n), 1, n));
}

static bool beside(const mri_plan *plan, const mri_plan_options *opt, mr_val a, mr_val b)
{
    const mri_value *x = mri_val(plan->prog, a), *y = mri_val(plan->prog, b);
    return mr_is(&x->type, y->type.dtype) &&
           opt->beside(opt->beside_ctx, plan->name, x->name, y->name);
}

/* May b's matrix stand below a's, in one product? */
static bool joins(const mri_plan *plan, const mri_plan_options *opt, const mri_node *a,
                  const mri_node *b)
{
    const mr_prog *p = plan->prog;
    return a < b && a->in[0] == b->in[0] && a->in[1] != b->in[1] &&
           !bias_of(a) == !bias_of(b) &&
           mr_is(&mri_val(p, a->out[0])->type, mri_val(p, b->out[0])->type.dtype) &&
           beside(plan, opt, a->in[1], b->in[1]) &&
           (!bias_of(a) || beside(plan, opt, bias_of(a), bias_of(b)));
}

static void join_params(mr_prog *p, mr_val first, mr_val second)
{
    mri_value *a = mri_val(p, first), *b = mri_val(p, second);
    char *name = mri_format("%s|%s", a->name, b->name);
    MRI_PUSH(&p->strings, name);
    a->name = name;
    a->type.dim[0] += b->type.dim[0];
    b->joined = 1;
}

/* The products maker[0 .. n-1] become the first of them, twice or three times as wide. */
static void join(mr_prog *p, const uint32_t *maker, uint32_t n)
{
    mri_node *a = &p->nodes.v[maker[0]];
    mri_value *y = mri_val(p, a->out[0]);
    for (uint32_t i = 1; i < n; i++) {
        const mri_node *b = &p->nodes.v[maker[i]];
        y->type.dim[y->type.rank - 1] += mri_val(p, b->in[1])->type.dim[0];
        join_params(p, a->in[1], b->in[1]);
        if (bias_of(a))
            join_params(p, bias_of(a), bias_of(b));
    }
    for (uint32_t i = n; i-- > 1;)
        mri_prog_remove(p, maker[i]);
}

static bool answers(const mri_plan *plan, const mri_plan_options *opt, const char *op,
                    const mr_call *call)
{
    mr_kernel_info info = { .size = sizeof info };
    mr_err why = MR_ERR_INIT;
    void *kernel = NULL;
    if (plan->backend->query(plan->dev, op, call, opt->deterministic ? MR_QUERY_DETERMINISTIC : 0,
                             &kernel, &info, &why))
        return false;
    plan->backend->release(plan->dev, kernel);
    return true;
}

/* Has the backend this attention of one operand `wide` values wide, and its gradient? */
static bool attention_answered(const mri_plan *plan, const mri_plan_options *opt,
                               const mri_node *n, int64_t wide)
{
    const mr_prog *p = plan->prog;
    mr_type qkv = mri_val(p, n->in[0])->type;
    const mr_type *start = n->n_in > 3 && n->in[3] ? &mri_val(p, n->in[3])->type : NULL;
    const mr_type *o = &mri_val(p, n->out[0])->type, *lse = &mri_val(p, n->out[1])->type;
    const mr_type *in[] = { &qkv, start }, *out[] = { o, lse };
    const mr_type *bwd_in[] = { o, &qkv, o, lse, start }, *bwd_out[] = { &qkv };
    mr_call call = { .size = sizeof call, .n_in = 2, .n_out = 2, .n_attr = n->n_attr,
                     .in = in, .out = out, .attr = n->attr };
    mr_call bwd = { .size = sizeof bwd, .n_in = 5, .n_out = 1, .n_attr = n->n_attr,
                    .in = bwd_in, .out = bwd_out, .attr = n->attr };
    qkv.dim[qkv.rank - 1] = wide;
    return plan->backend && answers(plan, opt, "qkv_attention", &call) &&
           answers(plan, opt, "qkv_attention.bwd", &bwd);
}

/* The products that make the first `n` operands of node `at`, if they may become one. */
static bool products_of(const mri_plan *plan, const mri_plan_options *opt, uint32_t at, uint32_t n,
                        uint32_t *maker)
{
    const mr_prog *p = plan->prog;
    const mri_node *reader = &p->nodes.v[at];
    for (uint32_t i = 0; i < n; i++) {
        const mri_node *m = i < reader->n_in ? mri_fuse_maker(p, reader->in[i]) : NULL;
        if (!product_for(p, m, at) || (i && !joins(plan, opt, &p->nodes.v[maker[i - 1]], m)))
            return false;
        maker[i] = mri_fuse_index(p, m);
    }
    return true;
}

static bool join_swiglu(mri_plan *plan, const mri_plan_options *opt, uint32_t at)
{
    mr_prog *p = plan->prog;
    uint32_t maker[MOST];
    mri_node *n = &p->nodes.v[at];
    if (!mri_fuse_is(n, "swiglu") || !products_of(plan, opt, at, 2, maker) ||
        !mr_same_type(&mri_val(p, n->in[0])->type, &mri_val(p, n->in[1])->type))
        return false;
    n->in[1] = 0;
    join(p, maker, 2);
    return true;
}

static bool join_attention(mri_plan *plan, const mri_plan_options *opt, uint32_t at)
{
    mr_prog *p = plan->prog;
    uint32_t maker[MOST];
    mri_node *n = &p->nodes.v[at];
    int64_t wide = 0;
    if (!mri_fuse_is(n, "attention") || n->phase != MRI_F || !products_of(plan, opt, at, 3, maker))
        return false;
    for (uint32_t i = 0; i < 3; i++)
        wide += mr_last(&mri_val(p, n->in[i])->type);
    if (!attention_answered(plan, opt, n, wide))
        return false;
    n->def = mri_op_find("qkv_attention");
    n->in[1] = n->n_in > 3 ? n->in[3] : 0;
    n->in[2] = n->in[3] = 0;
    n->n_in = 2;
    join(p, maker, 3);
    return true;
}

mr_status mri_pass_join(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    const mr_prog *p = plan->prog;
    (void)err;
    for (uint32_t i = 0; i < p->nodes.n && opt->train && opt->fuse && opt->beside; i++) {
        uint32_t before = (uint32_t)p->nodes.n;
        if (join_swiglu(plan, opt, i) || join_attention(plan, opt, i))
            i -= before - (uint32_t)p->nodes.n; /* where the node stands now */
    }
    return 0;
}
