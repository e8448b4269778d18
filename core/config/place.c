/* SPDX-License-Identifier: Apache-2.0
 * place.c - see place.h. */
#include "place.h"
#include "ini.h"
#include <stdlib.h>
#include <string.h>

enum { SHOWN = 92 /* bytes of the line that are shown */, PATH_SHOWN = 80, SET_SHOWN = 60 };

char *mri_place_text(const mri_origin *o)
{
    if (!o->file)
        return mri_strdup(o->how);
    size_t n = strlen(o->file);
    if (n > PATH_SHOWN) /* the tail of a path says more than its head */
        return mri_format("...%s:%d", o->file + n - PATH_SHOWN + 3, o->line);
    return mri_format("%s:%d", o->file, o->line);
}

static bool is_continuation(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

static void add_clean(mri_str *out, const char *s, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        unsigned char c = (unsigned char)s[i];
        char shown = c == '\t' ? ' ' : c < 0x20 || c == 0x7f ? '?' : s[i];
        mri_str_addn(out, &shown, 1);
    }
}

/* The line without its indent, cut to a window that holds the word's start; then carets. */
static void draw(mri_str *out, const char *raw, mri_span w, const char *note)
{
    size_t n = strlen(raw), from = 0, to = n;
    if (w.at > n)
        w.at = n;
    if (w.n > n - w.at)
        w.n = n - w.at;
    while (from < w.at && (raw[from] == ' ' || raw[from] == '\t'))
        from++;
    while (to > w.at + w.n && (raw[to - 1] == ' ' || raw[to - 1] == '\t'))
        to--;
    bool cut_head = false, cut_tail = false;
    if (to - from > SHOWN) {
        if (w.at - from > SHOWN / 2) {
            from = w.at - SHOWN / 3;
            cut_head = true;
        }
        while (from < w.at && is_continuation(raw[from]))
            from++;
        if (to - from > SHOWN) {
            to = from + SHOWN;
            while (to > w.at + 1 && is_continuation(raw[to]))
                to--;
            cut_tail = true;
        }
    }
    if (cut_head)
        mri_str_add(out, "...");
    add_clean(out, raw + from, to - from);
    mri_str_add(out, cut_tail ? "...\n" : "\n");
    if (cut_head)
        mri_str_add(out, "   ");
    for (size_t i = from; i < w.at; i++)
        if (!is_continuation(raw[i]))
            mri_str_add(out, " ");
    mri_str_add(out, "^");
    for (size_t i = w.at + 1; i < w.at + w.n && i < to; i++)
        if (!is_continuation(raw[i]))
            mri_str_add(out, "~");
    if (note && *note)
        mri_str_fmt(out, " %s", note);
}

mr_status mri_place_fail(mr_err *err, mr_status code, const mri_origin *o, mri_span word,
                         const char *note, const char *fmt, ...)
{
    mri_str what = { 0 }, detail = { 0 }, clean = { 0 };
    va_list ap;
    va_start(ap, fmt);
    if (o->file) {
        char *place = mri_place_text(o);
        mri_str_fmt(&what, "%s: ", place);
        free(place);
    } else if (o->raw) {
        size_t n = strlen(o->raw);
        mri_str_fmt(&what, "%s %.*s%s: ", o->how, SET_SHOWN, o->raw, n > SET_SHOWN ? "..." : "");
    }
    mri_str_vfmt(&what, fmt, ap);
    va_end(ap);
    add_clean(&clean, what.s, what.n);
    mr_fail(err, code, MR_BLAME_USER, "%s", clean.s);
    if (o->raw) {
        draw(&detail, o->raw, word, note);
        mr_detail(err, "%s", detail.s);
    }
    mri_str_free(&what);
    mri_str_free(&detail);
    mri_str_free(&clean);
    return code;
}

/* A --set text is "section.key=value"; a line of a file is split as the reader splits it. */
static mri_span span_of(const mri_origin *o, bool value)
{
    mri_span none = { 0, 0 };
    if (!o->raw)
        return none;
    if (o->file) {
        mri_ini_words w;
        return mri_ini_split(o->raw, &w, NULL) ? none : value ? w.value : w.name;
    }
    const char *eq = strchr(o->raw, '=');
    if (!eq)
        return none;
    size_t e = (size_t)(eq - o->raw), at = e;
    if (value)
        return (mri_span){ e + 1, strlen(eq + 1) };
    while (at > 0 && o->raw[at - 1] != '.')
        at--;
    return (mri_span){ at, e - at };
}

mri_span mri_place_key(const mri_origin *o)
{
    return span_of(o, false);
}

mri_span mri_place_value(const mri_origin *o)
{
    return span_of(o, true);
}
