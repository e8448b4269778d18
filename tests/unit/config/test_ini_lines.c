/* SPDX-License-Identifier: Apache-2.0
 * Every line arrives whole, or is refused with its place; nothing is cut or guessed. */
#include "core/config/ini.h"
#include "scratch.h"

TestSuite(ini, .init = scratch_open, .fini = scratch_close);

static char *repeat(char c, size_t n)
{
    char *s = mri_alloc(n + 1);
    memset(s, c, n);
    return s;
}

static void value_of_length(size_t n)
{
    char *long_value = repeat('v', n), *text = mri_format("[s]\nkey = %s\nnext = 1\n", long_value);
    mri_profile *p = load_text(text);
    cr_assert_str_eq(value_of(p, "s", "key"), long_value);
    cr_assert_str_eq(value_of(p, "s", "next"), "1");
    mri_profile_free(p);
    free(text);
    free(long_value);
}

Test(ini, a_value_longer_than_inihs_buffer_arrives_whole)
{
    for (size_t n = 180; n < 210; n++) /* around the 200 bytes of common builds */
        value_of_length(n);
    value_of_length(300);
    value_of_length(5000);
    value_of_length(MRI_INI_MAX_LINE - 6); /* "key = " */
}

Test(ini, a_line_over_the_limit_is_refused_with_the_limit)
{
    char *v = repeat('v', MRI_INI_MAX_LINE - 5), *text = mri_format("[s]\nkey = %s\n", v);
    mr_err err = fail_text(text);
    cr_assert_eq(err.code, MR_E_PROFILE_SYNTAX);
    cr_assert_str_eq(err.what, "p.ini:2: the line is longer than 65536 bytes");
    free(text);
    free(v);
}

Test(ini, names_longer_than_inihs_buffers_are_refused)
{
    char *k = repeat('k', 49), *text = mri_format("[s]\n%s = 1\n", k);
    mr_err err = fail_text(text);
    cr_assert_str_eq(err.what, "p.ini:2: the name is longer than 48 characters");
    free(text);
    text = mri_format("[%s]\n", k);
    err = fail_text(text);
    cr_assert_str_eq(err.what, "p.ini:1: the name is longer than 48 characters");
    free(text);
    k[48] = 0; /* 48 is fine, for both */
    text = mri_format("[%s]\n%s = 1\n", k, k);
    mri_profile *p = load_text(text);
    cr_assert_str_eq(value_of(p, k, k), "1");
    mri_profile_free(p);
    free(text);
    free(k);
}

Test(ini, comments_blanks_bom_and_crlf_are_understood)
{
    mri_profile *p = load_text("\xef\xbb\xbf; first\r\n"
                               "# second\r\n"
                               "\r\n"
                               "  [ s ]  ; header\r\n"
                               "\ta=1\r\n"
                               "b  =  two words \t ; comment\r\n"
                               "c = x;y\r\n"
                               "d = # not a comment\r\n"
                               "e = ; empty\r\n"
                               "f =\r\n"
                               "g = a = b\r\n"
                               "h = last");
    static const char *const want[][2] = {
        { "a", "1" }, { "b", "two words" }, { "c", "x;y" }, { "d", "# not a comment" },
        { "e", "" },  { "f", "" },          { "g", "a = b" }, { "h", "last" },
    };
    for (size_t i = 0; i < sizeof want / sizeof *want; i++)
        cr_assert_str_eq(value_of(p, "s", want[i][0]), want[i][1], "key %s", want[i][0]);
    const mri_entry *e = mri_profile_get(p, "s", "h");
    cr_assert_eq(e->origin.line, 12);
    cr_assert_str_eq(e->origin.raw, "h = last");
    mri_profile_free(p);
}

Test(ini, quotes_keep_blanks_semicolons_and_escapes)
{
    mri_profile *p = load_text("[s]\n"
                               "a = \" one; two ; \" ; comment\n"
                               "b = \"tab\\tnew\\nline \\\"q\\\" \\\\ \\x41\"\n"
                               "c = \"\"\n"
                               "d = in \"the\" middle\n");
    cr_assert_str_eq(value_of(p, "s", "a"), " one; two ; ");
    cr_assert_str_eq(value_of(p, "s", "b"), "tab\tnew\nline \"q\" \\ A");
    cr_assert_str_eq(value_of(p, "s", "c"), "");
    cr_assert_str_eq(value_of(p, "s", "d"), "in \"the\" middle");
    mri_profile_free(p);
}

