/* SPDX-License-Identifier: Apache-2.0
 *
 * registry.c - owns the host table that plugins see, the libraries that were loaded, and the
 * answer to "which unit is KIND/NAME?".
 *
 * Invariants: a library is loaded once, whatever name it was asked for by; the first file in
 * search order that offers the unit is the answer, even when that file cannot load; before
 * a library comes into this process it was tried in a child, so a crash is an error message.
 */
#include "internal.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

typedef struct loaded {
    dev_t dev;
    ino_t ino;
    char *path;
    const mr_plugin *plugin;
} loaded;

typedef struct service {
    const char *id;
    const void *table;
} service;

struct mri_registry {
    mr_host host;
    mri_search search;
    MRI_VEC(loaded) loaded;
    MRI_VEC(service) services;
    MRI_VEC(const mr_op_def *) ops;
    mri_op_hook op_hook;
    void (*log)(void *user, uint32_t level, const char *unit, const char *msg);
    void *log_user;
    int32_t (*cancelled)(void *user);
    void *cancelled_user;
};

const char *mri_base_name(const char *path)
{
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

/* ---- the host table ------------------------------------------------------------------- */

static void host_log(void *self, uint32_t level, const char *unit, const char *msg)
{
    mri_registry *r = self;
    if (r->log && msg)
        r->log(r->log_user, level, unit ? unit : "", msg);
}

static const void *host_ext(void *self, const char *id)
{
    mri_registry *r = self;
    for (size_t i = 0; id && i < r->services.n; i++)
        if (!strcmp(r->services.v[i].id, id))
            return r->services.v[i].table;
    return NULL;
}

static int32_t host_cancelled(void *self)
{
    mri_registry *r = self;
    return r->cancelled ? r->cancelled(r->cancelled_user) : 0;
}

mri_registry *mri_registry_create(const char *paths)
{
    mri_registry *r = mri_alloc(sizeof *r);
    r->host = (mr_host){ sizeof(mr_host), MR_ABI_MAJOR, MR_ABI_MINOR, 0, "mrun", MRI_VERSION, r,
                         host_log, host_ext, host_cancelled };
    mri_search_init(&r->search, paths);
    return r;
}

void mri_registry_free(mri_registry *r)
{
    if (!r)
        return;
    while (r->loaded.n) { /* the last one loaded may use the first */
        loaded *l = &r->loaded.v[--r->loaded.n];
        if (MR_CAN(l->plugin, close))
            l->plugin->close();
        free(l->path);
    }
    free(r->loaded.v);
    free(r->services.v);
    free(r->ops.v);
    mri_search_free(&r->search);
    free(r);
}

const mr_host *mri_registry_host(mri_registry *r)
{
    return &r->host;
}

void mri_registry_offer(mri_registry *r, const char *ext_id, const void *table)
{
    for (size_t i = 0; i < r->services.n; i++)
        if (!strcmp(r->services.v[i].id, ext_id)) {
            r->services.v[i].table = table;
            return;
        }
    service s = { ext_id, table };
    MRI_PUSH(&r->services, s);
}

void mri_registry_set_log(mri_registry *r,
                          void (*log)(void *user, uint32_t level, const char *unit,
                                      const char *msg),
                          void *user)
{
    r->log = log;
    r->log_user = user;
}

void mri_registry_set_cancelled(mri_registry *r, int32_t (*cancelled)(void *user), void *user)
{
    r->cancelled = cancelled;
    r->cancelled_user = user;
}

mr_status mri_registry_set_op_hook(mri_registry *r, mri_op_hook hook, mr_err *err)
{
    mr_status st = 0;
    r->op_hook = hook;
    for (size_t i = 0; hook && i < r->ops.n && !st; i++)
        st = hook(r->ops.v[i], err);
    return st;
}

/* ---- loading -------------------------------------------------------------------------- */

/* Core reads an op's fields by name: a definition of an older header is widened with zeros.
 * The catalogue keeps ops as long as the process lives, like the libraries that they come
 * from, so the copies outlive the registry; the list only keeps them reachable. [main] */
static const mr_op_def *widened(const mr_op_def *op)
{
    static struct wide_op {
        struct wide_op *next;
        mr_op_def def;
    } *kept;
    struct wide_op *w = mri_alloc(sizeof *w);
    memcpy(&w->def, op, op->size);
    w->next = kept;
    kept = w;
    return &w->def;
}

static mr_status take_op(mri_registry *r, const mr_op_def *op, mr_err *err)
{
    if (op->size < sizeof *op)
        op = widened(op);
    MRI_PUSH(&r->ops, op);
    return r->op_hook ? r->op_hook(op, err) : 0;
}

mr_status mri_plugin_load(mri_registry *r, const char *path, const mr_plugin **plugin, mr_err *err)
{
    struct stat sb;
    mr_status st;
    if (stat(path, &sb)) {
        mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "cannot read %s: %s", path,
                strerror(errno));
        return MR_E_PLUGIN_NOT_FOUND;
    }
    for (size_t i = 0; i < r->loaded.n; i++)
        if (r->loaded.v[i].dev == sb.st_dev && r->loaded.v[i].ino == sb.st_ino) {
            *plugin = r->loaded.v[i].plugin;
            return 0;
        }
    MR_TRY(mri_load_file(&r->host, path, NULL, NULL, plugin, err));
    loaded l = { sb.st_dev, sb.st_ino, mri_strdup(path), *plugin };
    MRI_PUSH(&r->loaded, l);
    for (uint32_t i = 0; i < (*plugin)->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(*plugin, i);
        if (!strcmp(u->kind, "op"))
            MR_TRY(take_op(r, u->table, err));
    }
out:
    return st;
}

