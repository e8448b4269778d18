/* SPDX-License-Identifier: Apache-2.0
 *
 * layout.c - a pipeline's layout as text, in the language that Megatron-LM has for it: stages
 * between "|", in each of them E (embedding), t (layer), m (multi-token prediction) and L (loss);
 * "x*3" is x three times, x a letter, a bar or a group in parentheses; commas and blanks are not
 * read.
 *
 *   text  = item*            item = unit [ "*" number ]            unit = E t m L | "(" text ")"
 */
#include "stage.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_LETTERS = 1 << 20, MAX_DEPTH = 16 };

typedef struct reader {
    const char *text, *at;
    mri_str out;
    mr_err *err;
} reader;

static mr_status wrong(reader *r, const char *what)
{
    mr_fail(r->err, MR_E_PROFILE_VALUE, MR_BLAME_USER, "[mesh] layout: %s at character %zu of '%s'",
            what, (size_t)(r->at - r->text) + 1, r->text);
    mr_hint(r->err, "E embedding, t layer, m multi-token prediction, L loss, | between stages; "
                    "x*3 and (..)*3 repeat");
    return MR_E_PROFILE_VALUE;
}

static char next(reader *r)
{
    while (*r->at == ',' || isspace((unsigned char)*r->at))
        r->at++;
    return *r->at;
}

/* What was written from `from` on, as often as "*number" says. */
static mr_status repeat(reader *r, size_t from)
{
    if (next(r) != '*')
        return 0;
    r->at++;
    next(r);
    char *end = NULL;
    unsigned long n = isdigit((unsigned char)*r->at) ? strtoul(r->at, &end, 10) : 0;
    size_t size = r->out.n - from;
    if (!n)
        return wrong(r, "no number from 1 on");
    if (n > MAX_LETTERS || size * n > MAX_LETTERS - from)
        return wrong(r, "more letters than any model has");
    r->at = end;
    char *copy = mri_format("%.*s", (int)size, r->out.s + from);
    for (unsigned long k = 1; k < n; k++)
        mri_str_add(&r->out, copy);
    free(copy);
    return 0;
}

static mr_status read_text(reader *r, int depth)
{
    mr_status st = 0;
    char c;
    while (!st && (c = next(r)) && c != ')') {
        size_t from = r->out.n;
        if (strchr("EtmL|", c)) {
            mri_str_fmt(&r->out, "%c", c);
        } else if (c != '(' || depth == MAX_DEPTH) {
            return wrong(r, c == '(' ? "too many parentheses" : "an unknown letter");
        } else {
            r->at++;
            st = read_text(r, depth + 1);
            if (!st && next(r) != ')')
                return wrong(r, "a parenthesis that is not closed");
        }
        r->at++;
        st = st ? st : repeat(r, from);
    }
    return st;
}

mr_status mri_layout_expand(const char *text, char **out, mr_err *err)
{
    reader r = { text, text, { 0 }, err };
    mri_str_add(&r.out, "");
    mr_status st = read_text(&r, 0);
    if (!st && *r.at)
        st = wrong(&r, "a parenthesis that was not opened");
    if (st) {
        mri_str_free(&r.out);
        return st;
    }
    *out = r.out.s ? r.out.s : mri_strdup("");
    return 0;
}
