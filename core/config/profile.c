/* SPDX-License-Identifier: Apache-2.0
 * profile.c - the values and their origins: load with includes, --set, lookup. */
#include "ini.h"
#include "slots.h"
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

enum { MAX_DEPTH = 16, MAX_FILE = 4 << 20, MAX_KEYS = 10000 };

/* ---- storage ------------------------------------------------------------------------ */

void *mri_profile_own(mri_profile *p, void *block)
{
    MRI_PUSH(&p->owned, block);
    return block;
}

void mri_profile_free(mri_profile *p)
{
    if (!p)
        return;
    for (size_t i = 0; i < p->slots.n; i++)
        free(p->slots.v[i]);
    for (size_t i = 0; i < p->sections.n; i++) {
        free(p->sections.v[i]->rows.v);
        free(p->sections.v[i]);
    }
    for (size_t i = 0; i < p->owned.n; i++)
        free(p->owned.v[i]);
    free(p->slots.v);
    free(p->sections.v);
    free(p->owned.v);
    free(p);
}

static uint64_t name_hash(const char *section, const char *key)
{
    return mri_hash_str(mri_hash_str(0, section), key);
}

mri_slot *mri_profile_find(const mri_profile *p, const char *section, const char *key)
{
    uint64_t hash = name_hash(section, key);
    for (size_t i = 0; i < p->slots.n; i++) {
        mri_slot *s = p->slots.v[i];
        if (s->hash == hash && !strcmp(s->e.key, key) && !strcmp(s->e.section, section))
            return s;
    }
    return NULL;
}

mri_known *mri_profile_known(const mri_profile *p, const char *section)
{
    for (size_t i = 0; i < p->sections.n; i++)
        if (!strcmp(p->sections.v[i]->name, section))
            return p->sections.v[i];
    return NULL;
}

static mri_origin keep_origin(mri_profile *p, const mri_origin *o)
{
    mri_origin kept = *o; /* `file` and `how` outlive the profile's readers already */
    if (o->raw)
        kept.raw = mri_profile_own(p, mri_strdup(o->raw));
    return kept;
}

mri_known *mri_profile_add_section(mri_profile *p, const char *section, const mri_origin *o)
{
    mri_known *k = mri_profile_known(p, section);
    if (!k) {
        k = mri_alloc(sizeof *k);
        k->name = mri_profile_own(p, mri_strdup(section));
        MRI_PUSH(&p->sections, k);
    }
    if (o && !k->origin.how)
        k->origin = keep_origin(p, o);
    return k;
}

mri_slot *mri_profile_put(mri_profile *p, const char *section, const char *key)
{
    mri_slot *s = mri_profile_find(p, section, key);
    if (!s) {
        s = mri_alloc(sizeof *s);
        s->e.section = mri_profile_add_section(p, section, NULL)->name;
        mri_profile_rename(p, s, key);
        MRI_PUSH(&p->slots, s);
    }
    return s;
}

void mri_profile_rename(mri_profile *p, mri_slot *s, const char *key)
{
    s->e.key = mri_profile_own(p, mri_strdup(key));
    s->hash = name_hash(s->e.section, s->e.key);
}

static void write_slot(mri_profile *p, mri_slot *s, const char *value, const mri_origin *o)
{
    s->e.value = mri_profile_own(p, mri_strdup(value));
    s->e.origin = keep_origin(p, o);
    s->row = NULL;
}

const mri_entry *mri_profile_get(const mri_profile *p, const char *section, const char *key)
{
    const mri_slot *s = mri_profile_find(p, section, key);
    return s ? &s->e : NULL;
}

size_t mri_profile_count(const mri_profile *p)
{
    return p->slots.n;
}

const mri_entry *mri_profile_at(const mri_profile *p, size_t i)
{
    return i < p->slots.n ? &p->slots.v[i]->e : NULL;
}

const char *mri_profile_section(const mri_profile *p, size_t i)
{
    return i < p->sections.n ? p->sections.v[i]->name : NULL;
}

