/* SPDX-License-Identifier: Apache-2.0
 *
 * parse_expr.c - names, literals and what stands behind them (calls, indices, filters, tests) to
 * nodes; the operators between them are parse_op.c's.
 */
#include "parser.h"
#include <string.h>

mri_node *mri_node_new(mri_parser *p, mri_node_kind kind, mri_node *a, mri_node *b)
{
    mri_node *n = mri_take(p->r, sizeof *n);
    n->kind = (uint8_t)kind;
    n->line = mri_peek(p, 0)->line;
    n->a = a;
    n->b = b;
    return n;
}

void mri_chain_add(mri_chain *c, mri_node *n)
{
    if (c->last)
        c->last->next = n;
    else
        c->first = n;
    c->last = n;
}

static mri_node *constant(mri_parser *p, mri_val v)
{
    mri_node *n = mri_node_new(p, MRI_N_CONST, NULL, NULL);
    n->value = v;
    return n;
}

static mri_node *list_literal(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_LIST, NULL, NULL);
    mri_chain c = { 0 };
    while (!p->r->st && mri_peek(p, 0)->kind != MRI_T_RBRACKET) {
        if (c.first)
            mri_expect(p, MRI_T_COMMA);
        if (mri_peek(p, 0)->kind != MRI_T_RBRACKET)
            mri_chain_add(&c, mri_expression(p, true));
    }
    mri_expect(p, MRI_T_RBRACKET);
    n->list = c.first;
    return n;
}

/* Chains are by `next`: what goes into one is wrapped, since a node may be in one chain only. */
static mri_node *dict_literal(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_DICT, NULL, NULL);
    mri_chain c = { 0 };
    while (!p->r->st && mri_peek(p, 0)->kind != MRI_T_RBRACE) {
        if (c.first)
            mri_expect(p, MRI_T_COMMA);
        if (mri_peek(p, 0)->kind == MRI_T_RBRACE)
            break;
        mri_node *key = mri_expression(p, true);
        mri_expect(p, MRI_T_COLON);
        mri_chain_add(&c, mri_node_new(p, MRI_N_PAIR, key, mri_expression(p, true)));
    }
    mri_expect(p, MRI_T_RBRACE);
    n->list = c.first;
    return n;
}

static mri_node *name(mri_parser *p, bool namespaces)
{
    static const struct {
        const char *word;
        mri_val value;
    } words[] = { { "true", { MRI_V_BOOL, false, { true } } },
                  { "True", { MRI_V_BOOL, false, { true } } },
                  { "false", { MRI_V_BOOL, false, { false } } },
                  { "False", { MRI_V_BOOL, false, { false } } },
                  { "none", { .kind = MRI_V_NONE } },
                  { "None", { .kind = MRI_V_NONE } } };
    mri_node *n = mri_node_new(p, MRI_N_NAME, NULL, NULL);
    const char *word = mri_expect_name(p);
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (!strcmp(word, words[i].word))
            return constant(p, words[i].value);
    mri_set_name(n, word);
    p->rest |= !strcmp(word, "varargs") ? MRI_REST_POS : !strcmp(word, "kwargs") ? MRI_REST_KW : 0;
    if (namespaces && mri_skip(p, MRI_T_DOT)) {
        n->kind = MRI_N_NSREF;
        n->attr = mri_expect_name(p);
    }
    return n;
}

mri_node *mri_primary(mri_parser *p, bool namespaces)
{
    const mri_token *t = mri_peek(p, 0);
    mri_val v = t->value;
    mri_node *n;
    switch (t->kind) {
    case MRI_T_NAME:
        return name(p, namespaces);
    case MRI_T_STR:
        n = constant(p, v);
        for (mri_next(p); mri_peek(p, 0)->kind == MRI_T_STR; mri_next(p))
            n->value = mri_join2(p->r, n->value, mri_peek(p, 0)->value);
        return n;
    case MRI_T_NUM:
        n = constant(p, v);
        mri_next(p);
        return n;
    case MRI_T_LPAREN:
        mri_next(p);
        n = mri_tuple(p, false, true, NULL, true, false);
        mri_expect(p, MRI_T_RPAREN);
        return n;
    case MRI_T_LBRACKET:
        mri_next(p);
        return list_literal(p);
    case MRI_T_LBRACE:
        mri_next(p);
        return dict_literal(p);
    default:
        mri_raise(p->r, "an expression is expected here");
        return constant(p, mri_none());
    }
}

static bool tuple_ends(const mri_parser *p, const char *until)
{
    uint8_t k = mri_peek(p, 0)->kind;
    return k == MRI_T_VAR_END || k == MRI_T_BLOCK_END || k == MRI_T_RPAREN ||
           (until && mri_sees_word(p, until));
}

mri_node *mri_tuple(mri_parser *p, bool simple, bool with_cond, const char *until,
                    bool may_be_empty, bool namespaces)
{
    mri_node *n = mri_node_new(p, MRI_N_TUPLE, NULL, NULL), *only = NULL;
    mri_chain c = { 0 };
    bool comma = false;
    while (!p->r->st) {
        if (only)
            mri_expect(p, MRI_T_COMMA);
        if (tuple_ends(p, until))
            break;
        only = simple ? mri_primary(p, namespaces) : mri_expression(p, with_cond);
        mri_chain_add(&c, only);
        if (mri_peek(p, 0)->kind != MRI_T_COMMA)
            break;
        comma = true;
    }
    if (!comma && only)
        return only;
    if (!comma && !may_be_empty)
        mri_raise(p->r, "an expression is expected here");
    n->list = c.first;
    return n;
}

