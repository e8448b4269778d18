/* SPDX-License-Identifier: Apache-2.0
 *
 * list.c - the table of everything that a search path offers, good or broken.
 *
 * Invariant: no plugin code runs in this process, and every file ends up as at least one
 * row: its units, or one row "-" / file name that says what is wrong with it.
 */
#include "internal.h"
#include <stdlib.h>
#include <string.h>

typedef MRI_VEC(mri_listing) rows;

const char *mri_status_word(mr_status code)
{
    static const struct {
        mr_status code;
        const char *word;
    } words[] = {
        { 0, "ok" },
        { MR_E_PLUGIN_LOAD, "missing" },
        { MR_E_PLUGIN_VERSION, "refused" },
        { MR_E_PLUGIN_OPEN, "refused" },
        { MR_E_PLUGIN_CRASHED, "crashed" },
        { MR_E_PLUGIN_TIMEOUT, "timeout" },
    };
    for (size_t i = 0; i < sizeof words / sizeof *words; i++)
        if (words[i].code == code)
            return words[i].word;
    return "malformed";
}

/* a remedy is worth its place in the table only where the reader can apply it */
static char *reason_of(const mr_err *err)
{
    bool curable = err->blame != MR_BLAME_PLUGIN && err->hint[0];
    return mri_format("%s%s%s", err->what, curable ? " -- " : "", curable ? err->hint : "");
}

static void add(rows *list, const char *path, const char *kind, const char *name,
                const char *version, const char *abi, const char *id, const char *status,
                char *reason, const char *doc)
{
    for (size_t i = 0; i < list->n && strcmp(kind, "-"); i++) {
        const mri_listing *l = &list->v[i];
        if (strcmp(l->kind, kind) || strcmp(l->name, name) || !strcmp(l->path, path))
            continue;
        char *more = mri_format("hidden by %s%s%s", l->path, *reason ? "; " : "", reason);
        free(reason);
        reason = more;
        break;
    }
    mri_listing row = { mri_strdup(kind), mri_strdup(name), mri_strdup(version), mri_strdup(abi),
                        mri_strdup(id), mri_strdup(path), mri_strdup(status), reason,
                        mri_strdup(doc) };
    MRI_PUSH(list, row);
}

/* The units that a note promises, all with one status. */
static void add_note(rows *list, const char *path, const mri_note *note, const mr_err *err)
{
    char kind[64], name[128], abi[32];
    snprintf(abi, sizeof abi, "%u.%u", note->major, note->minor);
    for (const char *rest = note->units;
         mri_note_next(&rest, kind, sizeof kind, name, sizeof name);)
        add(list, path, kind, name, note->version, abi, note->id, mri_status_word(err->code),
            reason_of(err), "");
}

static void add_file(rows *list, const char *path, const char *status, char *reason)
{
    add(list, path, "-", mri_base_name(path), "-", "-", "", status, reason, "");
}

static void list_deep(const mr_host *host, const char *path, rows *list)
{
    mr_err err = MR_ERR_INIT;
    mri_scan s;
    mri_note note;
    mri_scan_file(host, path, MRI_SCAN_LIMIT_MS, &s, &err);
    if (!err.code) {
        for (size_t i = 0; i < s.units.n; i++) {
            const mri_scan_unit *u = &s.units.v[i];
            add(list, path, u->kind, u->name, s.version, s.abi, s.id,
                *u->missing ? "refused" : "ok", mri_strdup(u->missing), u->doc);
        }
    } else if (mri_note_parse(path, &note)) {
        size_t before = list->n;
        add_note(list, path, &note, &err);
        if (list->n == before)
            add_file(list, path, mri_status_word(err.code), reason_of(&err));
        mri_note_free(&note);
    } else {
        add_file(list, path, mri_status_word(err.code), reason_of(&err));
    }
    mri_scan_free(&s);
}

static void list_shallow(const char *path, rows *list)
{
    mr_err err = MR_ERR_INIT;
    mri_note note;
    if (mri_note_parse(path, &note)) {
        size_t before = list->n;
        /* a note tells what the plugin was built with, not the least that it needs */
        mri_abi_check(MR_ABI_MAJOR, MR_ABI_MINOR, note.major, note.minor,
                      note.major ? 0 : note.minor, path, &err);
        add_note(list, path, &note, &err);
        if (list->n == before)
            add_file(list, path, "malformed", mri_strdup("its note names no unit"));
        mri_note_free(&note);
    } else if (mri_elf_is_plugin(path, &err)) {
        add_file(list, path, mri_status_word(err.code), reason_of(&err));
    } else {
        add_file(list, path, "unknown", mri_strdup("has no note; --scan looks inside"));
    }
}

static int by_kind_and_name(const void *pa, const void *pb)
{
    const mri_listing *a = pa, *b = pb;
    bool file_a = !strcmp(a->kind, "-"), file_b = !strcmp(b->kind, "-");
    int d = file_a - file_b; /* files without units come last */
    if (!d)
        d = strcmp(a->kind, b->kind);
    return d ? d : strcmp(a->name, b->name);
}

/* insertion sort: keeps the order of precedence among equals */
static void sort(rows *list)
{
    for (size_t i = 1; i < list->n; i++) {
        mri_listing x = list->v[i];
        size_t j = i;
        for (; j && by_kind_and_name(&list->v[j - 1], &x) > 0; j--)
            list->v[j] = list->v[j - 1];
        list->v[j] = x;
    }
}

void mri_list_files(const mr_host *host, mri_search *search, bool deep, mri_listing **out,
                    size_t *n)
{
    rows list = { 0 };
    mri_search_walk(search);
    for (size_t i = 0; i < search->files.n; i++) {
        if (deep)
            list_deep(host, search->files.v[i], &list);
        else
            list_shallow(search->files.v[i], &list);
    }
    sort(&list);
    *out = list.v;
    *n = list.n;
}

void mri_listing_free(mri_listing *list, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        char *const fields[] = { list[i].kind, list[i].name, list[i].version, list[i].abi,
                                 list[i].id, list[i].path, list[i].status, list[i].reason,
                                 list[i].doc };
        for (size_t j = 0; j < sizeof fields / sizeof *fields; j++)
            free(fields[j]);
    }
    free(list);
}