bool mri_profile_was_filled(const mri_profile *p, const char *section)
{
    const mri_known *k = mri_profile_known(p, section);
    return k && k->filled;
}

void mri_profile_default(mri_profile *p, const char *section, const char *key, const char *value)
{
    if (!mri_profile_find(p, section, key))
        write_slot(p, mri_profile_put(p, section, key), value,
                   &(mri_origin){ NULL, 0, "default", NULL });
}

char *mri_profile_topic(const char *section, const char *key)
{
    char *topic = mri_format("%s%s%s", section, key ? "." : "", key ? key : "");
    char *dot = strchr(topic, '.');
    if (strchr(section, '.') && dot)
        *dot = '/';
    return topic;
}

/* ---- files and their includes ----------------------------------------------------------- */

typedef struct file_frame {
    const struct file_frame *up;
    const char *path;
    dev_t dev;
    ino_t ino;
    uint32_t load, depth;
    mri_profile *p;
} file_frame;

static mr_status load_file(mri_profile *p, const char *path, const file_frame *up,
                           const mri_origin *from, mri_span word, mr_err *err);

/* An error about a file that an `include` names points at the word in the including line. */
MR_PRINTF(4, 5) static mr_status include_fail(const mri_origin *from, mri_span word, mr_err *err,
                                              const char *fmt, ...)
{
    mri_str what = { 0 };
    va_list ap;
    va_start(ap, fmt);
    mri_str_vfmt(&what, fmt, ap);
    va_end(ap);
    if (from)
        mri_place_fail(err, MR_E_PROFILE_INCLUDE, from, word, NULL, "%s", what.s);
    else
        mr_fail(err, MR_E_PROFILE_INCLUDE, MR_BLAME_USER, "%s", what.s);
    mri_str_free(&what);
    return MR_E_PROFILE_INCLUDE;
}

static mr_status load_includes(const file_frame *f, const char *value, const mri_origin *o,
                               mr_err *err)
{
    mri_span all = mri_place_value(o);
    const char *slash = strrchr(f->path, '/');
    int dir = slash ? (int)(slash - f->path + 1) : 0;
    mr_status st = 0;
    for (const char *s = value; !st; ) {
        s += strspn(s, " \t");
        size_t n = strcspn(s, " \t");
        if (!n)
            break;
        char *path = mri_format("%.*s%.*s", *s == '/' ? 0 : dir, f->path, (int)n, s);
        mri_profile_own(f->p, path);
        mri_span word = { all.at + (size_t)(s - value), n };
        st = load_file(f->p, path, f, o, word, err);
        s += n;
    }
    return st;
}

static mr_status duplicate(const mri_slot *s, const mri_origin *o, const char *value, mr_err *err)
{
    char *now = mri_place_text(o);
    mri_place_fail(err, MR_E_PROFILE_DUPLICATE, &s->e.origin, mri_place_key(&s->e.origin),
                   "first given here", "[%s] key '%s' given twice (%.40s, %.40s)", s->e.section,
                   s->e.key, s->e.value, value);
    if (err) { /* "profile.ini:12 and :40: ..." */
        char *first = mri_place_text(&s->e.origin);
        char *rest = mri_strdup(err->what + strlen(first));
        snprintf(err->what, sizeof err->what, "%s and :%d%s", first, o->line, rest);
        free(first);
        free(rest);
    }
    mr_hint(err, "delete one of the two lines (the second is %s)", now);
    free(now);
    return MR_E_PROFILE_DUPLICATE;
}

static mr_status take_line(void *user, const char *section, const char *key, const char *value,
                           const mri_origin *o, mr_err *err)
{
    const file_frame *f = user;
    if (!key) {
        mri_profile_add_section(f->p, section, o);
        return 0;
    }
    if (!*section) {
        if (!strcmp(key, "include"))
            return load_includes(f, value, o, err);
        bool near = mri_distance(key, "include") <= 2;
        return mri_place_fail(err, MR_E_PROFILE_SYNTAX, o, mri_place_key(o),
                              near ? "did you mean 'include'?" : NULL,
                              "key '%s' stands before the first [section]", key);
    }
    mri_slot *s = mri_profile_find(f->p, section, key);
    if (s && s->load == f->load)
        return duplicate(s, o, value, err);
    if (!s && f->p->slots.n >= MAX_KEYS)
        return mri_place_fail(err, MR_E_PROFILE_SYNTAX, o, mri_place_key(o), NULL,
                              "more than %d keys in one profile", MAX_KEYS);
    s = mri_profile_put(f->p, section, key);
    write_slot(f->p, s, value, o);
    s->load = f->load;
    return 0;
}