/* ---- what stands behind a primary --------------------------------------------------- */
static mri_node *call_args(mri_parser *p)
{
    mri_chain c = { 0 };
    int seen = 0; /* 1: a keyword, 2: *args, 3: **kwargs */
    mri_expect(p, MRI_T_LPAREN);
    while (!p->r->st && mri_peek(p, 0)->kind != MRI_T_RPAREN) {
        if (c.first)
            mri_expect(p, MRI_T_COMMA);
        if (mri_peek(p, 0)->kind == MRI_T_RPAREN)
            break;
        mri_node *arg = mri_node_new(p, MRI_N_ARG, NULL, NULL);
        int is = 0;
        if (mri_skip(p, MRI_T_MUL))
            arg->op = MRI_T_MUL, is = 2;
        else if (mri_skip(p, MRI_T_POW))
            arg->op = MRI_T_POW, is = 3;
        else if (mri_peek(p, 0)->kind == MRI_T_NAME && mri_peek(p, 1)->kind == MRI_T_ASSIGN) {
            mri_set_name(arg, mri_expect_name(p));
            mri_next(p);
            is = 1;
        }
        if (is == 1 ? seen > 2 : is ? seen >= is : seen)
            mri_raise(p->r, "the arguments of this call stand in a wrong order");
        seen = is > seen ? is : seen;
        arg->a = mri_expression(p, true);
        mri_chain_add(&c, arg);
    }
    mri_expect(p, MRI_T_RPAREN);
    return c.first;
}

static mri_node *slice_part(mri_parser *p)
{
    uint8_t k = mri_peek(p, 0)->kind;
    return k == MRI_T_COLON || k == MRI_T_RBRACKET || k == MRI_T_COMMA ? NULL
                                                                       : mri_expression(p, true);
}

static mri_node *subscript(mri_parser *p, mri_node *of)
{
    mri_node *index = slice_part(p);
    if (mri_peek(p, 0)->kind == MRI_T_COLON) {
        index = mri_node_new(p, MRI_N_SLICE, index, NULL);
        mri_next(p);
        index->b = slice_part(p);
        if (mri_skip(p, MRI_T_COLON))
            index->c = slice_part(p);
    }
    if (!index)
        mri_raise(p->r, "an index is expected here");
    mri_expect(p, MRI_T_RBRACKET);
    return mri_node_new(p, MRI_N_ITEM, of, index);
}

static mri_node *postfix(mri_parser *p, mri_node *n)
{
    while (!p->r->st) {
        if (mri_skip(p, MRI_T_DOT)) {
            mri_val v = mri_peek(p, 0)->value;
            if (mri_skip(p, MRI_T_NUM)) {
                n = mri_node_new(p, MRI_N_ITEM, n, constant(p, v));
            } else {
                n = mri_node_new(p, MRI_N_ATTR, n, NULL);
                n->attr = mri_expect_name(p);
            }
        } else if (mri_skip(p, MRI_T_LBRACKET)) {
            n = subscript(p, n);
        } else if (mri_peek(p, 0)->kind == MRI_T_LPAREN) {
            n = mri_node_new(p, MRI_N_CALL, n, NULL);
            n->list = call_args(p);
        } else {
            break;
        }
    }
    return n;
}

mri_node *mri_filters(mri_parser *p, mri_node *n, bool inside)
{
    while (!p->r->st && (inside || mri_skip(p, MRI_T_PIPE))) {
        n = mri_node_new(p, MRI_N_FILTER, n, NULL);
        mri_set_name(n, mri_expect_name(p));
        if (mri_peek(p, 0)->kind == MRI_T_LPAREN)
            n->list = call_args(p);
        inside = false;
    }
    return n;
}

static mri_node *test(mri_parser *p, mri_node *of)
{
    bool negated = mri_skip_word(p, "not");
    mri_node *n = mri_node_new(p, MRI_N_TEST, of, NULL);
    mri_set_name(n, mri_expect_name(p));
    uint8_t k = mri_peek(p, 0)->kind;
    if (k == MRI_T_LPAREN) {
        n->list = call_args(p);
    } else if ((k == MRI_T_NAME || k == MRI_T_STR || k == MRI_T_NUM || k == MRI_T_LBRACKET ||
                k == MRI_T_LBRACE) &&
               !mri_sees_word(p, "else") && !mri_sees_word(p, "or") && !mri_sees_word(p, "and")) {
        if (mri_sees_word(p, "is"))
            mri_raise(p->r, "tests cannot be chained with 'is'");
        n->list = mri_node_new(p, MRI_N_ARG, postfix(p, mri_primary(p, false)), NULL);
    }
    return negated ? mri_node_new(p, MRI_N_NOT, n, NULL) : n;
}

mri_node *mri_unary(mri_parser *p, bool with_filter)
{
    mri_node *n = NULL;
    if (mri_enter(p)) {
        if (mri_skip(p, MRI_T_SUB))
            n = mri_node_new(p, MRI_N_NEG, mri_unary(p, false), NULL);
        else if (mri_skip(p, MRI_T_ADD))
            n = mri_node_new(p, MRI_N_POS, mri_unary(p, false), NULL);
        else
            n = mri_primary(p, false);
        n = postfix(p, n);
        while (with_filter && !p->r->st) {
            if (mri_peek(p, 0)->kind == MRI_T_PIPE)
                n = mri_filters(p, n, false);
            else if (mri_skip_word(p, "is"))
                n = test(p, n);
            else if (mri_peek(p, 0)->kind == MRI_T_LPAREN)
                n = postfix(p, n); /* x|filter()() */
            else
                break;
        }
    }
    p->depth--;
    return n;
}
