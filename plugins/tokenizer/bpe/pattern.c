/* SPDX-License-Identifier: Apache-2.0
 *
 * pattern.c - a regular expression as the two reference libraries read it (Oniguruma behind
 * `tokenizers`, Rust's regex behind `tiktoken`), put into PCRE2's words. What would mean something
 * else there is refused by name, so that a pattern either means the same or does not load.
 *
 * Differences that are bridged: \p{Han} is the script there, its extensions too here; general
 * categories have long names; \w holds marks and connectors; $ is the end of the text (Rust) or
 * of a line (Oniguruma); a class may hold classes, and [A&&[^B]] is an intersection. The latter,
 * where A is made of general categories, becomes one class again, [^ (all others) B ], because a
 * look-ahead at each character would cost a stack as deep as the text is long.
 */
#include "bpe.h"
#include <ctype.h>
#include <stdlib.h>

typedef struct writer {
    char *s;
    size_t n, room;
    bool full; /* out of memory */
} writer;

typedef struct reader {
    const char *p, *start, *where;
    int dialect;
    writer out;
    mr_err *err;
    mr_status st;
} reader;

static void put(writer *w, const char *s, size_t n)
{
    if (w->n + n + 1 > w->room) {
        size_t room = 2 * (w->n + n) + 64;
        char *more = realloc(w->s, room);
        if (!more) {
            w->full = true;
            return;
        }
        w->s = more;
        w->room = room;
    }
    memcpy(w->s + w->n, s, n);
    w->n += n;
    w->s[w->n] = 0;
}

static void puts_(writer *w, const char *s)
{
    put(w, s, strlen(s));
}

MR_PRINTF(2, 3) static mr_status refuse(reader *r, const char *fmt, ...)
{
    char why[120];
    va_list ap;
    if (r->st)
        return r->st;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    r->st = mr_fail(r->err, MR_E_TOKENIZER, MR_BLAME_USER, "%.110s: %s", r->where, why);
    mr_detail(r->err, "at byte %zu of the pattern %.300s", (size_t)(r->p - r->start), r->start);
    mr_hint(r->err, "write the pattern without it; `mrun explain tokenizer/tiktoken` and "
                    "docs/tokenizers.md say what is understood");
    return r->st;
}

/* ---- properties ------------------------------------------------------------------------------ */

/* "{Letter}" or "L" behind \p: its name in PCRE2's words. */
static mr_status read_property(reader *r, bool *negated, char name[64])
{
    char raw[64];
    size_t n = 0;
    if (*r->p != '{') {
        if (!isalpha((unsigned char)*r->p))
            return refuse(r, "\\p without a property");
        name[0] = *r->p++;
        name[1] = 0;
        return MR_OK;
    }
    r->p++;
    if (*r->p == '^') {
        *negated = !*negated;
        r->p++;
    }
    while (r->p[n] && r->p[n] != '}' && n < 40)
        n++;
    if (r->p[n] != '}')
        return refuse(r, "a property without its }");
    memcpy(raw, r->p, n);
    raw[n] = 0;
    r->p += n + 1;
    bp_property(raw, name);
    return MR_OK;
}

/* ---- escapes --------------------------------------------------------------------------------- */

static const struct {
    char c;
    const char *in_class; /* NULL: no class can hold it */
    const char *alone;
} escapes[] = {
    { 'w', "\\p{L}\\p{M}\\p{N}\\p{Pc}", "[\\p{L}\\p{M}\\p{N}\\p{Pc}]" },
    { 'W', NULL, "[^\\p{L}\\p{M}\\p{N}\\p{Pc}]" },
    { 'h', "0-9a-fA-F", "[0-9a-fA-F]" },
    { 'H', NULL, "[^0-9a-fA-F]" },
    { 'Z', NULL, "(?=\\n?\\z)" },
};
/* those that mean the same, apart from punctuation, which stands for itself */
static const char same_escapes[] = "dDsSnrtfveaAzbBxp";

