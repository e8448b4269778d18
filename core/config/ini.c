/* SPDX-License-Identifier: Apache-2.0
 * ini.c - see ini.h. */
#include "ini.h"
#include <ini.h>
#include <stdlib.h>
#include <string.h>

static bool is_blank(char c)
{
    return c == ' ' || c == '\t';
}

bool mri_ini_name_ok(const char *s, size_t n, bool section)
{
    for (size_t i = 0; i < n; i++) {
        char c = s[i];
        bool ok = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                  c == '_' || c == '-' || (section && (c == '.' || c == '@'));
        if (!ok)
            return false;
    }
    return n > 0 && n <= MRI_INI_MAX_NAME;
}

static mri_span trim(const char *line, size_t from, size_t to)
{
    while (from < to && is_blank(line[from]))
        from++;
    while (to > from && is_blank(line[to - 1]))
        to--;
    return (mri_span){ from, to - from };
}

static const char *wrong(mri_span *bad, size_t at, size_t n, const char *why)
{
    if (bad)
        *bad = (mri_span){ at, n };
    return why;
}

static const char *name_fault(const char *line, mri_span name, bool section, mri_span *bad)
{
    if (!name.n)
        return wrong(bad, name.at, 1, section ? "a section without a name" : "no key before '='");
    if (name.n > MRI_INI_MAX_NAME)
        return wrong(bad, name.at, name.n, "the name is longer than 48 characters");
    if (!mri_ini_name_ok(line + name.at, name.n, section))
        return wrong(bad, name.at, name.n,
                     section ? "a section's name has letters, digits and _ - . @ only"
                             : "a key has letters, digits and _ - only");
    return NULL;
}

static bool is_end(const char *line, size_t i)
{
    while (is_blank(line[i]))
        i++;
    return !line[i] || line[i] == ';' || line[i] == '#';
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* line[i] is a backslash: its length and the character it stands for, 0 bytes if unknown */
static size_t escape(const char *line, size_t i, char *c)
{
    static const char from[] = "\"\\ntr", to[] = "\"\\\n\t\r";
    const char *f = line[i + 1] ? strchr(from, line[i + 1]) : NULL;
    if (f) {
        *c = to[f - from];
        return 2;
    }
    if (line[i + 1] != 'x' || hex_digit(line[i + 2]) < 0 || hex_digit(line[i + 3]) < 0)
        return 0;
    *c = (char)(16 * hex_digit(line[i + 2]) + hex_digit(line[i + 3]));
    return *c ? 4 : 0;
}

static const char *split_quoted(const char *line, size_t at, mri_ini_words *w, mri_span *bad)
{
    size_t i = at + 1;
    char c;
    while (line[i] && line[i] != '"') {
        size_t n = line[i] == '\\' ? escape(line, i, &c) : 1;
        if (!n)
            return wrong(bad, i, 2, "unknown escape; known are \\\" \\\\ \\n \\t \\r \\xHH");
        i += n;
    }
    if (!line[i])
        return wrong(bad, at, i - at, "the quoted value has no closing '\"'");
    if (!is_end(line, i + 1))
        return wrong(bad, i + 1, strlen(line + i + 1), "text after the closing '\"'");
    w->value = (mri_span){ at, i + 1 - at };
    return NULL;
}

static const char *split_section(const char *line, size_t at, mri_ini_words *w, mri_span *bad)
{
    const char *close = strchr(line + at, ']');
    if (!close)
        return wrong(bad, at, strlen(line + at), "the section header has no ']'");
    size_t end = (size_t)(close - line);
    w->kind = MRI_INI_SECTION;
    w->name = trim(line, at + 1, end);
    if (!is_end(line, end + 1))
        return wrong(bad, end + 1, strlen(line + end + 1),
                     "text after ']': a key stands on its own line");
    return name_fault(line, w->name, true, bad);
}

const char *mri_ini_split(const char *line, mri_ini_words *w, mri_span *bad)
{
    memset(w, 0, sizeof *w);
    size_t at = 0;
    while (is_blank(line[at]))
        at++;
    if (is_end(line, at))
        return NULL;
    if (line[at] == '[')
        return split_section(line, at, w, bad);

    const char *eq = strchr(line, '=');
    size_t len = strlen(line);
    mri_span all = trim(line, at, len);
    if (!eq) {
        const char *colon = strchr(line, ':');
        if (at)
            return wrong(bad, all.at, all.n, "expected key = value (a value ends with its line)");
        if (colon)
            return wrong(bad, (size_t)(colon - line), 1, "expected '=' after the key, not ':'");
        return wrong(bad, all.at, all.n, "expected key = value");
    }
    size_t e = (size_t)(eq - line);
    w->kind = MRI_INI_KEY;
    w->name = trim(line, at, e);
    const char *why = name_fault(line, w->name, false, bad);
    if (why)
        return why;

    size_t v = e + 1;
    while (is_blank(line[v]))
        v++;
    if (line[v] == '"')
        return split_quoted(line, v, w, bad);
    size_t end = v;
    while (line[end] && !(line[end] == ';' && is_blank(line[end - 1])))
        end++;
    w->value = trim(line, v, end);
    return NULL;
}

static char *value_text(const char *line, mri_span v)
{
    if (v.n < 2 || line[v.at] != '"')
        return mri_strndup(line + v.at, v.n);
    mri_str out = { 0 };
    for (size_t i = v.at + 1; i < v.at + v.n - 1;) {
        char c = line[i];
        i += c == '\\' ? escape(line, i, &c) : 1;
        mri_str_addn(&out, &c, 1);
    }
    return mri_str_take(&out);
}

void mri_ini_quote(mri_str *out, const char *value)
{
    size_t n = strlen(value);
    bool plain = !n || (value[0] != '"' && !is_blank(value[0]) && !is_blank(value[n - 1]));
    for (size_t i = 0; i < n && plain; i++)
        plain = value[i] != ';' && (unsigned char)value[i] >= 0x20 && value[i] != 0x7f;
    if (plain) {
        mri_str_add(out, value);
        return;
    }
    mri_str_add(out, "\"");
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c == '"' || c == '\\')
            mri_str_fmt(out, "\\%c", c);
        else if (c == '\n')
            mri_str_add(out, "\\n");
        else if (c < 0x20 || c == 0x7f)
            mri_str_fmt(out, "\\x%02x", c);
        else
            mri_str_addn(out, value + i, 1);
    }
    mri_str_add(out, "\"");
}

