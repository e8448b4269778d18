/* SPDX-License-Identifier: Apache-2.0
 *
 * parse.c - statements to nodes (node.h, parser.h): a table of tags, one function each.
 */
#include "parser.h"
#include <stdlib.h>
#include <string.h>

static const char token_names[][24] = {
    "the end", "text", "'{{'", "'}}'", "'{%'", "'%}'", "a name", "a string", "a number", "'+'",
    "'-'", "'*'", "'/'", "'//'", "'%'", "'**'", "'~'", "'=='", "'!='", "'<'", "'<='", "'>'", "'>='",
    "in", "not in", "'('", "')'", "'['", "']'", "'{'", "'}'", "'='", "'.'", "':'", "'|'", "','",
    "';'"
};

const mri_token *mri_peek(const mri_parser *p, size_t ahead)
{
    size_t i = p->at + ahead, last = p->tokens.n - 1;
    return &p->tokens.v[i < last ? i : last];
}

void mri_next(mri_parser *p)
{
    p->at += p->at + 1 < p->tokens.n;
    p->r->line = mri_peek(p, 0)->line;
}

bool mri_skip(mri_parser *p, mri_token_kind kind)
{
    if (mri_peek(p, 0)->kind != kind)
        return false;
    mri_next(p);
    return true;
}

bool mri_sees_word(const mri_parser *p, const char *word)
{
    const mri_token *t = mri_peek(p, 0);
    return t->kind == MRI_T_NAME && mri_str_is(t->value, word);
}

bool mri_skip_word(mri_parser *p, const char *word)
{
    if (!mri_sees_word(p, word))
        return false;
    mri_next(p);
    return true;
}

void mri_expect(mri_parser *p, mri_token_kind kind)
{
    const mri_token *t = mri_peek(p, 0);
    if (t->kind == kind)
        mri_next(p);
    else if (t->kind == MRI_T_NAME)
        mri_raise(p->r, "%s is expected, got '%.*s'", token_names[kind],
                  (int)(t->value.s->n < 40 ? t->value.s->n : 40), t->value.s->s);
    else
        mri_raise(p->r, "%s is expected, got %s", token_names[kind], token_names[t->kind]);
}

const char *mri_expect_name(mri_parser *p)
{
    mri_val v = mri_peek(p, 0)->value;
    bool is = mri_peek(p, 0)->kind == MRI_T_NAME;
    mri_expect(p, MRI_T_NAME);
    char *copy = mri_take(p->r, is ? v.s->n + 1 : 1);
    if (is)
        memcpy(copy, v.s->s, v.s->n);
    return copy;
}

bool mri_enter(mri_parser *p)
{
    if (++p->depth > MRI_CHAT_NESTING)
        mri_raise(p->r, "expressions and blocks are nested more than %d deep", MRI_CHAT_NESTING);
    return !p->r->st;
}

uint32_t mri_name_hash(const char *name)
{
    return (uint32_t)mri_hash_str(0, name);
}

void mri_set_name(mri_node *n, const char *name)
{
    n->name = name;
    n->hash = mri_name_hash(name);
}

/* ---- blocks ------------------------------------------------------------------------- */
static mri_node *statements(mri_parser *p, const char *const *ends);

static bool at_end_word(const mri_parser *p, const char *const *ends)
{
    for (; ends && *ends; ends++)
        if (mri_sees_word(p, *ends))
            return true;
    return false;
}

/* "%}", statements, "{%" and the word that ends them, which is taken */
static mri_node *body(mri_parser *p, const char *end)
{
    const char *const ends[] = { end, NULL };
    mri_expect(p, MRI_T_BLOCK_END);
    mri_node *list = statements(p, ends);
    mri_skip_word(p, end);
    return list;
}

static bool assignable(const mri_node *n)
{
    if (n->kind == MRI_N_TUPLE || n->kind == MRI_N_LIST) {
        for (const mri_node *x = n->list; x; x = x->next)
            if (!assignable(x))
                return false;
        return true;
    }
    return n->kind == MRI_N_NAME || n->kind == MRI_N_NSREF;
}

static mri_node *target(mri_parser *p, const char *until, bool namespaces)
{
    mri_node *n = mri_tuple(p, true, false, until, false, namespaces);
    if (!p->r->st && !assignable(n))
        mri_raise(p->r, "nothing can be assigned to this");
    return n;
}

