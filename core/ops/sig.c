/* SPDX-License-Identifier: Apache-2.0
 *
 * sig.c - reads "x w bias? dw! -> y" and "eps:f=1e-5 heads:i score:s=sigmoid|softmax".
 * What it accepts is complete: names are unique, lists fit, defaults have their type.
 */
#include "core/ops/catalogue.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static mr_status bad(mr_err *err, const char *what, const char *text, const char *fmt, ...)
    MR_PRINTF(4, 5);

static mr_status bad(mr_err *err, const char *what, const char *text, const char *fmt, ...)
{
    char why[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof why, fmt, ap);
    va_end(ap);
    mr_fail(err, MR_E_ARG, MR_BLAME_PLUGIN, "malformed %s: %s", what, why);
    mr_detail(err, "in \"%s\"", text);
    return MR_E_ARG;
}

/* The next word of *s, separated by blanks, into w; its full length, 0 at the end. */
static size_t next_word(const char **s, char *w, size_t cap)
{
    *s += strspn(*s, " \t\n");
    size_t n = strcspn(*s, " \t\n");
    snprintf(w, cap, "%.*s", (int)n, *s);
    *s += n;
    return n;
}

static size_t name_len(const char *s)
{
    size_t n = 0;
    if (isalpha((unsigned char)*s) || *s == '_')
        while (isalnum((unsigned char)s[n]) || s[n] == '_')
            n++;
    return n;
}

mr_status mri_sig_parse(const char *sig, mri_sig *out, mr_err *err)
{
    char w[64];
    bool arrow = false;
    memset(out, 0, sizeof *out);
    if (!sig)
        return bad(err, "signature", "(null)", "there is none");
    for (const char *s = sig; next_word(&s, w, sizeof w);) {
        if (!strcmp(w, "->")) {
            if (arrow)
                return bad(err, "signature", sig, "a second \"->\"");
            arrow = true;
            continue;
        }
        uint32_t *n = arrow ? &out->n_out : &out->n_in;
        size_t len = name_len(w);
        if (!len || len >= sizeof out->in[0].name)
            return bad(err, "signature", sig, "\"%s\" is no operand name of 1 to %zu letters", w,
                       sizeof out->in[0].name - 1);
        if (*n == MRI_MAX_OPERANDS)
            return bad(err, "signature", sig, "more than %d operands on one side",
                       MRI_MAX_OPERANDS);
        for (uint32_t side = 0; side < 2; side++)
            for (uint32_t i = 0; i < (side ? out->n_out : out->n_in); i++) {
                const char *have = side ? out->out[i].name : out->in[i].name;
                if (strlen(have) == len && !memcmp(have, w, len))
                    return bad(err, "signature", sig, "operand %s is named twice", have);
            }
        bool optional = false, mutated = false;
        for (const char *m = w + len; *m; m++) {
            if (*m == '?')
                optional = true;
            else if (*m == '!')
                mutated = true;
            else
                return bad(err, "signature", sig, "\"%s\": a suffix is ? or !", w);
        }
        if (mutated && arrow)
            return bad(err, "signature", sig, "output \"%s\": only inputs are marked !", w);
        if (arrow) {
            memcpy(out->out[*n].name, w, len);
            out->out[*n].optional = optional;
        } else {
            memcpy(out->in[*n].name, w, len);
            out->in[*n].optional = optional;
            out->in[*n].mutated = mutated;
        }
        ++*n;
    }
    if (!arrow)
        return bad(err, "signature", sig, "no \"->\" between inputs and outputs");
    if (!out->n_in)
        return bad(err, "signature", sig, "no inputs");
    return 0;
}

static const struct {
    const char *word;
    uint32_t type;
} attr_types[] = { { "i", MR_A_I64 }, { "f", MR_A_F64 }, { "s", MR_A_STR }, { "fs", MR_A_F64S } };

static bool default_fits(uint32_t type, const char *def)
{
    char *end = NULL;
    if (!*def)
        return false;
    if (type == MR_A_I64)
        strtoll(def, &end, 10);
    else if (type == MR_A_F64)
        strtod(def, &end);
    else
        return type == MR_A_STR;
    return !*end;
}

/* one "key:type", "key:type?" or "key:type=default" */
static mr_status parse_decl(const char *attrs, char *w, mri_attr_decl *d, mr_err *err)
{
    size_t len = name_len(w);
    if (!len || len >= sizeof d->key || w[len] != ':')
        return bad(err, "attribute list", attrs, "\"%s\" is not of the form key:type", w);
    memcpy(d->key, w, len);
    char *type = w + len + 1;
    char *mark = type + strcspn(type, "?=");
    char how = *mark;
    *mark = 0;
    for (size_t i = 0; i < sizeof attr_types / sizeof *attr_types; i++)
        if (!strcmp(type, attr_types[i].word))
            d->type = attr_types[i].type;
    if (!d->type)
        return bad(err, "attribute list", attrs, "%s has type \"%s\"; types are i f s fs", d->key,
                   type);
    d->required = how == 0;
    if (how == '?' && mark[1])
        return bad(err, "attribute list", attrs, "%s: \"%s\" after ?", d->key, mark + 1);
    if (how == '=') {
        if (strlen(mark + 1) >= sizeof d->def || !default_fits(d->type, mark + 1))
            return bad(err, "attribute list", attrs, "%s: \"%s\" is no default of its type", d->key,
                       mark + 1);
        snprintf(d->def, sizeof d->def, "%s", mark + 1);
    }
    return 0;
}

mr_status mri_attrs_parse(const char *attrs, mri_attr_list *out, mr_err *err)
{
    char w[128];
    mr_status st = 0;
    memset(out, 0, sizeof *out);
    for (const char *s = attrs ? attrs : ""; next_word(&s, w, sizeof w);) {
        if (out->n == MRI_MAX_ATTRS)
            return bad(err, "attribute list", attrs, "more than %d attributes", MRI_MAX_ATTRS);
        mri_attr_decl d = { 0 };
        MR_TRY(parse_decl(attrs, w, &d, err));
        if (mri_attrs_find(out, d.key))
            return bad(err, "attribute list", attrs, "%s is declared twice", d.key);
        out->at[out->n++] = d;
    }
out:
    return st;
}

const mri_attr_decl *mri_attrs_find(const mri_attr_list *l, const char *key)
{
    for (uint32_t i = 0; i < l->n; i++)
        if (!strcmp(l->at[i].key, key))
            return &l->at[i];
    return NULL;
}