/* Behind a backslash. *bits: the categories, if it is a property made of them; else 0. */
static mr_status read_escape(reader *r, writer *w, bool in_class, uint32_t *bits)
{
    char c = *r->p, name[64];
    bool negated = c == 'P';
    *bits = 0;
    if (!c)
        return refuse(r, "it ends in a backslash");
    r->p++;
    if (c == 'p' || c == 'P') {
        if (read_property(r, &negated, name))
            return r->st;
        *bits = bp_categories(name);
        if (negated)
            *bits = *bits ? ((1u << BP_CATEGORIES) - 1) & ~*bits : 0;
        puts_(w, negated ? "\\P{" : "\\p{");
        puts_(w, name);
        puts_(w, "}");
        return MR_OK;
    }
    for (size_t i = 0; i < sizeof escapes / sizeof *escapes; i++)
        if (escapes[i].c == c) {
            if (in_class && !escapes[i].in_class)
                return refuse(r, "\\%c inside a class", c);
            puts_(w, in_class ? escapes[i].in_class : escapes[i].alone);
            return MR_OK;
        }
    if (c == 'u') {
        bool braces = *r->p == '{';
        const char *digits = r->p + braces;
        size_t n = 0;
        while (isxdigit((unsigned char)digits[n]) && n < (braces ? 6 : 4))
            n++;
        if (!n || (braces && digits[n] != '}'))
            return refuse(r, "\\u without its digits");
        puts_(w, "\\x{");
        put(w, digits, n);
        puts_(w, "}");
        r->p = digits + n + braces;
        return MR_OK;
    }
    if (isalnum((unsigned char)c) && !strchr(same_escapes, c))
        return refuse(r, "the escape \\%c", c);
    put(w, r->p - 2, 2);
    return MR_OK;
}

/* ---- classes --------------------------------------------------------------------------------- */

typedef struct class_ {
    writer items;
    bool negated;
    bool only_categories;
    uint32_t bits;
} class_;

static mr_status read_items(reader *r, class_ *c, int depth);

/* From behind '[' to behind ']'; `and`: what follows && inside it, a class too. */
static mr_status read_class(reader *r, class_ *c, class_ *and, bool *has_and, int depth)
{
    *c = (class_) { .only_categories = true };
    *has_and = false;
    if (*r->p == '^') {
        c->negated = true;
        r->p++;
    }
    if (*r->p == ']') { /* first in a class it stands for itself */
        puts_(&c->items, "\\]");
        c->only_categories = false;
        r->p++;
    }
    if (read_items(r, c, depth))
        return r->st;
    if (*r->p == '&') {
        bool more;
        class_ none = { .only_categories = true };
        if (c->negated || depth)
            return refuse(r, "&& in a negated or a nested class");
        r->p += 2;
        if (r->p[0] != '[')
            return refuse(r, "&& without a class behind it");
        r->p++;
        *has_and = true;
        mr_status st = read_class(r, and, &none, &more, depth + 1);
        free(none.items.s);
        if (st)
            return st;
        if (*r->p != ']')
            return refuse(r, "more than one class behind &&");
    }
    if (*r->p != ']')
        return refuse(r, "a class without its ]");
    r->p++;
    return MR_OK;
}

/* up to ']' or "&&" */
static mr_status read_items(reader *r, class_ *c, int depth)
{
    while (*r->p && *r->p != ']' && strncmp(r->p, "&&", 2)) {
        uint32_t bits = 0;
        if (r->p[0] == '[' && r->p[1] == ':') { /* [:alpha:] */
            const char *end = strstr(r->p, ":]");
            if (!end)
                return refuse(r, "[: without its :]");
            put(&c->items, r->p, (size_t)(end + 2 - r->p));
            r->p = end + 2;
        } else if (*r->p == '[') {
            class_ in, none = { 0 };
            bool more;
            r->p++;
            if (depth > 3)
                return refuse(r, "classes nested deeper than 4");
            mr_status st = read_class(r, &in, &none, &more, depth + 1);
            if (!st && in.negated)
                st = refuse(r, "a negated class inside a class");
            if (!st && in.items.n)
                put(&c->items, in.items.s, in.items.n);
            bits = !st && in.only_categories ? in.bits : 0;
            free(in.items.s);
            if (st)
                return st;
        } else if (*r->p == '\\') {
            r->p++;
            if (read_escape(r, &c->items, true, &bits))
                return r->st;
        } else {
            put(&c->items, r->p++, 1);
        }
        c->bits |= bits;
        c->only_categories &= bits != 0;
    }
    return MR_OK;
}

