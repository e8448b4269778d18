/* SPDX-License-Identifier: Apache-2.0
 *
 * parser.h - what the halves of the parser share: statements (parse.c) and expressions
 * (parse_expr.c, parse_op.c). Invariant: `at` never passes the last token, which is MRI_T_END.
 */
#ifndef MRI_CHAT_PARSER_H
#define MRI_CHAT_PARSER_H
#include "lex.h"
#include "node.h"

typedef struct mri_parser {
    mri_render *r;
    mri_tokens tokens;
    size_t at;
    int depth;
    uint8_t rest; /* MRI_REST_*: which of varargs and kwargs the macro's body names */
} mri_parser;

typedef struct mri_chain { /* a list of nodes that grows at its end */
    mri_node *first, *last;
} mri_chain;

const mri_token *mri_peek(const mri_parser *p, size_t ahead);
void mri_next(mri_parser *p);
bool mri_skip(mri_parser *p, mri_token_kind kind);     /* true: it was there */
bool mri_sees_word(const mri_parser *p, const char *word);
bool mri_skip_word(mri_parser *p, const char *word);
void mri_expect(mri_parser *p, mri_token_kind kind);
const char *mri_expect_name(mri_parser *p);
bool mri_enter(mri_parser *p); /* false: nested too deep, or an error stands; p->depth goes up */
mri_node *mri_node_new(mri_parser *p, mri_node_kind kind, mri_node *a, mri_node *b);
void mri_set_name(mri_node *n, const char *name);
void mri_chain_add(mri_chain *c, mri_node *n);

mri_node *mri_expression(mri_parser *p, bool with_cond);
/* Expressions with commas between them are a tuple. `until`: a word that ends it, or NULL */
mri_node *mri_tuple(mri_parser *p, bool simple, bool with_cond, const char *until,
                    bool may_be_empty, bool namespaces);
mri_node *mri_unary(mri_parser *p, bool with_filter); /* with signs, filters and tests */
mri_node *mri_primary(mri_parser *p, bool namespaces);
mri_node *mri_filters(mri_parser *p, mri_node *of, bool inside); /* inside: without the first "|" */

#endif
