/* SPDX-License-Identifier: Apache-2.0
 *
 * check_static.c - conformance of the file and its descriptor: symbols, note, sizes, words.
 */
#include "check.h"
#include "mrun/backend.h"
#include "mrun/data.h"
#include "mrun/model.h"
#include "mrun/optimizer.h"
#include "mrun/graph.h"
#include "mrun/shard.h"
#include "mrun/sink.h"
#include <stdlib.h>
#include <string.h>

static void one_symbol(check *c)
{
    char **names;
    size_t n;
    mr_err err = MR_ERR_INIT;
    if (mri_elf_exports(c->path, &names, &n, &err))
        check_fail_err(c, "reading the symbols", &err);
    for (size_t i = 0; i < n; i++) {
        if (strcmp(names[i], MR_PLUGIN_SYMBOL_NAME))
            check_fail(c, "exports %s: hide it with a version script", names[i]);
        free(names[i]);
    }
    free(names);
    if (!n && c->verdict == CHECK_PASS)
        check_fail(c, "exports no %s", MR_PLUGIN_SYMBOL_NAME);
}

static void loads(check *c)
{
    mr_err err = MR_ERR_INIT;
    if (mri_plugin_load(c->a->registry, c->path, &c->plugin, &err))
        check_fail_err(c, "loading", &err);
}

/* the value behind " key=" up to the next blank (or, for the last key, to the end) */
static char *note_field(const char *note, const char *key, bool last)
{
    const char *p = strstr(note, key);
    if (!p)
        return mri_strdup("");
    p += strlen(key);
    return mri_strndup(p, last ? strlen(p) : strcspn(p, " "));
}

static void expect_field(check *c, const char *note, const char *key, const char *want)
{
    char *has = note_field(note, key, false);
    if (strcmp(has, want))
        check_fail(c, "the note says%s%s, the descriptor %s", key, has, want);
    free(has);
}

static bool has_word(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; (p = strstr(p, word)); p++)
        if ((p == list || p[-1] == ' ') && strchr(" @", p[n])) /* the end, too */
            return true;
    return false;
}

static void note_matches_descriptor(check *c)
{
    char *note = mri_note_read(c->path);
    if (!note) {
        check_skip(c, "has no note: `mrun plugins` cannot name its units without loading it");
        return;
    }
    char abi[32];
    snprintf(abi, sizeof abi, "%u.%u", c->plugin->abi_major, c->plugin->abi_minor_built);
    if (strncmp(note, "mrun-plugin ", 12))
        check_fail(c, "the note does not begin with \"mrun-plugin \": use MR_PLUGIN_NOTE");
    expect_field(c, note, " id=", c->plugin->id);
    expect_field(c, note, " version=", c->plugin->version);
    expect_field(c, note, " abi=", abi);
    char *units = note_field(note, " units=", true);
    size_t words = 0;
    for (const char *p = units + strspn(units, " "); *p; p += strspn(p, " ")) {
        words++;
        p += strcspn(p, " ");
    }
    for (uint32_t i = 0; i < c->plugin->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(c->plugin, i);
        char *name = mri_format("%s/%s", u->kind, u->name);
        if (!has_word(units, name))
            check_fail(c, "the note leaves out %s", name);
        free(name);
    }
    if (words > c->plugin->n_units)
        check_fail(c, "the note names %zu units, the descriptor has %u", words, c->plugin->n_units);
    free(units);
    free(note);
}

/* Built with this mrun's headers, every struct has this mrun's size. */
static void sizes(check *c)
{
    static const struct {
        const char *kind;
        uint32_t size;
    } tables[] = {
        { "backend", sizeof(mr_backend_ops) },     { "model", sizeof(mr_model_ops) },
        { "optimizer", sizeof(mr_optimizer_ops) }, { "tokenizer", sizeof(mr_tokenizer_ops) },
        { "data", sizeof(mr_data_ops) },           { "sink", sizeof(mr_sink_ops) },
        { "op", sizeof(mr_op_def) },               { "graph", sizeof(mr_graph_ops) },
        { "shard", sizeof(mr_shard_ops) },
    };
    const mr_plugin *p = c->plugin;
    if (p->abi_major != MR_ABI_MAJOR || p->abi_minor_built != MR_ABI_MINOR) {
        check_skip(c, "built for ABI %u.%u, whose sizes this mrun does not know", p->abi_major,
                   p->abi_minor_built);
        return;
    }
    if (p->size != sizeof *p)
        check_fail(c, "descriptor: %u bytes, the header has %zu", p->size, sizeof *p);
    for (uint32_t i = 0; i < p->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(p, i);
        if (u->size != sizeof *u)
            check_fail(c, "unit %s/%s: %u bytes, the header has %zu", u->kind, u->name, u->size,
                       sizeof *u);
        for (size_t k = 0; k < sizeof tables / sizeof *tables; k++) {
            uint32_t size = *(const uint32_t *)u->table;
            if (!strcmp(tables[k].kind, u->kind) && size != tables[k].size)
                check_fail(c, "table of %s/%s: %u bytes, the header has %u", u->kind, u->name, size,
                           tables[k].size);
        }
        const mr_opt *o = u->opts;
        for (uint32_t k = 0; k < u->n_opts; k++) {
            if (o->size != sizeof *o)
                check_fail(c, "option %s of %s/%s: %u bytes, the header has %zu", o->key, u->kind,
                           u->name, o->size, sizeof *o);
            o = (const mr_opt *)((const char *)o + o->size);
        }
    }
}

