/* SPDX-License-Identifier: Apache-2.0
 *
 * node.h - a parsed template: a tree of nodes in the template's own arena. Invariant: a tree is
 * never changed after it was parsed, so that one template may be rendered on several threads.
 */
#ifndef MRI_CHAT_NODE_H
#define MRI_CHAT_NODE_H
#include "value.h"

typedef enum mri_node_kind { /* what of the fields each has */
    /* expressions */
    MRI_N_CONST,    /* value */
    MRI_N_NAME,     /* name */
    MRI_N_NSREF,    /* name.attr, to be assigned */
    MRI_N_TUPLE, MRI_N_LIST, /* list */
    MRI_N_DICT,     /* list of PAIR: a, b */
    MRI_N_PAIR,
    MRI_N_ATTR,     /* a.attr */
    MRI_N_ITEM,     /* a[b] */
    MRI_N_SLICE,    /* a:b:c, each or none */
    MRI_N_CALL,     /* a(list of ARG) */
    MRI_N_FILTER,   /* a | name(list); a NULL: of what a block gave */
    MRI_N_TEST,     /* a is name(list) */
    MRI_N_ARG,      /* name = a; op: 0, or MRI_T_MUL and MRI_T_POW for *a and **a */
    MRI_N_NOT, MRI_N_NEG, MRI_N_POS, /* a */
    MRI_N_AND, MRI_N_OR, MRI_N_BINARY, /* a op b */
    MRI_N_COND,     /* b if a else c */
    MRI_N_CONCAT,   /* list */
    MRI_N_COMPARE,  /* a, then list of OPERAND: op a */
    MRI_N_OPERAND,
    /* statements */
    MRI_N_DATA,     /* value */
    MRI_N_PRINT,    /* a */
    MRI_N_FOR,      /* for a in b if c: list, else: other; op: recursive */
    MRI_N_IF,       /* if a: list, else: other */
    MRI_N_SET,      /* a = b */
    MRI_N_SET_BLOCK, /* a = list through the filters b */
    MRI_N_MACRO,    /* name(params): list; op: MRI_REST_* */
    MRI_N_PARAM,    /* name = a */
    MRI_N_CALL_BLOCK, /* a is the call, params and list those of caller() */
    MRI_N_FILTER_BLOCK, /* list through the filters a */
    MRI_N_WITH,     /* params are PAIRs: target a, value b; list */
    MRI_N_SCOPE,    /* list: {% generation %}, {% block %} */
    MRI_N_BREAK, MRI_N_CONTINUE
} mri_node_kind;

/* a macro that names varargs or kwargs takes arguments beyond its parameters */
enum { MRI_REST_POS = 1, MRI_REST_KW = 2 };

typedef struct mri_node mri_node;
struct mri_node {
    uint8_t kind, op; /* op: a token, mri_token_kind */
    int line;
    uint32_t hash;    /* of name */
    const char *name, *attr;
    mri_val value;
    mri_node *a, *b, *c;
    mri_node *list, *other, *params; /* chained by next */
    mri_node *next;
};

uint32_t mri_name_hash(const char *name);

/* Parses `n` bytes of source. The nodes live in `arena`; `r` carries name and error. */
mri_node *mri_parse_template(mri_render *r, const char *text, size_t n);

#endif