mr_status mri_plugin_probe(mri_registry *r, const char *path, int limit_ms, int *ms, mr_err *err)
{
    struct timespec a, b;
    mri_scan s;
    clock_gettime(CLOCK_MONOTONIC, &a);
    mr_status st = mri_scan_file(&r->host, path, limit_ms, &s, err);
    clock_gettime(CLOCK_MONOTONIC, &b);
    mri_scan_free(&s);
    if (ms)
        *ms = (int)((b.tv_sec - a.tv_sec) * 1000 + (b.tv_nsec - a.tv_nsec) / 1000000);
    return st;
}

static bool is_loaded(const mri_registry *r, const char *path)
{
    struct stat sb;
    for (size_t i = 0; !stat(path, &sb) && i < r->loaded.n; i++)
        if (r->loaded.v[i].dev == sb.st_dev && r->loaded.v[i].ino == sb.st_ino)
            return true;
    return false;
}

/* ---- finding -------------------------------------------------------------------------- */

static const mr_unit *unit_of(const mr_plugin *p, const char *kind, const char *name)
{
    for (uint32_t i = 0; i < p->n_units; i++) {
        const mr_unit *u = mri_plugin_unit(p, i);
        if (!strcmp(u->kind, kind) && (!name || !strcmp(u->name, name)))
            return u;
    }
    return NULL;
}

/* The unit out of a file that is known, or was said, to hold it. name NULL: the only one. */
static mr_status from_file(mri_registry *r, const char *path, const char *kind, const char *name,
                           const mr_unit **unit, mr_err *err)
{
    mr_status st;
    const mr_plugin *p;
    const mr_unit *u;
    if (!is_loaded(r, path))
        MR_TRY(mri_plugin_probe(r, path, MRI_SCAN_LIMIT_MS, NULL, err));
    MR_TRY(mri_plugin_load(r, path, &p, err));
    u = unit_of(p, kind, name);
    if (!u) {
        mri_str has = { 0 };
        for (uint32_t i = 0; i < p->n_units; i++)
            mri_str_fmt(&has, " %s/%s", mri_plugin_unit(p, i)->kind, mri_plugin_unit(p, i)->name);
        st = mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "%s offers no %s%s%s",
                     mri_base_name(path), kind, name ? "/" : "", name ? name : "");
        mr_detail(err, "file: %s\nit offers:%s", path, has.s);
        mri_str_free(&has);
        goto out;
    }
    for (uint32_t i = 0; !name && i < p->n_units; i++) {
        const mr_unit *v = mri_plugin_unit(p, i);
        if (v == u || strcmp(v->kind, kind))
            continue;
        st = mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "%s offers both %s/%s and %s/%s",
                     mri_base_name(path), kind, u->name, kind, v->name);
        mr_hint(err, "write %s:%s", path, u->name);
        goto out;
    }
    MR_TRY(mri_unit_needs(&r->host, u, path, err));
    *unit = u;
out:
    return st;
}

static mr_status find_by_path(mri_registry *r, const char *kind, const char *text,
                              const mr_unit **unit, mr_err *err)
{
    char *path = mri_strdup(text), *name = NULL, *colon = strrchr(path, ':');
    if (colon && colon > strrchr(path, '/') && access(path, F_OK)) {
        *colon = 0;
        name = colon + 1;
    }
    mr_status st = from_file(r, path, kind, name, unit, err);
    free(path);
    return st;
}

