/* SPDX-License-Identifier: Apache-2.0
 * lex.c - see lex.h. */
#include "lex.h"
#include "unicode.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

typedef struct lexer {
    mri_render *r;
    mri_tokens *out;
    const char *s; /* the source with "\n" alone as newline, and no newline at its end */
    size_t n, at;
    int line;
    bool line_starts; /* the last thing read ended with a newline, or nothing was read */
} lexer;

static void put(lexer *x, mri_token_kind kind, mri_val v)
{
    MRI_PUSH(x->out, ((mri_token){ (uint8_t)kind, x->line, v }));
}

static size_t space_at(const lexer *x, size_t at) /* bytes of a blank there, 0: none */
{
    size_t n = 0;
    return at < x->n && mri_unicode_is(mri_utf8_get(x->s + at, x->n - at, &n), MRI_U_SPACE) ? n : 0;
}

static size_t skip_space(const lexer *x, size_t at)
{
    for (size_t n; (n = space_at(x, at));)
        at += n;
    return at;
}

static bool sees(const lexer *x, size_t at, const char *word)
{
    size_t n = strlen(word);
    return n <= x->n - at && !memcmp(x->s + at, word, n);
}

static void move(lexer *x, size_t to)
{
    for (; x->at < to; x->at++)
        x->line += x->s[x->at] == '\n';
    x->line_starts = x->at && x->s[x->at - 1] == '\n';
}

/* Text before a tag whose sign is `sign` (0 for none); `strips`: a tag that lstrip_blocks means */
static void put_data(lexer *x, size_t end, char sign, bool strips)
{
    size_t from = x->at, keep = end;
    if (sign == '-') {
        keep = from;
        for (size_t i = from, n; i < end; i += n) {
            bool space = mri_unicode_is(mri_utf8_get(x->s + i, end - i, &n), MRI_U_SPACE);
            keep = space ? keep : i + n;
        }
    } else if (sign != '+' && strips) {
        size_t l = end;
        while (l > from && x->s[l - 1] != '\n')
            l--;
        if ((l > from || x->line_starts) && skip_space(x, l) >= end)
            keep = l;
    }
    if (keep > from)
        put(x, MRI_T_DATA, mri_strn(x->r, x->s + from, keep - from));
}

/* The end of a block tag: "%}" and the newline after it, "-%}" and all blanks, "+%}". 0: none */
static size_t block_end(const lexer *x, size_t at, const char *close)
{
    char word[4] = { '-', close[0], close[1], 0 };
    if (sees(x, at, word))
        return skip_space(x, at + 3);
    word[0] = '+';
    if (sees(x, at, word))
        return at + 3;
    if (sees(x, at, close))
        return at + 2 + (at + 2 < x->n && x->s[at + 2] == '\n');
    return 0;
}

/* "{% WORD %}" at `at`: where it ends, 0: it is not there. {% raw %} keeps the newline after it */
static size_t word_tag(const lexer *x, size_t at, const char *word)
{
    if (!sees(x, at, "{%"))
        return 0;
    at += 2;
    at += at < x->n && (x->s[at] == '-' || x->s[at] == '+');
    at = skip_space(x, at);
    if (!sees(x, at, word))
        return 0;
    at = skip_space(x, at + strlen(word));
    if (strcmp(word, "raw"))
        return block_end(x, at, "%}");
    return sees(x, at, "-%}") ? skip_space(x, at + 3) : sees(x, at, "%}") ? at + 2 : 0;
}

static char sign_of(const lexer *x, size_t at)
{
    char c = at + 2 < x->n ? x->s[at + 2] : 0;
    return c == '-' || c == '+' ? c : 0;
}

static void raw(lexer *x, size_t body)
{
    move(x, body);
    for (size_t at = body; at < x->n; at++) {
        size_t end = word_tag(x, at, "endraw");
        if (end) {
            put_data(x, at, sign_of(x, at), true);
            move(x, end);
            return;
        }
    }
    mri_raise(x->r, "{%% raw %%} is never ended");
}

static void comment(lexer *x)
{
    for (size_t at = x->at + 2 + (sign_of(x, x->at) != 0); at < x->n; at++) {
        size_t end = block_end(x, at, "#}");
        if (end) {
            move(x, end);
            return;
        }
    }
    mri_raise(x->r, "a comment is never ended");
}

/* ---- inside of a tag ---------------------------------------------------------------- */
static size_t digits(const lexer *x, size_t at, const char *set) /* with "_" between them */
{
    while (at < x->n && (strchr(set, x->s[at]) ||
                         (x->s[at] == '_' && at + 1 < x->n && strchr(set, x->s[at + 1]))) &&
           x->s[at])
        at++;
    return at;
}

