/* SPDX-License-Identifier: Apache-2.0
 *
 * property.c - names of Unicode properties, as Oniguruma and Rust's regex spell them, in PCRE2's.
 */
#include "bpe.h"
#include <ctype.h>

const char bp_category[BP_CATEGORIES][3] = {
    "Lu", "Ll", "Lt", "Lm", "Lo", "Mn", "Mc", "Me", "Nd", "Nl", "No", "Pc", "Pd", "Ps", "Pe",
    "Pi", "Pf", "Po", "Sm", "Sc", "Sk", "So", "Zs", "Zl", "Zp", "Cc", "Cf", "Cs", "Co", "Cn",
};

static const struct {
    const char *name, *is;
} long_names[] = {
    { "letter", "L" },
    { "mark", "M" },
    { "number", "N" },
    { "punctuation", "P" },
    { "punct", "P" },
    { "symbol", "S" },
    { "separator", "Z" },
    { "other", "C" },
    { "uppercaseletter", "Lu" },
    { "lowercaseletter", "Ll" },
    { "titlecaseletter", "Lt" },
    { "modifierletter", "Lm" },
    { "otherletter", "Lo" },
    { "nonspacingmark", "Mn" },
    { "spacingmark", "Mc" },
    { "enclosingmark", "Me" },
    { "decimalnumber", "Nd" },
    { "letternumber", "Nl" },
    { "othernumber", "No" },
    { "connectorpunctuation", "Pc" },
    { "dashpunctuation", "Pd" },
    { "openpunctuation", "Ps" },
    { "closepunctuation", "Pe" },
    { "initialpunctuation", "Pi" },
    { "finalpunctuation", "Pf" },
    { "otherpunctuation", "Po" },
    { "mathsymbol", "Sm" },
    { "currencysymbol", "Sc" },
    { "modifiersymbol", "Sk" },
    { "othersymbol", "So" },
    { "spaceseparator", "Zs" },
    { "control", "Cc" },
    { "format", "Cf" },
};

uint32_t bp_categories(const char *name)
{
    uint32_t bits = 0;
    if (!name[0] || strlen(name) > 2)
        return 0;
    for (int i = 0; i < BP_CATEGORIES; i++)
        if (bp_category[i][0] == name[0] && (!name[1] || bp_category[i][1] == name[1]))
            bits |= 1u << i;
    return bits;
}

static bool is_script(const char *name)
{
    char pattern[64];
    int code;
    size_t at;
    snprintf(pattern, sizeof pattern, "\\p{sc:%.40s}", name);
    pcre2_code *c =
        pcre2_compile((PCRE2_SPTR)pattern, PCRE2_ZERO_TERMINATED, PCRE2_UTF, &code, &at, NULL);
    pcre2_code_free(c);
    return c != NULL;
}

void bp_property(const char *raw, char name[64])
{
    char plain[64];
    size_t n = 0;
    const char *value = strpbrk(raw, "=:"); /* gc=L, Script=Han */
    value = value ? value + 1 : raw;
    for (const char *c = value; *c && n < sizeof plain - 1; c++)
        if (*c != '_' && *c != ' ' && *c != '-')
            plain[n++] = (char)tolower((unsigned char)*c);
    plain[n] = 0;
    snprintf(name, 64, "%.40s", value);
    for (size_t i = 0; i < sizeof long_names / sizeof *long_names; i++)
        if (!strcmp(plain, long_names[i].name))
            snprintf(name, 64, "%s", long_names[i].is);
    if (!bp_categories(name) && is_script(name)) {
        memmove(name + 3, name, strlen(name) + 1);
        memcpy(name, "sc:", 3);
    }
}