static mr_status check_cycle(const file_frame *f, const mri_origin *from, mri_span word,
                             mr_err *err)
{
    if (f->depth > MAX_DEPTH)
        return include_fail(from, word, err, "includes are nested deeper than %d files", MAX_DEPTH);
    for (const file_frame *u = f->up; u; u = u->up) {
        if (u->dev != f->dev || u->ino != f->ino)
            continue;
        mri_str way = { 0 };
        mri_str_add(&way, f->path);
        for (const file_frame *w = f->up; ; w = w->up) {
            mri_str_fmt(&way, " <- %s", w->path);
            if (w == u)
                break;
        }
        mr_status st = include_fail(from, word, err, "include cycle: %s", way.s);
        mri_str_free(&way);
        return st;
    }
    return 0;
}

static mr_status load_file(mri_profile *p, const char *path, const file_frame *up,
                           const mri_origin *from, mri_span word, mr_err *err)
{
    file_frame f = { up, path, 0, 0, ++p->loads, up ? up->depth + 1 : 0, p };
    struct stat sb;
    char *text = NULL;
    size_t n = 0;
    if (!stat(path, &sb)) {
        f.dev = sb.st_dev;
        f.ino = sb.st_ino;
        mr_status st = check_cycle(&f, from, word, err);
        if (st)
            return st;
    }
    mr_err inner = MR_ERR_INIT;
    if (mri_read_file(path, MAX_FILE, &text, &n, &inner))
        return include_fail(from, word, err, "%s", inner.what);
    mr_status st = mri_ini_parse(path, text, n, take_line, &f, err);
    free(text);
    return st;
}

mr_status mri_profile_load(const char *path, const char *const *sets, size_t n_sets,
                           mri_profile **out, mr_err *err)
{
    mri_profile *p = mri_alloc(sizeof *p);
    mr_status st = 0;
    *out = NULL;
    if (path) {
        const char *kept = mri_profile_own(p, mri_strdup(path));
        MR_TRY(load_file(p, kept, NULL, NULL, (mri_span){ 0, 0 }, err));
    }
    for (size_t i = 0; i < n_sets; i++)
        MR_TRY(mri_profile_set(p, sets[i], err));
    *out = p;
    return 0;
out:
    mri_profile_free(p);
    return st;
}

mr_status mri_profile_set(mri_profile *p, const char *set, mr_err *err)
{
    mri_origin o = { NULL, 0, "--set", set };
    const char *eq = strchr(set, '=');
    size_t n = eq ? (size_t)(eq - set) : strlen(set), from = strspn(set, " \t");
    while (n > from && (set[n - 1] == ' ' || set[n - 1] == '\t'))
        n--;
    mri_span name = { from, n > from ? n - from : 0 };
    size_t dot = n;
    while (dot > from && set[dot - 1] != '.')
        dot--;
    if (!eq || dot <= from + 1 || dot == n)
        return mri_place_fail(err, MR_E_USAGE, &o, name, NULL, "expected section.key=value");
    if (!mri_ini_name_ok(set + from, dot - 1 - from, true) ||
        !mri_ini_name_ok(set + dot, n - dot, false))
        return mri_place_fail(err, MR_E_USAGE, &o, name, NULL,
                              "names have letters, digits, _ and -, at most %d", MRI_INI_MAX_NAME);
    char *section = mri_strndup(set + from, dot - 1 - from);
    char *key = mri_strndup(set + dot, n - dot);
    write_slot(p, mri_profile_put(p, section, key), eq + 1, &o);
    free(section);
    free(key);
    return 0;
}