static void number(lexer *x)
{
    static const char dec[] = "0123456789";
    size_t at = x->at, end = digits(x, at, dec);
    bool real = false, after_dot = at && x->s[at - 1] == '.';
    int base = 10;
    if (x->s[at] == '0' && end == at + 1 && end < x->n && strchr("xXoObB", x->s[end])) {
        base = strchr("xX", x->s[end]) ? 16 : strchr("oO", x->s[end]) ? 8 : 2;
        end = digits(x, end + 1, base == 16 ? "0123456789abcdefABCDEF" : base == 8 ? "01234567"
                                                                                   : "01");
        at += 2;
    } else if (!after_dot) {
        size_t e = end;
        if (e + 1 < x->n && x->s[e] == '.' && strchr(dec, x->s[e + 1]) && x->s[e + 1])
            end = e = digits(x, e + 1, dec), real = true;
        if (e < x->n && (x->s[e] == 'e' || x->s[e] == 'E')) {
            e += 1 + (e + 1 < x->n && strchr("+-", x->s[e + 1]) && x->s[e + 1]);
            if (e < x->n && x->s[e] && strchr(dec, x->s[e]))
                end = digits(x, e, dec), real = true;
        }
    }
    mri_str b = { 0 };
    for (size_t i = at; i < end; i++)
        if (x->s[i] != '_')
            mri_str_addn(&b, x->s + i, 1);
    errno = 0;
    mri_val v = real ? mri_float(strtod(b.s, NULL))
                     : mri_int(b.s ? (int64_t)strtoll(b.s, NULL, base) : 0);
    if (!b.n || (errno && !real))
        mri_raise(x->r, "the number '%.40s' does not fit 64 bits", b.s ? b.s : "");
    mri_str_free(&b);
    put(x, MRI_T_NUM, v);
    move(x, end);
}

/* One escape of a string, after the backslash; returns its bytes. */
static size_t escape(lexer *x, const char *s, size_t n, mri_str *out)
{
    static const char from[] = "abfnrtv\\'\"", to[] = "\a\b\f\n\r\t\v\\'\"";
    const char *simple = strchr(from, *s);
    size_t hex = *s == 'x' ? 2 : *s == 'u' ? 4 : *s == 'U' ? 8 : 0, len = 1;
    uint32_t c = 0;
    char utf8[4];
    if (*s == '\n')
        return 1;
    if (simple) {
        mri_str_addn(out, to + (simple - from), 1);
        return 1;
    }
    if (hex) {
        for (; len <= hex && len < n; len++) {
            const char *digit = strchr("0123456789abcdef", s[len] | (s[len] > '9' ? 0x20 : 0));
            if (!digit || !*digit)
                break;
            c = c << 4 | (uint32_t)(digit - "0123456789abcdef");
        }
    } else if (*s >= '0' && *s <= '7') {
        for (len = 0; len < 3 && len < n && s[len] >= '0' && s[len] <= '7'; len++)
            c = c << 3 | (uint32_t)(s[len] - '0');
    } else {
        mri_str_add(out, "\\");
        return 0;
    }
    if ((hex && len != hex + 1) || c > 0x10ffff || (c >= 0xd800 && c < 0xe000))
        mri_raise(x->r, "a string holds a wrong escape: \\%.*s", (int)(len < 10 ? len : 10), s);
    mri_str_addn(out, utf8, mri_utf8_put(c > 0x10ffff ? '?' : c, utf8));
    return len;
}

static void string(lexer *x)
{
    char quote = x->s[x->at];
    mri_str b = { 0 };
    size_t i = x->at + 1;
    while (i < x->n && x->s[i] != quote) {
        if (x->s[i] == '\\' && i + 1 < x->n) {
            i += 1 + escape(x, x->s + i + 1, x->n - i - 1, &b);
        } else {
            mri_str_addn(&b, x->s + i, 1);
            i++;
        }
    }
    if (i >= x->n)
        mri_raise(x->r, "a string is never ended");
    put(x, MRI_T_STR, mri_take_str(x->r, &b));
    move(x, i < x->n ? i + 1 : x->n);
}

static const struct {
    const char *text;
    uint8_t kind;
} operators[] = {
    { "//", MRI_T_FLOORDIV }, { "**", MRI_T_POW }, { "==", MRI_T_EQ }, { "!=", MRI_T_NE },
    { ">=", MRI_T_GE }, { "<=", MRI_T_LE }, { "+", MRI_T_ADD }, { "-", MRI_T_SUB },
    { "/", MRI_T_DIV }, { "*", MRI_T_MUL }, { "%", MRI_T_MOD }, { "~", MRI_T_TILDE },
    { "[", MRI_T_LBRACKET }, { "]", MRI_T_RBRACKET }, { "(", MRI_T_LPAREN }, { ")", MRI_T_RPAREN },
    { "{", MRI_T_LBRACE }, { "}", MRI_T_RBRACE }, { ">", MRI_T_GT }, { "<", MRI_T_LT },
    { "=", MRI_T_ASSIGN }, { ".", MRI_T_DOT }, { ":", MRI_T_COLON }, { "|", MRI_T_PIPE },
    { ",", MRI_T_COMMA }, { ";", MRI_T_SEMICOLON },
};