static void put_categories(writer *w, uint32_t bits)
{
    for (int i = 0; i < BP_CATEGORIES; i++) {
        char major[2] = { bp_category[i][0], 0 };
        uint32_t all = bp_categories(major);
        if (i && bp_category[i - 1][0] == major[0] && (bits & all) == all)
            continue; /* written with its first */
        if (bits & 1u << i) {
            puts_(w, "\\p{");
            puts_(w, (bits & all) == all ? major : bp_category[i]);
            puts_(w, "}");
        }
    }
}

static void put_class(writer *w, const class_ *c, const char *more)
{
    puts_(w, c->negated ? "[^" : "[");
    puts_(w, c->items.s ? c->items.s : "");
    puts_(w, more);
    puts_(w, "]");
}

static mr_status write_class(reader *r)
{
    class_ c = { 0 }, and = { 0 };
    bool has_and;
    mr_status st = read_class(r, &c, &and, &has_and, 0);
    if (!st && has_and && and.negated && c.only_categories) {
        puts_(&r->out, "[^");
        put_categories(&r->out, ((1u << BP_CATEGORIES) - 1) & ~c.bits);
        puts_(&r->out, and.items.s ? and.items.s : "");
        puts_(&r->out, "]");
    } else if (!st && has_and) {
        puts_(&r->out, "(?:(?=");
        put_class(&r->out, &and, "");
        puts_(&r->out, ")");
        put_class(&r->out, &c, "");
        puts_(&r->out, ")");
    } else if (!st) {
        put_class(&r->out, &c, "");
    }
    free(c.items.s);
    free(and.items.s);
    return st;
}

/* ---- the whole
 * ----------------------------------------------------------------------------------- */

/* Flags in (?flags) and (?flags:...): only i means the same in all three. */
static mr_status check_flags(reader *r)
{
    const char *p = r->p + 2;
    size_t n = strspn(p, "abcdefghijklmnopqrstuvwxyz-");
    for (size_t i = 0; i < n && (p[n] == ':' || p[n] == ')'); i++)
        if (p[i] != 'i' && p[i] != '-')
            return refuse(r, "the flag %c of a group", p[i]);
    return MR_OK;
}

mr_status bp_pattern(const char *pattern, int dialect, const char *where, char **out, mr_err *err)
{
    reader r = { .p = pattern, .start = pattern, .where = where, .dialect = dialect, .err = err };
    uint32_t bits;
    puts_(&r.out, "");
    while (*r.p && !r.st) {
        if (*r.p == '\\') {
            r.p++;
            read_escape(&r, &r.out, false, &bits);
        } else if (*r.p == '[') {
            r.p++;
            write_class(&r);
        } else if (*r.p == '$' || *r.p == '^') {
            static const char *const anchors[2][2] = { { "\\A", "\\z" }, { "(?m:^)", "(?m:$)" } };
            puts_(&r.out, anchors[dialect == BP_ONIGURUMA][*r.p == '$']);
            r.p++;
        } else {
            if (r.p[0] == '(' && r.p[1] == '?')
                check_flags(&r);
            if (r.p[0] == '}' && r.p[1] == '+' && dialect == BP_ONIGURUMA)
                refuse(&r, "{m,n}+, which Oniguruma takes for a repeated repetition");
            put(&r.out, r.p++, 1);
        }
    }
    if (!r.st && r.out.full)
        r.st = bp_nomem(err, "a pattern", r.out.room);
    if (r.st) {
        free(r.out.s);
        return r.st;
    }
    *out = r.out.s;
    return MR_OK;
}