static mri_node *for_tag(mri_parser *p)
{
    static const char *const ends[] = { "endfor", "else", NULL };
    mri_node *n = mri_node_new(p, MRI_N_FOR, target(p, "in", false), NULL);
    if (!mri_skip_word(p, "in"))
        mri_raise(p->r, "'in' is expected after the names of a loop");
    n->b = mri_tuple(p, false, false, "recursive", false, false);
    if (mri_skip_word(p, "if"))
        n->c = mri_expression(p, true);
    n->op = mri_skip_word(p, "recursive");
    mri_expect(p, MRI_T_BLOCK_END);
    n->list = statements(p, ends);
    if (mri_skip_word(p, "else"))
        n->other = body(p, "endfor");
    else
        mri_skip_word(p, "endfor");
    return n;
}

static mri_node *if_tag(mri_parser *p)
{
    static const char *const ends[] = { "elif", "else", "endif", NULL };
    mri_node *first = NULL, **to = &first;
    for (bool more = true; more && !p->r->st;) {
        mri_node *n = *to = mri_node_new(p, MRI_N_IF, NULL, NULL);
        n->a = mri_tuple(p, false, false, NULL, false, false);
        mri_expect(p, MRI_T_BLOCK_END);
        n->list = statements(p, ends);
        to = &n->other;
        more = mri_skip_word(p, "elif");
        if (!more && mri_skip_word(p, "else"))
            n->other = body(p, "endif");
        else if (!more)
            mri_skip_word(p, "endif");
    }
    return first;
}

static mri_node *set_tag(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_SET, target(p, NULL, true), NULL);
    if (mri_skip(p, MRI_T_ASSIGN)) {
        n->b = mri_tuple(p, false, true, NULL, false, false);
        return n;
    }
    n->kind = MRI_N_SET_BLOCK;
    n->b = mri_filters(p, NULL, false);
    n->list = body(p, "endset");
    return n;
}

static mri_node *signature(mri_parser *p)
{
    mri_chain c = { 0 };
    mri_expect(p, MRI_T_LPAREN);
    while (!p->r->st && mri_peek(p, 0)->kind != MRI_T_RPAREN) {
        if (c.first)
            mri_expect(p, MRI_T_COMMA);
        mri_node *n = mri_node_new(p, MRI_N_PARAM, NULL, NULL);
        mri_set_name(n, mri_expect_name(p));
        if (mri_skip(p, MRI_T_ASSIGN))
            n->a = mri_expression(p, true);
        else if (c.last && c.last->a)
            mri_raise(p->r, "a parameter without a default follows one with a default");
        mri_chain_add(&c, n);
    }
    mri_expect(p, MRI_T_RPAREN);
    return c.first;
}

static mri_node *macro_tag(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_MACRO, NULL, NULL);
    mri_set_name(n, mri_expect_name(p));
    n->params = signature(p);
    uint8_t outer = p->rest;
    p->rest = 0;
    n->list = body(p, "endmacro");
    n->op = p->rest;
    p->rest |= outer;
    return n;
}

static mri_node *call_tag(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_CALL_BLOCK, NULL, NULL);
    mri_set_name(n, "caller");
    if (mri_peek(p, 0)->kind == MRI_T_LPAREN)
        n->params = signature(p);
    n->a = mri_expression(p, true);
    if (!p->r->st && n->a->kind != MRI_N_CALL)
        mri_raise(p->r, "{%% call %%} needs a call");
    n->list = body(p, "endcall");
    return n;
}

static mri_node *filter_tag(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_FILTER_BLOCK, mri_filters(p, NULL, true), NULL);
    n->list = body(p, "endfilter");
    return n;
}

static mri_node *with_tag(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_WITH, NULL, NULL);
    mri_chain c = { 0 };
    while (!p->r->st && mri_peek(p, 0)->kind != MRI_T_BLOCK_END) {
        if (c.first)
            mri_expect(p, MRI_T_COMMA);
        mri_node *to = target(p, NULL, false);
        mri_expect(p, MRI_T_ASSIGN);
        mri_chain_add(&c, mri_node_new(p, MRI_N_PAIR, to, mri_expression(p, true)));
    }
    n->params = c.first;
    n->list = body(p, "endwith");
    return n;
}