static size_t name_end(const lexer *x, size_t at)
{
    for (size_t n; at < x->n; at += n) {
        uint32_t c = mri_utf8_get(x->s + at, x->n - at, &n);
        if (c != '_' && !mri_unicode_is(c, MRI_U_ALPHA) && !mri_unicode_is(c, MRI_U_DIGIT))
            break;
    }
    return at;
}

static void operator_token(lexer *x, char *open, int *n_open)
{
    for (size_t i = 0; i < sizeof operators / sizeof *operators; i++) {
        if (!sees(x, x->at, operators[i].text))
            continue;
        char c = *operators[i].text;
        const char *pair = strchr(")(][}{", c);
        if (strchr("([{", c)) {
            if (*n_open == MRI_CHAT_NESTING)
                mri_raise(x->r, "brackets are nested more than %d deep", MRI_CHAT_NESTING);
            else
                open[(*n_open)++] = c;
        } else if (strchr(")]}", c)) {
            if (!*n_open || open[*n_open - 1] != pair[1])
                mri_raise(x->r, "unexpected '%c'", c);
            else
                --*n_open;
        }
        put(x, (mri_token_kind)operators[i].kind, mri_none());
        move(x, x->at + strlen(operators[i].text));
        return;
    }
    mri_raise(x->r, "unexpected character '%.*s'",
              (int)mri_utf8_len(x->s + x->at, x->n - x->at), x->s + x->at);
}

/* One token of an expression, or the end of its tag. */
static void tag_token(lexer *x, bool block, char *open, int *n_open)
{
    size_t end = 0;
    move(x, skip_space(x, x->at));
    x->r->line = x->line;
    if (x->at == x->n)
        return;
    if (!*n_open) {
        if (block)
            end = block_end(x, x->at, "%}");
        else if (sees(x, x->at, "-}}"))
            end = skip_space(x, x->at + 3);
        else if (sees(x, x->at, "}}"))
            end = x->at + 2;
    }
    char c = x->s[x->at];
    if (end) {
        put(x, block ? MRI_T_BLOCK_END : MRI_T_VAR_END, mri_none());
        move(x, end);
    } else if (c >= '0' && c <= '9') {
        number(x);
    } else if ((end = name_end(x, x->at)) > x->at) {
        put(x, MRI_T_NAME, mri_strn(x->r, x->s + x->at, end - x->at));
        move(x, end);
    } else if (c == '"' || c == '\'') {
        string(x);
    } else {
        operator_token(x, open, n_open);
    }
}

static void tag(lexer *x)
{
    char open[MRI_CHAT_NESTING];
    int n_open = 0;
    bool block = x->s[x->at + 1] == '%';
    mri_token_kind end = block ? MRI_T_BLOCK_END : MRI_T_VAR_END;
    put(x, block ? MRI_T_BLOCK : MRI_T_VAR, mri_none());
    move(x, x->at + 2 + (sign_of(x, x->at) != 0));
    do
        tag_token(x, block, open, &n_open);
    while (!x->r->st && x->at < x->n && x->out->v[x->out->n - 1].kind != end);
    if (x->out->v[x->out->n - 1].kind != end)
        mri_raise(x->r, "a tag is never ended");
}

void mri_lex(mri_render *r, const char *text, size_t n, mri_tokens *tokens)
{
    mri_str b = { 0 };
    for (size_t i = 0; i < n; i++) { /* "\r\n" and "\r" are newlines */
        if (text[i] == '\r')
            mri_str_addn(&b, "\n", text[i + 1 < n ? i + 1 : i] != '\n');
        else
            mri_str_addn(&b, text + i, 1);
    }
    b.n -= b.n && b.s[b.n - 1] == '\n';
    lexer x = { r, tokens, b.s ? b.s : "", b.n, 0, 1, true };
    while (!r->st && x.at < x.n) {
        size_t at = x.at, end;
        r->line = x.line;
        while (at < x.n && !(x.s[at] == '{' && at + 1 < x.n && strchr("{%#", x.s[at + 1]) &&
                             x.s[at + 1]))
            at++;
        if (at == x.n) {
            put_data(&x, at, 0, false);
            break;
        }
        put_data(&x, at, sign_of(&x, at), x.s[at + 1] != '{');
        move(&x, at);
        r->line = x.line;
        if (x.s[at + 1] == '#')
            comment(&x);
        else if ((end = word_tag(&x, at, "raw")))
            raw(&x, end);
        else
            tag(&x);
    }
    put(&x, MRI_T_END, mri_none());
    mri_str_free(&b);
}