/* Does the file offer the unit? Files with a note say so; others are looked at in a child. */
static bool offers(mri_registry *r, const char *path, const char *kind, const char *name)
{
    mri_note note;
    if (mri_note_parse(path, &note)) {
        bool has = mri_note_has(&note, kind, name);
        mri_note_free(&note);
        return has;
    }
    const char *base = mri_base_name(path);
    size_t n = strlen(name);
    bool named = !strncmp(base, name, n) && !strcmp(base + n, ".so"), has = false;
    mri_scan s;
    if (mri_elf_is_plugin(path, NULL))
        return named;
    if (mri_scan_file(&r->host, path, MRI_SCAN_LIMIT_MS, &s, NULL))
        has = named; /* what is wrong with it is the answer only where its name was asked for */
    for (size_t i = 0; i < s.units.n; i++)
        has |= !strcmp(s.units.v[i].kind, kind) && !strcmp(s.units.v[i].name, name);
    mri_scan_free(&s);
    return has;
}

char *mri_registry_searched(mri_registry *r)
{
    mri_str text = { 0 };
    mri_search_walk(&r->search);
    mri_search_print(&r->search, &text);
    return mri_str_take(&text);
}

static mr_status not_found(mri_registry *r, const char *kind, const char *name, mr_err *err)
{
    size_t n;
    char *searched = mri_registry_searched(r);
    mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "no plugin offers %s/%s", kind, name);
    mr_detail(err, "searched: %s", searched);
    free(searched);
    const char **names = mri_registry_names(r, kind, &n);
    const char *near = mri_nearest(name, names, n);
    if (near)
        mr_hint(err, "did you mean '%s'? `mrun plugins` lists what there is", near);
    else
        mr_hint(err, "`mrun plugins` lists what there is; add a folder with --plugin-path or "
                     "MRUN_PLUGIN_PATH");
    free(names);
    return MR_E_PLUGIN_NOT_FOUND;
}

mr_status mri_registry_find(mri_registry *r, const char *kind, const char *name,
                            const mr_unit **unit, mr_err *err)
{
    if (!name || !*name)
        return mr_fail(err, MR_E_PLUGIN_NOT_FOUND, MR_BLAME_USER, "no plugin is named for [%s]",
                       kind);
    if (strchr(name, '/'))
        return find_by_path(r, kind, name, unit, err);
    mri_search_walk(&r->search);
    for (size_t i = 0; i < r->search.files.n; i++)
        if (offers(r, r->search.files.v[i], kind, name))
            return from_file(r, r->search.files.v[i], kind, name, unit, err);
    return not_found(r, kind, name, err);
}

mr_status mri_registry_list(mri_registry *r, bool deep, mri_listing **list, size_t *n, mr_err *err)
{
    (void)err; /* what is wrong with a file stands in its row */
    mri_list_files(&r->host, &r->search, deep, list, n);
    return 0;
}

const char **mri_registry_names(mri_registry *r, const char *kind, size_t *n)
{
    MRI_VEC(char *) found = { 0 };
    char k[64], m[128];
    size_t bytes = 0;
    mri_note note;
    mri_search_walk(&r->search);
    for (size_t i = 0; i < r->search.files.n; i++) {
        if (!mri_note_parse(r->search.files.v[i], &note))
            continue;
        for (const char *rest = note.units; mri_note_next(&rest, k, sizeof k, m, sizeof m);) {
            bool seen = strcmp(k, kind) != 0;
            for (size_t j = 0; j < found.n; j++)
                seen |= !strcmp(found.v[j], m);
            if (seen)
                continue;
            char *copy = mri_strdup(m);
            MRI_PUSH(&found, copy);
            bytes += strlen(m) + 1;
        }
        mri_note_free(&note);
    }
    /* one block: the pointers, then the text */
    const char **list = mri_alloc((found.n + 1) * sizeof *list + bytes);
    char *text = (char *)(list + found.n + 1);
    for (size_t i = 0; i < found.n; i++) {
        list[i] = strcpy(text, found.v[i]);
        text += strlen(text) + 1;
        free(found.v[i]);
    }
    free(found.v);
    *n = found.n;
    return list;
}

char *mri_registry_marked(mri_registry *r, const char *kind,
                          bool (*there)(const void *ctx, const char *mark), const void *ctx)
{
    char k[64], m[128], mark[MRI_NOTE_MARK], *found = NULL;
    mri_note note;
    mri_search_walk(&r->search);
    for (size_t i = 0; i < r->search.files.n; i++) {
        if (!mri_note_parse(r->search.files.v[i], &note))
            continue;
        for (const char *rest = note.units;
             mri_note_next_marked(&rest, k, sizeof k, m, sizeof m, mark);)
            if (*mark && !strcmp(k, kind) && (!found || strcmp(m, found) < 0) && there(ctx, mark)) {
                free(found);
                found = mri_strdup(m);
            }
        mri_note_free(&note);
    }
    return found;
}
