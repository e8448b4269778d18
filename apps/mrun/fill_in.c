/* SPDX-License-Identifier: Apache-2.0
 *
 * fill_in.c - `mrun fill-in FILE.in`: a template on stdout with its @MARKERS@ filled from the
 * tables that the program runs by. Man pages and shell completions are made so when mrun is
 * built, and therefore cannot fall behind. Not for users: it does not show in the help.
 */
#include "app.h"
#include "core/config/errors.h"
#include "core/config/option.h"
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

static bool shown(const app_command *c)
{
    return *c->doc != 0;
}

/* The options of a command are the --words of its synopsis. */
static void add_options(const app_command *c, const char *between, mri_str *out)
{
    size_t start = out->n;
    for (const char *p = c->args; (p = strstr(p, "--"));) {
        size_t n = 2;
        while (isalpha((unsigned char)p[n]) || p[n] == '-')
            n++;
        if (out->n > start)
            mri_str_add(out, between);
        mri_str_addn(out, p, n);
        p += n;
    }
}

/* ---- shells ------------------------------------------------------------------------------- */

static void commands(mri_str *out)
{
    for (const app_command *c = app_commands(); c->name; c++)
        if (shown(c))
            mri_str_fmt(out, "%s%s", out->n ? " " : "", c->name);
}

static void settings(mri_str *out)
{
    size_t n, nk;
    const mri_section *s = mri_sections(&n);
    const mri_kind *k = mri_kinds(&nk);
    for (size_t i = 0; i < nk; i++)
        mri_str_fmt(out, "%s%s.plugin", i ? " " : "", k[i].name);
    for (size_t i = 0; i < n; i++)
        for (uint32_t j = 0; j < s[i].n_opts; j++)
            mri_str_fmt(out, " %s.%s", s[i].name, mri_opt_row(s[i].opts, s[i].n_opts, j)->key);
}

static void topics(mri_str *out)
{
    size_t n, nk, ne;
    const mri_section *s = mri_sections(&n);
    const mri_kind *k = mri_kinds(&nk);
    const mri_error_info *e = mri_errors(&ne);
    mri_str_add(out, "op");
    for (size_t i = 0; i < n; i++)
        mri_str_fmt(out, " %s", s[i].name);
    for (size_t i = 0; i < nk; i++)
        mri_str_fmt(out, " %s", k[i].name);
    for (size_t i = 0; i < ne; i++)
        mri_str_fmt(out, " E%04d", e[i].number);
}

static void bash_options(mri_str *out)
{
    for (const app_command *c = app_commands(); c->name; c++) {
        if (!shown(c))
            continue;
        mri_str_fmt(out, "    %s) options+=' ", c->name);
        add_options(c, " ", out);
        mri_str_add(out, "' ;;\n");
    }
}

/* in single quotes of a shell, and without what `zsh` reads as its own */
static void add_quoted(const char *text, mri_str *out)
{
    for (; *text; text++) {
        if (*text == '\'')
            mri_str_add(out, "'\\''");
        else if (*text == ':')
            mri_str_add(out, "\\:");
        else
            mri_str_addn(out, text, 1);
    }
}

static void zsh_commands(mri_str *out)
{
    for (const app_command *c = app_commands(); c->name; c++) {
        if (!shown(c))
            continue;
        mri_str_fmt(out, "    '%s:", c->name);
        add_quoted(c->doc, out);
        mri_str_add(out, "'\n");
    }
}

static void fish_commands(mri_str *out)
{
    for (const app_command *c = app_commands(); c->name; c++) {
        mri_str options = { 0 };
        if (!shown(c))
            continue;
        mri_str_fmt(out, "complete -c mrun -n __fish_use_subcommand -a %s -d \"%s\"\n", c->name,
                    c->doc);
        add_options(c, " ", &options);
        for (char *word = options.s ? strtok(options.s, " ") : NULL; word; word = strtok(NULL, " "))
            mri_str_fmt(out, "complete -c mrun -n '__fish_seen_subcommand_from %s' -l %s\n", c->name,
                        word + 2);
        mri_str_free(&options);
    }
}

/* ---- man pages ------------------------------------------------------------------------------ */

/* roff: a hyphen that is one, no escapes, and no line that starts as a request */
static void add_roff(const char *text, mri_str *out)
{
    bool start = true;
    for (; *text; text++) {
        if (start && (*text == '.' || *text == '\''))
            mri_str_add(out, "\\&");
        start = *text == '\n';
        if (*text == '-')
            mri_str_add(out, "\\-");
        else if (*text == '\\')
            mri_str_add(out, "\\e");
        else
            mri_str_addn(out, text, 1);
    }
}

