/* SPDX-License-Identifier: Apache-2.0
 *
 * parse_op.c - operators to nodes, by recursive descent: one function a level of precedence, from
 * `x if y else z` down to what a sign stands before, as Jinja binds them; left to right on each.
 */
#include "parser.h"

static mri_node *with_op(mri_node *n, uint8_t op)
{
    n->op = op;
    return n;
}

static mri_node *power(mri_parser *p)
{
    mri_node *n = mri_unary(p, true);
    while (!p->r->st && mri_skip(p, MRI_T_POW))
        n = with_op(mri_node_new(p, MRI_N_BINARY, n, mri_unary(p, true)), MRI_T_POW);
    return n;
}

static mri_node *product(mri_parser *p)
{
    mri_node *n = power(p);
    for (uint8_t k; !p->r->st && ((k = mri_peek(p, 0)->kind) == MRI_T_MUL || k == MRI_T_DIV ||
                                  k == MRI_T_FLOORDIV || k == MRI_T_MOD);) {
        mri_next(p);
        n = with_op(mri_node_new(p, MRI_N_BINARY, n, power(p)), k);
    }
    return n;
}

static mri_node *concat(mri_parser *p)
{
    mri_node *n = product(p);
    if (mri_peek(p, 0)->kind != MRI_T_TILDE)
        return n;
    mri_node *all = mri_node_new(p, MRI_N_CONCAT, NULL, NULL);
    mri_chain c = { 0 };
    mri_chain_add(&c, n);
    while (!p->r->st && mri_skip(p, MRI_T_TILDE))
        mri_chain_add(&c, product(p));
    all->list = c.first;
    return all;
}

static mri_node *sum(mri_parser *p)
{
    mri_node *n = concat(p);
    for (uint8_t k; !p->r->st &&
                    ((k = mri_peek(p, 0)->kind) == MRI_T_ADD || k == MRI_T_SUB);) {
        mri_next(p);
        n = with_op(mri_node_new(p, MRI_N_BINARY, n, concat(p)), k);
    }
    return n;
}

static mri_node *compare(mri_parser *p)
{
    mri_node *n = sum(p);
    mri_chain c = { 0 };
    while (!p->r->st) {
        uint8_t k = mri_peek(p, 0)->kind;
        if (k >= MRI_T_EQ && k <= MRI_T_GE) {
            mri_next(p);
        } else if (mri_skip_word(p, "in")) {
            k = MRI_T_IN;
        } else if (mri_sees_word(p, "not") && mri_peek(p, 1)->kind == MRI_T_NAME &&
                   mri_str_is(mri_peek(p, 1)->value, "in")) {
            mri_next(p);
            mri_next(p);
            k = MRI_T_NOT_IN;
        } else {
            break;
        }
        mri_chain_add(&c, with_op(mri_node_new(p, MRI_N_OPERAND, sum(p), NULL), k));
    }
    if (!c.first)
        return n;
    n = mri_node_new(p, MRI_N_COMPARE, n, NULL);
    n->list = c.first;
    return n;
}

static mri_node *negation(mri_parser *p)
{
    mri_node *n = NULL;
    if (!mri_sees_word(p, "not"))
        return compare(p);
    if (mri_enter(p)) {
        mri_next(p);
        n = mri_node_new(p, MRI_N_NOT, negation(p), NULL);
    }
    p->depth--;
    return n;
}

static mri_node *conjunction(mri_parser *p)
{
    mri_node *n = negation(p);
    while (!p->r->st && mri_skip_word(p, "and"))
        n = mri_node_new(p, MRI_N_AND, n, negation(p));
    return n;
}

static mri_node *disjunction(mri_parser *p)
{
    mri_node *n = conjunction(p);
    while (!p->r->st && mri_skip_word(p, "or"))
        n = mri_node_new(p, MRI_N_OR, n, conjunction(p));
    return n;
}

mri_node *mri_expression(mri_parser *p, bool with_cond)
{
    mri_node *n = NULL;
    if (mri_enter(p)) {
        n = disjunction(p);
        while (with_cond && !p->r->st && mri_skip_word(p, "if")) {
            mri_node *c = mri_node_new(p, MRI_N_COND, disjunction(p), n);
            if (mri_skip_word(p, "else"))
                c->c = mri_expression(p, true);
            n = c;
        }
    }
    p->depth--;
    return n;
}
