/* SPDX-License-Identifier: Apache-2.0
 * print.c - a profile as text again, and two profiles compared. */
#include "ini.h"
#include "slots.h"
#include <stdlib.h>
#include <string.h>

enum { ORIGIN_COLUMN = 44 };

static void print_entry(const mri_entry *e, bool origins, mri_str *out)
{
    size_t from = out->n;
    mri_str_fmt(out, "%s = ", e->key);
    mri_ini_quote(out, e->value);
    if (origins) {
        char *place = mri_place_text(&e->origin);
        size_t width = out->n - from;
        mri_str_fmt(out, "%*s ; %s", width < ORIGIN_COLUMN ? (int)(ORIGIN_COLUMN - width) : 0, "",
                    place);
        free(place);
    }
    mri_str_add(out, "\n");
}

void mri_profile_print(const mri_profile *p, bool origins, mri_str *out)
{
    bool first = true;
    for (size_t i = 0; i < p->sections.n; i++) {
        const char *section = p->sections.v[i]->name;
        bool open = false;
        for (size_t j = 0; j < p->slots.n; j++) {
            const mri_entry *e = &p->slots.v[j]->e;
            if (e->section != section)
                continue;
            if (!open)
                mri_str_fmt(out, "%s[%s]\n", first ? "" : "\n", section);
            open = true;
            first = false;
            print_entry(e, origins, out);
        }
    }
}

static bool ignored(const mri_entry *e, const char *const *ignore)
{
    size_t n = strlen(e->section);
    for (; ignore && *ignore; ignore++)
        if (!strncmp(*ignore, e->section, n) &&
            (!(*ignore)[n] || ((*ignore)[n] == '.' && !strcmp(*ignore + n + 1, e->key))))
            return true;
    return false;
}

/* Do two texts mean the same to the row: 1000 and 1e3, yes and true? */
static bool same_value(const mr_opt *row, const char *a, const char *b)
{
    if (!strcmp(a, b))
        return true;
    size_t n = row ? mri_opt_storage(mri_opt_read(row).type) : 0;
    if (!n || mri_opt_owns(mri_opt_read(row).type))
        return false;
    mr_opt o = mri_opt_read(row);
    uint64_t x = 0, y = 0;
    o.size = sizeof o;
    o.offset = 0;
    return !mri_option_parse(&o, a, NULL, &x, NULL) && !mri_option_parse(&o, b, NULL, &y, NULL) &&
           x == y;
}

static void add_difference(const mri_entry *e, const char *a, const char *b, mri_str *out)
{
    mri_str_fmt(out, "%s.%s: ", e->section, e->key);
    mri_ini_quote(out, a ? a : "(unset)");
    mri_str_add(out, " | ");
    mri_ini_quote(out, b ? b : "(unset)");
    mri_str_add(out, "\n");
}

size_t mri_profile_diff(const mri_profile *a, const mri_profile *b, const char *const *ignore,
                        mri_str *out)
{
    size_t n = 0;
    for (size_t i = 0; i < a->slots.n; i++) {
        const mri_slot *s = a->slots.v[i], *t = mri_profile_find(b, s->e.section, s->e.key);
        if (ignored(&s->e, ignore))
            continue;
        if (t && same_value(s->row ? s->row : t->row, s->e.value, t->e.value))
            continue;
        add_difference(&s->e, s->e.value, t ? t->e.value : NULL, out);
        n++;
    }
    for (size_t i = 0; i < b->slots.n; i++) {
        const mri_entry *e = &b->slots.v[i]->e;
        if (ignored(e, ignore) || mri_profile_find(a, e->section, e->key))
            continue;
        add_difference(e, NULL, e->value, out);
        n++;
    }
    return n;
}
