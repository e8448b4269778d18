/* SPDX-License-Identifier: Apache-2.0
 * fill.c - option rows meet the profile: typed values out, unknown words found. */
#include "place.h"
#include "slots.h"
#include <stdlib.h>
#include <string.h>

typedef MRI_VEC(const char *) words;

static void hint_explain(mr_err *err, const char *section, const char *key)
{
    char *topic = mri_profile_topic(section, key);
    mr_hint(err, "run: mrun explain %s", topic);
    free(topic);
}

static void add_keys(const mri_known *k, words *w)
{
    for (size_t r = 0; r < k->rows.n; r++)
        for (uint32_t i = 0; i < k->rows.v[r].n; i++)
            MRI_PUSH(w, mri_opt_read(mri_opt_row(k->rows.v[r].opts, k->rows.v[r].n, i)).key);
}

/* "did you mean 'arena'?", "that key belongs to [comm.nccl]", or the section's keys */
static char *key_advice(const mri_profile *p, const mri_known *k, const char *key)
{
    words own = { 0 };
    add_keys(k, &own);
    const char *near = mri_nearest(key, own.v, own.n);
    char *text = near ? mri_format("did you mean '%s'?", near) : NULL;
    for (size_t i = 0; i < p->sections.n && !text; i++) {
        words w = { 0 };
        add_keys(p->sections.v[i], &w);
        for (size_t j = 0; j < w.n && !text; j++)
            if (!strcmp(w.v[j], key))
                text = mri_format("that key belongs to [%s]", p->sections.v[i]->name);
        free(w.v);
    }
    for (size_t i = 0; i < p->sections.n && !text; i++) {
        words w = { 0 };
        add_keys(p->sections.v[i], &w);
        near = mri_nearest(key, w.v, w.n);
        if (near)
            text = mri_format("did you mean [%s] %s?", p->sections.v[i]->name, near);
        free(w.v);
    }
    if (!text) {
        mri_str all = { 0 };
        for (size_t i = 0; i < own.n && all.n < 120; i++)
            mri_str_fmt(&all, "%s%s", i ? ", " : "its keys: ", own.v[i]);
        if (own.n)
            text = mri_format("%s%s", all.s, all.n >= 120 ? ", ..." : "");
        mri_str_free(&all);
    }
    free(own.v);
    return text ? text : mri_strdup("it has no keys");
}

static mr_status unknown_key(const mri_profile *p, const mri_known *k, const mri_slot *s,
                             mr_err *err)
{
    char *note = key_advice(p, k, s->e.key);
    mri_place_fail(err, MR_E_PROFILE_KEY, &s->e.origin, mri_place_key(&s->e.origin), note,
                   "[%s] unknown key '%s'", s->e.section, s->e.key);
    hint_explain(err, s->e.section, NULL);
    free(note);
    return MR_E_PROFILE_KEY;
}

/* The place of a section: its header, or its first key (an origin of --set has no header). */
static mri_origin section_place(const mri_profile *p, const mri_known *k, mri_span *word)
{
    if (k->origin.how) {
        *word = mri_place_key(&k->origin);
        return k->origin;
    }
    for (size_t i = 0; i < p->slots.n; i++)
        if (p->slots.v[i]->e.section == k->name) {
            mri_origin o = p->slots.v[i]->e.origin;
            *word = (mri_span){ 0, strlen(k->name) };
            return o;
        }
    *word = (mri_span){ 0, 0 };
    return (mri_origin){ NULL, 0, "default", NULL };
}

static mr_status unknown_section(const mri_profile *p, const mri_known *k, const char *meant,
                                 mr_err *err)
{
    mri_span word;
    mri_origin o = section_place(p, k, &word);
    char *note = meant ? mri_format("did you mean [%s]?", meant) : NULL;
    const char *at = strchr(k->name, '@');
    if (at) {
        mri_place_fail(err, MR_E_PROFILE_KEY, &o, word, note,
                       "nothing in this profile uses the instance [%s]", k->name);
        mr_hint(err, "delete it, or choose a job that takes a second %.*s", (int)(at - k->name),
                k->name);
    } else {
        mri_place_fail(err, MR_E_PROFILE_KEY, &o, word, note, "unknown section [%s]", k->name);
        mr_hint(err, "run: mrun explain (lists the sections)");
    }
    free(note);
    return MR_E_PROFILE_KEY;
}

static const char *nearest_filled(const mri_profile *p, const char *name)
{
    words w = { 0 };
    for (size_t i = 0; i < p->sections.n; i++)
        if (p->sections.v[i]->filled)
            MRI_PUSH(&w, p->sections.v[i]->name);
    const char *near = mri_nearest(name, w.v, w.n);
    free(w.v);
    return near;
}