static void man_commands(mri_str *out)
{
    for (const app_command *c = app_commands(); c->name; c++) {
        if (!shown(c))
            continue;
        mri_str_add(out, ".TP\n\\fBmrun ");
        add_roff(c->name, out);
        mri_str_add(out, "\\fR ");
        add_roff(c->args, out);
        mri_str_add(out, "\n");
        add_roff(c->doc, out);
        mri_str_add(out, ".\n");
    }
}

static void man_row(const mr_opt *row, mri_str *out)
{
    const mr_opt o = mri_opt_read(row);
    mri_str_add(out, ".TP\n.B ");
    add_roff(o.key, out);
    if (o.def) {
        mri_str_add(out, "\\fR = ");
        add_roff(o.def, out);
    }
    mri_str_add(out, "\n");
    add_roff(o.doc, out);
    if (o.choices) {
        mri_str_add(out, ".\nWords: ");
        for (const char *p = o.choices; *p; p++) {
            char one[2] = { *p, 0 };
            add_roff(*p == '|' ? ", " : one, out);
        }
    }
    mri_str_add(out, ".\n");
}

static void man_sections(mri_str *out)
{
    size_t n;
    const mri_section *s = mri_sections(&n);
    for (size_t i = 0; i < n; i++) {
        mri_str_fmt(out, ".SS [%s]\n", s[i].name);
        add_roff(s[i].doc, out);
        mri_str_add(out, ".\n");
        for (uint32_t j = 0; j < s[i].n_opts; j++) {
            const mr_opt *o = mri_opt_row(s[i].opts, s[i].n_opts, j);
            if (!(o->flags & MR_OPT_HIDDEN))
                man_row(o, out);
        }
    }
}

static void man_kinds(mri_str *out)
{
    size_t n;
    const mri_kind *k = mri_kinds(&n);
    for (size_t i = 0; i < n; i++) {
        mri_str_fmt(out, ".TP\n.B [%s]\\fR plugin = ", k[i].name);
        add_roff(k[i].default_plugin ? k[i].default_plugin : "NAME", out);
        mri_str_add(out, "\n");
        add_roff(k[i].doc, out);
        mri_str_add(out, ".\n");
    }
}

static void man_errors(mri_str *out)
{
    size_t n;
    const mri_error_info *e = mri_errors(&n);
    for (size_t i = 0; i < n; i++) {
        mri_str_fmt(out, ".TP\n.B E%04d\n", e[i].number);
        add_roff(e[i].title, out);
        mri_str_add(out, ".\n");
    }
}

static void version(mri_str *out)
{
    mri_str_add(out, MRI_VERSION);
}

/* ---- the filter ----------------------------------------------------------------------------- */

static const struct {
    const char *marker;
    void (*print)(mri_str *out);
} markers[] = {
    { "@COMMANDS@", commands },         { "@SETTINGS@", settings },
    { "@TOPICS@", topics },             { "@BASH_OPTIONS@\n", bash_options },
    { "@ZSH_COMMANDS@\n", zsh_commands }, { "@FISH_COMMANDS@\n", fish_commands },
    { "@MAN_COMMANDS@\n", man_commands }, { "@MAN_SECTIONS@\n", man_sections },
    { "@MAN_KINDS@\n", man_kinds },     { "@MAN_ERRORS@\n", man_errors },
    { "@VERSION@", version },
};

static void fill(const char *text, mri_str *out)
{
    while (*text) {
        size_t i = 0, n = sizeof markers / sizeof *markers;
        while (i < n && strncmp(text, markers[i].marker, strlen(markers[i].marker)))
            i++;
        if (i == n) {
            mri_str_addn(out, text++, 1);
            continue;
        }
        mri_str value = { 0 };
        markers[i].print(&value);
        mri_str_add(out, value.s ? value.s : "");
        mri_str_free(&value);
        text += strlen(markers[i].marker);
    }
}

int cmd_fill_in(app *a, int argc, char **argv)
{
    mr_err err = MR_ERR_INIT;
    mri_str out = { 0 };
    char *text;
    size_t n;
    if (argc != 2)
        return app_usage(a, "fill-in takes one file, got %d words", argc - 1);
    if (mri_read_file(argv[1], 1 << 20, &text, &n, &err))
        return app_fail(a, &err);
    fill(text, &out);
    fputs(out.s ? out.s : "", stdout);
    mri_str_free(&out);
    free(text);
    return EXIT_OK;
}