static bool empty(const char *s)
{
    return !s || !*s;
}

static void docs_present(check *c)
{
    const mr_plugin *p = c->plugin;
    if (empty(p->doc))
        check_fail(c, "the plugin has no doc");
    if (empty(p->license))
        check_fail(c, "the plugin has no license");
    for (uint32_t i = 0; i < p->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(p, i);
        if (empty(u->doc))
            check_fail(c, "unit %s/%s has no doc", u->kind, u->name);
        if (!strcmp(u->kind, "op") && empty(((const mr_op_def *)u->table)->doc))
            check_fail(c, "op %s has no doc", ((const mr_op_def *)u->table)->id);
        const mr_opt *o = u->opts;
        for (uint32_t k = 0; k < u->n_opts; k++) {
            if (empty(o->doc))
                check_fail(c, "option %s of %s/%s has no doc", o->key, u->kind, u->name);
            o = (const mr_opt *)((const char *)o + o->size);
        }
    }
}

static void defaults_parse(check *c)
{
    for (uint32_t i = 0; i < c->plugin->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(c->plugin, i);
        mr_err err = MR_ERR_INIT;
        if (u->n_opts && mri_options_check(u->opts, u->n_opts, u->config_size, &err))
            check_fail(c, "%s/%s: %s", u->kind, u->name, err.what);
    }
}

/* Names that core gives a meaning, or may give one. */
static void no_reserved_prefix(check *c)
{
    const mr_plugin *p = c->plugin;
    if (!strchr(p->id, '.'))
        check_fail(c, "the id '%s' is not a reversed domain, such as org.example.%s", p->id, p->id);
    for (uint32_t i = 0; i < p->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(p, i);
        if (!strncmp(u->name, "mrun", 4) || !strncmp(u->name, "mr_", 3) || !strcmp(u->name, "none"))
            check_fail(c, "unit name %s/%s: mrun..., mr_... and none are reserved", u->kind,
                       u->name);
        const mr_op_def *op = u->table;
        if (!strcmp(u->kind, "op") && (!strchr(op->id, '.') || !strncmp(op->id, "mrun.", 5)))
            check_fail(c, "op id '%s' needs a prefix of its own, such as %s.%s", op->id, u->name,
                       op->id);
        const mr_opt *o = u->opts;
        for (uint32_t k = 0; k < u->n_opts; k++) {
            if (!strcmp(o->key, "plugin") || !strcmp(o->key, "include") ||
                strpbrk(o->key, " .=[];#"))
                check_fail(c, "option key '%s' of %s/%s means something to the profile", o->key,
                           u->kind, u->name);
            o = (const mr_opt *)((const char *)o + o->size);
        }
    }
}

const check_row check_static_rows[] = {
    { "one-symbol", "the file exports mrun_plugin_v1 and nothing else", CHECK_FILE, NULL, 10,
      one_symbol },
    { "loads", "the descriptor passes the loader's checks and open() succeeds", CHECK_GATE, NULL,
      10, loads },
    { "note-matches-descriptor", "the note says what the descriptor says", CHECK_PLUGIN, NULL, 10,
      note_matches_descriptor },
    { "sizes", "every struct has the size that the headers give it", CHECK_PLUGIN, NULL, 10,
      sizes },
    { "docs-present", "plugin, units, ops and options are documented", CHECK_PLUGIN, NULL, 10,
      docs_present },
    { "defaults-parse", "defaults parse and lie in their ranges", CHECK_PLUGIN, NULL, 10,
      defaults_parse },
    { "no-reserved-prefix", "ids, names and keys keep clear of mrun's own", CHECK_PLUGIN, NULL, 10,
      no_reserved_prefix },
    { NULL, NULL, 0, NULL, 0, NULL },
};