/* A required key is not there. More often than not it is there, misspelt: say that then. */
static mr_status missing(const mri_profile *p, const mri_known *k, const mr_opt *o, mr_err *err)
{
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_slot *s = p->slots.v[i];
        if (s->e.section == k->name && !s->e.used && mri_nearest(s->e.key, &o->key, 1))
            return unknown_key(p, k, s, err);
    }
    for (size_t i = 0; i < p->sections.n && !k->origin.how; i++) {
        const mri_known *other = p->sections.v[i];
        if (!other->filled && other != k && mri_nearest(other->name, &k->name, 1))
            return unknown_section(p, other, k->name, err);
    }
    mr_fail(err, MR_E_PROFILE_MISSING, MR_BLAME_USER, "[%s] %s is not set, and it has no default",
            k->name, o->key);
    mr_detail(err, "%s: %s", o->key, o->doc ? o->doc : "");
    hint_explain(err, k->name, o->key);
    return MR_E_PROFILE_MISSING;
}

/* The value under its key; an old spelling is renamed, so that one name is left. */
static mr_status find_value(mri_profile *p, const mri_known *k, const mr_opt *o, mri_slot **out,
                            mr_err *err)
{
    *out = mri_profile_find(p, k->name, o->key);
    mri_slot *old = o->was ? mri_profile_find(p, k->name, o->was) : NULL;
    if (!old)
        return 0;
    if (*out) {
        mri_place_fail(err, MR_E_PROFILE_DUPLICATE, &old->e.origin, mri_place_key(&old->e.origin),
                       "delete this line", "[%s] '%s' is the old spelling of '%s', and both are "
                       "given", k->name, o->was, o->key);
        hint_explain(err, k->name, o->key);
        return MR_E_PROFILE_DUPLICATE;
    }
    mri_profile_rename(p, old, o->key);
    old->old_spelling = true;
    *out = old;
    return 0;
}

static mr_status fill_row(mri_profile *p, const mri_known *k, const mr_opt *row, void *config,
                          mr_err *err)
{
    mr_opt o = mri_opt_read(row);
    mri_slot *s;
    mr_status st = find_value(p, k, &o, &s, err);
    if (st)
        return st;
    if (!s && !o.def)
        return o.flags & MR_OPT_REQUIRED ? missing(p, k, &o, err) : 0;
    if (!s) {
        mri_profile_default(p, k->name, o.key, o.def);
        s = mri_profile_find(p, k->name, o.key);
    }
    s->e.used = true;
    s->row = row;

    mr_err inner = MR_ERR_INIT;
    char *dir = mri_origin_dir(&s->e.origin);
    st = mri_option_parse(row, s->e.value, dir, config, &inner);
    free(dir);
    if (st) {
        mri_place_fail(err, st, &s->e.origin, mri_place_value(&s->e.origin), inner.detail,
                       "[%s] %s", k->name, inner.what);
        hint_explain(err, k->name, o.key);
        return st;
    }
    if (mri_opt_owns(o.type)) {
        void *block;
        memcpy(&block, (char *)config + o.offset, sizeof block);
        if (block)
            mri_profile_own(p, block);
        if (block && o.type == MR_T_PATH)
            s->e.value = block; /* absolute: it means the same from every folder */
    }
    return 0;
}

mr_status mri_profile_fill(mri_profile *p, const char *section, const mr_opt *opts, uint32_t n,
                           void *config, uint32_t config_size, mr_err *err)
{
    mri_known *k = mri_profile_add_section(p, section, NULL);
    k->filled = true;
    MRI_PUSH(&k->rows, ((mri_rows){ opts, n }));
    if (config_size)
        memset(config, 0, config_size);
    for (uint32_t i = 0; i < n; i++) {
        const mr_opt *row = mri_opt_row(opts, n, i);
        mr_opt o = mri_opt_read(row);
        size_t storage = mri_opt_storage(o.type);
        if (!storage || o.offset > config_size || storage > config_size - o.offset)
            return mr_fail(err, MR_E_PLUGIN_MALFORMED, MR_BLAME_PLUGIN,
                           "[%s] option '%s' does not fit its config struct", section, o.key);
        mr_status st = fill_row(p, k, row, config, err);
        if (st)
            return st;
    }
    return 0;
}

static bool listed(const char *name, const char *const *known, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(known[i], name))
            return true;
    return false;
}

mr_status mri_profile_finish(mri_profile *p, const char *const *known, size_t n_known, mr_err *err)
{
    for (size_t i = 0; i < p->sections.n; i++) {
        const mri_known *k = p->sections.v[i];
        if (k->filled || listed(k->name, known, n_known))
            continue;
        return unknown_section(p, k, nearest_filled(p, k->name), err);
    }
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_slot *s = p->slots.v[i];
        const mri_known *k = mri_profile_known(p, s->e.section);
        if (k->filled && !s->e.used)
            return unknown_key(p, k, s, err);
    }
    return 0;
}

size_t mri_profile_doubts(const mri_profile *p, mri_str *out)
{
    size_t n = 0;
    for (size_t i = 0; i < p->slots.n; i++) {
        const mri_slot *s = p->slots.v[i];
        if (!s->old_spelling)
            continue;
        char *place = mri_place_text(&s->e.origin);
        mri_span old = mri_place_key(&s->e.origin);
        mri_str_fmt(out, "%s: [%s] '%.*s' is the old spelling of '%s'\n", place, s->e.section,
                    (int)old.n, s->e.origin.raw + old.at, s->e.key);
        free(place);
        n++;
    }
    return n;
}
