/* SPDX-License-Identifier: Apache-2.0
 *
 * join.c - two products of one x that meet in a SwiGLU become one product of twice the width:
 *   swiglu(x w1^T, x w2^T)  ->  swiglu(x [w1; w2]^T)
 * where w1 and w2 lie side by side in memory, so that [w1; w2] is there already, as are its
 * gradient and its optimizer states: no parameter changes its name or its place. It happens before
 * vjp, so the gradients come joined too: one product for dx, where there were two and a sum, and
 * one for dw. For training alone: where there are few rows fuse_few_rows.c has more to join.
 *
 * The joined parameter takes the place of the first in the program and is called "first|second";
 * the second is no longer a port of the plan.
 */
#include "fuse.h"
#include <string.h>

/* The only use of v, by node `by`? */
static bool only_read_by(const mr_prog *p, mr_val v, uint32_t by)
{
    uint32_t reader = 0;
    return mri_fuse_readers(p, v, &reader, 1) == 1 && reader == by && !mri_fuse_is_output(p, v);
}

/* A product without a bias that only `by` reads, by a matrix that only it reads. */
static bool plain_product(const mr_prog *p, const mri_node *n, uint32_t by)
{
    if (!n || strcmp(n->def->id, "linear") || n->phase != MRI_F || (n->n_in > 2 && n->in[2]))
        return false;
    const mri_value *w = mri_val(p, n->in[1]);
    return w->kind == MRI_PARAM && w->type.rank == 2 && only_read_by(p, n->out[0], by) &&
           only_read_by(p, n->in[1], (uint32_t)(n - p->nodes.v));
}

static bool same_shape(const mr_prog *p, const mri_node *a, const mri_node *b)
{
    return a->in[0] == b->in[0] && a->in[1] != b->in[1] &&
           mr_same_type(&mri_val(p, a->in[1])->type, &mri_val(p, b->in[1])->type) &&
           mr_same_type(&mri_val(p, a->out[0])->type, &mri_val(p, b->out[0])->type);
}

static void remove_node(mr_prog *p, uint32_t at)
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

static void join(mr_prog *p, mri_node *swiglu, uint32_t first, uint32_t second)
{
    mri_node *a = &p->nodes.v[first];
    mri_value *w1 = mri_val(p, a->in[1]), *w2 = mri_val(p, p->nodes.v[second].in[1]);
    mri_value *y = mri_val(p, a->out[0]);
    char *name = mri_format("%s|%s", w1->name, w2->name);
    MRI_PUSH(&p->strings, name);
    w1->name = name;
    w1->type.dim[0] *= 2;
    w2->joined = 1;
    y->type.dim[y->type.rank - 1] *= 2;
    swiglu->in[1] = 0;
    remove_node(p, second);
}

mr_status mri_pass_join(mri_plan *plan, const mri_plan_options *opt, mr_err *err)
{
    mr_prog *p = plan->prog;
    (void)err;
    for (uint32_t i = 0; i < p->nodes.n && opt->train && opt->fuse && opt->beside; i++) {
        mri_node *n = &p->nodes.v[i];
        if (strcmp(n->def->id, "swiglu") || n->n_in < 2 || !n->in[1])
            continue;
        const mri_node *a = mri_fuse_maker(p, n->in[0]), *b = mri_fuse_maker(p, n->in[1]);
        if (!plain_product(p, a, i) || !plain_product(p, b, i) || !same_shape(p, a, b) || a > b ||
            !opt->beside(opt->beside_ctx, plan->name, mri_val(p, a->in[1])->name,
                         mri_val(p, b->in[1])->name))
            continue;
        join(p, n, (uint32_t)(a - p->nodes.v), (uint32_t)(b - p->nodes.v));
        i--; /* the node stands one place lower now */
    }
    return 0;
}
