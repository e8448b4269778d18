/* SPDX-License-Identifier: Apache-2.0
 *
 * lex.h - a template's source as tokens, with Jinja's rules for blanks around tags as trim_blocks
 * and lstrip_blocks set them: a newline after a block tag and blanks before one are no text, `-`
 * eats all white space on its side, `+` keeps it.
 */
#ifndef MRI_CHAT_LEX_H
#define MRI_CHAT_LEX_H
#include "value.h"

typedef enum mri_token_kind {
    MRI_T_END, MRI_T_DATA, MRI_T_VAR, MRI_T_VAR_END, MRI_T_BLOCK, MRI_T_BLOCK_END,
    MRI_T_NAME, MRI_T_STR, MRI_T_NUM,
    MRI_T_ADD, MRI_T_SUB, MRI_T_MUL, MRI_T_DIV, MRI_T_FLOORDIV, MRI_T_MOD, MRI_T_POW, MRI_T_TILDE,
    MRI_T_EQ, MRI_T_NE, MRI_T_LT, MRI_T_LE, MRI_T_GT, MRI_T_GE, MRI_T_IN, MRI_T_NOT_IN,
    MRI_T_LPAREN, MRI_T_RPAREN, MRI_T_LBRACKET, MRI_T_RBRACKET, MRI_T_LBRACE, MRI_T_RBRACE,
    MRI_T_ASSIGN, MRI_T_DOT, MRI_T_COLON, MRI_T_PIPE, MRI_T_COMMA, MRI_T_SEMICOLON
} mri_token_kind;

typedef struct mri_token {
    uint8_t kind;
    int line;
    mri_val value; /* of data, names, strings, numbers */
} mri_token;

typedef MRI_VEC(mri_token) mri_tokens;

/* The caller frees tokens->v; the texts live in r's arena. The last token is MRI_T_END. */
void mri_lex(mri_render *r, const char *text, size_t n, mri_tokens *tokens);

#endif