static mri_node *generation_tag(mri_parser *p)
{
    mri_node *n = mri_node_new(p, MRI_N_SCOPE, NULL, NULL);
    n->list = body(p, "endgeneration");
    return n;
}

static mri_node *print_tag(mri_parser *p)
{
    mri_chain c = { 0 };
    mri_node *n = mri_node_new(p, MRI_N_SCOPE, NULL, NULL);
    while (!p->r->st && mri_peek(p, 0)->kind != MRI_T_BLOCK_END) {
        if (c.first)
            mri_expect(p, MRI_T_COMMA);
        mri_chain_add(&c, mri_node_new(p, MRI_N_PRINT, mri_expression(p, true), NULL));
    }
    n->list = c.first;
    return n;
}

static mri_node *break_tag(mri_parser *p)
{
    return mri_node_new(p, MRI_N_BREAK, NULL, NULL);
}

static mri_node *continue_tag(mri_parser *p)
{
    return mri_node_new(p, MRI_N_CONTINUE, NULL, NULL);
}

static mri_node *other_file_tag(mri_parser *p)
{
    mri_raise(p->r, "a chat template stands alone: it cannot include, import or extend another");
    return mri_node_new(p, MRI_N_SCOPE, NULL, NULL);
}

static const struct {
    const char *word;
    mri_node *(*parse)(mri_parser *p);
} tags[] = {
    { "for", for_tag }, { "if", if_tag }, { "set", set_tag }, { "macro", macro_tag },
    { "call", call_tag }, { "filter", filter_tag }, { "with", with_tag }, { "print", print_tag },
    { "generation", generation_tag }, { "break", break_tag }, { "continue", continue_tag },
    { "include", other_file_tag }, { "import", other_file_tag }, { "from", other_file_tag },
    { "extends", other_file_tag },
};

static mri_node *tag(mri_parser *p)
{
    int line = mri_peek(p, 0)->line;
    const char *word = mri_expect_name(p);
    for (size_t i = 0; i < sizeof tags / sizeof *tags; i++)
        if (!strcmp(word, tags[i].word)) {
            mri_node *n = tags[i].parse(p);
            if (!p->r->st)
                n->line = line;
            return n;
        }
    mri_raise(p->r, "unknown tag '%.40s'", word);
    return mri_node_new(p, MRI_N_SCOPE, NULL, NULL);
}

/* Up to the block tag whose first word is one of `ends`, of which "{%" is taken; NULL: to the end
 * of the text. */
static mri_node *statements(mri_parser *p, const char *const *ends)
{
    mri_chain c = { 0 };
    for (mri_enter(p); !p->r->st;) {
        const mri_token *t = mri_peek(p, 0);
        if (t->kind == MRI_T_DATA) {
            mri_node *n = mri_node_new(p, MRI_N_DATA, NULL, NULL);
            n->value = t->value;
            mri_chain_add(&c, n);
            mri_next(p);
        } else if (mri_skip(p, MRI_T_VAR)) {
            mri_node *n = mri_node_new(p, MRI_N_PRINT, NULL, NULL);
            n->a = mri_tuple(p, false, true, NULL, false, false);
            mri_expect(p, MRI_T_VAR_END);
            mri_chain_add(&c, n);
        } else if (mri_skip(p, MRI_T_BLOCK)) {
            if (at_end_word(p, ends))
                break;
            mri_chain_add(&c, tag(p));
            mri_expect(p, MRI_T_BLOCK_END);
        } else {
            if (ends)
                mri_raise(p->r, "the text ends, but {%% %s %%} is missing", *ends);
            break;
        }
    }
    p->depth--;
    return c.first;
}

mri_node *mri_parse_template(mri_render *r, const char *text, size_t n)
{
    mri_parser p = { .r = r };
    mri_node *root = NULL;
    mri_lex(r, text, n, &p.tokens);
    if (!r->st) {
        r->line = 1;
        root = mri_node_new(&p, MRI_N_SCOPE, NULL, NULL);
        root->list = statements(&p, NULL);
        if (!r->st && mri_peek(&p, 0)->kind != MRI_T_END)
            mri_raise(r, "unexpected %s", token_names[mri_peek(&p, 0)->kind]);
    }
    free(p.tokens.v);
    return root;
}