Test(ini, every_wrong_line_is_refused_with_its_place)
{
    static const struct {
        const char *text, *what, *detail;
    } rows[] = {
        { "[s]\nsteps\n", "p.ini:2: expected key = value", "steps\n^~~~~" },
        { "[s]\na = 1\n   more\n",
          "p.ini:3: expected key = value (a value ends with its line)", "more\n^~~~" },
        { "[s]\nlr: 3\n", "p.ini:2: expected '=' after the key, not ':'", "lr: 3\n  ^" },
        { "[s]\n = 3\n", "p.ini:2: no key before '='", "= 3\n^" },
        { "[s\n", "p.ini:1: the section header has no ']'", "[s\n^~" },
        { "[]\n", "p.ini:1: a section without a name", "[]\n ^" },
        { "[s] a = 1\n", "p.ini:1: text after ']': a key stands on its own line",
          "[s] a = 1\n   ^~~~~~" },
        { "[a b]\n", "p.ini:1: a section's name has letters, digits and _ - . @ only",
          "[a b]\n ^~~" },
        { "[s]\na.b = 1\n", "p.ini:2: a key has letters, digits and _ - only", "a.b = 1\n^~~" },
        { "[s]\na = \"x\n",
          "p.ini:2: the quoted value has no closing '\"'", "a = \"x\n    ^~" },
        { "[s]\na = \"x\" y\n", "p.ini:2: text after the closing '\"'", "a = \"x\" y\n       ^~" },
        { "[s]\na = \"\\q\"\n",
          "p.ini:2: unknown escape; known are \\\" \\\\ \\n \\t \\r \\xHH",
          "a = \"\\q\"\n     ^~" },
        { "[s]\na = \x01\n",
          "p.ini:2: a control character; write it as \\xHH in double quotes", "a = ?\n    ^" },
        { "[s]\na = 1\rb = 2\n",
          "p.ini:2: a carriage return inside the line", "a = 1?b = 2\n     ^" },
        { "steps = 1\n", "p.ini:1: key 'steps' stands before the first [section]",
          "steps = 1\n^~~~~" },
        { "inclde = x\n", "p.ini:1: key 'inclde' stands before the first [section]",
          "inclde = x\n^~~~~~ did you mean 'include'?" },
    };
    for (size_t i = 0; i < sizeof rows / sizeof *rows; i++) {
        mr_err err = fail_text(rows[i].text);
        cr_assert_eq(err.code, MR_E_PROFILE_SYNTAX);
        cr_assert_eq(err.blame, MR_BLAME_USER);
        cr_assert_str_eq(err.what, rows[i].what);
        cr_assert_str_eq(err.detail, rows[i].detail);
    }
}

Test(ini, binary_files_are_refused)
{
    mr_err err = fail_bytes("[s]\nk = a\0b\n", 12);
    cr_assert_str_eq(err.what, "p.ini:2: a NUL byte: this is not a text file");
    err = fail_bytes("\xff\xfe[\0s\0]\0", 8);
    cr_assert_str_eq(err.what, "p.ini: the text is UTF-16; save it as UTF-8");
}

Test(ini, carets_count_characters_and_follow_the_word)
{
    mr_err err = fail_text("[s]\nk = \"\xc3\xa4\xc3\xb6\" x\n"); /* two letters of two bytes */
    cr_assert_str_eq(err.detail, "k = \"\xc3\xa4\xc3\xb6\" x\n        ^~");
    char *v = repeat('a', 400), *text = mri_format("[s]\nk = \"%s\" tail\n", v);
    err = fail_text(text);
    cr_assert(!strncmp(err.detail, "...aaa", 6), "%s", err.detail);
    const char *line = err.detail, *carets = strchr(line, '\n') + 1;
    size_t column = strcspn(carets, "^");
    cr_assert_eq(strncmp(line + column, " tail", 5), 0, "%s", err.detail);
    free(text);
    free(v);
}