/* ---- one text through inih --------------------------------------------------------- */

typedef struct reader {
    const char *text;
    size_t n, at;
    mri_str raw;         /* the current line, whole */
    mri_ini_words words; /* where its words stand in `raw` */
    mri_origin origin;
    mri_ini_sink sink;
    void *user;
    mr_err *err;
    mr_status st;
} reader;

static const char *line_fault(reader *r, const char *s, size_t n, mri_span *bad)
{
    *bad = (mri_span){ 0, n < 20 ? n : 20 };
    if (n > MRI_INI_MAX_LINE)
        return "the line is longer than 65536 bytes";
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        if ((c < 0x20 && c != '\t') || c == 0x7f) {
            *bad = (mri_span){ i, 1 };
            return c ? c == '\r' ? "a carriage return inside the line"
                                 : "a control character; write it as \\xHH in double quotes"
                     : "a NUL byte: this is not a text file";
        }
    }
    return mri_ini_split(r->raw.s, &r->words, bad);
}

/* Takes the next physical line into `raw`, checks and splits it. False at the end. */
static bool next_line(reader *r)
{
    if (r->at >= r->n || r->st)
        return false;
    const char *s = r->text + r->at, *end = memchr(s, '\n', r->n - r->at);
    size_t n = end ? (size_t)(end - s) : r->n - r->at;
    r->at += end ? n + 1 : n;
    r->origin.line++;
    if (n && s[n - 1] == '\r')
        n--;
    if (r->origin.line == 1 && n >= 3 && !memcmp(s, "\xef\xbb\xbf", 3)) {
        s += 3;
        n -= 3;
    }
    r->raw.n = 0;
    size_t keep = n > MRI_INI_MAX_LINE ? 200 : n; /* enough of a refused line to show it */
    const char *nul = memchr(s, 0, keep);
    mri_str_addn(&r->raw, s, nul ? (size_t)(nul - s) : keep);
    r->origin.raw = r->raw.s;
    mri_span bad;
    const char *why = line_fault(r, s, n, &bad);
    if (why)
        r->st = mri_place_fail(r->err, MR_E_PROFILE_SYNTAX, &r->origin, bad, NULL, "%s", why);
    return !r->st;
}

/* inih's fgets: one checked line at a time, without the value and without what inih could
 * misread (indentation, comments). */
static char *read_names(char *buf, int cap, void *user)
{
    reader *r = user;
    if (!next_line(r))
        return NULL;
    const char *name = r->raw.s + r->words.name.at;
    int len = (int)r->words.name.n;
    if (cap < len + 8) {
        r->st = mr_fail(r->err, MR_E_INTERNAL, MR_BLAME_HOST,
                        "inih offers %d bytes for a name of %d", cap, len);
        return NULL;
    }
    if (r->words.kind == MRI_INI_SECTION) {
        char *section = mri_strndup(name, (size_t)len);
        r->st = r->sink(r->user, section, NULL, NULL, &r->origin, r->err);
        free(section);
        if (r->st)
            return NULL;
        snprintf(buf, (size_t)cap, "[%.*s]\n", len, name);
    } else {
        snprintf(buf, (size_t)cap, r->words.kind == MRI_INI_KEY ? "%.*s =\n" : "\n", len, name);
    }
    return buf;
}

static int take_name(void *user, const char *section, const char *name, const char *unused)
{
    reader *r = user;
    (void)unused; /* the empty text after '=': the value never passes through inih */
    if (r->st)
        return 0;
    char *value = value_text(r->raw.s, r->words.value);
    r->st = r->sink(r->user, section, name, value, &r->origin, r->err);
    free(value);
    return !r->st;
}

mr_status mri_ini_parse(const char *file, const char *text, size_t n, mri_ini_sink sink,
                        void *user, mr_err *err)
{
    reader r = { .text = text, .n = n, .sink = sink, .user = user, .err = err };
    r.origin = (mri_origin){ file, 0, "file", NULL };
    if (n >= 2 && (!memcmp(text, "\xff\xfe", 2) || !memcmp(text, "\xfe\xff", 2)))
        return mr_fail(err, MR_E_PROFILE_SYNTAX, MR_BLAME_USER,
                       "%s: the text is UTF-16; save it as UTF-8", file);
    int rc = ini_parse_stream(read_names, &r, take_name, &r);
    if (rc && !r.st)
        r.st = mr_fail(err, MR_E_INTERNAL, MR_BLAME_HOST, "inih refused line %d of %s (status %d)",
                       r.origin.line, file, rc);
    mri_str_free(&r.raw);
    return r.st;
}
